"""Fractal expansion: a data set of users and items made larger by a Kronecker product with itself, made small.

    expanded[(i, u), (j, v)] = base[u, v] with probability rate[i, j]

Belletti et al., "Scalable Realistic Recommendation Datasets through Fractal Expansions" (arXiv 1901.08910), from which
MLPerf made ml-20m x16x32. rate is the base itself shrunk to a few rows and columns, so that users and items that are
alike stay alike, and few items keep most of the interactions. Unlike there, rows and columns of a block are not
shuffled: a user has only a few items in each block, and shuffling would leave nothing in them to learn.
"""

import torch
from torch import Tensor

from perfsuite.workloads.interactions import Interactions

SEED = 20190123


def expanded(base: Interactions, rows: int, columns: int, kept: float) -> Interactions:
    """rows times as many users and columns times as many items.

    kept: interactions that a new user keeps, on average, for each one that a user of the base has. The same for
    everybody: the random numbers are the CPU's, with a fixed seed. What is held out of a user in the base is held out
    in every block of him, and stands in one of them, drawn by its rate: nothing held out is anywhere in training.
    """
    random = torch.Generator().manual_seed(SEED)
    rate = rates(base, rows, columns, kept)
    num_items = columns * base.num_items
    users, items, held_out = [], [], []
    for row in range(rows):
        taken = torch.rand(len(base.users), columns, generator=random) < rate[row]
        pair, block = taken.nonzero().T
        users.append(row * base.num_users + base.users[pair])
        items.append(block * base.num_items + base.items[pair])
        block = rate[row].multinomial(base.num_users, replacement=True, generator=random)
        held_out.append(block * base.num_items + base.held_out)
    pairs = (torch.cat(users) * num_items + torch.cat(items)).sort().values
    return Interactions(pairs // num_items, pairs % num_items, torch.cat(held_out), num_items)


def rates(base: Interactions, rows: int, columns: int, kept: float) -> Tensor:
    """(rows, columns): the share of the base's interactions in each tile of users and items, at most 1, scaled so that
    a row has `kept` on average before anything is cut."""
    tile = base.users * rows // base.num_users * columns + base.items * columns // base.num_items
    share = torch.bincount(tile, minlength=rows * columns).view(rows, columns) / len(base.users)
    return (share * rows * kept).clamp_max(1.0)

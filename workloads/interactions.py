"""Which users took which items: readers of public files, and leave-one-out.

Users and items are renumbered from 0 in the order of their numbers. Of every user the last item is held out.
"""

import lzma
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Interactions:
    """Pairs of a user and an item, int64. No pair is there twice, and none of a user with his held-out item."""

    users: Tensor
    """(N,) in rising order."""
    items: Tensor
    """(N,) in rising order within a user."""
    held_out: Tensor
    """(num_users,): the item held out of each user."""
    num_items: int
    """Items there are, held-out ones included."""

    @property
    def num_users(self) -> int:
        """Users there are; each has a held-out item."""
        return len(self.held_out)


def read_baskets(path: Path) -> Interactions:
    """Lines "user item item ... item" of an xz file; the last item of each is held out.

    Raises FileNotFoundError where the file is missing.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: it comes with perfsuite, and data/build.py makes it anew")
    baskets = [line.split()[1:] for line in lzma.decompress(path.read_bytes()).decode().splitlines()]
    names = sorted({item for basket in baskets for item in basket})
    number = {name: index for index, name in enumerate(names)}
    users = torch.arange(len(baskets)).repeat_interleave(torch.tensor([len(basket) for basket in baskets]))
    items = torch.tensor([number[item] for basket in baskets for item in basket])
    return leave_one_out(users, items, torch.arange(len(items)))


def read_ratings(path: Path) -> Interactions:
    """A MovieLens file of user, item, rating and time: u.data and ml-100k.inter (tabs), ratings.csv (commas).

    Any rating is an interaction, and the latest one of a user is held out, as in MLPerf's ncf of round v0.5.
    Raises ValueError where the file has other columns.
    """
    with path.open(encoding="utf-8") as file:
        first = file.readline()
    separator = "," if path.suffix == ".csv" else "\t"
    has_header = not first[:1].isdigit()
    try:
        table = np.loadtxt(path, delimiter=separator, skiprows=int(has_header), usecols=(0, 1, 3), ndmin=2)
    except (ValueError, IndexError) as error:
        columns = "user, item, rating and time"
        raise ValueError(f"{path} is not a MovieLens file of {columns}: {' '.join(str(error).split())}") from error
    users, items, times = torch.from_numpy(table).T
    return leave_one_out(_renumbered(users.long()), _renumbered(items.long()), times)


def read_expanded(folder: Path, rows: int, columns: int) -> Interactions:
    """MLPerf's fractal expansion, trainx<rows>x<columns>_<chunk>.npz and testx...: arr_0 is (pairs, 2), user and item.

    Users without a test item are not there, and users are renumbered; items keep their numbers, gaps included.
    Raises ValueError where a user has no test item or several.
    """
    parts = [
        [_pairs(folder / f"{part}x{rows}x{columns}_{chunk}.npz") for chunk in range(rows)] for part in ("train", "test")
    ]
    train, test = (torch.cat(pairs) for pairs in parts)
    known, users = train[:, 0].unique(return_inverse=True)
    testers, order = test[:, 0].sort()
    if not torch.equal(known, testers):
        raise ValueError(f"{folder}: the test files must have one item for each user of the training files")
    num_items = 1 + int(torch.maximum(train[:, 1].max(), test[:, 1].max()))
    return _split(users, train[:, 1], test[order, 1], num_items)


def _pairs(path: Path) -> Tensor:
    try:
        with np.load(path) as file:
            pairs = torch.from_numpy(file["arr_0"]).long()
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not an .npz file with arr_0, pairs of user and item: {error}") from error
    if pairs.dim() != 2 or pairs.shape[1] != 2:
        raise ValueError(f"{path}: arr_0 must be (pairs, 2), user and item, got {tuple(pairs.shape)}")
    return pairs


def leave_one_out(users: Tensor, items: Tensor, times: Tensor) -> Interactions:
    """Hold out of each user the item that comes last: by time, and among equal times by place.

    users, items: (N,) int64 numbers from 0 without gaps; times: (N,) numbers.
    """
    order = times.argsort(stable=True)
    order = order[users[order].argsort(stable=True)]
    users, items = users[order], items[order]
    is_last = torch.cat((users[1:] != users[:-1], torch.tensor([True])))
    return _split(users[~is_last], items[~is_last], items[is_last], 1 + int(items.max()))


def _split(users: Tensor, items: Tensor, held_out: Tensor, num_items: int) -> Interactions:
    """Sorted, each pair once, and without pairs that are held out (a user may have taken an item twice)."""
    pairs = (users * num_items + items)[items != held_out[users]].unique()
    return Interactions(pairs // num_items, pairs % num_items, held_out, num_items)


def _renumbered(numbers: Tensor) -> Tensor:
    return numbers.unique(return_inverse=True)[1]


class Unseen:
    """Draws items that a user has not, all of them equally likely.

    Of a user's n items in order, i_0 < i_1 < ..., the r-th item that is not among them is r + (number of j for which
    i_j - j <= r): one search in a sorted list, and no draw is thrown away.
    """

    def __init__(self, users: Tensor, items: Tensor, num_users: int, num_items: int) -> None:
        """users, items: (N,) int64, sorted, each pair once. Raises ValueError where a user has every item."""
        self._num_items = num_items
        counts = torch.bincount(users, minlength=num_users)
        if len(counts) and int(counts.max()) >= num_items:
            raise ValueError(f"user {int(counts.argmax())} has all {num_items} items: there is no negative to draw")
        self._unseen = num_items - counts
        self._first = counts.cumsum(0) - counts
        rank = torch.arange(len(users), device=users.device) - self._first[users]
        self._shifted = users * num_items + items - rank

    def draw(self, users: Tensor, generator: torch.Generator) -> Tensor:
        """An item for each of users (any shape, int64), drawn with replacement."""
        share = torch.rand(users.shape, generator=generator, device=users.device, dtype=torch.float64)
        r = (share * self._unseen[users]).long()
        before = torch.searchsorted(self._shifted, users * self._num_items + r, right=True) - self._first[users]
        return r + before

"""Fractal expansion: rows of embedding tables for pairs of values, so that small data fills large tables.

It is a Kronecker product of the data with itself (Belletti et al., 2019, arXiv 1901.08910; MLPerf's ncf was expanded by
one): a value v of a sample becomes the pairs (v, w), w the values of the same feature in other training samples. Every
lookup of a bag meets another sample. As popular values meet popular ones, the rows have the long tails of the data.
Labels stay as they are: what a value says of the label is spread over its rows.
"""

import itertools

import torch


class Expansion:
    """Rows in tables that lie one below the other, for the values of samples."""

    def __init__(
        self, values: tuple[int, ...], expansion: int, bag_sizes: tuple[int, ...], train_values: torch.Tensor
    ) -> None:
        """values: how many each feature has. expansion: how many partners of a value are told apart; 1 for the data as
        it is. bag_sizes: lookups of each feature. train_values: (samples, features) int64, whom samples meet."""
        self.train_values, self.is_plain = train_values, expansion == 1
        feature = torch.arange(len(values)).repeat_interleave(torch.tensor(bag_sizes))
        spreads = torch.tensor([spread(count, expansion) for count in values])
        first = torch.tensor(first_rows(table_rows(values, expansion)))
        device = train_values.device
        self.feature, self.spread, self.first = (of.to(device) for of in (feature, spreads[feature], first[feature]))
        self.lookup = torch.arange(len(feature), device=device)

    def __call__(self, values: torch.Tensor, samples: torch.Tensor, shift: int) -> torch.Tensor:
        """(B, lookups) int64 rows of values (B, features) of samples (B,) int64; another shift brings other company."""
        rows = values[:, self.feature] * self.spread + self.first
        if self.is_plain:
            return rows
        # Large primes scatter the company of a sample over the year.
        company = (samples[:, None] * 7_368_787 + self.lookup * 15_485_863 + shift) % len(self.train_values)
        return rows + self.train_values[company, self.feature] % self.spread


def spread(values: int, expansion: int) -> int:
    """Into how many rows a value of a feature with so many values is spread."""
    return min(values, expansion)


def table_rows(values: tuple[int, ...], expansion: int) -> tuple[int, ...]:
    """Rows of each feature's table."""
    return tuple(count * spread(count, expansion) for count in values)


def first_rows(rows: tuple[int, ...]) -> list[int]:
    """Where each table begins when they lie one below the other."""
    return [0, *itertools.accumulate(rows)][:-1]

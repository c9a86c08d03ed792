"""Scenes for object detection: real garments of Fashion-MNIST at random places and sizes on a made-up background.

Real pixels, synthetic layout. A garment is resized, and where it is brighter than what is under it, it is on top. Its
box is exact: the pixels in which the resized garment is brighter than SEEN. Labels are in COCO's structure.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from perfsuite.workloads import boxes
from perfsuite.workloads.resnet import SIDE

SEEN = 48
BACKGROUND_CELL, BACKGROUND_TOP = 8, 40
TRIES = 8
LARGEST_IOU = 0.1
CHUNK = 256


@dataclass(frozen=True)
class Layout:
    """How scenes are laid out."""

    side: int
    """Of a scene, in pixels."""
    most: int
    """Garments in a scene, at most; at least one."""
    smallest: int
    """Side of the smallest garment image, in pixels: a garment fills most of it in one direction."""
    largest: int
    """Side of the largest."""


@dataclass
class Scenes:
    """Composed scenes, held on the device."""

    pixels: torch.Tensor
    """uint8 (N, 1, side, side)."""

    def batches(self, chosen: Iterable[list[int]]) -> Iterator[tuple[list[int], torch.Tensor]]:
        """(indices, their scenes as float32 (B, 1, side, side), 0 to 255)."""
        return ((scenes, self.pixels[scenes].float()) for scenes in chosen)


def compose(
    garments: torch.Tensor, classes: torch.Tensor, names: list[str], count: int, layout: Layout,
    random: torch.Generator, device: str,
) -> tuple[torch.Tensor, dict[str, Any]]:  # fmt: skip
    """Scenes, uint8 (count, 1, side, side) on the device, and their labels in COCO's structure.

    garments: uint8 (G, 28, 28). classes: int64 (G,), places in names. `random` alone decides what is where.
    """
    scenes, annotations = [], []
    for start in range(0, count, CHUNK):
        pixels, chosen, found = _some(garments, min(CHUNK, count - start), layout, random, device)
        scenes.append(pixels)
        sides = found[..., 2:] - found[..., :2]
        shown = (chosen >= 0) & (sides > 0).all(-1)
        for (scene, _), garment, corner, (w, h) in zip(
            shown.nonzero().tolist(), chosen[shown], found[shown].tolist(), sides[shown].tolist(), strict=True
        ):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": start + scene, "category_id": int(classes[garment]),
                 "bbox": [*corner[:2], w, h], "area": w * h, "iscrowd": 0}
            )  # fmt: skip
    images = [{"id": i, "file_name": "", "width": layout.side, "height": layout.side} for i in range(count)]
    categories = [{"id": place, "name": name} for place, name in enumerate(names)]
    return torch.cat(scenes), {"images": images, "categories": categories, "annotations": annotations}


def _some(
    garments: torch.Tensor, count: int, layout: Layout, random: torch.Generator, device: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scenes uint8 (count, 1, side, side); which garment is in each slot (count, slots), -1 for none; boxes."""
    side, slots = layout.side, layout.most
    number = torch.randint(1, slots + 1, (count, 1), generator=random)
    chosen = torch.randint(len(garments), (count, slots), generator=random)
    sizes = torch.randint(layout.smallest, layout.largest + 1, (count, slots, 1), generator=random)
    corners = torch.rand(count, slots, TRIES, 2, generator=random) * (side + 1 - sizes[..., None])
    cells = torch.rand(count, 1, side // BACKGROUND_CELL, side // BACKGROUND_CELL, generator=random)

    corners = corners.floor()
    extent = _extent(garments[chosen.flatten()] > SEEN).view(count, slots, 1, 4) * (sizes / SIDE)[..., None]
    tried = extent + corners.repeat(1, 1, 1, 2)
    at, there = corners[:, :, 0].clone(), torch.zeros(count, slots, dtype=torch.bool)
    placed = tried[:, :, 0].clone()
    for slot in range(slots):
        overlap = boxes.iou(tried[:, slot], placed[:, :slot]).masked_fill(~there[:, None, :slot], 0.0)
        free = (overlap <= LARGEST_IOU).all(-1)
        first = free.int().argmax(1)
        every = torch.arange(count)
        at[:, slot], placed[:, slot] = corners[every, slot, first], tried[every, slot, first]
        there[:, slot] = free.any(1) & (slot < number[:, 0])

    scenes = F.interpolate(BACKGROUND_TOP * cells.to(device), (side, side), mode="bilinear")
    found = torch.zeros(count, slots, 4)
    for slot in range(slots):
        drawn = _draw(garments[chosen[:, slot]], at[:, slot], sizes[:, slot], side, device)
        drawn *= there[:, slot].to(device)[:, None, None, None]
        found[:, slot] = _extent(drawn[:, 0] > SEEN).cpu()
        scenes = torch.maximum(scenes, drawn)
    return scenes.round().byte(), chosen.where(there, -1), found


def _draw(garments: torch.Tensor, corners: torch.Tensor, sizes: torch.Tensor, side: int, device: str) -> torch.Tensor:
    """Garments uint8 (B, 28, 28), each of its size (B, 1) and with its corner (B, 2) at a pixel: (B, 1, side, side)."""
    centres = torch.arange(side) + 0.5
    x, y = (2 * (centres - corners[:, axis, None]) / sizes - 1 for axis in (0, 1))
    grid = torch.stack((x[:, None].expand(-1, side, -1), y[:, :, None].expand(-1, -1, side)), -1)
    pixels = garments.to(device)[:, None].float()
    return F.grid_sample(pixels, grid.to(device), mode="bilinear", padding_mode="zeros", align_corners=False)


def _extent(masks: torch.Tensor) -> torch.Tensor:
    """The box around what is set in each of the masks (B, H, W): float32 (B, 4), all 0 where nothing is."""
    ends = []
    for axis in (1, 2):
        along = masks.any(axis)
        size = along.shape[1]
        first, last = along.int().argmax(1), size - along.flip(1).int().argmax(1)
        ends += [first, last.where(along.any(1), 0)]
    return torch.stack((ends[0], ends[2], ends[1], ends[3]), 1).float()

"""Boxes and anchors of object detectors, in plain torch.

A box is (x0, y0, x1, y1) in pixels, x to the right and y down, x1 and y1 just outside. An anchor is a box at a fixed
place, in one of a few sizes and shapes; a detector says of each anchor what is in it, and by how much it is off.
"""

import math

import torch

BACKGROUND, BETWEEN = -1, -2
FOREGROUND_IOU, BACKGROUND_IOU = 0.5, 0.4
ASPECT_RATIOS = (0.5, 1.0, 2.0)
LARGEST_LOG_SCALE = math.log(1000 / 16)


def anchors(side: int, levels: list[int], smallest: tuple[int, ...]) -> torch.Tensor:
    """All anchors of a square image, float32 (sum of cells * 9, 4), level by level and row by row.

    side: of the image, in pixels. levels: cells along a side of each level's grid. smallest: sides of each level's
    smallest anchors, in pixels; they come in three sizes, a third of an octave apart, and in three aspect ratios
    (Lin et al. 2017, arXiv 1708.02002, section 4). Corners relative to the middle are rounded to pixels, as the
    reference of MLPerf's retinanet does.
    """
    found = []
    for cells, start in zip(levels, smallest, strict=True):
        sizes = torch.tensor([start, int(start * 2 ** (1 / 3)), int(start * 2 ** (2 / 3))], dtype=torch.float32)
        tall = torch.tensor(ASPECT_RATIOS).sqrt()
        widths, heights = (sizes / tall[:, None]).flatten(), (sizes * tall[:, None]).flatten()
        shapes = (torch.stack((-widths, -heights, widths, heights), 1) / 2).round()
        steps = torch.arange(cells) * (side // cells)
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        found.append((torch.stack((x, y, x, y), -1).view(-1, 1, 4) + shapes).view(-1, 4))
    return torch.cat(found)


def iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Intersection over union of every box of a (..., M, 4) with every box of b (..., N, 4): (..., M, N)."""
    a, b = a.unsqueeze(-2), b.unsqueeze(-3)
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp_min(0)
    shared = sides[..., 0] * sides[..., 1]
    return shared / (area(a) + area(b) - shared)


def area(boxes: torch.Tensor) -> torch.Tensor:
    """Of boxes (..., 4), in square pixels: (...)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def match(anchors: torch.Tensor, boxes: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """The box that each anchor (A, 4) is to find among boxes (M, 4), M > 0, of which only the valid (M,) count.

    Returns int64 (A,): the index of the box that overlaps most, where that is by FOREGROUND_IOU; BACKGROUND where no
    box does by BACKGROUND_IOU; BETWEEN otherwise. The anchors that overlap a box more than all others do are to find
    one in any case.
    """
    overlap = iou(boxes, anchors).masked_fill(~valid[:, None], -1.0)
    most, which = overlap.max(0)
    found = which.masked_fill(most < FOREGROUND_IOU, BETWEEN).masked_fill(most < BACKGROUND_IOU, BACKGROUND)
    best = overlap.amax(1, keepdim=True)
    return torch.where(((overlap == best) & (best > 0)).any(0), which, found)


def encode(boxes: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """What a detector has to say of anchors (..., 4) whose boxes are (..., 4): shifts in units of their sides, logs.

    Girshick et al. 2014 (arXiv 1311.2524), appendix C.
    """
    sides, wanted = anchors[..., 2:] - anchors[..., :2], boxes[..., 2:] - boxes[..., :2]
    shift = (boxes[..., :2] + boxes[..., 2:] - anchors[..., :2] - anchors[..., 2:]) / (2 * sides)
    return torch.cat((shift, (wanted / sides).log()), -1)


def decode(offsets: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """The boxes (..., 4) that encode() gave these offsets (..., 4) for; logs of sides end at LARGEST_LOG_SCALE."""
    sides = anchors[..., 2:] - anchors[..., :2]
    middle = anchors[..., :2] + sides / 2 + offsets[..., :2] * sides
    half = offsets[..., 2:].clamp_max(LARGEST_LOG_SCALE).exp() * sides / 2
    return torch.cat((middle - half, middle + half), -1)


def non_maximum_suppression(
    boxes: torch.Tensor, classes: torch.Tensor, valid: torch.Tensor, threshold: float
) -> torch.Tensor:
    """Which detections stay: bool (B, K). A detection goes where a better one of its class that stays overlaps it.

    boxes (B, K, 4) and classes (B, K) are in order of falling score; overlap counts above an IoU of `threshold`. All
    images and classes at once: boxes are moved apart by class, and the rule is applied to all detections until nothing
    changes. What a detection's fate depends on lies before it, so that this ends with what going through them one by
    one would give, after as many rounds as the longest chain of detections that decide over each other.
    """
    apart = boxes + (classes * (boxes.amax() + 1))[..., None]
    overlaps = (iou(apart, apart) > threshold).triu(1)
    stays = valid
    while True:
        now = valid & ~(overlaps & stays[..., None]).any(-2)
        if torch.equal(now, stays):
            return stays
        stays = now

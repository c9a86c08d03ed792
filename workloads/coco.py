"""Object detection data in the structure of COCO (https://cocodataset.org/#format-data): images, boxes, metric.

    {"images": [{"id", "file_name", "width", "height"}], "categories": [{"id", "name"}],
     "annotations": [{"id", "image_id", "category_id", "bbox": [x, y, width, height], "area", "iscrowd"}]}

Its evaluation is pycocotools', imported when it is needed.
"""

import contextlib
import io
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

EMPTY = -1
LISTS = ("images", "categories", "annotations")
HOW = "pip install 'perfsuite[workloads]'"


def read_labels(path: Path) -> dict[str, Any]:
    """The content of a label file. Raises FileNotFoundError or ValueError where it is missing or is something else."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: it has the boxes of the images, in COCO's format")
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))
        lacking = [name for name in LISTS if not isinstance(labels.get(name), list)]
    except (json.JSONDecodeError, AttributeError) as error:
        raise ValueError(f"{path} is not in COCO's format: {error}") from error
    if lacking:
        raise ValueError(f"{path} is not in COCO's format: it has no list {', '.join(lacking)}")
    return labels


@dataclass
class Targets:
    """Boxes and classes of many images, in the pixels of a network's square input."""

    boxes: torch.Tensor
    """float32 (T, 4), x0 y0 x1 y1, image after image."""
    classes: torch.Tensor
    """int64 (T,), the index of the category among all, in order of their ids."""
    starts: list[int]
    """Where the boxes of each image start, and where the last ones end."""

    @staticmethod
    def of(labels: dict[str, Any], side: int, classes: int) -> "Targets":
        """From COCO's structure. Boxes are cut at the image's edges; those of no size are left out, as the reference of
        MLPerf's retinanet does; groups of objects (iscrowd) are kept, as it does for OpenImages.

        Raises ValueError where the number of categories is not `classes`.
        """
        index = {category: place for place, category in enumerate(category_ids(labels))}
        if len(index) != classes:
            raise ValueError(f"the labels have {len(index)} categories, and the model is for {classes}")
        rows: dict[int, list[tuple[float, ...]]] = {image["id"]: [] for image in labels["images"]}
        sizes = {image["id"]: (image["width"], image["height"]) for image in labels["images"]}
        for annotation in labels["annotations"]:
            (x, y, w, h), (width, height) = annotation["bbox"], sizes[annotation["image_id"]]
            x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
            if x1 > x0 and y1 > y0:
                across, down = side / width, side / height
                row = x0 * across, y0 * down, x1 * across, y1 * down, index[annotation["category_id"]]
                rows[annotation["image_id"]].append(row)
        starts = [0]
        for found in rows.values():
            starts.append(starts[-1] + len(found))
        table = torch.tensor([row for found in rows.values() for row in found], dtype=torch.float32).view(-1, 5)
        return Targets(table[:, :4].contiguous(), table[:, 4].long(), starts)

    def padded(self, images: list[int], slots: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes (B, M, 4) and classes (B, M) of some images; M is `slots`, or what the fullest image needs.

        Empty places have the class EMPTY and a box of one pixel.
        """
        spans = [(self.starts[image], self.starts[image + 1]) for image in images]
        room = max(slots, max(end - start for start, end in spans))
        boxes = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(len(images), room, 1)
        classes = torch.full((len(images), room), EMPTY)
        for row, (start, end) in enumerate(spans):
            boxes[row, : end - start] = self.boxes[start:end]
            classes[row, : end - start] = self.classes[start:end]
        return boxes, classes


def category_ids(labels: dict[str, Any]) -> list[int]:
    """In order; a class is a place in this list."""
    return sorted(category["id"] for category in labels["categories"])


class Photographs:
    """Image files that labels name, decoded by Pillow when they are asked for."""

    def __init__(self, labels: dict[str, Any], folder: Path, side: int, threads: int) -> None:
        """Raises FileNotFoundError, in one line, where the folder lacks any, and ImportError without Pillow."""
        try:
            import PIL.Image  # noqa: F401
        except ImportError as error:
            raise ImportError(f"images are decoded by Pillow, which is missing: {HOW}") from error
        names = [image["file_name"] for image in labels["images"]]
        there = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
        missing = [name for name in names if name not in there]
        if missing:
            raise FileNotFoundError(
                f"{folder} lacks {len(missing)} of the {len(names)} images that its labels name, {missing[0]} first"
            )
        self._paths = [folder / name for name in names]
        self._side, self._pool = side, ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def batches(self, chosen: Iterable[list[int]]) -> Iterator[tuple[list[int], torch.Tensor]]:
        """(indices, their images as float32 (B, 3, side, side), 0 to 255); the next batch is decoded meanwhile."""
        ahead: list[tuple[list[int], list[Future[torch.Tensor]]]] = []
        for images in chosen:
            ahead.append((images, [self._pool.submit(self._read, image) for image in images]))
            if len(ahead) == 2:
                indices, decoding = ahead.pop(0)
                yield indices, torch.stack([one.result() for one in decoding])
        for indices, decoding in ahead:
            yield indices, torch.stack([one.result() for one in decoding])

    def _read(self, image: int) -> torch.Tensor:
        from PIL import Image

        with Image.open(self._paths[image]) as opened:
            picture = opened.convert("RGB")
        pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
        pixels = pixels.view(1, picture.height, picture.width, 3).permute(0, 3, 1, 2).float()
        return F.interpolate(pixels, (self._side, self._side), mode="bilinear", align_corners=False)[0]


@dataclass
class Detections:
    """What a detector found in one image, best first, in the pixels of the network's input."""

    image: int
    """Its place among the images of the labels."""
    boxes: torch.Tensor
    """(N, 4)"""
    scores: torch.Tensor
    """(N,)"""
    classes: torch.Tensor
    """(N,)"""


class Evaluation:
    """COCO's average precision of detections against labels, by pycocotools, which is kept from printing."""

    def __init__(self, labels: dict[str, Any], side: int) -> None:
        """side: of the network's input, in pixels. Raises ImportError, in one line, without pycocotools."""
        try:
            from pycocotools.coco import COCO
        except ImportError as error:
            raise ImportError(f"average precision is pycocotools', which is missing: {HOW}") from error
        self._truth, self._side = COCO(), side
        self._truth.dataset = labels
        with contextlib.redirect_stdout(io.StringIO()):
            self._truth.createIndex()

    def average_precision(self, detections: list[Detections]) -> float:
        """Mean over ten IoU thresholds from 0.50 to 0.95 and over all categories, at most 100 detections an image.

        That is the first of the twelve numbers of COCOeval.summarize(); those for sizes of objects are not computed.
        """
        from pycocotools.cocoeval import COCOeval

        results = [row for found in detections for row in self._rows(found)]
        if not results:
            return 0.0
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(self._truth, self._truth.loadRes(results), "bbox")
            parameters = evaluation.params
            parameters.areaRng, parameters.areaRngLbl = parameters.areaRng[:1], parameters.areaRngLbl[:1]
            parameters.maxDets = parameters.maxDets[-1:]
            evaluation.evaluate()
            evaluation.accumulate()
        precision = evaluation.eval["precision"]  # -1 where a category has no object
        return float(precision[precision > -1].mean())

    def _rows(self, found: Detections) -> Iterator[dict[str, Any]]:
        image = self._truth.dataset["images"][found.image]
        across, down = image["width"] / self._side, image["height"] / self._side
        ids = category_ids(self._truth.dataset)
        for (x0, y0, x1, y1), score, place in zip(
            found.boxes.tolist(), found.scores.tolist(), found.classes.tolist(), strict=True
        ):
            box = [x0 * across, y0 * down, (x1 - x0) * across, (y1 - y0) * down]
            yield {"image_id": image["id"], "category_id": ids[place], "bbox": box, "score": score}

"""RetinaNet: its boxes and scenes by themselves, its metric by pycocotools' own, its size and files at scale mlperf."""

import contextlib
import dataclasses
import io
import json
import math
from itertools import islice

import pytest
import torch
import torch.nn.functional as F

from perfsuite.harness.train import no_phase, steps_until
from perfsuite.workloads import boxes, garment_scenes, registry, retinanet
from perfsuite.workloads.coco import EMPTY, Detections, Evaluation, Targets
from perfsuite.workloads.resnet import read_images

FOLDER = registry.data_folder()
TINY, MLPERF = retinanet.CONFIGS["tiny"], retinanet.CONFIGS["mlperf"]
FEW = dataclasses.replace(TINY, train_samples=40, eval_samples=20)
# The layout, the loader and every part of mlperf's model, small: 8 classes instead of 264, 64 pixels instead of 800.
SHRUNK = dataclasses.replace(
    MLPERF, side=64, classes=8, blocks=(1, 1, 1, 1), stem=8, width=32, groups=8, pyramid=16, depth=1, batch_size=4,
    micro_batch=0, train_samples=6, eval_samples=3, candidates=20, anchors=(8, 16, 32, 64, 64), warmup_epochs=0.0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# -- boxes ------------------------------------------------------------------------------------------------------------


def random_boxes(count: int, side: float, generator: torch.Generator) -> torch.Tensor:
    corners = torch.rand(count, 2, generator=generator) * side
    return torch.cat((corners, corners + 1 + torch.rand(count, 2, generator=generator) * side / 2), 1)


def plain_iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    sizes = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(sizes) - width * height)


def test_iou_of_pairs():
    generator = torch.Generator().manual_seed(1)
    a, b = random_boxes(7, 20, generator), random_boxes(9, 20, generator)
    expected = [[plain_iou(x, y) for y in b.tolist()] for x in a.tolist()]
    torch.testing.assert_close(boxes.iou(a, b), torch.tensor(expected))


def test_decoding_undoes_encoding():
    generator = torch.Generator().manual_seed(2)
    wanted, anchors = random_boxes(50, 100, generator), random_boxes(50, 100, generator)
    torch.testing.assert_close(boxes.decode(boxes.encode(wanted, anchors), anchors), wanted, rtol=1e-4, atol=1e-3)
    assert boxes.encode(torch.tensor([2.0, 2.0, 6.0, 10.0]), torch.tensor([0.0, 0.0, 4.0, 4.0])).tolist() == (
        pytest.approx([0.5, 1.0, 0.0, math.log(2)])
    )


def test_matching_has_foreground_background_between_and_a_last_resort():
    # Overlaps with the first box: 1, 0.6, 0.45, 0.3 and 0; the best with the second: 0.25.
    anchors = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 6], [0, 0, 10, 4.5], [0, 0, 10, 3], [50, 50, 60, 60.0]])
    wanted = torch.tensor([[0, 0, 10, 10], [50, 50, 70, 70], [50, 50, 60, 60.0]])
    valid = torch.tensor([True, True, False])
    assert boxes.match(anchors, wanted, valid).tolist() == [0, 0, boxes.BETWEEN, boxes.BACKGROUND, 1]
    assert boxes.match(anchors, wanted, torch.tensor([False] * 3)).tolist() == [boxes.BACKGROUND] * 5


def test_suppression_is_what_going_through_them_one_by_one_gives():
    generator = torch.Generator().manual_seed(3)
    some = torch.stack([random_boxes(60, 12, generator) for _ in range(4)])
    classes = torch.randint(3, (4, 60), generator=generator)
    valid = torch.rand(4, 60, generator=generator) < 0.9
    stays = boxes.non_maximum_suppression(some, classes, valid, 0.3)
    for image in range(4):
        kept: list[int] = []
        for k in range(60):
            alike = (j for j in kept if classes[image, j] == classes[image, k])
            clear = all(plain_iou(some[image, j].tolist(), some[image, k].tolist()) <= 0.3 for j in alike)
            if valid[image, k] and clear:
                kept.append(k)
        assert stays[image].nonzero().flatten().tolist() == kept
        assert 5 < len(kept) < 50


def test_anchors_are_as_many_as_the_benchmark_has():
    found = boxes.anchors(800, retinanet.grids(MLPERF), MLPERF.anchors)
    assert retinanet.grids(MLPERF) == [100, 50, 25, 13, 7]
    assert len(found) == 120_087
    middles = (found[:, :2] + found[:, 2:]) / 2
    # 9 anchors a cell: wide, square, tall; 32, 40 and 50 pixels, as is 512, 645 and 812 at the last level.
    assert found[9 : 2 * 9, 0].tolist() == [8 - 23, 8 - 28, 8 - 35, 8 - 16, 8 - 20, 8 - 25, 8 - 11, 8 - 14, 8 - 18]
    assert middles[9:18].tolist() == [[8.0, 0.0]] * 9 and middles[-1].tolist() == [6 * 114.0] * 2
    assert (found[-9:, 2] - found[-9:, 0]).tolist() == [724, 912, 1148, 512, 644, 812, 362, 456, 574]


# -- scenes -----------------------------------------------------------------------------------------------------------


def scenes(count: int, seed: int, layout: garment_scenes.Layout = TINY.layout):
    garments, classes, _, _ = read_images([FOLDER / "fashion_mnist_0.xz"])
    generator = torch.Generator().manual_seed(seed)
    return garment_scenes.compose(garments, classes, list(retinanet.GARMENTS), count, layout, generator, "cpu")


def test_a_box_is_around_its_garment_to_the_pixel():
    alone = dataclasses.replace(TINY.layout, most=1)
    pixels, labels = scenes(60, 1, alone)
    assert len(labels["annotations"]) == len({a["image_id"] for a in labels["annotations"]}) >= 59
    for annotation in labels["annotations"]:
        rows, columns = (pixels[annotation["image_id"], 0] > garment_scenes.SEEN).nonzero(as_tuple=True)
        x, y, w, h = annotation["bbox"]
        assert [x, y, x + w, y + h] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert annotation["area"] == w * h and max(w, h) <= alone.largest + 1


def test_scenes_have_one_to_most_garments_of_all_classes_and_sizes_that_hardly_overlap():
    pixels, labels = scenes(300, 2)
    assert pixels.shape == (300, 1, 64, 64) and pixels.dtype == torch.uint8
    by_scene = [[a["bbox"] for a in labels["annotations"] if a["image_id"] == image] for image in range(300)]
    assert {len(found) for found in by_scene} >= {1, 2, 3, 4} and max(map(len, by_scene)) == 4
    assert {a["category_id"] for a in labels["annotations"]} == set(range(10))
    tallest = [max(a["bbox"][2:]) for a in labels["annotations"]]
    assert min(tallest) < 19 and max(tallest) > 34
    for found in by_scene:
        corners = [[x, y, x + w, y + h] for x, y, w, h in found]
        assert all(plain_iou(a, b) < 0.2 for i, a in enumerate(corners) for b in corners[:i])


def test_no_garment_of_an_evaluation_scene_is_in_a_training_scene(monkeypatch):
    """Of what scenes are made of, nothing is in both, by content; and seeds decide the training scenes alone."""
    config = dataclasses.replace(retinanet.CONFIGS["gpu"], train_samples=30, eval_samples=20)
    pools, compose = [], garment_scenes.compose

    def spy(garments, *arguments):
        pools.append({bytes(image) for image in garments.numpy().reshape(len(garments), -1)})
        return compose(garments, *arguments)

    monkeypatch.setattr(retinanet, "compose", spy)
    found = [
        retinanet.read_data(config, FOLDER, torch.Generator().manual_seed(seed), "cpu") for seed in (1, 2)
    ]  # fmt: skip
    assert [len(pool) for pool in pools] == [24_000, 4000] * 2
    assert not pools[0] & pools[1]
    (train, labels, test, test_labels), (other, other_labels, same, same_labels) = found
    assert torch.equal(test.pixels, same.pixels) and test_labels == same_labels
    assert not torch.equal(train.pixels, other.pixels) and labels != other_labels


def test_a_mirrored_image_keeps_its_boxes():
    job = retinanet.build(FEW, "cpu", 1)
    mean, std = (255 * value[0] for value in (FEW.mean, FEW.std))
    images, found, classes = next(job.open(FOLDER))
    assert (classes != EMPTY).any(1).all()
    train = retinanet.read_data(FEW, FOLDER, torch.Generator().manual_seed(1), "cpu")[0].pixels.float()
    seen = {"as it was": 0, "mirrored": 0}
    for image, some, of in zip(images, found, classes, strict=True):
        pixels = (image[0] * std + mean).round()
        seen["as it was"] += bool((train[:, 0] == pixels).flatten(1).all(1).any())
        seen["mirrored"] += bool((train[:, 0] == pixels.flip(-1)).flatten(1).all(1).any())
        inside = torch.zeros(64, 64, dtype=torch.bool)
        for x0, y0, x1, y1 in some[of != EMPTY].long().tolist():
            inside[y0:y1, x0:x1] = True
            assert (pixels[y0:y1, x0:x1] > garment_scenes.SEEN).any()
        assert not (pixels[~inside] > garment_scenes.SEEN + 1).any()
    assert min(seen.values()) >= 3 and sum(seen.values()) == len(images)


@pytest.mark.parametrize(("scale", "count"), [("tiny", 500), ("gpu", 100)])
def test_pixels_are_standardised_by_what_training_scenes_have(scale, count):
    config = retinanet.CONFIGS[scale]
    pixels, _ = scenes(count, 3, config.layout)
    assert abs(float(pixels.float().mean()) / 255 - config.mean[0]) < 0.01
    assert abs(float(pixels.float().std()) / 255 - config.std[0]) < 0.01


# -- loss and metric --------------------------------------------------------------------------------------------------


def test_loss_is_the_formula_an_image_at_a_time():
    job = retinanet.build(FEW, "cpu", 1)
    images, wanted, classes = next(job.open(FOLDER))
    classes[0] = EMPTY  # an image without objects
    job.model.eval()
    with torch.no_grad():
        logits, offsets = job.model(images)
        loss = float(job._loss(images, wanted, classes)) / len(images)
    expected = 0.0
    for image in range(len(images)):
        there = classes[image] != EMPTY
        found = boxes.match(job.anchors, wanted[image], there)
        target = torch.zeros_like(logits[image])
        hits = (found >= 0).nonzero().flatten()
        target[hits, classes[image, found[hits]]] = 1.0
        kept = found != boxes.BETWEEN
        x, t = logits[image][kept], target[kept]
        p = x.sigmoid()
        p_t, weight = p * t + (1 - p) * (1 - t), 0.25 * t + 0.75 * (1 - t)
        focal = weight * (1 - p_t) ** 2 * F.binary_cross_entropy_with_logits(x, t, reduction="none")
        apart = offsets[image][hits] - boxes.encode(wanted[image, found[hits]], job.anchors[hits])
        expected += float(focal.sum() + apart.abs().sum()) / max(1, len(hits))
        assert len(hits) >= there.sum()
    assert loss == pytest.approx(expected / len(images), rel=1e-4)


def made_up_detections(labels: dict, side: int, generator: torch.Generator) -> list[Detections]:
    """What a middling detector would find: shifted boxes, some of another class, and some of nothing."""
    targets, found = Targets.of(labels, side, len(labels["categories"])), []
    for image in range(len(labels["images"])):
        some, classes = targets.padded([image], 4)
        shifted = some[0] + 1.5 * torch.randn(some.shape[1:], generator=generator)
        guessed = torch.where(torch.rand(len(classes[0]), generator=generator) < 0.7, classes[0], 0).clamp_min(0)
        scores = torch.rand(len(guessed), generator=generator).sort(descending=True).values
        found.append(Detections(image, shifted, scores, guessed))
    return found


def test_average_precision_is_the_first_number_that_pycocotools_prints():
    from pycocotools.cocoeval import COCOeval

    _, labels = scenes(40, 4)
    detections = made_up_detections(labels, 64, torch.Generator().manual_seed(1))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        evaluation = Evaluation(labels, 64)
        ours = evaluation.average_precision(detections)
        assert printed.getvalue() == ""
        rows = [row for found in detections for row in evaluation._rows(found)]
        theirs = COCOeval(evaluation._truth, evaluation._truth.loadRes(rows), "bbox")
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
    assert ours == pytest.approx(theirs.stats[0], abs=1e-12) and 0.05 < ours < 0.8


def test_average_precision_of_everything_is_one_and_of_nothing_zero():
    _, labels = scenes(30, 5)
    targets = Targets.of(labels, 64, 10)
    perfect = [
        Detections(i, targets.boxes[a:b], torch.ones(b - a), targets.classes[a:b])
        for i, (a, b) in enumerate(zip(targets.starts, targets.starts[1:], strict=False))
    ]
    evaluation = Evaluation(labels, 64)
    assert evaluation.average_precision(perfect) == 1.0
    assert evaluation.average_precision([dataclasses.replace(d, scores=d.scores[:0]) for d in []]) == 0.0


def test_detections_are_the_best_of_their_place():
    """Logits and offsets that say where the boxes are give them back, best first, one a box."""
    job = retinanet.build(FEW, "cpu", 1)
    _, wanted, classes = next(job.open(FOLDER))
    there = classes != EMPTY
    scores = torch.full((len(wanted), len(job.anchors), TINY.classes), 0.01)
    offsets = torch.zeros(len(wanted), len(job.anchors), 4)
    for image, some in enumerate(wanted):
        found = boxes.match(job.anchors, some, there[image])
        hits = (found >= 0).nonzero().flatten()
        close = boxes.iou(job.anchors[hits], some).gather(1, found[hits, None])[:, 0]
        scores[image, hits, classes[image, found[hits]]] = 0.3 + close / 2
        offsets[image, hits] = boxes.encode(some[found[hits]], job.anchors[hits])
    for image, found in enumerate(job._detections(list(range(len(wanted))), scores, offsets)):
        assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
        pairs = zip(found.boxes.round().tolist(), found.classes.tolist(), strict=True)
        expected = zip(wanted[image][there[image]].tolist(), classes[image][there[image]].tolist(), strict=True)
        assert sorted(pairs) == sorted(expected)


# -- scale mlperf -----------------------------------------------------------------------------------------------------


def convolution(inputs: int, outputs: int, side: int, groups: int = 1, bias: bool = False) -> int:
    return inputs // groups * outputs * side**2 + bias * outputs


def test_the_model_has_the_parameters_of_the_benchmark():
    """Counted layer by layer from the reference's architecture; the README of mlcommons/training has "37M".

    The backbone's part is checked by what torchvision publishes for resnext50_32x4d with batch norm and classifier. The
    reference's batch norm is frozen: no parameters.
    """
    backbone, norms, channels = convolution(3, 64, 7), 64, 64
    frozen = backbone
    for stage, (count, width, wide) in enumerate([(3, 128, 256), (4, 256, 512), (6, 512, 1024), (3, 1024, 2048)]):
        for block in range(count):
            here = convolution(channels, width, 1) + convolution(width, width, 3, 32) + convolution(width, wide, 1)
            norms += 2 * width + wide
            if not block:
                here += convolution(channels, wide, 1)
                norms += wide
            backbone, channels = backbone + here, wide
            frozen += here if stage == 0 else 0
    assert backbone + 2 * norms + 2048 * 1000 + 1000 == 25_028_904
    pyramid = sum(convolution(c, 256, 1, bias=True) for c in (512, 1024, 2048)) + 5 * convolution(
        256, 256, 3, bias=True
    )
    heads = 8 * convolution(256, 256, 3, bias=True) + sum(convolution(256, 9 * n, 3, bias=True) for n in (264, 4))
    model = retinanet.build(MLPERF, "meta", 0).model
    assert sum(p.numel() for p in model.parameters()) == backbone + pyramid + heads
    assert round((backbone + pyramid + heads) / 1e6) == 37
    assert sum(p.numel() for p in model.parameters() if not p.requires_grad) == frozen
    assert all(p.device.type == "meta" for p in model.parameters())


def test_evaluations_come_every_epoch_as_the_rules_say():
    config, samples, points = MLPERF, 0, []
    goal = config.schedule.first_eval_samples
    while samples < config.schedule.max_samples:
        samples += steps_until(samples, goal, config.batch_size) * config.batch_size
        points.append(samples)
        goal = samples + config.schedule.eval_every_samples
    epoch = math.ceil(config.train_samples / config.batch_size) * config.batch_size  # CEIL(n / GBS) * GBS
    assert points == [epoch * number for number in range(1, 9)]  # the reference's config of this batch: 8 epochs
    assert (config.target.value, config.num_runs, config.batch_size) == (0.34, 5, 256)
    job = retinanet.build(
        dataclasses.replace(SHRUNK, train_samples=80, warmup_epochs=1.0, warmup_factor=1e-3), "cpu", 1
    )
    rates = []
    for job.step in range(25):
        rates.append(job._learning_rate())
    assert rates[0] == pytest.approx(1e-7) and rates[10] == pytest.approx(1e-4 * (1e-3 / 2 + 0.5))
    assert rates[20:] == [1e-4] * 5


@pytest.fixture
def open_images(tmp_path):
    """A folder as the reference's scripts leave it: 6 images to train on, 3 to evaluate, and a backbone."""
    from PIL import Image

    generator = torch.Generator().manual_seed(7)
    categories = [{"id": 3 * number + 1, "name": f"thing {number}"} for number in range(SHRUNK.classes)]
    for part, count in (("train", 6), ("validation", 3)):
        images, annotations = [], []
        (tmp_path / part / "data").mkdir(parents=True)
        (tmp_path / part / "labels").mkdir()
        for number in range(count):
            width, height, name = 90 + 10 * number, 120 - 8 * number, f"{part}{number:013d}.jpg"
            pixels = torch.randint(256, (height, width, 3), generator=generator, dtype=torch.uint8)
            picture = Image.frombytes("RGB", (width, height), pixels.numpy().tobytes())
            if number == 1:
                picture = picture.convert("L")  # OpenImages has grey ones
            picture.save(tmp_path / part / "data" / name)
            images.append({"id": number + 1, "file_name": name, "width": width, "height": height})
            for box in range(number):  # the first has none
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": number + 1, "category_id": 3 * box + 1, "area": 900.0,
                     "bbox": [10.0 + 5 * box, 5.0, 30.0, 30.0], "iscrowd": int(box == 2), "IsGroupOf": box == 2}
                )  # fmt: skip
        labels = {"info": {}, "licenses": [], "categories": categories, "images": images, "annotations": annotations}
        (tmp_path / part / "labels" / "openimages-mlperf.json").write_text(json.dumps(labels))
    classifier = retinanet.build(SHRUNK, "cpu", 99).model.backbone.state_dict()
    classifier = {name: value + 0.01 for name, value in classifier.items()}
    extra = {"fc.weight": torch.zeros(1000, 32), "bn1.num_batches_tracked": torch.tensor(5)}
    torch.save(classifier | extra, tmp_path / SHRUNK.backbone)
    return tmp_path


def test_a_folder_in_the_layout_of_the_reference_is_trained_on(open_images):
    job = retinanet.build(SHRUNK, "cpu", 1)
    batches = job.open(open_images)
    weights = torch.load(open_images / SHRUNK.backbone)
    assert torch.equal(job.model.backbone.layer2[0].conv2.weight, weights["layer2.0.conv2.weight"])
    before = {name: value.clone() for name, value in job.model.state_dict().items()}
    losses = []
    for images, found, classes in islice(batches, 4):
        assert images.shape == (4, 3, 64, 64) and images.is_contiguous(memory_format=torch.channels_last)
        assert found.shape == (4, 16, 4) and set(classes.unique().tolist()) <= {EMPTY, 0, 1, 2, 3, 4}
        assert (found[..., 2:] > found[..., :2]).all() and found.min() >= 0 and found.max() <= 64
        losses.append(float(job.train_step((images, found, classes), no_phase)))
    assert all(map(math.isfinite, losses))
    assert 0 <= job.evaluate(no_phase) <= 1
    changed = {name for name, value in job.model.state_dict().items() if not torch.equal(value, before[name])}
    assert "backbone.layer2.0.conv1.weight" in changed and "classify.last.bias" in changed
    frozen = ("backbone.conv1", "backbone.layer1", "backbone.bn1")
    assert not any(name.startswith(frozen) or ".bn" in name or "running" in name for name in changed)


def test_targets_are_cut_scaled_and_complete(open_images):
    labels = json.loads((open_images / "train/labels/openimages-mlperf.json").read_text())
    labels["annotations"][0]["bbox"] = [-5.0, 50.0, 30.0, 500.0]
    labels["annotations"][1]["bbox"] = [20.0, 20.0, 0.0, 10.0]
    targets = Targets.of(labels, 64, 8)
    assert targets.starts == [0, 0, 1, 2, 5, 9, 14]  # the second of the third image has no width
    width, height = labels["images"][1]["width"], labels["images"][1]["height"]
    assert targets.boxes[0].tolist() == pytest.approx([0, 50 * 64 / height, 25 * 64 / width, 64])
    some, classes = targets.padded([0, 5], 2)
    assert classes.tolist() == [[EMPTY] * 5, [0, 1, 2, 3, 4]] and some.shape == (2, 5, 4)
    with pytest.raises(ValueError, match="the labels have 8 categories, and the model is for 264"):
        Targets.of(labels, 64, 264)


def test_what_is_wrong_with_a_folder_is_said_in_one_line(open_images):
    def error(kind):
        with pytest.raises(kind) as caught:
            retinanet.build(SHRUNK, "cpu", 1).open(open_images)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    wrong = torch.load(open_images / SHRUNK.backbone)
    wrong["layer3.0.conv1.weight"] = torch.zeros(3)
    torch.save(wrong, open_images / SHRUNK.backbone)
    assert "another network's: 1 of" in error(ValueError) and "layer3.0.conv1.weight first" in error(ValueError)
    (open_images / SHRUNK.backbone).unlink()
    assert "resnext50_32x4d-7cdf4587.pth is missing" in error(FileNotFoundError)
    for number in (2, 4):
        (open_images / "train/data" / f"train{number:013d}.jpg").unlink()
    assert "lacks 2 of the 6 images that its labels name, train0000000000002.jpg first" in error(FileNotFoundError)
    (open_images / "train/labels/openimages-mlperf.json").write_text('{"images": []}')
    assert "not in COCO's format: it has no list categories, annotations" in error(ValueError)
    (open_images / "train/labels/openimages-mlperf.json").write_text("[]")
    assert "not in COCO's format" in error(ValueError)


def test_micro_batches_give_the_gradient_of_the_batch():
    batch = next(retinanet.build(SHRUNK, "cpu", 1).synthetic())
    gradients, losses = [], []
    for micro_batch in (0, 3):
        job = retinanet.build(dataclasses.replace(SHRUNK, micro_batch=micro_batch, autocast=False), "cpu", 1)
        job.optimizer.zero_grad = lambda: None
        losses.append(float(job.train_step(batch, no_phase)))
        gradients.append(torch.cat([p.grad.flatten() for p in job.model.parameters() if p.grad is not None]))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-5)
    assert job.log_values()["gradient_accumulation_steps"] == 2


def test_the_real_model_takes_a_step():
    """On an image of 192 pixels: one of 800 takes 17 times as long, over 20 s on a thread."""
    config = dataclasses.replace(MLPERF, batch_size=1, micro_batch=0, side=192, autocast=False)
    job = retinanet.build(config, "cpu", 1)
    loss = float(job.train_step(next(job.synthetic()), no_phase))
    assert 0.1 < loss < 20
    assert len(job.anchors) == sum(job.levels) and len(job.model(torch.zeros(1, 3, 192, 192))[0][0]) == len(job.anchors)


def test_another_batch_size_keeps_the_schedule_in_samples():
    for batch_size in (4, 24, 64):
        config = retinanet.rescaled(TINY, batch_size)
        assert config.learning_rate == pytest.approx(TINY.learning_rate * math.sqrt(batch_size / TINY.batch_size))
        assert 0 <= config.schedule.max_samples - TINY.schedule.max_samples < batch_size
        assert config.schedule.max_samples % batch_size == 0
        warm, was = (retinanet.build(some, "cpu", 1).warmup_steps * some.batch_size for some in (config, TINY))
        assert abs(warm - was) <= max(batch_size, TINY.batch_size)

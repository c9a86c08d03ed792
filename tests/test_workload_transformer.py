"""The workload transformer: its model against formulas, MLPerf's sizes, schedule and files."""

import dataclasses
import itertools
import math
import re
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from perfsuite.harness.train import steps_until
from perfsuite.workloads import transformer
from perfsuite.workloads.transformer import CONFIGS, PAD
from perfsuite.workloads.translation import BOS, EOS, SPECIALS

TINY, MLPERF = CONFIGS["tiny"], CONFIGS["mlperf"]
SMALL = {"width": 32, "depth": 2, "num_heads": 2, "hidden": 48}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@contextmanager
def phase(name: str):
    yield


def small_model(**changes) -> tuple[transformer.Config, transformer.Transformer]:
    config = dataclasses.replace(TINY, **SMALL | changes)
    return config, transformer.build(config, "cpu", 1).model


def random_ids(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(len(SPECIALS), TINY.vocabulary, (rows, length), generator=torch.Generator().manual_seed(seed))


# -- model -------------------------------------------------------------------------------------------------------------


def test_what_pads_a_source_changes_nothing_and_no_later_target_is_seen():
    _, model = small_model()
    source, target = random_ids(2, 8), random_ids(2, 6, seed=1)

    def loss_until(source: torch.Tensor, target: torch.Tensor, count: int) -> float:
        kept = target.clone()
        kept[:, count + 1 :] = PAD  # these positions do not count, but are there
        with torch.no_grad():
            return float(model(source, kept))

    padded = torch.cat([source, torch.full((2, 4), PAD)], 1)
    assert loss_until(padded, target, 5) == pytest.approx(loss_until(source, target, 5), rel=1e-5)
    later = target.clone()
    later[:, 4:] = random_ids(2, 2, seed=2)
    assert loss_until(source, later, 3) == pytest.approx(loss_until(source, target, 3), rel=1e-6)
    assert loss_until(source, later, 5) != pytest.approx(loss_until(source, target, 5), rel=1e-6)
    begun = target.clone()
    begun[:, 0] = BOS + 1
    assert loss_until(source, begun, 5) == loss_until(source, target, 5)  # the decoder begins with nothing


def log_probabilities(model: transformer.Transformer, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(B, T, symbols) float64 of what a forward pass says at every position."""
    states: list[torch.Tensor] = []
    hook = model.decoder_norm.register_forward_hook(lambda module, inputs, output: states.append(output[0]))
    with torch.no_grad():
        model(source, target)
    hook.remove()
    return torch.log_softmax(states[0].double() @ model.embedding.weight.detach().double().t(), -1)


def test_a_decoder_that_remembers_says_what_one_that_reads_all_again_says():
    """Greedy search by cached keys and values against the most probable next symbol of whole forward passes."""
    config, model = small_model(beam=1, longer=4)
    source = random_ids(3, 6)
    source[1, 4:] = PAD
    with torch.no_grad():
        found = model.translate(source, config)
    for row, said in zip(source[:, None], found.tolist(), strict=True):
        so_far = [BOS]
        while len(so_far) <= len(said) and so_far[-1] != EOS:
            so_far.append(int(log_probabilities(model, row, torch.tensor([[*so_far, 5]]))[0, -1].argmax()))
        expected = [symbol for symbol in so_far[1:] if symbol != EOS]
        assert said == expected + [PAD] * (len(said) - len(expected))


def test_loss_spreads_the_share_over_all_other_symbols():
    """The reference's soft targets: 1 - share for the right symbol, share / (symbols - 1) for each other one."""
    config, model = small_model(label_smoothing=0.1)
    source, target = random_ids(2, 5), random_ids(2, 5, seed=1)
    target[1, 3:] = PAD
    log_p = log_probabilities(model, source, target)
    expected = []
    for row, position in itertools.product(range(2), range(4)):
        symbol = int(target[row, position + 1])
        if symbol != PAD:
            soft = torch.full((config.vocabulary,), 0.1 / (config.vocabulary - 1), dtype=torch.float64)
            soft[symbol] = 0.9
            expected.append(-float((soft * log_p[row, position]).sum()))
    with torch.no_grad():
        assert float(model(source, target)) == pytest.approx(sum(expected) / len(expected), rel=1e-5)


def test_dropout_follows_the_seed_and_is_off_in_evaluation():
    config, model = small_model(dropout=0.2)
    source, target = random_ids(2, 5), random_ids(2, 5, seed=1)

    def loss(seed: int | None) -> float:
        torch.manual_seed(0)
        return float(model(source, target, None if seed is None else torch.tensor(seed)).detach())

    assert loss(1) == loss(1) != loss(2)
    model.eval()
    assert loss(None) == loss(None)
    offsets = {module.offset for module in model.modules() if isinstance(module, transformer.Norm)}
    assert len(offsets) == 5 * config.depth + 2


def test_position_encoding_is_that_of_the_reference():
    """Sines, then cosines, of wavelengths in a geometric series from 2 pi to 10,000 times 2 pi."""
    encoding = transformer.position_encoding(12, 8)
    for position, index in itertools.product(range(12), range(4)):
        angle = position / 10_000 ** (index / 3)
        assert float(encoding[position, index]) == pytest.approx(math.sin(angle), abs=1e-5)
        assert float(encoding[position, index + 4]) == pytest.approx(math.cos(angle), abs=1e-5)


def test_learning_rate_is_the_references():
    """base * width^-0.5 * min(1, step / warm-up) * max(step, warm-up)^-0.5, base 2 and warm-up 16,000 (big)."""
    job = transformer.build(dataclasses.replace(MLPERF, **SMALL, vocabulary=8), "meta", 0)
    for step in (1, 100, 15_999, 16_000, 16_001, 100_000):
        job.step = step - 1
        expected = 2.0 * 1024**-0.5 * min(1.0, step / 16_000) * max(step, 16_000) ** -0.5
        assert job._learning_rate() == pytest.approx(expected, rel=1e-9)


# -- sizes and schedule of the round -----------------------------------------------------------------------------------


def test_number_of_parameters_is_the_published_one():
    """NVIDIA's v0.7 logs say "num. model params: 210808832", with 33,712 symbols; the reference has 33,708."""
    model = transformer.build(MLPERF, "meta", 0).model
    count = sum(parameter.numel() for parameter in model.parameters())
    assert all(parameter.is_meta for parameter in model.parameters())
    assert count == 210_808_832 - (33_712 - 33_708) * 1024
    width, hidden = 1024, 4096
    norm, attention = 2 * width, 4 * width**2
    feed_forward = 2 * width * hidden + hidden + width
    encoder, decoder = attention + feed_forward + 2 * norm, 2 * attention + feed_forward + 3 * norm
    assert count == 33_708 * width + 6 * (encoder + decoder) + 2 * norm


def available_gib() -> float:
    found = re.search(r"^MemAvailable: +(\d+) kB$", Path("/proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
    return int(found[1]) / 2**20


@pytest.mark.skipif(available_gib() < 7, reason="one step of the round's own model takes up to 6 GiB of memory")
def test_the_rounds_own_model_takes_a_step():
    config = dataclasses.replace(MLPERF, batch_size=1, buckets=((16, 16),), longer=1)
    job = transformer.build(config, "cpu", 1)
    loss = float(job.train_step(next(job.synthetic()), phase))
    assert 0.8 * math.log(33_708) < loss < 2 * math.log(33_708)  # of made-up symbols nothing is known
    bias = job.model.decoder[5].feed_forward.down.bias.detach()  # it was zero, and Adam's first step has one size
    assert float(bias.abs().median()) == pytest.approx(config.learning_rate / config.warmup_steps, rel=1e-3)


def test_schedule_is_the_rounds():
    """v0.7: an evaluation an epoch, 25.00 BLEU, ten runs; Adam's epsilon is fixed to 1e-9."""
    schedule, target = MLPERF.schedule, MLPERF.target
    samples, points = 0, []
    goal = schedule.first_eval_samples
    while samples < schedule.max_samples:
        samples += steps_until(samples, goal, MLPERF.batch_size) * MLPERF.batch_size
        points.append(samples)
        goal = samples + schedule.eval_every_samples
    epochs = [point / 4_590_101 for point in points]
    assert len(epochs) == 10 and all(n <= epoch < n + 0.001 for n, epoch in enumerate(epochs, start=1))
    assert target.reached(0.25) and not target.reached(0.2499) and MLPERF.num_runs == 10
    assert (MLPERF.beam, MLPERF.length_penalty, MLPERF.longer, MLPERF.label_smoothing) == (4, 0.6, 50, 0.1)
    assert transformer.ADAM_EPSILON == 1e-9


# -- files of the round ------------------------------------------------------------------------------------------------

SENTENCES = [
    ("The house is small.", "Das Haus ist klein."),
    ("A big house!", "Ein großes Haus!"),
    ("Yes, 7.", "Ja, 7."),
]


def write_wmt(folder: Path, train: int = 12) -> None:
    """A few sentences in the reference's layout, with a vocabulary of characters and a few longer subwords."""
    sides = list(zip(*(SENTENCES[index % 3] for index in range(train)), strict=True))
    test = list(zip(*SENTENCES, strict=True))
    texts = [*sides, *test]
    characters = sorted(set("".join("".join(side) for side in test)) - {"ß"} | set("\\_u;0123456789"))
    words = ["'<pad>_'", "'<EOS>_'", *(f"'{piece}'" for piece in [*characters, "house_", "Haus_", "ist", "._"])]
    for name, rows in zip(transformer.WMT, [*texts, words], strict=True):
        (folder / name).write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def shrunken(folder: Path, **changes) -> transformer.Config:
    count = len((folder / transformer.WMT[-1]).read_text(encoding="utf-8").splitlines())
    sizes = SMALL | {
        "vocabulary": count, "train_samples": 12, "eval_samples": 3, "batch_size": 4, "buckets": ((32, 32),),
        "longer": 5, "warmup_steps": 5, "learning_rate": 3e-3,
    }  # fmt: skip
    return dataclasses.replace(MLPERF, **sizes | changes)


def test_samples_in_the_references_layout_go_through(tmp_path):
    write_wmt(tmp_path)
    job = transformer.build(shrunken(tmp_path), "cpu", 1)
    batches = job.open(tmp_path)
    first = next(batches)
    assert [tensor.shape for tensor in first] == [(4, 32), (4,), (4, 33)]
    text = job.corpus.text
    seen = {
        (text(source), text(target[1:])) for source, target in zip(first[0].tolist(), first[2].tolist(), strict=True)
    }
    assert seen <= set(SENTENCES)
    losses = [float(job.train_step(next(batches), phase)) for _ in range(30)]
    assert all(map(math.isfinite, losses)) and losses[-1] < losses[0]
    assert 0 <= job.evaluate(phase) <= 1
    assert job.corpus.references == [target for _, target in SENTENCES]


def test_files_that_are_not_the_configs_are_refused_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"wmt32k-compiled-train.lang1 is missing: run process_data.py"):
        transformer.build(dataclasses.replace(MLPERF, **SMALL), "cpu", 1).open(tmp_path)
    write_wmt(tmp_path)
    with pytest.raises(ValueError, match=r"12 training pairs, 3 evaluation pairs .* not 13, 3"):
        transformer.build(shrunken(tmp_path, train_samples=13), "cpu", 1).open(tmp_path)
    with pytest.raises(ValueError, match=r"evaluation source of .* symbols, but the model's longest is 8"):
        transformer.build(shrunken(tmp_path, buckets=((8, 8),)), "cpu", 1).open(tmp_path)
    (tmp_path / transformer.WMT[0]).write_text("One line.\n", encoding="utf-8")
    with pytest.raises(ValueError, match="1 source lines, but 12 target lines"):
        transformer.build(shrunken(tmp_path), "cpu", 1).open(tmp_path)


def test_rescaling_keeps_the_schedule_in_samples():
    for config in CONFIGS.values():
        for batch_size in (16, 100, 4 * config.batch_size):
            other = transformer.rescaled(config, batch_size)
            assert other.schedule.max_samples % batch_size == 0
            assert abs(other.schedule.max_samples - config.schedule.max_samples) < batch_size
            assert other.learning_rate == pytest.approx(
                config.learning_rate * math.sqrt(batch_size / config.batch_size)
            )
            warmup = other.warmup_steps * batch_size
            assert abs(warmup - config.warmup_steps * config.batch_size) <= batch_size
        assert transformer.rescaled(config, config.batch_size) == config

"""The workload dlrm: its area under ROC, its split, its tables' size, and the scales that follow MLPerf."""

import dataclasses
import json
import lzma
import math
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from perfsuite.harness import data_files
from perfsuite.harness.train import no_phase, steps_until
from perfsuite.workloads import criteo, dlrm, flights, registry
from perfsuite.workloads.auc import area_under_roc

FLIGHTS = registry.data_folder() / "flights.xz"
L2_BYTES = 50e6  # of an H100
TINY, GPU = dlrm.CONFIGS["tiny"], dlrm.CONFIGS["gpu"]
MLPERF, MLPERF_DLRM = dlrm.CONFIGS["mlperf"], dlrm.CONFIGS["mlperf-dlrm"]
SMALL = {"width": 16, "bottom": (16,), "top": (16,), "cross_rank": 4}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def read():
    return flights.read_flights(FLIGHTS)


# -- area under ROC ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 7, 1000, None])
@pytest.mark.parametrize("positives", [1, 60, 299])
def test_area_is_that_of_mann_and_whitney(levels, positives):
    scores = torch.randn(300)
    if levels:
        scores = (scores * levels).round() / levels  # many equal scores, down to three different ones
    labels = torch.zeros(300)
    labels[torch.randperm(300)[:positives]] = 1
    u = mannwhitneyu(scores[labels == 1], scores[labels == 0], method="asymptotic").statistic
    assert area_under_roc(scores, labels) == pytest.approx(u / (positives * (300 - positives)), rel=1e-14)


def test_area_of_known_orders():
    labels = torch.tensor([0, 0, 1, 1])
    assert area_under_roc(torch.tensor([1.0, 2, 3, 4]), labels) == 1
    assert area_under_roc(torch.tensor([4.0, 3, 2, 1]), labels) == 0
    assert area_under_roc(torch.zeros(4), labels) == 0.5
    assert math.isnan(area_under_roc(torch.tensor([1.0, math.nan, 3, 4]), labels))
    assert math.isnan(area_under_roc(torch.zeros(4), torch.zeros(4)))


# -- flights ----------------------------------------------------------------------------------------------------------


def test_no_day_is_in_both_halves(read):
    train, held_out, _ = read
    days, kept = set(train.day_of_year.tolist()), set(held_out.day_of_year.tolist())
    assert not days & kept and days | kept == set(range(1, 366)) and len(kept) == 45
    assert kept == set(range(8, 366, 8))
    assert len(train.late) == TINY.train_samples and len(held_out.late) == GPU.eval_samples
    assert 0.2 < float(train.late.mean()) < 0.3 and 0.2 < float(held_out.late.mean()) < 0.3


def test_inputs_are_known_before_departure():
    columns = set(flights.read_table(FLIGHTS))
    known = {*flights.CATEGORICAL, *flights.NUMERICAL, "day_of_year"}
    assert columns == known | {"late"}
    for later in ("dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"):
        assert later not in columns


def test_a_missing_tail_number_does_not_tell_of_a_cancellation():
    """In the source every flight without one was cancelled: they are left out."""
    columns = flights.read_table(FLIGHTS)
    assert int((columns["tailnum"] == flights.MISSING).sum()) == 0
    for name in (*flights.CATEGORICAL, *flights.NUMERICAL):
        missing = columns[name] == flights.MISSING
        if missing.any():
            assert float(columns["late"][missing].float().mean()) < 0.5, name


def test_held_out_days_change_neither_vocabulary_nor_statistics(tmp_path, read):
    """The same file with every held-out value replaced: training flights stay as they are, bit for bit."""
    head, _, body = lzma.decompress(FLIGHTS.read_bytes()).partition(b"\n")
    train = read[0]
    table = flights.read_table(FLIGHTS)
    lengths = {name: len(column) for name, column in table.items()}
    flights_number = lengths["late"]
    held_out = (table["day_of_year"] % flights.HELD_OUT == 0).numpy()
    content = np.frombuffer(body, "<i2").copy()
    begin = 0
    for name, length in json.loads(head)["columns"].items():
        if length == flights_number and name not in ("day_of_year", "tailnum"):
            content[begin : begin + length][held_out] = 7777
        begin += length
    (tmp_path / "flights.xz").write_bytes(lzma.compress(head + b"\n" + content.tobytes(), preset=0))
    other, other_kept, values = flights.read_flights(tmp_path / "flights.xz")
    assert values == TINY.values
    assert all(torch.equal(a, b) for a, b in zip(train, other, strict=True))
    carrier = flights.CATEGORICAL.index("carrier")
    assert other_kept.values[:, carrier].unique().tolist() == [0]  # never seen in training: the unknown value


def test_values_and_numbers_are_those_of_the_config(read):
    train, held_out, values = read
    assert values == TINY.values == GPU.values
    for half in (train, held_out):
        assert half.values.shape[1] == len(values) == len(TINY.features)
        assert bool((half.values >= 0).all()) and bool((half.values < torch.tensor(values)).all())
        assert bool(half.dense.isfinite().all()) and half.dense.shape[1] == dlrm.DENSE
    assert float(train.dense.mean(0).abs().max()) < 1e-4
    for feature in range(len(values)):
        seen = set(train.values[:, feature].tolist())
        assert seen >= set(range(1, values[feature]))


def test_vocabulary_knows_what_is_frequent_in_training():
    codes = torch.tensor([5, 9, 5, 2, 5, 9, 5, -32768, 9, 9, 1000], dtype=torch.int16)
    numbers, size = flights.vocabulary(codes, codes[:10])
    assert (numbers.tolist(), size) == ([1, 2, 1, 0, 1, 2, 1, 0, 2, 2, 0], 3)


def test_an_epoch_shows_every_flight_once(read):
    config = dataclasses.replace(TINY, **SMALL, batch_size=TINY.train_samples // 8)
    batches = dlrm.build(config, "cpu", 1).open(registry.data_folder())
    parts = list(islice(batches, 8))
    dense = torch.cat([dense for dense, _, _ in parts])
    train = read[0].dense
    assert torch.allclose(dense.double().sum(0), train.double().sum(0), atol=1e-3)
    keys = [rows.double().mul(torch.arange(1, 14)).sum(1).sort().values for rows in (dense, train)]
    assert torch.equal(*keys)


# -- tables -----------------------------------------------------------------------------------------------------------


def test_lookups_of_gpu_do_not_fit_a_cache():
    """Counted, without a table: the different rows of a batch are over ten times the last-level cache of an H100."""
    config = dataclasses.replace(GPU, width=1, bottom=(1,), top=(1,), cross_rank=1)
    job = dlrm.build(config, "meta", 1)
    job.device = "cpu"  # of the data alone
    _, ids, _ = next(job.open(registry.data_folder()))
    row_bytes = 4 * GPU.width
    touched = ids.unique().numel()
    assert ids.shape == (GPU.batch_size, sum(GPU.bag_sizes))
    assert touched * row_bytes > 10 * L2_BYTES
    assert 1.1e6 < touched < 1.2e6  # as the comment in the file says
    assert 12e9 < sum(GPU.rows) * row_bytes < 12.5e9
    assert "fractal expansion" in GPU.data

    per_table = job.rows((None, ids, None))
    assert list(per_table) == list(GPU.features)
    for (table, row), count, bag in zip(per_table.values(), GPU.rows, GPU.bag_sizes, strict=True):
        assert row == 4 and table.shape == (GPU.batch_size * bag,)
        assert 0 <= int(table.min()) and int(table.max()) < count
    assert sum(table.unique().numel() for table, _ in per_table.values()) == touched


def test_expansion_pairs_values_and_keeps_them_apart():
    train = torch.tensor([[0, 3], [1, 2], [1, 0], [0, 1], [1, 3]])
    expand = dlrm.fractal.Expansion((2, 4), 3, (1, 5), train)
    samples = torch.arange(5)
    rows = expand(train, samples, 0)
    assert rows.shape == (5, 6)
    assert torch.equal(rows[:, 0] // 2, train[:, 0])  # two rows for each of two values
    assert torch.equal((rows[:, 1:] - 4) // 3, train[:, 1:].expand(5, 5))  # three rows for each of four
    assert not torch.equal(rows, expand(train, samples, 1))
    plain = dlrm.fractal.Expansion((2, 4), 1, (1, 1), train)
    assert torch.equal(plain(train, samples, 0), train + torch.tensor([0, 2]))


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
@pytest.mark.parametrize("interaction", ["dot", "dcn"])
def test_a_step_is_that_of_plain_torch(interaction, optimizer):
    """Tables of nn.EmbeddingBag, dense gradients, torch's formulas written out: the same weights after three steps."""
    config = dataclasses.replace(
        TINY, **SMALL, features=("a", "b"), values=(9, 5), bag_sizes=(3, 1), batch_size=12, interaction=interaction,
        optimizer=optimizer, learning_rate=0.2, warmup_steps=0,
    )  # fmt: skip
    job, twin = (dlrm.build(config, "cpu", 1) for _ in range(2))
    table = twin.model.tables.weight.requires_grad_()
    accumulator = torch.zeros(14)
    for batch in islice(job.synthetic(), 3):
        loss = job.train_step(batch, no_phase)
        dense, ids, labels = batch
        sums = torch.stack([table[ids[:, :3]].sum(1), table[ids[:, 3]]], 1)
        expected = torch.nn.functional.binary_cross_entropy_with_logits(twin.model(dense, sums), labels)
        expected.backward()
        expected = float(expected.detach())
        twin.optimizer.step()
        twin.optimizer.zero_grad()
        with torch.no_grad():
            gradient, table.grad = table.grad, None
            if optimizer == "adagrad":
                accumulator += gradient.square().mean(1)
                gradient = gradient / (accumulator.sqrt() + 1e-8)[:, None]
            table -= 0.2 * gradient
        assert float(loss) == pytest.approx(expected, rel=1e-6)
    for (name, ours), theirs in zip(job.model.named_parameters(), twin.model.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=2e-6), name


def test_some_steps_of_tiny_rank_better_than_chance():
    job = dlrm.build(dataclasses.replace(TINY, learning_rate=0.2, warmup_steps=0, eval_samples=4000), "cpu", 1)
    batches = job.open(registry.data_folder())
    before = job.evaluate(no_phase)
    losses = [float(job.train_step(batch, no_phase)) for batch in islice(batches, 60)]
    assert before < 0.6 < 0.64 < job.evaluate(no_phase)
    assert sum(losses[-20:]) < sum(losses[:20])


# -- scales of MLPerf -------------------------------------------------------------------------------------------------


def mlp(*sizes: int) -> int:
    """Parameters of linear layers with bias."""
    return sum(a * b + b for a, b in pairwise(sizes))


def test_parameters_of_dcnv2_are_those_of_the_reference():
    """recommendation_v2/torchrec_dlrm: DLRM_DCN with dense 13-512-256-128, three crosses of 3456 by 512, over arch
    3456-1024-1024-512-256-1; its README has the table sizes."""
    model = dlrm.build(MLPERF, "meta", 0).model
    counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
    tables = counts.pop("tables.weight")
    assert tables == 204_184_588 * 128 == 26_135_627_264
    crosses = 3 * (2 * 3456 * 512 + 3456)
    assert sum(counts.values()) == mlp(13, 512, 256, 128) + crosses + mlp(3456, 1024, 1024, 512, 256, 1) == 16_044_545
    assert sum(MLPERF.bag_sizes) == 214


def test_parameters_of_dlrm_are_those_of_the_reference():
    """facebookresearch/dlrm: 13-512-256-128, 27 features of 128 in pairs, 479-1024-1024-512-256-1: 24 billion."""
    model = dlrm.build(MLPERF_DLRM, "meta", 0).model
    counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert counts.pop("tables.weight") == 187_767_399 * 128
    assert sum(counts.values()) == mlp(13, 512, 256, 128) + mlp(479, 1024, 1024, 512, 256, 1)


@pytest.mark.parametrize("config", [MLPERF, MLPERF_DLRM], ids=["mlperf", "mlperf-dlrm"])
def test_schedule_is_that_of_the_rules(config):
    """training_rules.adoc: every floor(4195197692 / (20 batch)) iterations, at most one epoch."""
    for batch_size in (config.batch_size, 32_768, 55_296, 71_680):
        scaled = dlrm.rescaled(config, batch_size)
        iterations = 4_195_197_692 // (batch_size * 20)
        samples, points = 0, []
        goal = scaled.schedule.first_eval_samples
        while samples < scaled.schedule.max_samples:
            samples += steps_until(samples, goal, batch_size) * batch_size
            points.append(samples)
            goal = samples + scaled.schedule.eval_every_samples
        assert points == [iterations * batch_size * (k + 1) for k in range(20)]
        assert points[-1] <= 4_195_197_692
        assert scaled.eval_samples == 89_137_319


def test_log_values_are_those_that_the_rules_of_v6_want():
    values = dlrm.build(MLPERF, "meta", 0).log_values()
    wanted = {
        "global_batch_size": 65_536, "opt_name": "adagrad", "opt_base_learning_rate": 0.004,
        "opt_adagrad_learning_rate_decay": 0, "opt_weight_decay": 0, "opt_adagrad_initial_accumulator_value": 0,
        "opt_adagrad_epsilon": 1e-8, "opt_learning_rate_warmup_steps": 0, "opt_learning_rate_decay_start_step": 0,
        "opt_learning_rate_decay_steps": 0,
    }  # fmt: skip
    assert {key: values[key] for key in wanted} == wanted
    older = dlrm.build(MLPERF_DLRM, "meta", 0).log_values()
    wanted = {
        "opt_base_learning_rate": 18, "sgd_opt_base_learning_rate": 18, "opt_learning_rate_warmup_steps": 8000,
        "lr_decay_start_steps": 70_000, "sgd_opt_learning_rate_decay_steps": 30_000,
        "sgd_opt_learning_rate_decay_poly_power": 2,
    }  # fmt: skip
    assert {key: older[key] for key in wanted} == wanted


def test_rates_of_dlrm_rise_stay_and_fall_as_a_square():
    job = dlrm.build(MLPERF_DLRM, "meta", 0)

    def rate(step: int) -> float:
        job.step = step
        return job._learning_rate()

    assert rate(0) == 18 / 8000 and rate(3999) == 9 and rate(8000) == rate(70_000) == 18
    assert rate(85_000) == 18 / 4 and rate(100_000) == rate(200_000) == 0


def test_rescaled_keeps_the_schedule_in_samples():
    smaller = dlrm.rescaled(TINY, TINY.batch_size // 4)
    assert (4 * smaller.batch_size, 4 * smaller.learning_rate) == (TINY.batch_size, TINY.learning_rate)
    assert smaller.schedule == TINY.schedule
    odd = dlrm.rescaled(TINY, 1000)
    assert odd.schedule.max_samples % 1000 == 0
    assert abs(odd.schedule.eval_every_samples - TINY.schedule.eval_every_samples) <= 500
    assert dlrm.rescaled(GPU, 4 * GPU.batch_size).learning_rate == 2 * GPU.learning_rate
    assert dlrm.rescaled(MLPERF_DLRM, 65_536).warmup_steps == 4000
    assert dlrm.rescaled(TINY, TINY.batch_size) == TINY


SAMPLES = (7, 5, 4)  # of days 0, 1 and all others


def write_days(folder: Path) -> dict[int, dict[str, np.ndarray]]:
    """All days in the layout of the reference, of a few samples each, ids beyond the tables among them."""
    random = np.random.default_rng(1)
    days = {}
    for day in range(criteo.DAYS):
        samples = SAMPLES[min(day, 2)] + (day == 23)
        dense = random.random((samples, 13), np.float32)
        labels = random.integers(0, 2, (samples, 1), np.int32)
        labels[:2, 0] = 0, 1
        sparse = [random.integers(0, 2**31 - 1, (samples, bag), np.int32) for bag in MLPERF.bag_sizes]
        np.save(folder / f"day_{day}_dense.npy", dense)
        np.save(folder / f"day_{day}_labels.npy", labels)
        np.savez(folder / f"day_{day}_sparse_multi_hot.npz", **{str(k): table for k, table in enumerate(sparse)})
        days[day] = {"dense": dense, "labels": labels, "sparse": sparse}
    return days


SHRUNK = dataclasses.replace(MLPERF, values=tuple(min(rows, 50) for rows in MLPERF.values), batch_size=4,
                             width=16, bottom=(8,), top=(8,), cross_rank=4)  # fmt: skip


def test_days_of_the_reference_are_read_in_their_order(tmp_path):
    days = write_days(tmp_path)
    assert data_files.missing(MLPERF, tmp_path) is None
    job = dlrm.build(SHRUNK, "cpu", 1)
    batches = job.open(tmp_path)
    first = [next(batches) for _ in range(3)]  # 12 samples: days 0 and 1, over their border
    dense, ids, labels = (torch.cat(column) for column in zip(*first, strict=True))
    both = [np.concatenate([days[0][part], days[1][part]]) for part in ("dense", "labels")]
    assert np.array_equal(dense, both[0]) and np.array_equal(labels, both[1][:, 0])
    for feature, (rows, _) in enumerate(job.rows((dense, ids, labels)).values()):
        table = np.concatenate([days[0]["sparse"][feature], days[1]["sparse"][feature]])
        assert np.array_equal(rows, table.flatten() % SHRUNK.values[feature])
    evaluation = torch.cat([dense for dense, _, _ in job.eval_batches()])
    assert np.array_equal(evaluation, days[23]["dense"][:3])  # of five the first half, rounded up

    assert math.isfinite(float(job.train_step(first[0], no_phase)))
    assert 0 <= job.evaluate(no_phase) <= 1
    total = sum(len(part["labels"]) for day, part in days.items() if day < 23)
    again = list(islice(batches, total // 4))  # goes on with day 0 after day 22
    assert all(len(batch[2]) == 4 for batch in again)


def test_what_is_wrong_with_a_folder_of_days_is_one_line(tmp_path):
    line = data_files.missing(MLPERF, tmp_path)
    assert line.startswith(f"{tmp_path} lacks 72 of 72 data files: day_0_dense.npy") and "torchrec_dlrm" in line
    assert "\n" not in line
    write_days(tmp_path)
    job = dlrm.build(SHRUNK, "cpu", 1)
    archive = tmp_path / "day_3_sparse_multi_hot.npz"
    good = dict(np.load(archive))
    np.savez_compressed(archive, **good)
    with pytest.raises(ValueError, match=r"day_3_sparse_multi_hot.npz is compressed and cannot be mapped"):
        job.open(tmp_path)
    np.savez(archive, **(good | {"20": good["20"][:, :99]}))
    with pytest.raises(ValueError, match=r"20.npy is \(4, 99\) int32, not \(4, 100\) int32"):
        job.open(tmp_path)
    archive.unlink()
    with pytest.raises(FileNotFoundError, match=r"day_3_sparse_multi_hot.npz is missing: the scripts"):
        job.open(tmp_path)


def test_files_of_the_older_benchmark_are_read(tmp_path):
    random = np.random.default_rng(1)
    train, test = (random.integers(0, 2**20, (samples, 40), np.int32) for samples in (13, 6))
    for rows in (train, test):
        rows[:, 0] = np.arange(len(rows)) % 2
    for name, rows in zip(criteo.BINARY_FILES, (train, test), strict=True):
        (tmp_path / name).write_bytes(rows.tobytes())
    assert data_files.missing(MLPERF_DLRM, tmp_path) is None
    config = dataclasses.replace(MLPERF_DLRM, values=tuple(min(rows, 50) for rows in MLPERF_DLRM.values), batch_size=4,
                                 width=16, bottom=(8,), top=(8,))  # fmt: skip
    job = dlrm.build(config, "cpu", 1)
    parts = list(islice(job.open(tmp_path), 3))  # an epoch: three batches of consecutive samples, in some order
    parts.sort(key=lambda part: train[:, 1].tolist().index(round(math.expm1(float(part[0][0, 0])))))
    dense, ids, labels = (torch.cat(column) for column in zip(*parts, strict=True))
    assert np.allclose(dense, np.log(train[:12, 1:14].astype(np.float32) + 1), rtol=1e-6)
    assert np.array_equal(labels, train[:12, 0])
    for feature, (rows, _) in enumerate(job.rows((dense, ids, labels)).values()):
        assert np.array_equal(rows, train[:12, 14 + feature] % config.values[feature])
    assert len(torch.cat([labels for _, _, labels in job.eval_batches()])) == 6
    assert math.isfinite(float(job.train_step(parts[0], no_phase))) and 0 <= job.evaluate(no_phase) <= 1
    (tmp_path / criteo.BINARY_FILES[0]).write_bytes(b"\0" * 161)
    with pytest.raises(ValueError, match=r"_train.bin is not whole samples of 160 bytes"):
        job.open(tmp_path)


def test_a_step_of_the_real_layers_on_short_tables():
    """All of dlrm_dcnv2 but the length of its tables, with bags as they are, under autocast."""
    config = dataclasses.replace(MLPERF, values=tuple(min(rows, 1000) for rows in MLPERF.values), batch_size=8)
    job = dlrm.build(config, "cpu", 1)
    losses = [float(job.train_step(batch, no_phase)) for batch in [next(job.synthetic())] * 4]
    assert all(map(math.isfinite, losses)) and losses[-1] < losses[0]
    assert job.model.tables.weight.dtype == job.accumulator.dtype == torch.float32

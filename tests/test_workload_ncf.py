"""The workload ncf: what it holds out stays out, ties lose, and the data and sizes are those of MLPerf's benchmark."""

import dataclasses
import math
from contextlib import nullcontext
from itertools import islice

import numpy as np
import pytest
import torch

from perfsuite.harness import data_files
from perfsuite.harness.train import steps_until
from perfsuite.workloads import interactions, kronecker, ncf, registry

FOLDER = registry.data_folder()
TINY, GPU, ML_100K, MLPERF, X16X32 = (
    ncf.CONFIGS[scale] for scale in ("tiny", "gpu", "ml-100k", "mlperf", "mlperf-x16x32")
)
H100_L2_BYTES = 50 * 2**20
SHRUNK = {"factors": 4, "layers": (8, 4), "batch_size": 16, "learning_rate": 0.01}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def no_phase(_name):
    return nullcontext()


def keys(users, items, num_items):
    """One number for each pair of user and item."""
    return (users * num_items + items).flatten()


@pytest.fixture(scope="module")
def baskets():
    return interactions.read_baskets(FOLDER / "dependencies.xz")


# -- training and evaluation stay apart -------------------------------------------------------------------------------


def test_an_epoch_is_every_positive_once_and_negatives_that_the_user_does_not_have(baskets):
    config = dataclasses.replace(TINY, factors=2, layers=(4, 2), batch_size=TINY.train_samples // 10)
    users, items, labels = map(torch.cat, zip(*islice(ncf.build(config, "cpu", 1).open(FOLDER), 10), strict=True))
    seen = keys(users, items, baskets.num_items)
    positives, negatives = seen[labels == 1], seen[labels == 0]
    training = keys(baskets.users, baskets.items, baskets.num_items)
    held_out = keys(torch.arange(baskets.num_users), baskets.held_out, baskets.num_items)
    assert len(seen) == config.train_samples
    assert torch.equal(positives.sort().values, training)
    assert not torch.isin(training, held_out).any()
    assert not torch.isin(negatives, training).any()
    # Were the held-out items spared by the draws, their absence would tell which they are.
    assert torch.isin(negatives, held_out).any()
    drawn = users[labels == 0].bincount(minlength=baskets.num_users)
    assert torch.equal(drawn, config.negatives * baskets.users.bincount(minlength=baskets.num_users))


def test_each_user_is_ranked_once_and_against_items_that_he_does_not_have(baskets):
    users, items, held_out = baskets.users, baskets.items, baskets.held_out
    ranked, repeats = ncf.eval_items(baskets, TINY.eval_negatives, torch.device("cpu"))
    assert ranked.shape == (TINY.eval_samples, 1 + TINY.eval_negatives)
    assert torch.equal(ranked[:, 0], held_out)
    everybody = torch.arange(baskets.num_users)
    known = torch.cat((keys(users, items, baskets.num_items), keys(everybody, held_out, baskets.num_items)))
    negatives = everybody[:, None] * baskets.num_items + ranked[:, 1:]
    assert not torch.isin(negatives, known).any()
    counted = negatives[~repeats]
    assert len(counted.unique()) == len(counted)
    assert torch.isin(negatives[repeats], counted).all()
    assert 0 < int(repeats.sum()) < 0.02 * repeats.numel()


def test_every_seed_ranks_against_the_same_items():
    config = dataclasses.replace(TINY, factors=2, layers=(4, 2))
    first, second = (ncf.build(config, "cpu", seed) for seed in (1, 2))
    assert not torch.equal(next(first.open(FOLDER))[0], next(second.open(FOLDER))[0])
    assert torch.equal(first.eval_items, second.eval_items) and torch.equal(first.eval_repeats, second.eval_repeats)


def test_ties_and_nan_count_against_the_model_and_repeats_do_not_count():
    draw = torch.Generator().manual_seed(1)
    no_repeats = torch.zeros(5000, 99, dtype=torch.bool)
    assert not ncf.is_hit(torch.ones(5000, 100), no_repeats).any()
    assert not ncf.is_hit(torch.full((5000, 100), math.nan), no_repeats).any()
    by_chance = ncf.is_hit(torch.rand(5000, 100, generator=draw), no_repeats).double().mean()
    assert float(by_chance) == pytest.approx(0.10, abs=0.02)  # 10 of 100 places; the deviation is 0.004
    scores = torch.tensor([[0.5, *[0.6] * 9, 0.4], [0.5, *[0.6] * 10], [0.5, *[0.6] * 9, 0.5]])
    repeats = torch.zeros(3, 10, dtype=torch.bool)
    assert ncf.is_hit(scores, repeats).tolist() == [True, False, False]
    repeats[:, 0] = True
    assert ncf.is_hit(scores, repeats).tolist() == [True, True, True]


def test_a_model_that_knows_nothing_hits_nothing():
    job = ncf.build(dataclasses.replace(TINY, factors=2, layers=(4, 2)), "cpu", 1)
    next(job.open(FOLDER))
    for value in (0.0, math.nan):
        with torch.no_grad():
            for parameter in job.model.parameters():
                parameter.fill_(value)
        assert job.evaluate(no_phase) == 0.0


def test_unseen_items_are_drawn_alike_often():
    users, items = torch.tensor([0, 0, 0, 2, 2]), torch.tensor([0, 1, 4, 3, 6])
    unseen = interactions.Unseen(users, items, num_users=3, num_items=7)
    drawn = unseen.draw(torch.arange(3)[:, None].expand(-1, 14_000), torch.Generator().manual_seed(1))
    for user, others in enumerate(([2, 3, 5, 6], [0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 4, 5])):
        counts = drawn[user].bincount(minlength=7).tolist()
        assert [item for item, count in enumerate(counts) if count] == others
        share = 14_000 / len(others)
        assert all(abs(counts[item] - share) < 5 * math.sqrt(share) for item in others)
    with pytest.raises(ValueError, match="user 0 has all 2 items"):
        interactions.Unseen(torch.tensor([0, 0]), torch.tensor([0, 1]), num_users=1, num_items=2)


# -- scale gpu: the expanded baskets ----------------------------------------------------------------------------------


def test_rows_that_training_touches_are_many_times_the_cache():
    """Counted on the positives of an epoch alone; its negatives can only add rows."""
    data = ncf.read(GPU, FOLDER)
    assert len(data.users) * (1 + GPU.negatives) == GPU.train_samples
    assert (data.num_users, data.num_items) == (GPU.eval_samples, TINY.num_items * 32)
    touched = sum(int((ids.bincount() > 0).sum()) for ids in (data.users, data.items))
    assert touched == 746_932 + 166_336
    assert touched * (GPU.factors + GPU.layers[0] // 2) * 4 > 13 * H100_L2_BYTES
    training = keys(data.users, data.items, data.num_items)
    held_out = keys(torch.arange(data.num_users), data.held_out, data.num_items)
    assert (training[1:] > training[:-1]).all()
    where = torch.searchsorted(training, held_out).clamp_max(len(training) - 1)
    assert not (training[where] == held_out).any()


def test_an_expansion_holds_out_what_the_base_holds_out_and_keeps_its_structure(baskets):
    made, again = (kronecker.expanded(baskets, 2, 3, 1.0) for _ in range(2))
    assert torch.equal(made.items, again.items) and torch.equal(made.held_out, again.held_out)
    assert (made.num_users, made.num_items) == (2 * baskets.num_users, 3 * baskets.num_items)
    folded = made.users % baskets.num_users * baskets.num_items + made.items % baskets.num_items
    base = baskets.users * baskets.num_items + baskets.items
    assert torch.isin(folded, base).all()
    assert torch.equal(made.held_out % baskets.num_items, baskets.held_out.repeat(2))
    # Interactions of a tile are kept at the rate of the tile.
    rate = kronecker.rates(baskets, 2, 3, 1.0)
    assert float(rate.sum()) == pytest.approx(2.0)
    kept = (made.users // baskets.num_users * 3 + made.items // baskets.num_items).bincount().view(2, 3) / len(base)
    assert torch.allclose(kept, rate, atol=5 * 0.5 / math.sqrt(len(base)))


def test_rows_of_a_batch():
    job = ncf.build(dataclasses.replace(TINY, factors=4, layers=(16, 8)), "cpu", 1)
    users, items, labels = batch = next(job.synthetic())
    rows = job.rows(batch)
    assert list(rows) == ["gmf_user", "gmf_item", "mlp_user", "mlp_item"]
    assert [row_bytes for _, row_bytes in rows.values()] == [16, 16, 32, 32]
    for (ids, _), expected in zip(rows.values(), (users, items) * 2, strict=True):
        assert torch.equal(ids, expected) and ids.dtype == torch.int64 and ids.shape == labels.shape


def test_another_batch_size_keeps_the_schedule_in_samples():
    config = ncf.rescaled(TINY, 4 * TINY.batch_size)
    assert config.learning_rate == pytest.approx(2 * TINY.learning_rate)
    assert config.schedule.max_samples % config.batch_size == 0
    assert 0 <= config.schedule.max_samples - TINY.schedule.max_samples < config.batch_size
    assert config.schedule.eval_every_samples == TINY.schedule.eval_every_samples


# -- MovieLens and MLPerf's layouts, in made-up lines -----------------------------------------------------------------

# user, item, rating, time; users and items with gaps. User 7 rates film 20 twice, and his last two films at one time.
RATINGS = [
    (7, 20, 4, 100), (7, 30, 3, 90), (3, 10, 5, 200), (7, 20, 2, 50), (3, 30, 1, 150), (9, 40, 4, 10), (9, 10, 4, 20),
    (7, 10, 4, 100), (3, 40, 2, 190), (9, 30, 1, 5),
]  # fmt: skip


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def ratings(separator, header=()):
    return [*header, *(separator.join(map(str, row)) for row in RATINGS)]


@pytest.mark.parametrize(
    "name, lines",
    [
        ("ml-100k/u.data", ratings("\t")),
        ("ml-100k/ml-100k.inter", ratings("\t", ["user_id:token\titem_id:token\trating:float\ttimestamp:float"])),
        ("ml-20m/ratings.csv", ratings(",", ["userId,movieId,rating,timestamp"])),
    ],
)
def test_a_folder_of_movielens_trains_and_evaluates(tmp_path, name, lines):
    write(tmp_path / name, lines)
    config = ML_100K if "100k" in name else MLPERF
    config = dataclasses.replace(config, num_users=3, num_items=4, eval_negatives=4, **SHRUNK)
    assert data_files.missing(config, tmp_path) is None
    data = ncf.read(config, tmp_path)
    # In order: users 3, 7, 9 and films 10, 20, 30, 40. The last of user 7 by place is 10; the earlier 20 counts once.
    assert data.held_out.tolist() == [0, 0, 0]
    assert list(zip(data.users.tolist(), data.items.tolist(), strict=True)) == [
        (0, 2), (0, 3), (1, 1), (1, 2), (2, 2), (2, 3),
    ]  # fmt: skip
    job = ncf.build(config, "cpu", 1)
    batches = job.open(tmp_path)
    losses = [float(job.train_step(next(batches), no_phase)) for _ in range(3)]
    assert all(map(math.isfinite, losses))
    # Each user lacks one film, so that nothing is ever ranked eleventh.
    assert job.evaluate(no_phase) == 1.0


def test_a_rating_that_is_given_again_last_is_not_in_training():
    users, items = torch.tensor([0, 0, 0, 0]), torch.tensor([2, 1, 0, 2])
    data = interactions.leave_one_out(users, items, torch.tensor([1, 2, 3, 4]))
    assert data.held_out.tolist() == [2] and data.items.tolist() == [0, 1]


def test_data_that_does_not_fit_is_one_clear_line(tmp_path):
    write(tmp_path / "ml-20m/ratings.csv", ratings(",", ["userId,movieId,rating,timestamp"]))
    with pytest.raises(ValueError, match="has 3 users and 4 items, not 138,493 and 26,744: give the whole data set"):
        ncf.read(MLPERF, tmp_path)
    for line in ("3,10,5", "3,10,five,later"):
        write(tmp_path / "ml-20m/ratings.csv", ["userId,movieId,rating,timestamp", line])
        with pytest.raises(ValueError, match="is not a MovieLens file of user, item, rating and time") as e:
            ncf.read(MLPERF, tmp_path)
        assert "\n" not in str(e.value)


def test_missing_data_says_what_and_where_from(tmp_path):
    said = data_files.missing(ML_100K, tmp_path)
    assert "lacks ml-100k/" in said and "u.data" in said and "ml-100k.inter" in said and "--data" in said
    (tmp_path / "ml-100k").mkdir()
    (tmp_path / "ml-100k" / "README").touch()
    with pytest.raises(FileNotFoundError, match=r"u\.data and .*ml-100k\.inter are missing: ml-100k/ holds"):
        ncf.build(ML_100K, "cpu", 1).open(tmp_path)
    assert "lacks ml-20m/ratings.csv; ml-20m.zip holds it" in data_files.missing(MLPERF, tmp_path)
    said = data_files.missing(X16X32, tmp_path)
    assert "lacks 32 of 32 data files: ml-20mx16x32/trainx16x32_0.npz" in said and "testx16x32_15.npz" in said


def write_expanded(folder, test_users=range(0, 48, 2)):
    """16 chunks of users 3 c, 3 c + 1, 3 c + 2, every other user without a test item and left out."""
    folder.mkdir(exist_ok=True)
    for chunk in range(16):
        users = [user for user in range(3 * chunk, 3 * chunk + 3) if user % 2 == 0]
        train = [(user, item) for user in users for item in (5, user % 4, 9)]
        test = [(user, 7) for user in users if user in test_users]
        np.savez_compressed(folder / f"trainx16x32_{chunk}.npz", np.array(train, dtype=np.int64))
        np.savez_compressed(folder / f"testx16x32_{chunk}.npz", np.array(test, dtype=np.int64).reshape(-1, 2))


def test_a_folder_of_the_expanded_layout_trains_and_evaluates(tmp_path):
    write_expanded(tmp_path / "ml-20mx16x32")
    config = dataclasses.replace(X16X32, num_users=24, num_items=10, eval_negatives=20, **SHRUNK)
    assert data_files.missing(config, tmp_path) is None
    data = ncf.read(config, tmp_path)
    assert data.held_out.tolist() == [7] * 24 and data.num_items == 10
    assert data.items.view(24, 3).tolist() == [sorted((5, 2 * user % 4, 9)) for user in range(24)]
    job = ncf.build(config, "cpu", 1)
    batches = job.open(tmp_path)
    assert math.isfinite(float(job.train_step(next(batches), no_phase)))
    assert 0 <= job.evaluate(no_phase) <= 1
    write_expanded(tmp_path / "ml-20mx16x32", test_users=range(0, 46, 2))
    with pytest.raises(ValueError, match="the test files must have one item for each user of the training files"):
        ncf.read(config, tmp_path)
    (tmp_path / "ml-20mx16x32" / "trainx16x32_3.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"trainx16x32_3\.npz is not an \.npz file with arr_0"):
        ncf.read(config, tmp_path)


# -- MLPerf's sizes and schedule --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config, users, items", [(MLPERF, 138_493, 26_744), (X16X32, 2_197_225, 855_776)], ids=["ml-20m", "x16x32"]
)
def test_parameters_are_those_of_the_reference(config, users, items):
    """From the reference's recommendation/pytorch/neumf.py with -f 64 --layers 256 256 128 64: four tables, three
    linear layers, a final one of 64 + 64 inputs. On ml-20m that is 31,832,577, the count in public use."""
    expected = (users + items) * (64 + 256 // 2) + (256 * 256 + 256) + (256 * 128 + 128) + (128 * 64 + 64) + 129
    model = ncf.build(config, "meta", 0).model
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
    assert all(parameter.is_meta for parameter in model.parameters())
    assert config is not MLPERF or expected == 31_832_577


def test_mlperf_evaluates_after_each_of_at_most_20_epochs():
    """Rules of v0.5: every epoch, 50 runs; the reference: 20 epochs, batch 2048, 4 and 999 negatives."""
    assert MLPERF.train_samples == 5 * (20_000_263 - 138_493)
    assert X16X32.train_samples == 5 * 1_223_962_043
    assert (MLPERF.num_runs, MLPERF.target.value, MLPERF.eval_negatives, MLPERF.negatives) == (50, 0.635, 999, 4)
    for config in (MLPERF, X16X32):
        samples, points = 0, []
        goal = config.schedule.first_eval_samples
        while samples < config.schedule.max_samples:
            samples += steps_until(samples, goal, config.batch_size) * config.batch_size
            goal = samples + config.schedule.eval_every_samples
            points.append(samples / config.train_samples)
        assert len(points) == 20
        assert all(0 <= at - epoch < 1e-3 for epoch, at in enumerate(points, 1))


def test_one_step_of_the_real_model():
    """Weights, gradients and two moments of 31.8 million parameters: 0.5 GB."""
    job = ncf.build(MLPERF, "cpu", 1)
    batch = next(job.synthetic())
    first = float(job.train_step(batch, no_phase))
    assert first == pytest.approx(math.log(2), abs=0.05)
    assert float(job.train_step(batch, no_phase)) < first

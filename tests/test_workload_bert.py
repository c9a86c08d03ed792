"""bert: its reader of TFRecords, its masking, what it evaluates on, and the benchmark's model, data and schedule."""

import dataclasses
import math
import os
import struct
from functools import cache
from itertools import islice

import pytest
import torch

from perfsuite.harness import data_files
from perfsuite.harness.train import no_phase
from perfsuite.kernels import contract
from perfsuite.workloads import bert, registry, tfrecord

TINY, MLPERF = bert.CONFIGS["tiny"], bert.CONFIGS["mlperf"]
GIB = 1 << 30


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# -- TFRecords --------------------------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(**values: list[int] | list[float] | bytes) -> bytes:
    """A tf.train.Example as protocol buffers write it."""
    entries = b""
    for name, value in values.items():
        if isinstance(value, bytes):
            kind, content = 1, field(1, value)
        elif isinstance(value[0], float):
            kind, content = 2, field(1, struct.pack(f"<{len(value)}f", *value))
        else:
            kind, content = 3, field(1, b"".join(varint(number) for number in value))
        entries += field(1, field(1, name.encode()) + field(2, field(kind, content)))
    return field(1, entries)


def write_tfrecord(path, messages: list[bytes]) -> None:
    def summed(data: bytes) -> bytes:
        return data + struct.pack("<I", tfrecord.masked_crc(data))

    path.write_bytes(b"".join(summed(struct.pack("<Q", len(message))) + summed(message) for message in messages))


def test_crc_is_castagnolis():
    crc = 0xE3069283  # of "123456789": the check value of CRC-32C
    assert tfrecord.masked_crc(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_a_file_gives_back_what_was_written(tmp_path):
    numbers = [0, 1, 127, 128, 16383, 16384, 30521, 2**40, 2**63 - 1, -1, -(2**63)]
    messages = [example(ids=numbers, weights=[0.0, 1.0, 0.5], image=b"\x00\xffpng", one=[7])] * 2 + [b""]
    write_tfrecord(tmp_path / "part", messages)
    read = list(tfrecord.records(tmp_path / "part"))
    assert read == messages
    found = tfrecord.features(read[0])
    assert tfrecord.integers(bytes(found["ids"])).tolist() == numbers
    assert tfrecord.integers(found["one"]).tolist() == [7]
    assert tfrecord.floats(found["weights"]).tolist() == [0.0, 1.0, 0.5]
    assert bytes(found["image"]) == b"\x00\xffpng"
    assert tfrecord.features(b"") == {}


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: bytes([data[0] ^ 1]) + data[1:], "has no TFRecord at byte 0"),
        (lambda data: data + b"\x01", "has no TFRecord at byte"),
        (lambda data: data[:-1], "ends inside a record"),
        (lambda data: b"PK\x03\x04 an archive", "has no TFRecord at byte 0"),
    ],
)
def test_another_kind_of_file_is_refused_in_one_line(tmp_path, damage, says):
    write_tfrecord(tmp_path / "part", [example(ids=[1, 2, 3])])
    (tmp_path / "part").write_bytes(damage((tmp_path / "part").read_bytes()))
    with pytest.raises(ValueError, match=says) as caught:
        list(tfrecord.records(tmp_path / "part"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("message", [b"\x08\x01", b"\x0a\x05\x0a", b"\x0a", b"\xff"])
def test_another_kind_of_message_is_refused(message):
    with pytest.raises(ValueError, match=r"no tf\.train\.Example"):
        tfrecord.features(message)


def test_integers_that_are_cut_off_are_refused():
    with pytest.raises(ValueError, match="ends inside a value"):
        tfrecord.integers(b"\x01\x80")


# -- books ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opened():
    job = bert.build(TINY, "cpu", 1)
    batches = job.open(registry.data_folder())
    return job, list(islice(batches, 100))


@cache
def read_words(config):
    paths = [registry.data_folder() / name for name in config.data_files]
    parts = bert.read_documents(paths, config.held_out)
    return [bert.TOKEN.findall(bytes(part.numpy()).decode().lower()) for part in parts]


def test_the_vocabulary_is_that_of_the_training_text():
    tokens = "the cat and the dog , and the cow . don't".split()
    ids, first_word = bert.build_vocabulary(tokens, 7)
    assert ids == {",": 2, ".": 3, "the": 4, "and": 5, "cat": 6} and first_word == 4


@pytest.mark.parametrize("scale", ["tiny", "gpu"])
def test_numbers_of_the_config_are_those_of_the_text(scale):
    config = bert.CONFIGS[scale]
    train, held_out = read_words(config)
    assert f" {len(train):,} words and marks" in config.data
    assert f" {len(config.held_out)} " in config.data
    assert len(train) // config.sequence == config.train_samples
    assert len(held_out) >= config.eval_samples * config.sequence


def test_evaluation_asks_for_words_only_and_for_the_same_with_every_seed(opened):
    job, _ = opened
    other = bert.build(TINY, "cpu", 2)
    other.open(registry.data_folder())
    assert all(torch.equal(a, b) for one, two in zip(job.eval_batches, other.eval_batches, strict=True)
               for a, b in zip(one, two, strict=True))  # fmt: skip
    ids, first_word = bert.build_vocabulary(read_words(TINY)[0], TINY.vocabulary)
    labels = torch.cat([labels for _, _, labels in job.eval_batches])
    asked = labels[labels != bert.IGNORED]
    assert labels.shape == (TINY.eval_samples, 2) and len(asked) > 0.99 * labels.numel()
    assert first_word <= int(asked.min()) and int(asked.max()) < len(ids) + 2 == TINY.vocabulary
    # Always the most frequent word: what can be had without reading anything.
    most_frequent = float(asked.bincount().max()) / len(asked)
    assert most_frequent == int((asked == ids["the"]).sum()) / len(asked)
    assert TINY.target.value > 2.5 * most_frequent


def test_no_evaluation_sample_is_in_the_training_text(opened):
    """Not even with every rare word made [UNK], as the model reads it."""
    job, _ = opened
    train, _ = read_words(TINY)
    ids, _ = bert.build_vocabulary(train, TINY.vocabulary)
    key = torch.randint(1 << 62, (TINY.sequence,), generator=torch.Generator().manual_seed(0))
    text = torch.tensor([ids.get(token, bert.UNKNOWN) for token in train])
    seen = sum(text[index : len(text) - TINY.sequence + 1 + index] * key[index] for index in range(TINY.sequence))
    samples = torch.cat(
        [tokens.scatter(1, positions, torch.where(labels < 0, tokens.gather(1, positions), labels))
         for tokens, positions, labels in job.eval_batches]
    )  # fmt: skip
    assert samples.shape == (TINY.eval_samples, TINY.sequence)
    assert int(torch.isin((samples * key).sum(1), seen).sum()) == 0
    assert int(torch.isin((text[: TINY.sequence] * key).sum(), seen)) == 1


def test_training_masks_as_the_reference_does(opened):
    """80 % [MASK], 10 % another word, 10 % left; other tokens stay as they are."""
    _, batches = opened
    hidden, positions, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    train, _ = read_words(TINY)
    ids, first_word = bert.build_vocabulary(train, TINY.vocabulary)
    asked = labels != bert.IGNORED
    shown = hidden.gather(1, positions)
    masked = float((shown[asked] == bert.MASK).float().mean())
    left = float((shown[asked] == labels[asked]).float().mean())
    assert abs(masked - 0.8) < 0.02 and abs(left - 0.1) < 0.015
    assert int(labels[asked].min()) >= first_word and int(shown[asked].min()) >= bert.MASK
    outside = torch.ones_like(hidden, dtype=torch.bool).scatter(1, positions, False)
    assert not (hidden[outside] == bert.MASK).any() and (hidden[outside] == bert.UNKNOWN).any()
    assert all(len(set(row.tolist())) == TINY.masked for row in positions)
    # The tokens below the masks are those of the text.
    whole = hidden.scatter(1, positions, torch.where(asked, labels, shown))
    text = torch.tensor([ids.get(token, bert.UNKNOWN) for token in train])
    starts = (text[: -TINY.sequence] == whole[0, 0]).nonzero()[:, 0]
    assert any(torch.equal(text[start : start + TINY.sequence], whole[0]) for start in starts)


def test_a_row_of_few_words_asks_for_no_more():
    tokens = torch.tensor([[2, 3, 9, 0, 3, 2, 2, 2]])
    hidden, positions, labels = bert.mask(tokens, 3, 5, 10, torch.Generator().manual_seed(0))
    assert sorted(labels[0].tolist()) == [bert.IGNORED, bert.IGNORED, 9]
    assert int(positions[0, labels[0].argmax()]) == 2
    assert torch.equal(hidden[0, [0, 1, 3, 4, 5, 6, 7]], tokens[0, [0, 1, 3, 4, 5, 6, 7]])


# -- training ---------------------------------------------------------------------------------------------------------


def gradients(config, batch):
    job = bert.build(config, "cpu", 1)
    job.optimizer.step = lambda: seen.extend(p.grad.clone() for p in job.model.parameters())
    seen: list[torch.Tensor] = []
    loss = float(job.train_step(batch, no_phase))
    return loss, seen


def test_parts_of_a_batch_add_up_to_it():
    config = dataclasses.replace(TINY, batch_size=6, pairs=True)
    batch = next(bert.build(config, "cpu", 1).synthetic())
    whole = gradients(config, batch)
    for size in (2, 4):
        parts = gradients(dataclasses.replace(config, micro_batch=size), batch)
        assert parts[0] == pytest.approx(whole[0], rel=1e-5)
        for part, one in zip(parts[1], whole[1], strict=True):
            torch.testing.assert_close(part, one, rtol=1e-3, atol=1e-6)
    assert bert.build(dataclasses.replace(config, micro_batch=4), "cpu", 1).log_values()[
        "gradient_accumulation_steps"] == 2  # fmt: skip


def test_dropout_is_new_in_every_step_and_part_and_absent_from_evaluation():
    config = dataclasses.replace(TINY, dropout=0.5, batch_size=4)
    job = bert.build(config, "cpu", 1)
    tokens = next(job.synthetic())[0]
    seeds = []
    for step in (0, 1):
        job.step = step
        seeds += [job._dropout_seed(part) for part in (0, 1)]
    assert len({int(seed) for seed in (*seeds, bert.build(config, "cpu", 2)._dropout_seed(0))}) == 5
    offsets = [int(module.offset) for module in job.model.layers.modules() if isinstance(module, bert.LayerNorm)]
    assert len(set(offsets)) == 2 * config.depth
    with torch.no_grad():
        layer, x = job.model.layers[0], torch.randn(4, 16, config.width)
        layer.dropout = 0.0  # of attention: only the norms' own is left, which the seed decides
        first, again, other = (layer(x, None, seed) for seed in (seeds[0], seeds[0], seeds[1]))
        assert torch.equal(first, again) and not torch.equal(first, other)
        assert torch.equal(job.model.states(tokens), job.model.states(tokens))


def test_padding_is_not_attended():
    config = dataclasses.replace(TINY, pairs=True)
    model = bert.build(config, "cpu", 1).model
    tokens = torch.arange(32).reshape(2, 16) + 5
    attended = torch.ones(2, 16, dtype=torch.bool)
    attended[0, 10:] = False
    changed = tokens.clone()
    changed[0, 10:] = 3
    with torch.no_grad():
        before, after = (model.states(t, attended, torch.zeros_like(t)) for t in (tokens, changed))
    torch.testing.assert_close(before[0, :10], after[0, :10])
    assert not torch.allclose(before[0, 10:], after[0, 10:])


def test_learning_rate_follows_the_reference():
    """Linear warm-up, then the polynomial that has been falling since step 0 (optimization.py, create_optimizer)."""
    job = bert.build(dataclasses.replace(TINY, warmup_steps=4, decay_power=2.0), "cpu", 1)
    rates = []
    for step in range(job.num_steps + 1):
        job.step = step
        rates.append(job._learning_rate())
    peak, steps = TINY.learning_rate, job.num_steps
    assert rates[:4] == pytest.approx([peak / 4, peak / 2, 3 * peak / 4, peak])
    assert rates[4:] == pytest.approx([peak * (1 - step / steps) ** 2 for step in range(4, steps + 1)])
    assert rates[-1] == 0.0


# -- the benchmark ----------------------------------------------------------------------------------------------------


def test_parameters_are_those_of_the_reference():
    """336M, of which the README of the reference gives the exact size: its TF1 checkpoint of 4,034,713,312 bytes holds
    every weight and LAMB's two moments in float32 and 16 bytes more, the TF2 one of 1,344,982,997 bytes the weights
    and 78,565 bytes of names."""
    width, hidden, vocabulary = 1024, 4096, 30_522
    norm, square = 2 * width, width * width + width
    layer = 4 * square + norm + (width * hidden + hidden) + (hidden * width + width) + norm
    embeddings = (vocabulary + 512 + 2) * width + norm
    heads = (square + norm + vocabulary) + square + (2 * width + 2)
    expected = 24 * layer + embeddings + heads
    assert expected == (4_034_713_312 - 16) // 12 == (1_344_982_997 - 78_565) // 4 == 336_226_108
    model = bert.build(MLPERF, "meta", 0).model
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize(
    ("batch_size", "interval"),
    [(256, 150_000), (1024, 150_000), (1536, 150_000), (2048, 150_000), (3072, 175_000), (4096, 175_000),
     (8192, 225_000)],
)  # fmt: skip
def test_evaluations_come_when_the_rules_say(batch_size, interval):
    """The table of the reference's README; its last row says 175,000 where the formula gives 225,000."""
    assert bert.eval_interval_samples(batch_size) == interval
    assert math.floor(0.05 * (230.23 * batch_size + 3_000_000) / 25_000) * 25_000 == interval
    config = bert.rescaled(MLPERF, batch_size)
    assert config.schedule.eval_every_samples == math.ceil(interval / batch_size) * batch_size
    assert config.schedule.first_eval_samples == config.schedule.eval_every_samples


def test_the_round_is_the_benchmarks():
    assert (MLPERF.target.value, MLPERF.num_runs, MLPERF.eval_samples) == (0.720, 10, 10_000)
    assert MLPERF.schedule.first_eval_samples == MLPERF.schedule.eval_every_samples == 150_000
    values = bert.build(MLPERF, "meta", 0).log_values()
    points = {
        "global_batch_size": 256, "opt_base_learning_rate": 0.00035, "opt_lamb_epsilon": 1e-6,
        "opt_learning_rate_training_steps": 13700, "num_warmup_steps": 0, "start_warmup_step": 0,
        "opt_lamb_beta_1": 0.9, "opt_lamb_beta_2": 0.999, "opt_lamb_weight_decay_rate": 0.01,
    }  # fmt: skip
    assert {key: values[key] for key in points} == points


def test_another_batch_size_scales_the_learning_rate_by_the_root():
    config = bert.rescaled(TINY, 128)
    assert (config.batch_size, config.warmup_steps) == (128, TINY.warmup_steps // 4)
    assert config.learning_rate == pytest.approx(2 * TINY.learning_rate)
    assert config.schedule.max_samples % 128 == 0
    assert bert.rescaled(TINY, TINY.batch_size) == TINY


SMALL = dataclasses.replace(
    MLPERF,
    batch_size=4,
    eval_samples=6,
    width=32,
    depth=2,
    num_heads=2,
    hidden=64,
    vocabulary=61,
    sequence=24,
    masked=4,
    micro_batch=2,
    data_files=("part-00000-of-00500", "part-00001-of-00500", "eval_10k", "model.ckpt-28252.pt"),
)


def sample(number: int) -> dict[str, list]:
    """One of the reference's, shrunk: [CLS] A [SEP] B [SEP] and padding, up to 4 masked tokens."""
    draw = torch.Generator().manual_seed(number)
    length = int(torch.randint(14, 25, (), generator=draw))
    asked = int(torch.randint(1, 5, (), generator=draw))
    ids = [2, *torch.randint(5, 61, (length - 1,), generator=draw).tolist(), *[0] * (24 - length)]
    positions = sorted((torch.randperm(length - 1, generator=draw)[:asked] + 1).tolist())
    return {
        "input_ids": ids,
        "input_mask": [1] * length + [0] * (24 - length),
        "segment_ids": [0] * 7 + [1] * (length - 7) + [0] * (24 - length),
        "masked_lm_positions": positions + [0] * (4 - asked),
        "masked_lm_ids": [ids[p] for p in positions] + [0] * (4 - asked),
        "masked_lm_weights": [1.0] * asked + [0.0] * (4 - asked),
        "next_sentence_labels": [number % 2],
    }


@pytest.fixture
def folder(tmp_path):
    """Files in the layout of the reference, and a checkpoint as the converters of submitters write it."""
    samples = [sample(number) for number in range(26)]
    write_tfrecord(tmp_path / "part-00000-of-00500", [example(**s) for s in samples[:11]])
    write_tfrecord(tmp_path / "part-00001-of-00500", [example(**s) for s in samples[11:20]])
    write_tfrecord(tmp_path / "eval_10k", [example(**s) for s in samples[20:]])
    weights = {}
    for name, parameter in bert.build(SMALL, "cpu", 77).model.named_parameters():
        theirs = bert.checkpoint_name(name)
        for fused in ("intermediate", "pooler", "transform"):
            theirs = theirs.replace(f"{fused}.dense.", f"{fused}.dense_act.")
        weights[theirs] = parameter.detach().clone()
    for padded in ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias"):
        weights[padded] = torch.cat((weights[padded], torch.zeros(3, *weights[padded].shape[1:])))
    weights["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"]
    torch.save({"model": weights}, tmp_path / "model.ckpt-28252.pt")
    return tmp_path


def test_files_in_the_layout_of_the_reference_are_trained_on(folder):
    assert data_files.missing(SMALL, folder) is None
    job = bert.build(SMALL, "cpu", 1)
    shapes = [(t.shape, t.dtype) for t in next(job.synthetic())]
    batches = job.open(folder)
    expected = bert.build(SMALL, "cpu", 77).model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in job.model.state_dict().items())

    batch = next(batches)
    assert [(t.shape, t.dtype) for t in batch] == shapes
    known = {tuple(s["input_ids"]): s for s in (sample(number) for number in range(20))}
    tokens, positions, labels, attended, segments, random_next = batch
    for row in range(4):
        original = known[tuple(tokens[row].tolist())]
        assert positions[row].tolist() == original["masked_lm_positions"]
        weighed = zip(original["masked_lm_ids"], original["masked_lm_weights"], strict=True)
        assert labels[row].tolist() == [label if weight else bert.IGNORED for label, weight in weighed]
        assert attended[row].tolist() == [bool(one) for one in original["input_mask"]]
        assert segments[row].tolist() == original["segment_ids"]
        assert random_next[row].tolist() == original["next_sentence_labels"][0]

    losses = [float(job.train_step(batch, no_phase)) for _ in range(3)]
    assert all(math.isfinite(loss) for loss in losses)
    accuracy = job.evaluate(no_phase)
    asked = sum(int(sum(sample(number)["masked_lm_weights"])) for number in range(20, 26))
    assert accuracy * asked == pytest.approx(round(accuracy * asked))
    seen = {tuple(row.tolist()) for tokens, *_ in islice(batches, 60) for row in tokens}
    assert seen == set(known)


def test_accuracy_is_the_share_of_masked_tokens_that_are_named(folder):
    job = bert.build(SMALL, "cpu", 1)
    job.open(folder)
    with torch.no_grad():  # a model that says 9, whatever it reads
        job.model.vocabulary_bias.zero_()
        job.model.vocabulary_bias[9] = 100.0
    asked = []
    for original in map(sample, range(20, 26)):
        weighed = zip(original["masked_lm_ids"], original["masked_lm_weights"], strict=True)
        asked += [label for label, weight in weighed if weight]
    assert job.evaluate(no_phase) == asked.count(9) / len(asked)


def test_what_is_missing_or_different_is_said_in_one_line(folder, tmp_path):
    assert MLPERF.data_files[0] == "part-00000-of-00500" and MLPERF.data_files[499] == "part-00499-of-00500"
    line = data_files.missing(MLPERF, folder)
    assert "498 of 502 data files" in line and "create" not in line and "README" in line and "\n" not in line

    def refused(config, error, says):
        with pytest.raises(error, match=says) as caught:
            next(bert.build(config, "cpu", 1).open(folder))
        assert "\n" not in str(caught.value)

    refused(dataclasses.replace(SMALL, eval_samples=7), ValueError, "eval_10k has 6 samples, not 7")
    refused(dataclasses.replace(SMALL, masked=5), ValueError, "masked_lm_ids of TFRecords has 4 values a sample, not 5")
    refused(dataclasses.replace(SMALL, width=16), ValueError, r"word_embeddings.weight is \(61, 32\), not \(61, 16\)")
    torch.save({"bert.embeddings.word_embeddings.weight": torch.zeros(61, 32)}, folder / "model.ckpt-28252.pt")
    refused(SMALL, ValueError, "has no cls.predictions.bias")
    (folder / "model.ckpt-28252.pt").unlink()
    refused(SMALL, FileNotFoundError, "model.ckpt-28252.pt is missing: make the TFRecords")
    for part in (0, 1):
        write_tfrecord(folder / f"part-0000{part}-of-00500", [])
    refused(dataclasses.replace(SMALL, checkpoint="", data_files=SMALL.data_files[:3]), ValueError, "hold no records")


def test_one_step_of_the_real_model(monkeypatch):
    """BERT large on 16 tokens; LAMB in C++ needs no copies: weights, gradients and two moments are 5.4 GB."""
    # The weights need not be those of a truncated normal, of which 336 million are slow to draw, nor to be drawn twice.
    monkeypatch.setattr(torch.nn.init, "trunc_normal_", lambda tensor, std, **_: tensor.data.uniform_(-std, std))
    monkeypatch.setattr(torch.nn.Linear, "reset_parameters", lambda linear: None)
    monkeypatch.setattr(torch.nn.Embedding, "reset_parameters", lambda embedding: None)
    if os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 7 * GIB:
        pytest.skip("less than 7 GiB of memory are free")
    config = dataclasses.replace(MLPERF, batch_size=1, micro_batch=0, autocast=False)
    try:
        contract.select({"lamb": "cpp", "global_norm": "cpp", "layer_norm": "cpp"})
    except ValueError as error:
        pytest.skip(str(error))
    try:
        job = bert.build(config, "cpu", 1)
        tokens, positions, labels, attended, segments, random_next = next(job.synthetic())
        few = slice(0, 16)
        positions, labels = torch.tensor([[3, 7]]), tokens[:, [3, 7]]
        batch = (tokens[:, few], positions, labels, attended[:, few], segments[:, few], random_next)
        before = job.model.layers[23].down.weight[0, :8].clone()
        loss = float(job.train_step(batch, no_phase))
        assert abs(loss - math.log(30_522) - math.log(2)) < 1.5
        assert not torch.equal(before, job.model.layers[23].down.weight[0, :8])
    finally:
        contract.select({})

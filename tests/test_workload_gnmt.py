"""Workload gnmt: the network, its search and the round's own size, data files and schedule."""

import dataclasses
import itertools
import math
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from perfsuite.workloads import gnmt, translation, wmt16
from perfsuite.workloads.translation import BOS, EOS, PAD, Batch

TINY, MLPERF = gnmt.CONFIGS["tiny"], gnmt.CONFIGS["mlperf"]
SMALL = dataclasses.replace(TINY, width=16, dropout=0.0)

# "_net_total_param_size" in NVIDIA/results/dgx1_ngc20.06_pytorch/gnmt/result_0.txt of mlcommons/training_results_v0.7:
# the reference's network in one buffer, where each tensor begins at a multiple of 64 elements.
PUBLISHED_PARAMETERS, ALIGNED_TO = 160_671_360, 64


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def no_phase(name: str) -> nullcontext:
    return nullcontext()


def made_up(config: gnmt.Config, seed: int = 0) -> Batch:
    """A batch of pairs of all lengths that a bucket takes."""
    generator = torch.Generator().manual_seed(seed)
    longest_source, longest_target = config.buckets[-1]

    def rows(lengths: torch.Tensor, longest: int, first: int) -> torch.Tensor:
        ids = torch.randint(4, config.vocabulary, (config.batch_size, longest), generator=generator)
        place = torch.arange(longest)
        ids = ids.where(place < lengths[:, None] - 1, EOS).where(place < lengths[:, None], PAD)
        ids[:, 0] = ids[:, 0] if first < 0 else first
        return ids

    source_lengths = torch.randint(2, longest_source + 1, (config.batch_size,), generator=generator)
    target_lengths = torch.randint(2, longest_target + 2, (config.batch_size,), generator=generator)
    source = rows(source_lengths, longest_source, -1)
    return Batch(source, source_lengths, rows(target_lengths, longest_target + 1, BOS))


def lively(model: nn.Module, std: float = 0.5) -> nn.Module:
    """The model with weights of a size that makes small causes have effects."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    return model


# -- the network -------------------------------------------------------------------------------------------------------


def test_parameters_of_scale_mlperf_are_those_of_the_reference():
    parameters = list(gnmt.build(MLPERF, "meta", 0).model.parameters())
    aligned = sum(math.ceil(p.numel() / ALIGNED_TO) * ALIGNED_TO for p in parameters)
    assert aligned == PUBLISHED_PARAMETERS

    width, vocabulary = 1024, 32_320  # 32,317 symbols, made a multiple of 8

    def lstm(inputs: int) -> int:
        return 4 * width * (inputs + width + 2)

    encoder = 2 * lstm(width) + lstm(2 * width) + 2 * lstm(width)
    decoder = lstm(width) + 3 * lstm(2 * width) + 2 * width * width + 2 * width + 1
    embedding, classifier = vocabulary * width, vocabulary * (width + 1)
    assert sum(p.numel() for p in parameters) == encoder + decoder + embedding + classifier


def test_first_layer_reads_both_ways_within_each_length():
    """As torch's bidirectional LSTM on packed sequences does."""
    torch.manual_seed(0)
    ours, theirs = gnmt.BothWays(6), nn.LSTM(6, 6, batch_first=True, bidirectional=True)
    for suffix, part in (("", ours.forwards), ("_reverse", ours.backwards)):
        for name, parameter in part.named_parameters():
            getattr(theirs, name + suffix).data.copy_(parameter.data)
    x, lengths = torch.randn(4, 9, 6), torch.tensor([9, 1, 5, 8])
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    expected, _ = pad_packed_sequence(theirs(packed)[0], batch_first=True)
    inside = torch.arange(9) < lengths[:, None]
    torch.testing.assert_close(ours(x, lengths)[inside], expected[inside])


def test_padding_changes_nothing():
    model = lively(gnmt.build(SMALL, "cpu", 1).model)
    batch = made_up(SMALL)
    longer = Batch(
        nn.functional.pad(batch.source, (0, 5)), batch.source_lengths, nn.functional.pad(batch.target, (0, 7))
    )
    with torch.no_grad():
        torch.testing.assert_close(model(*longer), model(*batch))
        assert model(*batch) != model(batch.source, (batch.source_lengths - 1).clamp(min=1), batch.target)


def test_attention_is_the_formula():
    torch.manual_seed(0)
    attention = gnmt.Attention(5)
    for parameter in attention.parameters():
        nn.init.normal_(parameter)
    queries, memory = torch.randn(2, 3, 5), torch.randn(2, 4, 5)
    padding = torch.tensor([[False] * 4, [False, False, True, True]])
    read, weights = attention(queries, attention.keys(memory), memory, padding)
    for b, t in itertools.product(range(2), range(3)):
        seen = memory[b][~padding[b]]
        inner = torch.tanh(attention.query(queries[b, t]) + attention.key(seen) + attention.b)
        expected = (inner @ (attention.g * attention.v / attention.v.norm())).softmax(0)
        torch.testing.assert_close(weights[b, t][~padding[b]], expected)
        torch.testing.assert_close(read[b, t], expected @ seen)
        assert (weights[b, t][padding[b]] == 0).all()


def test_decoder_sees_no_later_symbol():
    model = lively(gnmt.build(SMALL, "cpu", 1).model)
    batch = made_up(SMALL)
    x = model.embedding(batch.target)
    changed = x.clone()
    changed[:, 6] += 1
    encoded, start = model.encode(batch.source, batch.source_lengths), [None] * SMALL.depth
    same = torch.isclose(model.decoder(x, *encoded, start)[0], model.decoder(changed, *encoded, start)[0]).all(2)
    assert same[:, :6].all() and not same[:, 6:].any()


def test_loss_is_that_of_the_reference():
    """(1 - 0.1) of the right symbol's and 0.1 of the mean over all, summed over what is not padding."""
    model = gnmt.build(SMALL, "cpu", 1).model
    batch = made_up(SMALL)
    states, _, _ = model.decoder(
        model.embedding(batch.target[:, :-1]), *model.encode(batch.source, batch.source_lengths), [None] * SMALL.depth
    )
    log_p, wanted = model.classifier(states).log_softmax(-1), batch.target[:, 1:]
    right = log_p.gather(2, wanted[:, :, None])[:, :, 0]
    expected = -(0.9 * right + 0.1 * log_p.mean(2))[wanted != PAD].sum()
    torch.testing.assert_close(model(*batch), expected)


@contextmanager
def dropping(model: nn.Module):
    """The shapes that pass through dropout meanwhile."""
    shapes: list[tuple[int, ...]] = []
    handles = [
        module.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape)))
        for module in model.modules()
        if isinstance(module, nn.Dropout)
    ]
    yield shapes
    for handle in handles:
        handle.remove()


def test_every_layer_drops_at_its_input_while_training():
    model = gnmt.build(dataclasses.replace(SMALL, dropout=0.5), "cpu", 1).model
    batch = made_up(SMALL)
    with dropping(model) as shapes:
        assert model(*batch) != model(*batch)
    assert len(shapes) == 2 * 2 * SMALL.depth
    model.eval()
    assert model(*batch) == model(*batch)


# -- training ----------------------------------------------------------------------------------------------------------


def test_micro_batches_add_up():
    def trained(micro_batch: int) -> tuple[float, list[torch.Tensor]]:
        config = dataclasses.replace(SMALL, micro_batch=micro_batch)
        job = gnmt.build(config, "cpu", 1)
        loss = float(job.train_step(made_up(config), no_phase))
        return loss, [state["exp_avg"] for state in job.optimizer.state.values()]

    (loss, means), (expected, expected_means) = trained(5), trained(0)
    assert loss == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(means, expected_means, rtol=1e-4, atol=1e-7)


def rates(config: gnmt.Config) -> list[float]:
    job = gnmt.build(dataclasses.replace(config, width=2, vocabulary=8), "cpu", 1)
    found = []
    for job.step in range(config.schedule.max_samples // config.batch_size):
        found.append(job._learning_rate())
    return found


def test_learning_rate_of_scale_mlperf():
    """Exponential warm-up from a hundredth in 200 steps; halved at step 6,453 and three times after that, each 809."""
    found = rates(MLPERF)
    assert found[0] == pytest.approx(2e-5) and found[100] == pytest.approx(2e-4)
    assert set(found[200:6453]) == {2e-3}
    assert [found[step] for step in (6453, 7261, 7262, 8071, 8880, len(found) - 1)] == [
        2e-3 / 2, 2e-3 / 2, 2e-3 / 4, 2e-3 / 8, 2e-3 / 16, 2e-3 / 16,
    ]  # fmt: skip


def test_learning_rate_rises_then_falls():
    found = rates(TINY)
    top = found.index(TINY.learning_rate)
    assert found[: top + 1] == sorted(found[: top + 1]) and found[top:] == sorted(found[top:], reverse=True)
    assert 0 < top < 0.1 * len(found) and found[-1] == TINY.learning_rate / 16


def test_scale_mlperf_evaluates_after_every_epoch():
    """The rules' text: every epoch; 10 runs; 24.0 BLEU, which its logs and the compliance checker count as 0.24."""
    schedule, batch = MLPERF.schedule, MLPERF.batch_size
    assert schedule.first_eval_samples == schedule.eval_every_samples == MLPERF.train_samples == 1938 * batch
    assert schedule.max_samples == 8 * MLPERF.train_samples
    assert (MLPERF.num_runs, MLPERF.target.value, MLPERF.eval_samples) == (10, 0.24, 3003)


def test_rescaled_keeps_the_schedule_in_samples():
    config = gnmt.rescaled(MLPERF, 8192)
    assert (config.batch_size, config.learning_rate, config.warmup_steps) == (8192, 4e-3, 50)
    assert config.schedule.max_samples % 8192 == 0
    assert config.remain_steps * 8192 == pytest.approx(MLPERF.remain_steps * 2048, rel=1e-3)
    assert gnmt.rescaled(TINY, TINY.batch_size) == TINY


# -- search ------------------------------------------------------------------------------------------------------------


def searching(beam: int, seed: int) -> gnmt.GNMTJob:
    config = dataclasses.replace(SMALL, vocabulary=7, beam=beam, max_length=4, coverage_penalty=0.7)
    job = gnmt.build(config, "cpu", seed)
    lively(job.model, std=0.9).eval()
    return job


@torch.no_grad()
def score(job: gnmt.GNMTJob, source: torch.Tensor, hypothesis: list[int]) -> float:
    """log P / ((5 + n) / 6)^0.6 + 0.7 sum of log min(attention, 1), from a run over the whole hypothesis."""
    target = torch.tensor([[BOS, *hypothesis]])
    encoded = job.model.encode(source, torch.tensor([source.shape[1]]))
    states, _, weights = job.model.decoder(job.model.embedding(target[:, :-1]), *encoded, [None] * job.config.depth)
    log_p = job.model.classifier(states)[0].log_softmax(-1)[range(len(hypothesis)), hypothesis].sum()
    coverage = weights[0].sum(0).clamp(max=1).log().sum()
    return float(log_p / ((5 + len(hypothesis)) / 6) ** 0.6 + 0.7 * coverage)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_wide_beam_finds_the_best_of_all_hypotheses(seed):
    job = searching(beam=400, seed=seed)
    source, lengths = torch.tensor([[4, 5, EOS, PAD, PAD], [6, 4, 4, 5, EOS]]), torch.tensor([3, 5])
    found = job._search(source, lengths).tolist()
    for row, sentence, length in zip(found, source, lengths.tolist(), strict=True):
        others = [symbol for symbol in range(7) if symbol != EOS]
        hypotheses = [
            [*said, EOS] for n in range(job.config.max_length) for said in itertools.product(others, repeat=n)
        ]
        scores = {tuple(said[:-1]): score(job, sentence[None, :length], said) for said in hypotheses}
        best = max(scores, key=scores.get)
        assert tuple(row[: len(best)]) == best and not any(row[len(best) :])


def test_beam_of_one_takes_the_likeliest_symbol_each_time():
    job = gnmt.build(dataclasses.replace(SMALL, beam=1, coverage_penalty=0.0), "cpu", 3)
    batch = made_up(SMALL)
    job.model.eval()
    found = job._search(batch.source, batch.source_lengths)
    with torch.no_grad():
        encoded = job.model.encode(batch.source, batch.source_lengths)
        said = torch.full((len(batch.source), 1), BOS)
        for _ in range(SMALL.max_length):
            states, _, _ = job.model.decoder(job.model.embedding(said), *encoded, [None] * SMALL.depth)
            said = torch.cat([said, job.model.classifier(states[:, -1]).argmax(-1, keepdim=True)], dim=1)
    for row, expected in zip(found.tolist(), said[:, 1:].tolist(), strict=True):
        end = expected.index(EOS) if EOS in expected else len(expected)
        assert row[:end] == expected[:end] and not any(row[end:])


# -- the round's data --------------------------------------------------------------------------------------------------

ENGLISH = ["the house is old .", "Res@@ um@@ ption of the session", "&quot; yes &quot; , he said in 1999 ."]
GERMAN = ["das Haus ist alt .", "Wiederaufnahme der Sitzungs@@ periode", "&quot; ja &quot; , sagte er 1999 ."]
PLAIN = ["Das Haus ist alt.", "Wiederaufnahme der Sitzungsperiode", '"ja", sagte er 1999.']


def write_files(folder: Path) -> None:
    symbols = dict.fromkeys(symbol for line in ENGLISH + GERMAN for symbol in line.split())
    texts = [symbols, ENGLISH * 8, GERMAN * 8, ENGLISH, PLAIN]
    for name, text in zip(MLPERF.data_files, texts, strict=True):
        (folder / name).write_text("".join(f"{line}\n" for line in text), encoding="utf-8")


def shrunk() -> gnmt.Config:
    return dataclasses.replace(MLPERF, width=16, vocabulary=40, batch_size=8, micro_batch=4, autocast=False)


def test_the_references_files_are_read_trained_on_and_translated(tmp_path):
    pytest.importorskip("sacremoses")
    pytest.importorskip("sacrebleu")
    write_files(tmp_path)
    job = gnmt.build(shrunk(), "cpu", 1)
    batches = job.open(tmp_path)
    batch = next(batches)
    assert batch.source.shape == (8, 14) and batch.target.shape == (8, 14)  # all pairs fit the first bucket
    assert (batch.source[:, 0] == BOS).all() and (batch.target[:, 0] == BOS).all()
    assert math.isfinite(float(job.train_step(batch, no_phase)))
    assert 0 <= job.evaluate(no_phase) <= 1

    corpus = job.corpus
    vocabulary = translation.Vocabulary(wmt16.lines(tmp_path / wmt16.FILES[0]))
    perfect = [[*vocabulary.ids(line.split()), EOS, PAD] for line in GERMAN]
    assert [corpus.text(ids) for ids in perfect] == ["das Haus ist alt.", *PLAIN[1:]]
    assert corpus.quality(perfect, MLPERF.target.metric) == pytest.approx(1)  # case is ignored
    assert corpus.quality([*perfect[:2], vocabulary.ids(["ja"])], MLPERF.target.metric) < 0.9


def test_what_is_wrong_with_the_files_is_said_in_one_line(tmp_path):
    pytest.importorskip("sacremoses")
    job = gnmt.build(shrunk(), "cpu", 1)
    with pytest.raises(FileNotFoundError, match=r"vocab.bpe.32000 is missing: rnn_translator/download_dataset.sh"):
        job.open(tmp_path)
    write_files(tmp_path)
    (tmp_path / "newstest2014.de").write_text("one line\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"2014.tok.bpe.32000.en has 3 lines and .*newstest2014.de has 1: give"):
        job.open(tmp_path)
    write_files(tmp_path)
    with pytest.raises(ValueError, match="symbols, but the model 12"):
        gnmt.build(dataclasses.replace(shrunk(), vocabulary=12), "cpu", 1).open(tmp_path)


def free_bytes() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def test_one_step_of_the_real_model():
    if free_bytes() < 5 * 2**30:
        pytest.skip("needs 5 GiB of free memory: weights, gradients and two moments of 160.7 million parameters")
    config = dataclasses.replace(MLPERF, batch_size=4, micro_batch=2, buckets=MLPERF.buckets[:1], autocast=False)
    job = gnmt.build(config, "cpu", 1)
    loss = float(job.train_step(next(job.synthetic()), no_phase))
    assert loss == pytest.approx(math.log(config.vocabulary), rel=0.05)  # all symbols are alike at first

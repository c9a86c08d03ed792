"""Every workload keeps the contract at every scale, trains, repeats itself for a seed and forgets its warm-up."""

import ast
import dataclasses
import inspect
import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from perfsuite.workloads import registry
from perfsuite.workloads.contract import Basics, Job

EXAMPLE = str(Path(__file__).parent / "data" / "my_workload.py")
WORKLOADS = [*registry.names(), EXAMPLE]
ALL_SCALES = [(name, scale) for name in WORKLOADS for scale in registry.load(name).CONFIGS]
# The round's own models and data are not here: the tests of each workload build them without memory.
SCALES = [(name, scale) for name, scale in ALL_SCALES if not scale.startswith("mlperf")]
PARTS = ["forward", "backward", "optimizer"]

# What scale gpu becomes here: its data, its precision and its code, on a network that two CPU cores can train.
SMALL = {
    "llama": {
        "batch_size": 2, "width": 64, "depth": 2, "num_heads": 2, "hidden": 128, "sequence": 64, "warmup_steps": 8,
        "eval_samples": 4,
    },
    "resnet": {"batch_size": 20, "width": 8, "blocks": (1, 1, 1), "warmup_epochs": 0.005},
    "retinanet": {
        "batch_size": 4, "train_samples": 64, "eval_samples": 8, "eval_batch": 4, "blocks": (1, 1, 1), "stem": 8,
        "width": 8, "pyramid": 16, "depth": 1, "learning_rate": 2e-3, "warmup_epochs": 0.1,
    },
}  # fmt: skip

MLLOG_KEYS = {
    "llama": "global_batch_size max_sequence_length opt_name opt_base_learning_rate opt_end_learning_rate "
    "opt_learning_rate_warmup_steps opt_learning_rate_decay_steps opt_learning_rate_decay_schedule opt_adamw_beta_1 "
    "opt_adamw_beta_2 opt_adamw_epsilon opt_adamw_weight_decay opt_gradient_clip_norm gradient_accumulation_steps "
    "max_steps lowest_numerical_precision_in_linear lowest_numerical_precision_in_attn "
    "lowest_numerical_precision_in_comm tensor_parallelism pipeline_parallelism context_parallelism "
    "expert_parallelism micro_batch_size config_filename",
    "resnet": "global_batch_size opt_name gradient_accumulation_steps sgd_opt_base_learning_rate "
    "sgd_opt_end_learning_rate sgd_opt_learning_rate_decay_poly_power sgd_opt_learning_rate_decay_steps "
    "sgd_opt_weight_decay sgd_opt_momentum model_bn_span opt_learning_rate_warmup_epochs",
    "retinanet": "global_batch_size opt_name opt_base_learning_rate opt_weight_decay opt_learning_rate_warmup_epochs "
    "opt_learning_rate_warmup_factor gradient_accumulation_steps",
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tests may share the machine: threads that wait for each other at every op would then wait for others too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Phases:
    """Stands in for the phase clock: remembers the names, and refuses a phase inside another."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.inside: str | None = None

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        assert self.inside is None, f"{name} inside {self.inside}"
        self.inside = name
        yield
        self.inside = None
        self.seen.append(name)


opened: list[str] | None = None


def _on_event(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and opened is not None:
        opened.append(str(arguments[0]))


sys.addaudithook(_on_event)


@contextmanager
def files_opened() -> Iterator[list[str]]:
    """The paths that this process opens in the meantime."""
    global opened
    opened = paths = []
    try:
        yield paths
    finally:
        opened = None


def small(module: ModuleType, scale: str) -> Basics:
    config = module.CONFIGS[scale]
    return dataclasses.replace(config, **SMALL[module.NAME]) if scale == "gpu" else config


def train(job: Job, batches: Iterator[Any], steps: int) -> list[float]:
    return [float(job.train_step(batch, Phases())) for batch in islice(batches, steps)]


@pytest.fixture(params=SCALES, ids=lambda pair: f"{Path(pair[0]).stem}-{pair[1]}")
def workload(request: pytest.FixtureRequest) -> tuple[ModuleType, str]:
    name, scale = request.param
    return registry.load(name), scale


@pytest.fixture(params=ALL_SCALES, ids=lambda pair: f"{Path(pair[0]).stem}-{pair[1]}")
def any_scale(request: pytest.FixtureRequest) -> tuple[ModuleType, str]:
    name, scale = request.param
    return registry.load(name), scale


def test_config_is_frozen_and_documented(any_scale):
    module, scale = any_scale
    config = module.CONFIGS[scale]
    assert isinstance(config, Basics)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.batch_size = 1
    if type(config) is Basics:
        return
    (declaration,) = ast.parse(inspect.getsource(type(config))).body
    for field, below in zip(declaration.body, [*declaration.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign):
            documented = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            assert documented, f"{field.target.id} has no doc string under it"


def test_numbers_of_a_config_fit_together(any_scale):
    module, scale = any_scale
    config = module.CONFIGS[scale]
    schedule = config.schedule
    assert 0 < schedule.first_eval_samples <= schedule.max_samples
    assert 0 < schedule.eval_every_samples <= schedule.max_samples
    assert schedule.max_samples % config.batch_size == 0
    assert config.num_runs >= 5


def test_phases_and_files(workload):
    module, scale = workload
    config = small(module, scale)
    with files_opened() as early:
        job = module.build(config, "cpu", 1)
        synthetic = next(job.synthetic())
        job.train_step(synthetic, Phases())
    data = {str(registry.data_folder() / name) for name in config.data_files}
    assert data and not data & set(early)
    with files_opened() as now:
        batches = job.open(registry.data_folder())
    assert {path for path in now if str(registry.data_folder()) in path} == data

    batch, phases = next(batches), Phases()
    loss = float(job.train_step(batch, phases))
    assert phases.seen == PARTS
    assert math.isfinite(loss)
    assert math.isfinite(job.evaluate(Phases()))
    assert [(t.shape, t.dtype, t.stride()) for t in tensors(batch)] == [
        (t.shape, t.dtype, t.stride()) for t in tensors(synthetic)
    ]


def tensors(batch: Any) -> tuple[torch.Tensor, ...]:
    return (batch,) if isinstance(batch, torch.Tensor) else tuple(batch)


def test_missing_data_says_how_to_get_it(tmp_path):
    for name in registry.names():
        module = registry.load(name)
        with pytest.raises(FileNotFoundError, match=r"xz is missing: it comes with perfsuite, and data/build.py"):
            module.build(module.CONFIGS["tiny"], "cpu", 1).open(tmp_path)


def test_log_values_are_what_the_benchmark_logs(workload):
    module, scale = workload
    values = module.build(small(module, scale), "cpu", 1).log_values()
    assert set(MLLOG_KEYS.get(module.NAME, "").split()) <= set(values)
    assert json.loads(json.dumps(values)) == values


@pytest.mark.parametrize("name", WORKLOADS, ids=lambda name: Path(name).stem)
def test_a_seed_repeats_itself_and_warm_up_leaves_no_trace(name):
    module = registry.load(name)
    config = module.CONFIGS["tiny"]

    def losses(seed: int, warm_up_steps: int) -> list[float]:
        job = module.build(config, "cpu", seed)
        before = job.state()
        train(job, job.synthetic(), warm_up_steps)
        torch.rand(1)
        job.restore(before)
        return [*train(job, job.open(registry.data_folder()), 4), job.evaluate(Phases())]

    expected = losses(seed=1, warm_up_steps=0)
    assert losses(seed=1, warm_up_steps=2) == expected
    assert losses(seed=2, warm_up_steps=0) != expected


@pytest.mark.parametrize("name", WORKLOADS, ids=lambda name: Path(name).stem)
def test_a_state_can_be_restored_again_later(name):
    module = registry.load(name)
    job = module.build(module.CONFIGS["tiny"], "cpu", 1)
    batches = list(islice(job.open(registry.data_folder()), 3))
    train(job, iter(batches), 1)
    state = job.state()
    first = train(job, iter(batches), 3)
    for _ in range(2):
        job.restore(state)
        assert train(job, iter(batches), 3) == first


@pytest.mark.parametrize("name", WORKLOADS, ids=lambda name: Path(name).stem)
def test_a_state_holds_the_order_of_the_data(name):
    module = registry.load(name)
    job = module.build(module.CONFIGS["tiny"], "cpu", 1)
    state = job.state()
    first = list(islice(job.open(registry.data_folder()), 2))
    job.restore(state)
    again = list(islice(job.open(registry.data_folder()), 2))
    assert not torch.equal(tensors(first[0])[0], tensors(first[1])[0])
    for before, after in zip(first, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(tensors(before), tensors(after), strict=True))


def test_llama_sees_no_later_byte():
    llama = registry.load("llama")
    model = llama.build(llama.CONFIGS["tiny"], "cpu", 1).model
    tokens = torch.arange(128).reshape(1, 128)
    changed = tokens.clone()
    changed[0, 40] = 200
    with torch.no_grad():
        same = torch.isclose(model.states(tokens), model.states(changed), rtol=0, atol=1e-6).all(-1)[0]
    assert same[:40].all() and not same[40:].any()


def test_a_few_steps_lower_the_loss(workload):
    module, scale = workload
    job = module.build(small(module, scale), "cpu", 1)
    losses = train(job, job.open(registry.data_folder()), 24)
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])


@pytest.mark.parametrize("name", ["llama", "resnet"])
def test_learning_rate_rises_to_its_peak_then_falls(name):
    module = registry.load(name)
    config = module.CONFIGS["tiny"]
    job = module.build(config, "cpu", 1)
    rates = []
    for step in range(job.num_steps):
        job.step = step
        rates.append(job._learning_rate())
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(config.learning_rate, rel=1e-3)
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert 0 < top < 0.1 * len(rates) and rates[-1] < 0.11 * rates[top]


@pytest.mark.parametrize("name", registry.names())
def test_reference_points_belong_to_the_config(name):
    module = registry.load(name)
    config = module.CONFIGS["tiny"]
    points = json.loads(Path(module.__file__).with_suffix(".rcp.json").read_text(encoding="utf-8"))["tiny"]
    assert (points["batch_size"], points["target"]) == (config.batch_size, config.target.value)
    assert len(set(points["seeds"])) == len(points["samples_to_target"]) >= 20
    reached = [samples for samples in points["samples_to_target"] if samples is not None]
    assert len(reached) >= 0.95 * len(points["seeds"])
    for seed, samples in zip(points["seeds"], points["samples_to_target"], strict=True):
        *before, (last, quality) = points["curves"][str(seed)]
        assert not any(config.target.reached(value) for _, value in before)
        assert (last if config.target.reached(quality) else None) == samples

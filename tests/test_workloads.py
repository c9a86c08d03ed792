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
# The round's own models, and data that users bring, are not here: the tests of each workload see to them.
SCALES = [(name, scale) for name, scale in ALL_SCALES
          if not scale.startswith("mlperf") and not registry.load(name).CONFIGS[scale].data_from]  # fmt: skip
PARTS = ["forward", "backward", "optimizer"]

# What scale gpu becomes here: its data, its precision and its code, on a network that two CPU cores can train.
SMALL = {
    "dlrm": {
        "batch_size": 128, "bag_sizes": (1, 4, 4, 1, 2, 1, 1, 1, 1, 2, 1, 1), "expansion": 8, "width": 16,
        "bottom": (32,), "top": (64, 32), "cross_rank": 16, "learning_rate": 0.02, "eval_samples": 1000,
    },
    "llama": {
        "batch_size": 2, "width": 64, "depth": 2, "num_heads": 2, "hidden": 128, "sequence": 64, "warmup_steps": 8,
        "eval_samples": 4,
    },
    "resnet": {"batch_size": 20, "width": 8, "blocks": (1, 1, 1), "warmup_epochs": 0.005},
    "ncf": {"batch_size": 2048, "expansion": (2, 2), "factors": 8, "layers": (16, 8), "learning_rate": 1e-2},
    "transformer": {
        "batch_size": 8, "width": 64, "depth": 1, "num_heads": 2, "hidden": 128, "buckets": ((96, 96),),
        "warmup_steps": 8, "dropout": 0.1, "beam": 2, "longer": 5, "eval_samples": 40,
    },
    "gnmt": {
        "batch_size": 8, "width": 32, "depth": 3, "warmup_steps": 4, "learning_rate": 6e-3,
        "beam": 2, "eval_samples": 8,
    },
    "bert": {
        "batch_size": 8, "width": 32, "depth": 2, "num_heads": 2, "hidden": 64, "vocabulary": 512, "sequence": 32,
        "masked": 6, "warmup_steps": 4, "learning_rate": 0.02, "eval_samples": 16,
    },
    "retinanet": {
        "batch_size": 4, "train_samples": 64, "eval_samples": 8, "eval_batch": 4, "blocks": (1, 1, 1), "stem": 8,
        "width": 8, "pyramid": 16, "depth": 1, "learning_rate": 2e-3, "warmup_epochs": 0.1,
    },
}  # fmt: skip

# Steps after which the loss must have fallen: ncf has no warm-up, a small rate, and embeddings that start near 0; LAMB
# goes a small share of each weight's size in a step, and bert's tiny warms up for 64 steps.
FIRST_STEPS = {"ncf": 80, "bert": 96}

MLLOG_KEYS = {
    "dlrm": "global_batch_size opt_name opt_base_learning_rate opt_weight_decay opt_learning_rate_warmup_steps "
    "gradient_accumulation_steps",
    "llama": "global_batch_size max_sequence_length opt_name opt_base_learning_rate opt_end_learning_rate "
    "opt_learning_rate_warmup_steps opt_learning_rate_decay_steps opt_learning_rate_decay_schedule opt_adamw_beta_1 "
    "opt_adamw_beta_2 opt_adamw_epsilon opt_adamw_weight_decay opt_gradient_clip_norm gradient_accumulation_steps "
    "max_steps lowest_numerical_precision_in_linear lowest_numerical_precision_in_attn "
    "lowest_numerical_precision_in_comm tensor_parallelism pipeline_parallelism context_parallelism "
    "expert_parallelism micro_batch_size config_filename",
    "resnet": "global_batch_size opt_name gradient_accumulation_steps sgd_opt_base_learning_rate "
    "sgd_opt_end_learning_rate sgd_opt_learning_rate_decay_poly_power sgd_opt_learning_rate_decay_steps "
    "sgd_opt_weight_decay sgd_opt_momentum model_bn_span opt_learning_rate_warmup_epochs",
    "ncf": "global_batch_size opt_name opt_base_learning_rate opt_adam_beta_1 opt_adam_beta_2 opt_adam_epsilon",
    "transformer": "global_batch_size opt_name opt_base_learning_rate opt_learning_rate_warmup_steps opt_adam_beta_1 "
    "opt_adam_beta_2 opt_adam_epsilon max_sequence_length gradient_accumulation_steps",
    "gnmt": "global_batch_size max_sequence_length opt_base_learning_rate opt_learning_rate_alt_warmup_func "
    "opt_learning_rate_warmup_steps opt_learning_rate_alt_decay_func opt_learning_rate_decay_factor "
    "opt_learning_rate_decay_interval opt_learning_rate_decay_steps opt_learning_rate_remain_steps",
    "bert": "global_batch_size opt_base_learning_rate opt_epsilon opt_lamb_epsilon opt_learning_rate_training_steps "
    "opt_learning_rate_warmup_steps num_warmup_steps start_warmup_step opt_lamb_beta_1 opt_lamb_beta_2 "
    "opt_lamb_weight_decay_rate gradient_accumulation_steps",
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
    made_up = [synthetic, *islice(job.synthetic(), 8)]  # buckets of padded lengths take turns
    assert layouts(batch) in [layouts(each) for each in made_up]


def layouts(batch: Any) -> list[Any]:
    return [(tensor.shape, tensor.dtype, tensor.stride()) for tensor in tensors(batch)]


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
    if (module.NAME, scale) == ("dlrm", "tiny"):
        pytest.skip("whether a flight is late is hardly known: its first loss is below 1.2 of the best one")
    job = module.build(small(module, scale), "cpu", 1)
    losses = train(job, job.open(registry.data_folder()), FIRST_STEPS.get(module.NAME, 24))
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

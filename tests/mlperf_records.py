"""Records of finished runs, made by hand for tests: the record of a real request, logs and passes as the harness leaves
them. Nothing is trained."""

import contextlib
import functools
import io
import logging
import types
from pathlib import Path
from typing import Any

from perfsuite import record
from perfsuite.harness import rule_files
from perfsuite.harness.run import Request, new_record
from perfsuite.mlperf.log import MLLog
from perfsuite.workloads import registry


@functools.cache
def _unchanged(**request: Any) -> record.Record:
    return new_record(Request(ledger=False, seed=100, **request))


@functools.cache
def _values(workload: str, scale: str) -> dict[str, Any]:
    module = registry.load(workload)
    return rule_files.log_values(module, module.CONFIGS[scale])


def new(**request: Any) -> record.Record:
    """A record that has no pass yet."""
    made = _unchanged(**request)
    return record.Record(**{name: value for name, value in vars(made).items() if name != "passes"})


def save(folder: Path, made: record.Record, logs: list[str], quality: float = 2.0) -> Path:
    """The record with a finished clean pass for each log; its folder."""
    folder.mkdir(parents=True)
    made.id, made.num_runs = folder.name, len(logs)
    made.passes = []
    for i, text in enumerate(logs):
        (folder / f"result_{i}.txt").write_text(text)
        made.passes.append({"kind": "clean", "index": i, "seed": 100 + i, "state": "done", "reached": True,
                            "quality": quality, "log": f"result_{i}.txt"})  # fmt: skip
    record.save(made, folder)
    return folder


def own_log(folder: Path, made: record.Record, *, evals: int, seed: int, changed: dict[str, Any] | None = None) -> str:
    """What a run of a built-in workload logs that reaches its target at the last of `evals` evaluations."""
    workload = registry.load(made.workload)
    config = workload.CONFIGS[made.scale]
    every, target = config.schedule.eval_every_samples, made.target["value"]
    path = folder / "log.txt"
    with MLLog(path, source=made.workload) as log:
        about = {"submission_benchmark": workload.MLPERF or workload.NAME, "submission_division": made.division,
                 "submission_org": "perfsuite", "submission_platform": made.device, "submission_status": "research",
                 "cache_clear": True}  # fmt: skip
        for key, value in about.items():
            log.event(key, value)
        log.start("init_start")
        log.event("seed", seed)
        values = _values(made.workload, made.scale) | {"train_samples": config.train_samples,
                                                       "eval_samples": config.eval_samples}  # fmt: skip
        for key, value in (values | (changed or {})).items():
            log.event(key, value)
        log.end("init_stop")
        log.start("run_start")
        better = 1 if config.target.higher_is_better else -1
        for i in range(1, evals + 1):
            when = {"samples_count": i * every, "epoch_num": i * every / config.train_samples}
            log.start("block_start", samples_count=(i - 1) * every)
            log.end("block_stop", samples_count=i * every)
            log.start("eval_start", **when)
            log.event("eval_accuracy", target - better * 0.01 * (evals - i), **when)
            log.end("eval_stop", **when)
        log.end("run_stop", samples_count=evals * every, status="success")
    lines = path.read_text().splitlines(keepends=True)
    path.unlink()
    stop = int(lines[-1].split('"time_ms": ')[1].split(",")[0])
    return "".join(lines[:-1]) + lines[-1].replace(str(stop), str(stop + 1000 * evals))


def package_check(root: Path, ruleset: str) -> tuple[bool, list[str]]:
    """(whether the official package checker finds no errors, its error lines)."""
    import yaml
    from mlperf_logging.compliance_checker import mlp_compliance
    from mlperf_logging.package_checker import package_checker

    read = functools.cache(lambda path: yaml.load(Path(path).read_text(), Loader=yaml.CBaseLoader))
    theirs = types.SimpleNamespace(load=lambda file, Loader: read(file.name), BaseLoader=None)
    said: list[str] = []
    errors: list[str] = []

    def keep(where: list[str]) -> Any:
        return lambda text, *a: where.append(text % a if a else text)

    package_checker.logging = types.SimpleNamespace(info=keep(said), error=keep(errors), warning=lambda *a: None)
    before, mlp_compliance.yaml = mlp_compliance.yaml, theirs
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            package_checker.check_training_package(str(root), "training", ruleset, *[False] * 5, "x")
    finally:
        package_checker.logging, mlp_compliance.yaml = logging, before
        logging.disable(logging.NOTSET)
    return any("FOUND NO ERRORS" in line for line in said), errors

"""What the official convergence checker reads from the logs of one folder, and its answer.

It looks for the names of keys anywhere in a line, and takes the last evaluation before run_stop; so does this.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from perfsuite.mlperf import convergence, official_files, rounds
from perfsuite.mlperf.convergence import Convergence
from perfsuite.mlperf.reader import loads, token_lines

_TOKEN = b":::MLLOG "
_COUNT_SAMPLES = {"llama2_70b_lora", "flux1", "llama31_405b", "llama31_8b", "gpt_oss_20b", "deepseekv3_671b",
                  "qwen35_397b_grpo", "dlrmv4"}  # fmt: skip
_WANTED = (b"global_batch_size", b"submission_benchmark", b"eval_error", b"eval_accuracy", b"run_stop")
FIRST_RULESET = (1, 0, 0)
NUM_RUNS = {
    "training": {
        "bert": 10, "dlrm_dcnv2": 10, "gpt3": 3, "maskrcnn": 5, "resnet": 5, "ssd": 5, "retinanet": 5, "unet3d": 40,
        "rnnt": 10, "stable_diffusion": 10, "gnn": 10, "rgat": 10, "llama2_70b_lora": 10, "flux1": 10,
        "llama31_405b": 3, "llama31_8b": 10, "gpt_oss_20b": 10, "deepseekv3_671b": 3, "qwen35_397b_grpo": 3,
        "dlrmv4": 10,
    },
    "hpc": {"cosmoflow": 10, "deepcam": 5, "oc20": 5, "openfold": 10},
}  # fmt: skip
"""Runs of a submission by the official convergence checker."""


class Crash(Exception):
    """The official checker would end here with a traceback."""


@dataclass
class Submitted:
    """One log as the official convergence checker sees it."""

    converged: bool
    units: float
    batch_size: Any
    benchmark: Any


def read(data: bytes, ruleset: str) -> Submitted:
    """One log. Raises Crash."""
    try:
        return _read(data, ruleset)
    except (ValueError, KeyError, TypeError, RecursionError, UnboundLocalError) as error:
        raise Crash(f"{type(error).__name__}: {error}") from error


def _read(data: bytes, ruleset: str) -> Submitted:
    converged, units, batch_size, benchmark, reached = False, convergence.NOT_CONVERGED, -1, None, None
    images: dict[Any, dict[Any, Any]] = defaultdict(dict)
    for _, raw in token_lines(data, _TOKEN):
        if not any(name in raw for name in _WANTED):
            continue
        text = raw[len(_TOKEN) :].decode("latin-1").strip()
        body = None
        if "global_batch_size" in text:
            body = loads(text)
            batch_size = body["value"]
        if "submission_benchmark" in text:
            body = loads(text)
            benchmark = body["value"]
            hash(benchmark)  # the official code looks it up in a set
        if "eval_error" in text or "eval_accuracy" in text:
            body = body or loads(text)
            if benchmark == "stable_diffusion":
                step = body["metadata"]["step_num" if ruleset == "3.1.0" else "samples_count"]
                images[step][body["metadata"]["metric"]] = body["value"]
            elif isinstance(benchmark, str) and benchmark in _COUNT_SAMPLES:
                reached = body["metadata"]["samples_count"]
                body["value"]
            else:
                reached = round(body["metadata"]["epoch_num"], 3)
        if "run_stop" in text:
            body = body or loads(text)
            if body["key"] != "run_stop":
                continue
            converged = body["metadata"]["status"] == "success"
            if converged and benchmark == "stable_diffusion":
                reached = min(step for step, found in images.items() if found["FID"] <= 90.0 and found["CLIP"] >= 0.15)
            if converged and reached is None:
                raise UnboundLocalError("run_stop before any evaluation")
            units = reached if converged else convergence.NOT_CONVERGED
    return Submitted(converged, units, batch_size, benchmark)


def check(logs: list[Submitted], usage: str, ruleset: str, mode: str = "official") -> Convergence:
    """The answer on the logs of one folder, in the official checker's order of questions. Raises Crash."""
    batch_size, benchmark = _common(logs)
    reference = reference_of(benchmark, usage, ruleset)
    if batch_size == -1:
        return Convergence(mode, False, "Could not detect global_batch_size")
    drop = rounds.dropped(benchmark)
    if sum(not log.converged for log in logs) > drop:
        return Convergence(mode, False, "Insufficient convergence")
    try:
        return convergence.check(
            reference, batch_size, [log.units for log in logs], num_runs=NUM_RUNS[usage][benchmark], drop=drop,
            mode=mode, earlier_by=earlier_by(benchmark, ruleset, mode),
        )  # fmt: skip
    except TypeError as error:  # a batch size or a number of samples that is no number
        raise Crash(f"TypeError: {error}") from error


def _common(logs: list[Submitted]) -> tuple[Any, Any]:
    """(batch size, benchmark) of all logs; (-1, None) where two differ.

    The official code lets logs without one pass before the first that has one, in whatever order the folder lists them;
    they differ here, as they do there in every other order.
    """
    if not logs:
        return -1, None
    batch_size, benchmark = logs[0].batch_size, logs[0].benchmark
    same = all(log.batch_size == batch_size and log.benchmark == benchmark for log in logs)
    return (batch_size, benchmark) if same else (-1, None)


def reference_of(benchmark: str, usage: str, ruleset: str) -> dict[float, list[float]]:
    """{batch size: runs} of the official package. Raises Crash where it has none."""
    if benchmark not in NUM_RUNS[usage]:
        raise Crash(f"KeyError: {benchmark!r}")
    path = official_files.package_folder() / "rcp_checker" / f"{usage}_{ruleset}" / f"rcps_{benchmark}.json"
    if not path.is_file():
        raise Crash(f"FileNotFoundError: the package has no reference convergence points of {benchmark} in {ruleset}")
    return convergence.load(path)


def earlier_by(benchmark: str, ruleset: str, mode: str) -> float:
    """Samples by which a benchmark may converge earlier than the test allows."""
    if benchmark != "llama31_405b":
        return 0.0
    version = tuple(int(part) for part in ruleset.split("."))
    allowed = version[:2] == (5, 0) if mode == "rules" else version >= (5, 0, 0)
    return convergence.ONE_EVALUATION_405B if allowed else 0.0

"""What the kernel recorder costs a training step, beside torch.profiler: whole processes, interleaved.

CUPTI slows a process down even after it has been stopped, so each measurement is a process of its own. A round runs
each arm once, in a drawn order: nothing; the op recorder; the op recorder and the kernel recorder; torch.profiler with
CUDA activities. A process builds the workload, warms up, switches its instruments on, runs some steps more and then
times `--steps` of them on made-up batches. Ratios are of medians over rounds, paired by round, with a bootstrap
interval. Arms that this machine cannot run are in `absent` with their reason. Prints JSON last.
`python bench/kernel_recorder_cost.py llama --scale gpu --rounds 7`
"""

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import cycle, islice
from typing import Any

import torch

from perfsuite import _native, conditions
from perfsuite.harness.train import no_phase, synchronize, warm_up
from perfsuite.instruments.kernels import KernelRecorder
from perfsuite.instruments.ops import OpRecorder
from perfsuite.stats import ratio_of_medians
from perfsuite.watch import PHASES
from perfsuite.workloads import registry
from perfsuite.workloads.contract import Job

BATCHES = 8
SETTLE_STEPS = 4


@contextmanager
def recorders(job: Job, kernels: bool) -> Iterator[Callable[[str], AbstractContextManager[Any]]]:
    """Yields how phases are marked."""
    clock = _native.PhaseClock(list(PHASES))
    ops = OpRecorder(getattr(job, "model", None), clock)
    recorder = KernelRecorder(ops, clock) if kernels else None
    ops.start()
    if recorder:
        recorder.start()
    clock.start()
    ops.begin_step(0)  # with shapes, as every 16th; those that follow are without
    ops.begin_step(1)
    yield clock.phase
    clock.stop()
    ops.stop()
    if recorder:
        told = recorder.stop()
        print(json.dumps({"records": told["records"], "dropped": told["dropped"], "notes": told["notes"]}), flush=True)


@contextmanager
def profiler() -> Iterator[Callable[[str], AbstractContextManager[Any]]]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]):
        yield no_phase


ARMS: dict[str, Callable[[Job], AbstractContextManager[Callable[[str], AbstractContextManager[Any]]]]] = {
    "none": lambda job: nullcontext(no_phase),
    "op_recorder": lambda job: recorders(job, kernels=False),
    "kernel_recorder": lambda job: recorders(job, kernels=True),
    "torch_profiler": lambda job: profiler(),
}


def absent_arms(device: str) -> dict[str, str]:
    """Arms that cannot run here, with the reason."""
    if device == "cpu":
        return {
            "kernel_recorder": KernelRecorder().available().reason or "the workload runs on the CPU",
            "torch_profiler": "CUDA activities need a GPU",
        }
    reason = KernelRecorder().available().reason
    return {"kernel_recorder": reason} if reason else {}


def measure(arm: str, workload: str, scale: str, device: str, steps: int) -> float:
    """Nanoseconds per step in this process."""
    torch.set_num_threads(1 if device == "cpu" else torch.get_num_threads())
    module = registry.load(workload)
    job = module.build(module.CONFIGS[scale], device, 0)
    warm_up(job, device)
    batches = cycle(list(islice(job.synthetic(), BATCHES)))
    with ARMS[arm](job) as phase:
        for _ in range(SETTLE_STEPS):
            job.train_step(next(batches), phase)
        synchronize(device)
        start_ns = _native.now_ns()
        for _ in range(steps):
            job.train_step(next(batches), phase)
        synchronize(device)
        return (_native.now_ns() - start_ns) / steps


def run_arm(arm: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What a process of this arm says last: its step time, and what its recorder says of itself."""
    command = [sys.executable, __file__, arguments.workload, "--scale", arguments.scale, "--device", arguments.device,
               "--steps", str(arguments.steps), "--arm", arm]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"the process of {arm} failed with exit code {done.returncode}; its message is above")
    said: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            said |= json.loads(line)
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workload", nargs="?", default="llama")
    parser.add_argument("--scale", default="gpu" if torch.cuda.is_available() else "tiny")
    parser.add_argument("--device", default=conditions.default_device())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.arm:
        step_ns = measure(arguments.arm, arguments.workload, arguments.scale, arguments.device, arguments.steps)
        print(json.dumps({"step_ns": step_ns}))
        return
    if arguments.rounds < 5:
        parser.error("--rounds must be at least 5: a bootstrap of fewer says nothing")

    absent = absent_arms(arguments.device)
    arms = [arm for arm in ARMS if arm not in absent]
    said: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    order = random.Random(0)
    for done in range(arguments.rounds):
        for arm in order.sample(arms, len(arms)):
            said[arm].append(run_arm(arm, arguments))
        print(f"\r{done + 1} of {arguments.rounds} rounds", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    step_ns = {arm: [one.pop("step_ns") for one in all_of_it] for arm, all_of_it in said.items()}
    ratios = {}
    for arm, base in (("op_recorder", "none"), ("kernel_recorder", "none"), ("kernel_recorder", "op_recorder"),
                      ("torch_profiler", "none"), ("kernel_recorder", "torch_profiler")):  # fmt: skip
        if arm in arms and base in arms:
            ratio, low, high = ratio_of_medians(step_ns[arm], step_ns[base])
            ratios[f"{arm} / {base}"] = {"ratio": ratio, "ci95": [low, high], "pairs": arguments.rounds}
    result = {
        "command": sys.argv,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if arguments.device != "cpu" else "cpu: no GPU was used",
        "workload": arguments.workload,
        "scale": arguments.scale,
        "steps": arguments.steps,
        "absent": absent,
        "ratios": ratios,
        "step_ns": step_ns,
        "kernel_recorder": said.get("kernel_recorder", []),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

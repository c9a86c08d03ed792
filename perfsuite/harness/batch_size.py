"""A workload's config with another batch size: what --batch-size means for a run and for the process of each pass."""

from dataclasses import replace
from types import ModuleType

from perfsuite.workloads.contract import Basics, whole_steps


def rescaled(workload: ModuleType, config: Basics, batch_size: int | None) -> tuple[Basics, list[str]]:
    """The config with this batch size (None: its own), and what a reader of the results has to know of it.

    By the workload's own rescaled() where it has one, else with everything but the batch size as it is. Raises
    ValueError for a batch size that leaves the schedule fewer than two steps, and where rescaled() does not keep its
    promise.
    """
    if batch_size is None or batch_size == config.batch_size:
        return config, []
    most = config.schedule.max_samples
    if not 0 < 2 * batch_size <= most:
        raise ValueError(f"batch size {batch_size} is too large for workload {workload.NAME}: its schedule ends after "
                         f"{most} samples, which must be two steps at least: give 1 to {most // 2}")  # fmt: skip
    own, notes = config.batch_size, []
    if hasattr(workload, "rescaled"):
        config = workload.rescaled(config, batch_size)
        if config.batch_size != batch_size:
            raise ValueError(f"rescaled() of workload {workload.NAME} gave batch size {config.batch_size} for "
                             f"{batch_size}: perfsuite/workloads/contract.py says what it promises")  # fmt: skip
    else:
        config = replace(config, batch_size=batch_size)
        notes = [f"workload {workload.NAME} has no rule for other batch sizes: its learning rate, and all else, is "
                 f"that of its own batch size, {own}, and its job has to take batch_size from the config"]  # fmt: skip
    return replace(config, schedule=whole_steps(config.schedule, batch_size)), notes

"""Whether a GPU ran at its own speed while something was timed: SM clock and the reasons why it was lowered, from NVML.

Idle and clocks that an application asked for are no reasons to distrust a time; power, heat and brakes are.
"""

from typing import NamedTuple

from perfsuite import clock_events


class State(NamedTuple):
    """At one moment."""

    sm_clock_hz: int | None
    lowered_by: tuple[str, ...]
    reason: str | None
    """Why nothing is known, where nothing is."""


def read() -> State:
    """Of the current CUDA device, which is looked up by its UUID: NVML counts devices that CUDA does not see."""
    import pynvml
    import torch

    try:
        pynvml.nvmlInit()
        uuid = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")
        clock_hz = pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM) * 10**6
        bits = pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
    except pynvml.NVMLError as error:
        return State(None, (), f"NVML: {error}")
    return State(clock_hz, clock_events.names(bits), None)

"""The ceilings that `perfsuite ops bench` holds kernels against on a GPU: those of `perfsuite machine`."""

from perfsuite import gpu_machine, machine, roofline


def measure() -> tuple[roofline.Machine, int, dict[str, str]]:
    """The machine for perfsuite.roofline, the size of the L2 cache in bytes, and what was not measured: {part: why}.

    Of the kept ceilings where the GPU is in them; else bandwidths and products are measured now, in some seconds. The
    cost of a call is left out: what is held against these ceilings is device time.
    """
    kept, _ = machine.load_ceilings()
    entry = kept["gpus"][0] if kept and kept.get("gpus") else gpu_machine.bandwidths_and_products()
    return roofline.machine_of(entry)._replace(op_overhead_ns=None), entry["l2_bytes"], entry["absent"]

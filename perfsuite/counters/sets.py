"""Sets of hardware counters, as data: what is wanted, in order of importance, and CUPTI's names for it on each family.

Names were read from CUPTI 13.0 for all its chips (tests/test_counters_plan.py goes through them). A sector is 32 bytes.
"""

from typing import NamedTuple

from perfsuite import _native


class Option(NamedTuple):
    """One way to get a quantity: these metrics of CUPTI, added up and multiplied by `scale`."""

    metrics: tuple[str, ...]
    scale: float = 1.0


class Quantity(NamedTuple):
    """What is wanted, under the name that records and reports use.

    unit: "B", "share" (0 to 1), "ns" or "1" (operations). options: the first that the chip has is taken.
    average: how samples of a share become one: None for what is added up, "time", or the name of the quantity whose
        traffic the share is of.
    """

    name: str
    unit: str
    options: tuple[Option, ...]
    average: str | None = None


class MetricSet(NamedTuple):
    """quantities: the most important first, as not all may fit. passes: how many are allowed."""

    collection: "_native.Collection"
    passes: int
    quantities: tuple[Quantity, ...]


def _bytes(name: str, *metrics: str) -> Quantity:
    """Bytes, by the first of these metrics that is there; sectors are turned into bytes."""
    options = (Option((f"{metric}.sum",), 32.0 if "sectors" in metric else 1.0) for metric in metrics)
    return Quantity(name, "B", tuple(options))


def _share(name: str, *metrics: str, average: str = "time") -> Quantity:
    """A share, of metrics in percent."""
    return Quantity(name, "share", tuple(Option((metric,), 0.01) for metric in metrics), average)


def _tensor_ops(dtype: str, *sources: tuple[str, ...]) -> Quantity:
    """Operations of the tensor cores as CUPTI counts them, by the first of these groups of counters that is there."""
    options = (Option(tuple(f"sm__ops_path_tensor_src_{source}.sum" for source in group)) for group in sources)
    return Quantity(f"tensor_ops_{dtype}", "1", tuple(options))


_ELAPSED = "avg.pct_of_peak_sustained_elapsed"

# Blackwell's GB20x name the DRAM's counters otherwise; Orin, Thor and Spark have none.
_DRAM = (
    _bytes("dram_read_bytes", "dram__bytes_read", "dram__bytes_op_read", "fbpa__dram_read_bytes"),
    _bytes("dram_write_bytes", "dram__bytes_write", "dram__bytes_op_write", "fbpa__dram_write_bytes"),
)
_L2 = _bytes("l2_bytes", "lts__t_bytes", "lts__t_sectors")
# Hits, misses and the plain rate take two passes everywhere. One pass has a rate under a name for each family, which
# Turing and GA100 do not have.
_L2_HIT = _share(
    "l2_hit_share",
    "LTS.TriageCompute.lts__average_t_sector_hit_rate_realtime.pct",
    "LTS.TriageAC.lts__average_t_sector_hit_rate_realtime.pct",
    "LTS.TriageSCG.lts__average_t_sector_hit_rate_realtime.pct",
    "lts__average_t_sector_hit_rate_realtime.pct",
    "lts__t_sector_hit_rate.pct",
    average="l2_bytes",
)
_L1 = _bytes("l1_bytes", "l1tex__t_bytes", "l1tex__t_sectors")
_SM = _share("sm_active_share", f"sm__cycles_active.{_ELAPSED}")
_TENSOR = _share(
    "tensor_active_share",
    f"sm__pipe_tensor_cycles_active.{_ELAPSED}",
    f"TPC.TriageCompute.sm__pipe_tensor_cycles_active_realtime.{_ELAPSED}",
    f"sm__pipe_tensor_cycles_active_realtime.{_ELAPSED}",
)
_GR = _share("gr_active_share", f"gr__cycles_active.{_ELAPSED}")

SETS = {
    "memory": MetricSet(
        _native.Collection.sampling,
        1,
        (
            *_DRAM,
            _L2,
            _L2_HIT,
            _L1,
            _bytes("l1_hit_bytes", "l1tex__t_bytes_lookup_hit", "l1tex__t_sectors_lookup_hit"),
            _SM,
            _GR,
            _bytes("pcie_read_bytes", "pcie__read_bytes"),
            _bytes("pcie_write_bytes", "pcie__write_bytes"),
            _bytes("nvlink_rx_bytes", "nvlrx__bytes"),
            _bytes("nvlink_tx_bytes", "nvltx__bytes"),
            _TENSOR,
        ),
    ),
    "compute": MetricSet(_native.Collection.sampling, 1, (_SM, _TENSOR, _GR, *_DRAM, _L2, _L2_HIT)),
    "bytes": MetricSet(
        _native.Collection.ranges,
        8,
        (
            *_DRAM,
            _L2,
            _L1,
            Quantity("duration_ns", "ns", (Option(("gpu__time_duration.sum",)),)),
            _tensor_ops("bf16", ("bf16_dst_fp32",)),
            _tensor_ops("tf32", ("tf32_dst_fp32",)),
            # Turing counts what goes to FP32 together for all sources, of which it has FP16 only.
            _tensor_ops(
                "fp16",
                ("fp16",),
                ("fp16_dst_fp32", "fp16_dst_fp16"),
                ("fp16_bf16_tf32_dst_fp32", "fp16_dst_fp16"),
            ),
            # GB100 counts FP8 together with FP6 and FP4.
            _tensor_ops(
                "fp8",
                ("fp8",),
                ("fp8_dst_fp32", "fp8_dst_fp16"),
                ("fp4_fp6_fp8_dst_fp32", "fp4_fp6_fp8_dst_fp16"),
            ),
            _tensor_ops("int8", ("int8",)),
            _bytes("l1_hit_bytes", "l1tex__t_sectors_lookup_hit"),
            _bytes("l2_hit_bytes", "lts__t_sectors_lookup_hit"),
        ),
    ),
}

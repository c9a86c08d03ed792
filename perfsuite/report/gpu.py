"""Which sections the page has about a GPU: all of them for a run on one, else one that says why there are none."""

from typing import Any

from perfsuite.report.charts import Chart
from perfsuite.report.gpu_memory import gpu_memory
from perfsuite.report.idle import idle
from perfsuite.report.kernels import kernels
from perfsuite.report.markup import Markup, paragraph, section
from perfsuite.report.memory_system import memory_system
from perfsuite.report.optional import block, on_gpu


def sections(account: dict[str, Any], drawn: dict[str, Chart]) -> list[Markup]:
    """In the order of a reader's questions: was the device busy, with what, what limits that, what is in its memory."""
    if not on_gpu(account):
        reason = block(account, "ledger", "device")["reason"]
        said = f"There are no kernels, idle times, counters or device memory to show: {reason}."
        return [section("gpu", "GPU", paragraph(said, "absent"))]
    return [
        section("idle", "Where the device waited", *idle(account, drawn)),
        section("kernels", "Kernels", *kernels(account)),
        section("memory-system", "Memory system", *memory_system(account, drawn)),
        section("gpu-memory", "GPU memory", *gpu_memory(account)),
    ]

"""The counter samples of the timeline pass: amounts and shares over time, cut to the clock of the pass."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from perfsuite.account_blocks import why_not


class Samples(NamedTuple):
    """The counter samples of a pass, cut to its clock."""

    begin_ns: np.ndarray
    """int64 (n,) monotonic."""
    end_ns: np.ndarray
    columns: dict[str, np.ndarray]
    """float64 (n,): amounts in the sample, or shares of its time, NaN where there was nothing to take a share of."""

    def seconds(self) -> float:
        """Sampled time."""
        return float(np.sum(self.end_ns - self.begin_ns)) / 1e9

    def amounts(self, name: str) -> np.ndarray:
        """Of each sample: an amount as it is, a share times the nanoseconds that it is a share of; 0 where unknown."""
        column = self.columns[name]
        return np.nan_to_num(column * (self.end_ns - self.begin_ns) if name.endswith("_share") else column)

    def known_ns(self, name: str) -> np.ndarray:
        """Of each sample: its nanoseconds, 0 where this column is not known."""
        return np.where(np.isnan(self.columns[name]), 0.0, self.end_ns - self.begin_ns)

    def within(self, amounts: np.ndarray, spans: np.ndarray) -> float:
        """Sum of amounts inside the spans (int64 (k, 2) ns); a sample is taken as even over its time."""
        edges = np.stack([self.begin_ns, self.end_ns], axis=1).ravel()
        total = np.repeat(np.concatenate([[0.0], np.cumsum(amounts)]), 2)[1:-1]
        ends, begins = (np.interp(spans[:, i], edges, total) for i in (1, 0))
        return float(np.sum(ends - begins))


def open_samples(
    passes: Sequence[Mapping[str, Any]], arrays_of: Callable[[str], Mapping[str, np.ndarray]]
) -> tuple[Mapping[str, Any] | None, Samples | None, str | None]:
    """(the timeline pass, its samples, None), or (None, None, why there are none)."""
    chosen = [pass_ for pass_ in passes if pass_["kind"] == "timeline"]
    if not chosen:
        return None, None, "no timeline pass was run"
    done = next((pass_ for pass_ in chosen if pass_["state"] == "done" and pass_.get("counters")), None)
    if done is None:
        first = chosen[0]
        if first["state"] != "done":
            return None, None, f"the timeline pass failed: {first['error']}"
        return None, None, why_not(first, "counter timeline", "the timeline pass recorded no counters")
    arrays = arrays_of(done["arrays"])
    t_ns, values = np.asarray(arrays["counters_t_ns"]), np.asarray(arrays["counters_values"], np.float64)
    order = np.argsort(t_ns[:, 0], kind="stable")
    t_ns, values = t_ns[order], values[order]
    start, stop = done["start_ns"], done["start_ns"] + done["clock_ns"]
    begin, end = np.clip(t_ns[:, 0], start, stop), np.clip(t_ns[:, 1], start, stop)
    amounts = [i for i, column in enumerate(done["counters"]["columns"]) if not column["name"].endswith("_share")]
    inside = (end > begin) & ~np.isnan(values[:, amounts]).any(axis=1)
    if not inside.any():
        return None, None, "the timeline pass has no counter sample within its clock"
    part = (end - begin)[inside] / (t_ns[:, 1] - t_ns[:, 0])[inside]  # of the samples that the clock's ends cut
    columns = {}
    for i, column in enumerate(done["counters"]["columns"]):
        name = column["name"]
        columns[name] = values[inside, i] * (1.0 if name.endswith("_share") else part)
    return done, Samples(begin[inside], end[inside], columns), None



"""The clock of a pass as an icicle: run, phase, then modules and their ops or ops and their modules.

Whole nanoseconds, so that every tile is exactly the sum of the tiles inside it and the leaves add up to the clock. Host
time and what is in no phase are tiles like any other.
"""

from collections import defaultdict
from typing import Any

from perfsuite.report.charts import Chart, hue, plain
from perfsuite.report.figures import percent, seconds

SMALLEST_SHARE = 0.001
"""Of the clock: what is smaller is put together in one tile, too thin to be seen by itself."""
ROUNDING_NS = 1000


def icicle(ledger: dict[str, Any] | None) -> tuple[Chart | None, list[str]]:
    """The chart, by op and by module where ops were recorded, and sentences about what could not be split."""
    if not ledger or not ledger["phases"] or not ledger["clock_s"]:
        return None, ["There is no time account: no phase was recorded in this pass."]
    notes: list[str] = []
    if not ledger["ops"]:
        return {"views": {"by phase": _view(ledger, ("name", "module"), notes)}, "height": 280}, notes
    views = {
        "by op": _view(ledger, ("name", "module"), notes),
        "by module": _view(ledger, ("module", "name"), []),
    }
    return {"views": views, "height": 620}, notes


def _view(ledger: dict[str, Any], levels: tuple[str, str], notes: list[str]) -> dict[str, Any]:
    clock_ns = round(ledger["clock_s"] * 1e9)
    tiles = _Tiles(clock_ns)
    phases_ns = [round(phase["time_s"] * 1e9) for phase in ledger["phases"]]
    rest_ns = clock_ns - sum(phases_ns)
    if rest_ns < 0:  # the account's own checks say so too; a tile cannot be negative
        notes.append(f"The phases are longer than the clock by {seconds(-rest_ns / 1e9)}: the run's tile is their sum.")
        clock_ns, rest_ns = sum(phases_ns), 0
    tiles.add("run", "", "run", clock_ns, "--tile", "")
    for index, (phase, time_ns) in enumerate(zip(ledger["phases"], phases_ns, strict=True)):
        node = f"p{index}"
        times = "" if phase["calls"] is None else f"{phase['calls']:,} times"  # a window does not know
        tiles.add(node, "run", phase["name"], time_ns, hue(index), times)
        ops = [op for op in ledger["ops"] if op["phase"] == phase["name"] and op["thread"] == "clock"]
        _phase(tiles, node, phase, time_ns, ops, levels, hue(index), notes)
    if rest_ns:
        tiles.add("rest", "run", "unattributed", rest_ns, "--muted/50", "in no phase")
    return {"data": [tiles.trace()], "layout": {"margin": {"t": 4, "l": 4, "r": 4, "b": 4}}}


def _phase(tiles: "_Tiles", node: str, phase: dict[str, Any], time_ns: int, ops: list[dict[str, Any]],
           levels: tuple[str, str], colour: str, notes: list[str]) -> None:  # fmt: skip
    """Split a phase into its ops, op time that no line stands for, and host time."""
    if phase["ops_s"] is None:
        return
    ops_ns = min(round(phase["ops_s"] * 1e9), time_ns)
    listed_ns = sum(round(op["self_time_s"] * 1e9) for op in ops)
    if listed_ns > ops_ns:
        if listed_ns > ops_ns + ROUNDING_NS or listed_ns > time_ns:
            more = seconds((listed_ns - ops_ns) / 1e9)
            notes.append(f"The ops of the {phase['name']} phase add up to {more} more than it has: it is not split.")
            return
        ops_ns = listed_ns
    _split(tiles, node, ops, levels, colour, 0)
    if ops_ns > listed_ns:
        tiles.add(f"{node}/unlisted", node, "ops not listed", ops_ns - listed_ns, f"{colour}/40", "")
    if time_ns > ops_ns:
        what = "outside all ops: Python, dispatch, waits"
        tiles.add(f"{node}/host", node, "host", time_ns - ops_ns, "--muted/35", what)


def _split(tiles: "_Tiles", node: str, ops: list[dict[str, Any]], levels: tuple[str, ...], colour: str,
           depth: int) -> None:  # fmt: skip
    """Tiles for the ops of a node, grouped by the first of `levels`, then in each group by the next."""
    groups: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for op in ops:
        groups[_label(op, levels[0])].append(op)
    times = {label: sum(round(op["self_time_s"] * 1e9) for op in group) for label, group in groups.items()}
    small = [label for label, ns in times.items() if ns < SMALLEST_SHARE * tiles.clock_ns]
    shade = f"{colour}/{(75, 50)[depth]}"
    for number, label in enumerate(sorted(times.keys() - set(small), key=lambda label: -times[label])):
        child = f"{node}/{number}"
        calls = sum(op["calls"] for op in groups[label])
        tiles.add(child, node, label, times[label], shade, f"{calls:,} calls")
        if len(levels) > 1:
            _split(tiles, child, groups[label], levels[1:], colour, depth + 1)
    small_ns = sum(times[label] for label in small)
    if small_ns:
        label = small[0] if len(small) == 1 else f"{len(small)} smaller"
        tiles.add(f"{node}/small", node, label, small_ns, shade, "")


def _label(op: dict[str, Any], key: str) -> str:
    if key == "module":
        return op["module"] or "no module"
    return f"{op['name']} ({op['impl']})" if op["impl"] else op["name"]


class _Tiles:
    """The parallel lists that plotly wants."""

    def __init__(self, clock_ns: int) -> None:
        self.clock_ns = clock_ns
        self._columns: dict[str, list[Any]] = {k: [] for k in ("ids", "parents", "labels", "values", "customdata")}
        self._colors: list[str] = []

    def add(self, node: str, parent: str, label: str, time_ns: int, colour: str, aside: str) -> None:
        share = time_ns / self.clock_ns
        text = f"<b>{plain(label)}</b><br>{seconds(time_ns / 1e9)}, {percent(share)} of the clock"
        values = (node, parent, plain(label), time_ns, f"{text}<br>{aside}" if aside else text)
        for column, value in zip(self._columns.values(), values, strict=True):
            column.append(value)
        self._colors.append(colour)

    def trace(self) -> dict[str, Any]:
        return {
            "type": "icicle", "branchvalues": "total", "sort": False, "tiling": {"orientation": "h", "pad": 1},
            **self._columns, "marker": {"colors": self._colors, "line": {"color": "--card", "width": 0.5}},
            "text": [seconds(ns / 1e9) for ns in self._columns["values"]], "textinfo": "label+text",
            "texttemplate": "%{label}  %{text}", "hovertemplate": "%{customdata}<extra></extra>",
            "pathbar": {"visible": False}, "leaf": {"opacity": 1},
        }  # fmt: skip

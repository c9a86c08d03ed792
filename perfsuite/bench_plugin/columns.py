"""The table that stands below pytest-benchmark's: what it has no columns for."""

from collections.abc import Mapping, Sequence
from typing import Any

from perfsuite.bench_plugin.gate import Judged
from perfsuite.report.figures import percent, seconds, si
from perfsuite.verdict import CANNOT_TELL

_HEADS = ("host", "device", "bytes/s", "of ceiling", "launches", "peak memory", "joules")


def table(found: Mapping[str, Mapping[str, Any]], judged: Sequence[Judged]) -> list[str]:
    """Lines of text. found: extra_info["perfsuite"] of the tests that used perf_benchmark, by name."""
    verdicts = {one.test: one for one in judged}
    names = list(dict.fromkeys([*found, *verdicts]))
    rows = [("", *(_HEADS if found else ()), *(("verdict", "time, B over A") if judged else ()))]
    for name in names:
        rows.append((name, *(_figures(found.get(name)) if found else ()),
                     *(_verdict(verdicts.get(name)) if judged else ())))  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *(cell.rjust(widths[i]) for i, cell in enumerate(row) if i)])
             for row in rows]  # fmt: skip
    return [*lines, *_notes(found), *_details(judged)]


def _figures(one: Mapping[str, Any] | None) -> tuple[str, ...]:
    if one is None:
        return ("-",) * len(_HEADS)
    joules, launches = one["energy"]["joules"], one["launches"]
    return (seconds(one["host_time_s"]), seconds(one["device_time_s"]), si(one["bytes_per_s"], "B/s"),
            percent(one["share_of_ceiling"]), "-" if launches is None else str(launches), si(one["peak_bytes"], "B"),
            si(joules, "J"))  # fmt: skip


def _verdict(one: Judged | None) -> tuple[str, str]:
    if one is None or one.word is None:
        return "-", "new" if one else "-"
    time, word = one.verdicts["time"], one.word + (", more" if one.grown else "")
    if time.ratio is None:
        return word, "-"
    return word, f"{time.ratio:.3f} [{time.ci95[0]:.3f}, {time.ci95[1]:.3f}]"


def _notes(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Each reason for a dash, once."""
    reasons: dict[str, None] = {}
    for one in found.values():
        for what, reason in (("of ceiling", one["ceiling_reason"]), ("launches", one["launches_reason"]),
                             ("peak memory", one["peak_reason"]), ("joules", one["energy"]["reason"])):  # fmt: skip
            if reason:
                reasons[f"{what}: {reason}"] = None
    return list(reasons)


def _details(judged: Sequence[Judged]) -> list[str]:
    """What a row has no room for: the reasons of what could not be told, energy and the quantities without chance."""
    lines = []
    for one in judged:
        more = len(one.verdicts) > 1 or one.grown or one.new or one.word == CANNOT_TELL
        lines += [f"{one.test}: {line}" for line in one.lines] if more else []
    return lines

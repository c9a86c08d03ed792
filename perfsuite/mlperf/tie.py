"""Do two results differ, or are they a statistical tie? Their runs compared by the suite's one rule."""

from typing import Any

from perfsuite import verdict
from perfsuite.verdict import Verdict


def judge(a: dict[str, Any], b: dict[str, Any]) -> Verdict:
    """B against A, both from folder_score.score(); below 1, B takes less time.

    Converged runs that count, each with its folder's factor. No margin: what is asked is whether the order in a table
    would hold if both were run again, not whether anybody should care.
    """
    if a["benchmark"] != b["benchmark"]:
        return verdict.cannot_tell(f"{a['benchmark']} and {b['benchmark']} are two benchmarks")
    if a["throughput"] or b["throughput"]:
        return verdict.cannot_tell("throughput is one time for all models: it has no runs to compare")
    for folder in (a, b):
        if folder["score_min"] is None:  # runs that failed and do not count would make it look better than it is
            return verdict.cannot_tell(f"{folder['label']} has no score: {folder['why']}")
    times = [[run["time_s"] * folder["factor"] for run in folder["runs"] if run["counts"] and run["time_s"]]
             for folder in (a, b)]  # fmt: skip
    for folder, its in zip((a, b), times, strict=True):
        if len(its) < 3:
            return verdict.cannot_tell(f"{folder['label']} has {len(its)} runs that converged; at least 3 are needed")
    try:
        return verdict.judge(verdict.unpaired(*times), margin=0.0)
    except ValueError as error:
        return verdict.cannot_tell(str(error))


def words(found: Verdict) -> str:
    """What the verdict means for two results."""
    if found.word == verdict.FASTER:
        return "the second is faster"
    if found.word == verdict.SLOWER:
        return "the first is faster"
    return "a statistical tie" if found.ratio is not None else "cannot tell"


def pairs(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Folders of two trees that are of the same benchmark. Raises ValueError where there is none."""
    same = [(a, b) for a in first for b in second if a["benchmark"] == b["benchmark"]]
    if not same:
        of = " and ".join(", ".join(sorted({str(f["benchmark"]) for f in side})) for side in (first, second))
        raise ValueError(f"nothing to compare: the two hold results of {of}")
    return same

"""What `perfsuite package` says, before and after it writes; on a terminal 120 columns wide. Never imports torch."""

from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from perfsuite.mlperf import system_description
from perfsuite.mlperf.package import Submission
from perfsuite.mlperf.score import FOOTNOTE

WIDTH = 120
_MOST = 3


def before(made: Submission, rules: str) -> RenderableType:
    """What both checkers say of each benchmark in each division."""
    parts: list[RenderableType] = []
    for division, said in made.said.items():
        parts.append(Text(f"As a submission to the {division} division:", style="bold"))
        for one in said:
            parts.append(_verdict(one["benchmark"], "perfsuite verify", one["valid"], one["errors"]))
            official = one["official"]
            parts.append(_verdict(one["benchmark"], "official package checker", official["accepted"], official["why"]))
    parts.append(Text(f"rules: {rules}", style="dim"))
    return Group(*parts)


def _verdict(benchmark: str, who: str, accepted: bool, why: list[str]) -> Text:
    text = Text(f"  {benchmark}, {who}: ")
    text.append("accepts it" if accepted else "REFUSES it", style="green" if accepted else "red")
    for line in why[:_MOST]:
        text.append(f"\n    {line}")
    if len(why) > _MOST:
        text.append(f"\n    and {len(why) - _MOST} more")
    return text


def after(made: Submission, root: Path) -> RenderableType:
    """What was written, what is not known, and the scores with their footnote."""
    parts: list[RenderableType] = [Text(f"Packaged in the {made.division} division: {root}", style="bold")]
    for one in made.said[made.division]:
        score = "no score" if one["score_min"] is None else f"{one['score_min']:.4f} minutes (unverified)"
        parts.append(Text(f"  {one['benchmark']} from {one['record']}: {score}"))
        if one["quality"]:
            parts.append(Text(f"    quality on the closed metric: {one['quality']}"))
    missing = system_description.unknown(made.described)
    if missing:
        parts.append(Text(f"Not known of {made.system}, --set FIELD=VALUE fills it: {', '.join(missing)}"))
    parts.append(Text(FOOTNOTE, style="dim"))
    return Group(*parts)


def document(made: Submission, root: Path, valid: bool) -> dict[str, Any]:
    """The same as JSON."""
    return {"tree": str(root), "system": made.system, "division": made.division, "valid": valid, "checkers": made.said,
            "not_known": system_description.unknown(made.described), "files": sorted(made.tree),
            "footnote": FOOTNOTE}  # fmt: skip

"""`perfsuite score`: the score of any folder of MLPerf logs."""

import json
from pathlib import Path
from typing import Any

import click

from perfsuite.cli_options import JSON


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--round", "round_name", metavar="ROUND",
              help="E.g. 5.1 or hpc-3.0: adds the check of convergence and the official tools' own score.")  # fmt: skip
@click.option("--against", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Say whether the results differ from those in FOLDER or are a statistical tie.")  # fmt: skip
@click.option("--official", is_flag=True,
              help="Show what the official summarizer prints of the tree as it lies (needs --round).")  # fmt: skip
@click.option("--runs", "show_runs", is_flag=True, help="A line for each run.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write a page of the results there.")  # fmt: skip
@JSON
def score(path: Path, round_name: str | None, against: Path | None, official: bool, show_runs: bool,
          html: Path | None, as_json: bool) -> int:  # fmt: skip
    """Score every folder of logs at or under PATH: olympic mean, interval, convergence, energy. Writes nothing there.

    Given a round, whether each result is valid by the rules text is said too; `perfsuite verify` says why not.

    A record of perfsuite needs no --round: its workload has rules and reference points of its own.

    Exit code 1: a folder has no score, or does not pass the convergence check.
    """
    from rich.console import Console
    from rich.progress import track

    from perfsuite.mlperf import folder_score, own_class, results, rounds, tie
    from perfsuite.mlperf.score import FOOTNOTE

    if official and not round_name:
        raise click.UsageError("--official needs --round: the official rules differ from round to round")
    played = rounds.parse(round_name) if round_name else None
    if played and (official or played not in rounds.WITHOUT_OFFICIAL_RULES):
        rounds.refuse_unknown(played)

    def scored(where: Path) -> list[dict[str, Any]]:
        folders = track(results.find(where), "scoring", console=Console(stderr=True), transient=True)
        return [folder_score.score(folder, played or own_class.round_or_none(folder), html is not None)
                for folder in folders]

    found = scored(path)
    others = scored(against) if against else []
    compared = [
        {"a": a["label"], "b": b["label"], "benchmark": a["benchmark"], "says": tie.words(said), "verdict": said.word,
         "ratio": said.ratio, "ci95": said.ci95, "why": said.why}
        for a, b, said in ((a, b, tie.judge(a, b)) for a, b in (tie.pairs(found, others) if against else []))
    ]  # fmt: skip
    if html is not None:
        from perfsuite.record import write_atomically
        from perfsuite.report.score_page import render as render_page

        write_atomically(html, render_page(found, compared, path.resolve().name).encode(errors="backslashreplace"))
    if as_json:
        document = {"footnote": FOOTNOTE, "round": found[0]["round"], "results": found}
        dumped = json.dumps(document | ({"against": others, "compared": compared} if against else {}))
        # A log may have NaN or infinity where a number should be: they become text, JSON has no word for them.
        click.echo(json.dumps(json.loads(dumped, parse_constant=str), allow_nan=False))
    else:
        from perfsuite.report.score_text import WIDTH, render

        console = Console()
        console = console if console.is_terminal else Console(width=WIDTH)
        console.print(render(found + others, compared, official=official, show_runs=show_runs))
    return 0 if all(_good(one, official) for one in found) else 1


def _good(found: dict[str, Any], official: bool) -> bool:
    if official:
        said = found["official"]
        shown = said and (said["score_min"] is not None or said["throughput"])
        return bool(shown and said["convergence_passed"] is not False)
    failed = found["convergence_counts"] and not found["convergence"]["rules"]["passed"]
    return found["score_min"] is not None and not failed

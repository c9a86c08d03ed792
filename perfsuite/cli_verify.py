"""`perfsuite verify`: is a log, a folder of logs or a submission tree valid?"""

import json
from pathlib import Path
from typing import Any

import click

from perfsuite.cli_options import JSON


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--round", "round_name", metavar="ROUND",
              help="E.g. 5.1, 0.7 or hpc-3.0; a record of perfsuite needs none.")  # fmt: skip
@click.option("--official", is_flag=True, help="Exactly the official checkers' answers, in place of the rules text's.")
@click.option("--differences", is_flag=True, help="Only where the rules text and the official tools part ways.")
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), help="Write a JUnit file there.")
@JSON
def verify(path: Path, round_name: str | None, official: bool, differences: bool, junit: Path | None,
           as_json: bool) -> int:  # fmt: skip
    """Check every log at or under PATH against the rules of a round. Never writes into the tree that it reads.

    A record of perfsuite is checked against the rules of its own workload and scale where no --round is given.

    Exit code 1: something is not valid.
    """
    from rich.console import Console
    from rich.progress import track

    from perfsuite.mlperf import own_class, results, rounds
    from perfsuite.mlperf import verify as verifying
    from perfsuite.report import verify_junit, verify_text

    if junit is not None and not junit.parent.is_dir():
        raise ValueError(f"cannot write {junit}: there is no folder {junit.parent}")
    played = rounds.parse(round_name) if round_name else None
    if played:
        rounds.refuse_unknown(played)
    with_rules = [(folder, played or own_class.round_of(folder)) for folder in results.find(path)]
    if official and any(one.is_own for _, one in with_rules):
        raise click.UsageError("--official needs --round: the official checkers know no class of our own")
    folders = track(with_rules, "verifying", console=Console(stderr=True), transient=True)
    found = [verifying.verify(folder, rules) for folder, rules in folders]
    good = all(_valid(one, official) for one in found)
    if junit is not None:
        junit.write_bytes(verify_junit.render(found, official))
    if as_json:
        shown = [dict(one, differences=verifying.differences(one)) for one in found]
        click.echo(json.dumps({"round": found[0]["round"], "valid": good, "official": official, "results": shown},
                              allow_nan=False))  # fmt: skip
    else:
        console = Console()
        console = console if console.is_terminal else Console(width=verify_text.WIDTH)
        rendered = (verify_text.differences([(one, verifying.differences(one)) for one in found]) if differences
                    else verify_text.render(found, official))  # fmt: skip
        console.print(rendered)
    return 0 if good else 1


def _valid(one: dict[str, Any], official: bool) -> bool:
    if not official:
        return one["valid"]
    return bool(one["official"] and one["official"]["accepted"])

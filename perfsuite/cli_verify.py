"""`perfsuite verify`: is a log, a folder of logs or a submission tree valid?"""

import json
from pathlib import Path
from typing import Any

import click

JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--round", "round_name", metavar="ROUND", required=True, help="E.g. 5.1, 0.7 or hpc-3.0.")
@click.option("--official", is_flag=True, help="Exactly the official checkers' answers, in place of the rules text's.")
@click.option("--differences", is_flag=True, help="Only where the rules text and the official tools part ways.")
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), help="Write a JUnit file there.")
@JSON
def verify(path: Path, round_name: str, official: bool, differences: bool, junit: Path | None,
           as_json: bool) -> int:  # fmt: skip
    """Check every log at or under PATH against the rules of a round. Never writes into the tree that it reads.

    Exit code 1: something is not valid.
    """
    from rich.console import Console
    from rich.progress import track

    from perfsuite.mlperf import results, rounds
    from perfsuite.mlperf import verify as verifying
    from perfsuite.report import verify_junit, verify_text

    played = rounds.parse(round_name)
    rounds.refuse_unknown(played)
    folders = track(results.find(path), "verifying", console=Console(stderr=True), transient=True)
    found = [verifying.verify(folder, played) for folder in folders]
    good = all(_valid(one, official) for one in found)
    if junit is not None:
        if not junit.parent.is_dir():
            raise ValueError(f"cannot write {junit}: there is no folder {junit.parent}")
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
    said = one["official"]
    return bool(said) and (said["accepted"] if len(one["logs"]) > 1 else one["logs"][0]["official_valid"])

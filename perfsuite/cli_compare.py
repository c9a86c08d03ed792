"""`perfsuite compare`: two records, or two revisions run in turns."""

import json
import secrets
from pathlib import Path
from typing import Any

import click

from perfsuite.cli_options import JSON


@click.command()
@click.argument("a")
@click.argument("b", required=False)
@click.option("--workload", default="llama", show_default=True, help="For REV..REV: what is trained.")
@click.option("--scale", default="tiny", show_default=True, help="For REV..REV.")
@click.option("--ops", type=click.Choice(["eager", "native", "compile"]), help="For REV..REV.")
@click.option("--runs", type=click.IntRange(2), default=6, show_default=True, help="For REV..REV: runs of each side.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="For REV..REV: the first seed; drawn by default.")
@click.option("--no-ledger", is_flag=True, help="For REV..REV: the verdict only, without its split into ops.")
@click.option("--force", is_flag=True, help="Compare in spite of another machine or task, and say what was ignored.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("runs"), show_default=True,
              help="Folder that records are kept in.")
@JSON
def compare(a: str, b: str | None, workload: str, scale: str, ops: str | None, runs: int, seed: int | None,
            no_ledger: bool, force: bool, out: Path, as_json: bool) -> int:  # fmt: skip
    """Is B faster than A? Two records (numbers or folders; several of one side with commas), or REV..REV.

    Exit code 0: FASTER or SAME, 1: SLOWER, 3: CANNOT_TELL.
    """
    from perfsuite import compare as comparing
    from perfsuite import verdict

    interleaved = b is None
    if interleaved:
        from perfsuite.compare_revisions import interleave, show

        first = secrets.randbelow(2**31 - runs) if seed is None else seed
        arguments = ["--scale", scale, *(["--ops", ops] if ops else [])]
        folders = interleave(a, Path.cwd(), workload, arguments, runs, first, not no_ledger, out, show)
    else:
        folders = tuple([_find(name, out) for name in side.split(",")] for side in (a, b))
    found = comparing.compare(*(_load(side) for side in folders), _arrays, interleaved=interleaved, force=force)
    if as_json:
        click.echo(json.dumps(found, allow_nan=False))
    else:
        from rich.console import Console

        from perfsuite.report.compare_text import render

        Console().print(render(found))
    return verdict.EXIT_CODES[found["verdict"]]


def _find(name: str, out: Path) -> Path:
    from perfsuite import record

    return record.find(name, out)


def _load(folders: list[Path]) -> list[dict[str, Any]]:
    from perfsuite import record

    return [vars(record.load(folder)) | {"folder": folder} for folder in folders]


def _arrays(made: dict[str, Any], name: str) -> Any:
    from perfsuite import record

    return record.arrays_of(made["folder"], name)

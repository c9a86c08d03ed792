"""`perfsuite track`: the history of benchmarks over commits."""

import json
from pathlib import Path

import click

from perfsuite.cli_options import JSON


@click.command()
@click.argument("places", nargs=-1, metavar="[FOLDER]...", type=click.Path(path_type=Path))
@click.option("--benchmark", metavar="REGEX", help="Only benchmarks whose name it is found in.")
@click.option("--machine", metavar="ID", help="Only the machine whose id begins so.")
@click.option("--since", metavar="COMMIT", help="Only what was measured at this commit or a later one.")
@click.option("--fail-since", metavar="COMMIT",
              help="Slow-downs up to and with this commit are accepted: only later ones give exit code 1.")  # fmt: skip
@click.option("--html", "page", type=click.Path(dir_okay=False, path_type=Path), help="Write a page of charts there.")
@JSON
def track(places: tuple[Path, ...], benchmark: str | None, machine: str | None, since: str | None,
          fail_since: str | None, page: Path | None, as_json: bool) -> int:  # fmt: skip
    """Find what changed over commits in the stored files of FOLDERs (.benchmarks and runs by default).

    Reads what `pytest --benchmark-autosave` and `perfsuite run` stored. Exit code 1: a real slow-down stands, that is,
    one that later commits have not taken back.
    """
    from perfsuite.track import files
    from perfsuite.track import track as tracked

    found = tracked(places or files.default_places(), machine=machine, benchmark=benchmark, since=since,
                    fail_since=fail_since)  # fmt: skip
    if page is not None:
        _write(page, found)
    if as_json:
        click.echo(json.dumps(found, allow_nan=False))
    else:
        from rich.console import Console

        from perfsuite.report.track_text import WIDTH, render

        console = Console()
        console = console if console.is_terminal else Console(width=WIDTH)  # CI: rich takes 80 where nobody looks
        console.print(render(found, console.width))
    if page is not None:
        click.echo(f"page: {page}", err=True)
    return 1 if any(row["failing"] for row in found["series"]) else 0


def _write(page: Path, found: dict) -> None:
    from perfsuite import record

    try:
        from perfsuite.report.track_page import render
    except ImportError as error:
        raise ValueError(f"no page: {error.name} is not installed (pip install 'perfsuite[report]')") from None
    if not page.parent.is_dir():
        raise ValueError(f"cannot write {page}: there is no folder {page.parent}")
    record.write_atomically(page, render(found).encode())

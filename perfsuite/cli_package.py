"""`perfsuite package`: from records to a submission tree."""

import json
from pathlib import Path
from typing import Any

import click

from perfsuite.cli_options import JSON


def _told(_: Any, __: Any, pairs: tuple[str, ...]) -> dict[str, str]:
    told = {}
    for pair in pairs:
        field, equals, value = pair.partition("=")
        if not equals:
            raise click.BadParameter(f"{pair!r} is not FIELD=VALUE")
        if told.get(field, value) != value:
            raise click.BadParameter(f"{field} is {told[field]!r} and {value!r}: give it once")
        told[field] = value
    return told


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--round", "round_name", metavar="ROUND", required=True, help="E.g. 6.1.")
@click.option("--org", required=True, help="The submitting organisation; names the tree's folder.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True,
              help="Folder that the tree goes to; one that is there is added to.")  # fmt: skip
@click.option("--system", help="Name of the system; made from the record's machine by default.")
@click.option("--set", "told", multiple=True, callback=_told, metavar="FIELD=VALUE",
              help="Fill a field of the system description; repeatable.")  # fmt: skip
@click.option("--division", type=click.Choice(["open", "closed"]),
              help="By default closed where the runs are and both checkers accept them, else open.")  # fmt: skip
@click.option("--records", type=click.Path(file_okay=False, path_type=Path), default=Path("runs"), show_default=True,
              help="Folder that records are kept in.")  # fmt: skip
@JSON
def package(runs: tuple[str, ...], round_name: str, org: str, out: Path, system: str | None, told: dict[str, str],
            division: str | None, records: Path, as_json: bool) -> int:  # fmt: skip
    """Make a submission tree from records, each RUN a number, a folder or 'last': one machine, a benchmark each.

    What both checkers say in each division is said before anything is written. Nothing is overwritten.
    Exit code 1: perfsuite verify does not accept the tree.
    """
    from rich.console import Console

    from perfsuite import record
    from perfsuite.mlperf import package as packaging
    from perfsuite.mlperf import rounds, rulebook
    from perfsuite.report import package_text

    played = rounds.parse(round_name)
    rounds.refuse_unknown(played)
    folders = [record.find(run, records) for run in runs]
    twice = next((folder for i, folder in enumerate(folders) if folder.resolve() in
                  [other.resolve() for other in folders[:i]]), None)  # fmt: skip
    if twice:
        raise ValueError(f"{twice} is given twice: give each record once")
    made = packaging.prepare(folders, played, org=org, system=system, told=told, asked=division)
    root = out / org
    packaging.refuse_conflicts(made, root)
    console = Console()
    console = console if console.is_terminal else Console(width=package_text.WIDTH)
    if not as_json:
        console.print(package_text.before(made, rulebook.said(played)))
    packaging.write(made.tree, root)
    valid = all(one["valid"] for one in made.said[made.division])
    if as_json:
        click.echo(json.dumps(package_text.document(made, root, valid), allow_nan=False))
    else:
        console.print(package_text.after(made, root))
    return 0 if valid else 1

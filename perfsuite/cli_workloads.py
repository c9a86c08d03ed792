"""`perfsuite workloads`: what there is to train, and what this machine has measured of it."""

import json
from pathlib import Path

import click

from perfsuite.cli_options import JSON

OUT = click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("runs"), show_default=True,
                   help="Folder of the records that times are taken from.")


@click.command()
@OUT
@JSON
def workloads(out: Path, as_json: bool) -> int:
    """List the workloads and their scales: area, target, data, and the newest time to train of this machine."""
    from perfsuite import measured_here
    from perfsuite.report.workloads_text import WIDTH, rows, table
    from perfsuite.workloads import registry

    listed = rows([registry.load(name) for name in registry.names()], measured_here.scored(out))
    if as_json:
        click.echo(json.dumps(listed))
    else:
        from rich.console import Console

        console = Console()
        console = console if console.is_terminal else Console(width=WIDTH)  # rich takes 80 where nobody looks
        console.print(table(listed), width=min(console.width, WIDTH))
    return 0

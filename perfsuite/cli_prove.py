"""`perfsuite prove`: somebody's kernel, from right to shorter training."""

import json
from pathlib import Path

import click

from perfsuite.cli_options import JSON

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--op", required=True, help="The op that the file's function of the same name does: perfsuite ops list.")
@click.option("--workload", help="Also train it (a name or a .py file) to its target with and without the kernel.")
@click.option("--workload-scale", default="tiny", show_default=True)
@click.option("--runs", type=click.IntRange(2), default=12, show_default=True, help="Runs of each side, at most.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="First seed of the runs; drawn by default.")
@click.option("--data", type=FOLDER, help="Folder of the workload's data.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="cuda where there is one by default.")
@click.option("--scale", help="Of the op's cases that are timed; the device's own by default.")
@click.option("--case", default="", help="Time only cases whose name contains this.")
@click.option("--budget", type=click.FloatRange(0), default=180.0, show_default=True, metavar="SECONDS",
              help="Of timing: no further look is begun after it.")
@click.option("--draws", type=click.IntRange(32), default=32, show_default=True, help="Fresh inputs for each case.")
@click.option("--examples", type=click.IntRange(0), default=100, show_default=True, help="Cases drawn by hypothesis.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), metavar="PAGE",
              help="Also write one page for a pull request.")
@click.option("--out", type=FOLDER, default=Path("runs"), show_default=True, help="Folder that records are kept in.")
@JSON
def prove(file: Path, op: str, workload: str | None, workload_scale: str, runs: int, seed: int | None,
          data: Path | None, device: str | None, scale: str | None, case: str, budget: float, draws: int, examples: int,
          html: Path | None, out: Path, as_json: bool) -> int:  # fmt: skip
    """Is the kernel in FILE right, faster than torch, near the limit, and does training get shorter with it?

    Stops at the first refutation. Exit code 0: proven, 1: refuted, 3: cannot tell.
    """
    from rich.console import Console

    from perfsuite import record
    from perfsuite.prove.run import EXIT_CODES, Request
    from perfsuite.prove.run import prove as run_prove
    from perfsuite.report.progress import RunProgress
    from perfsuite.report.prove_page import page
    from perfsuite.report.prove_text import render

    if html and not html.absolute().parent.is_dir():
        raise ValueError(f"--html {html}: there is no folder {html.parent}")
    request = Request(file=file, op=op, device=device, scale=scale, case=case, budget_s=budget, draws=draws,
                      examples=examples, workload=workload, workload_scale=workload_scale, data=data, pairs=runs,
                      seed=seed, out=out)  # fmt: skip
    with Console(stderr=True).status("loading") as status:

        def observe() -> RunProgress:  # two live displays would write over each other
            status.stop()
            return RunProgress()

        found = run_prove(request, lambda what, share: status.update(f"{what} ({share:.0%})"), observe)
    if html:
        record.write_atomically(html, page(found).encode())
    if as_json:
        click.echo(json.dumps(found, allow_nan=False))
    else:
        console = Console()
        (console if console.is_terminal else Console(width=100)).print(render(found))
    return EXIT_CODES[found["verdict"]]

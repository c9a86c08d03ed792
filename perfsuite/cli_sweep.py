"""`perfsuite sweep`: a workload at several batch sizes, and where more throughput stops shortening training."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from perfsuite.cli_options import JSON

FOLDER = click.Path(file_okay=False, path_type=Path)


def _sizes(_: Any, __: Any, text: str | None) -> list[int] | None:
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) for word in words) or len({int(word) for word in words}) < 2:
        raise click.BadParameter(f"{text!r}: give two whole numbers or more, e.g. 16,32,64,128")
    return [int(word) for word in words]


def _use(_: Any, __: Any, choices: tuple[str, ...]) -> dict[str, str]:
    from perfsuite.kernels import contract

    return contract.parse_use(choices)


@click.command()
@click.argument("workload", required=False)
@click.option("--batch-size", "batch_sizes", callback=_sizes, metavar="N,N,...", help="Batch sizes, in any order.")
@click.option("--scale", default="tiny", show_default=True, help="Size of model, data and target.")
@click.option("--runs", type=click.IntRange(2), default=3, show_default=True, help="Runs at each batch size.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="First seed, the others follow it; drawn by default.")
@click.option("--device", help="cpu or cuda; cuda where there is one by default.")
@click.option("--use", multiple=True, callback=_use, metavar="OP=IMPL", help="As for `perfsuite run`.")
@click.option("--ops", type=click.Choice(["eager", "native", "compile"]), default="eager", show_default=True,
              help="As for `perfsuite run`.")  # fmt: skip
@click.option("--data", type=FOLDER, help="Folder of the data.")
@click.option("--target", type=float, help="Another quality target than the workload's own.")
@click.option("--resume", metavar="SWEEP", help="Go on with one that was cut off: a folder, a number or 'last'.")
@click.option("--out", type=FOLDER, default=Path("runs"), show_default=True, help="Folder that records are kept in.")
@JSON
def sweep(workload: str | None, batch_sizes: list[int] | None, scale: str, runs: int, seed: int | None,
          device: str | None, use: dict[str, str], ops: str, data: Path | None, target: float | None,
          resume: str | None, out: Path, as_json: bool) -> int:  # fmt: skip
    """Train WORKLOAD to its target at several batch sizes: where does more throughput stop shortening training?

    Exit code 0: some batch size reaches the target, 1: none does.
    """
    from perfsuite import record
    from perfsuite import sweep as sweeping
    from perfsuite.harness.run import Request
    from perfsuite.report.progress import RunProgress

    if not resume and (workload is None or batch_sizes is None):
        raise click.UsageError("give a workload and its batch sizes, e.g. perfsuite sweep bert --batch-size 16,32,64")
    with RunProgress() as progress:
        if resume:
            folder = sweeping.resume(record.find(resume, out, sweeping.SWEEP_FILE), progress)
        else:
            request = Request(workload=workload, scale=scale, num_runs=runs, seed=seed, device=device, use=use, ops=ops,
                              data_folder=data, target=target, out=out, command=("perfsuite", *sys.argv[1:])
                              )  # fmt: skip
            folder = sweeping.start(request, batch_sizes, progress)
    found = _account(folder)
    page = _write_page(found, folder)
    if as_json:
        click.echo(json.dumps(found, allow_nan=False))
    else:
        from rich.console import Console

        from perfsuite.report.sweep_text import render

        console = Console()
        (console if console.is_terminal else Console(width=100)).print(render(found, str(folder), str(page)))
    return 0 if found["best"]["batch_size"] is not None else 1


def _account(folder: Path) -> dict[str, Any]:
    from perfsuite import record, sweep, sweep_account

    found = sweep.load(folder)
    return sweep_account.account(found, [vars(record.load(folder / name)) for name in found["records"]])


def _write_page(found: dict[str, Any], folder: Path) -> Path | str:
    """Write sweep.html into the folder; its path, or why there is none."""
    from perfsuite import record

    try:
        from perfsuite.report.sweep_page import render
    except ImportError as error:
        return f"no page: {error.name} is not installed (pip install 'perfsuite[report]')"
    path = folder / "sweep.html"
    record.write_atomically(path, render(found).encode())
    return path

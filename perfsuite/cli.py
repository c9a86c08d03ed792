"""The command line. Verbs in the order of a working day: run, report, runs, compare, prove, sweep, track, ops,
machine, counters, workloads, rcp, doctor; and for MLPerf's logs verify, score, package.

Exit codes: 0 done (target reached), 1 target not reached, 2 bad usage or input with one line that says what to mend.
With --json one JSON document goes to standard output and everything else to standard error.
"""

import io
import json
import sys
from pathlib import Path
from typing import Any

import click

import perfsuite
from perfsuite import (
    cli_compare,
    cli_counters,
    cli_ops,
    cli_package,
    cli_prove,
    cli_score,
    cli_suite,
    cli_sweep,
    cli_track,
    cli_verify,
    cli_workloads,
)
from perfsuite.cli_options import JSON
from perfsuite.cli_report import account_of, write_page

OUT = click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("runs"), show_default=True,
                   help="Folder that records are kept in.")
BESIDE = Path("beside the record")


def main() -> None:
    """Entry point: every user error is one line on standard error and exit code 2, never a traceback."""
    for stream in (sys.stdout, sys.stderr):  # a log, or a file's name, may hold what an encoding has no letter for
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        code = 2
    except click.ClickException as error:
        click.echo(f"perfsuite: {error.format_message()}", err=True)
        code = 2
    except ValueError as error:
        click.echo(f"perfsuite: {error}", err=True)
        code = 2
    except ModuleNotFoundError as error:  # only what an extra brings is imported late
        extra = "report" if error.name and error.name.split(".")[0] in ("perfetto", "google") else "torch"
        click.echo(f"perfsuite: {error.name} is not installed: pip install 'perfsuite[{extra}]'", err=True)
        code = 2
    except (click.Abort, KeyboardInterrupt):
        go_on = f"perfsuite {'sweep' if sys.argv[1:2] == ['sweep'] else 'run'} --resume last"
        click.echo(f"perfsuite: interrupted; what was finished is kept, `{go_on}` goes on", err=True)
        code = 130
    except BrokenPipeError:  # `perfsuite report 7 | head`
        sys.stderr.close()
        code = 0
    sys.exit(code or 0)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(perfsuite.__version__, prog_name="perfsuite")
def cli() -> None:
    """Time-to-train with every second, byte and joule of it accounted for."""


cli.add_command(cli_ops.ops)
cli.add_command(cli_compare.compare)
cli.add_command(cli_prove.prove)
cli.add_command(cli_sweep.sweep)
cli.add_command(cli_track.track)
cli.add_command(cli_score.score)
cli.add_command(cli_verify.verify)
cli.add_command(cli_package.package)
cli.add_command(cli_counters.counters)
cli.add_command(cli_workloads.workloads)


def _use(_: Any, __: Any, choices: tuple[str, ...]) -> dict[str, str]:
    from perfsuite.kernels import contract

    return contract.parse_use(choices)


@cli.command()
@click.argument("workload", default="llama")
@click.option("--scale", default="tiny", show_default=True, help="Size of model, data and target.")
@click.option("--runs", type=click.IntRange(1), help="Scored runs; the workload's own number by default.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="First seed, the others follow it; drawn by default.")
@click.option("--device", help="cpu or cuda; cuda where there is one by default.")
@click.option("--use", multiple=True, callback=_use, metavar="OP=IMPL",
              help="How an op is done: an implementation, or your own file.py; repeatable.")
@click.option("--ops", type=click.Choice(["eager", "native", "compile"]), default="eager", show_default=True,
              help="How ops are done that --use does not name: plain torch, the measured best of our kernels for each "
              "shape, or plain torch with the model compiled by torch.compile.")
@click.option("--division", type=click.Choice(["open", "closed"]), default="open", show_default=True,
              help="closed refuses another model, target, batch size or hyperparameters; kernels may be swapped.")
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), help="Folder of the data.")
@click.option("--target", type=float, help="Another quality target than the workload's own.")
@click.option("--batch-size", type=click.IntRange(1), help="Another batch size than the workload's own; its own rule "
              "gives the learning rate.")
@click.option("--no-ledger", is_flag=True, help="Score only: leave out the pass with the recorders on.")
@click.option("--timeline", is_flag=True, help="One more pass: memory and tensor counters of the GPU over the run.")
@click.option("--counters", is_flag=True, help="One more pass: bytes and tensor operations of each kernel.")
@click.option("--host-stacks", is_flag=True, help="One more pass, with py-spy beside it.")
@click.option("--resume", metavar="RUN", help="Go on with a run that was cut off: a folder, a number or 'last'.")
@OUT
@JSON
def run(workload: str, scale: str, runs: int | None, seed: int | None, device: str | None, use: dict[str, str],
        ops: str, division: str, data: Path | None, target: float | None, batch_size: int | None, no_ledger: bool,
        timeline: bool, counters: bool, host_stacks: bool, resume: str | None, out: Path, as_json: bool) -> int:
    """Train WORKLOAD (a name, a .py file, or all) to its target, several times, and account for the time."""
    from perfsuite import record
    from perfsuite.harness import run as harness
    from perfsuite.report.progress import RunProgress

    request = harness.Request(
        workload=workload, scale=scale, num_runs=runs, seed=seed, device=device, division=division, use=use,
        ops=ops,
        data_folder=data, out=out, ledger=not no_ledger, timeline=timeline, counters=counters,
        host_stacks=host_stacks, target=target, batch_size=batch_size,
        command=("perfsuite", *sys.argv[1:]),
    )  # fmt: skip
    if workload == "all":
        return cli_suite.run_all(request, resume, as_json)
    with RunProgress() as progress:
        if resume:
            _, folder = harness.resume(record.find(resume, out), progress)
        else:
            _, folder = harness.start(request, progress)
    account = account_of(folder)
    _show(account, folder, as_json)
    score = account["score"]
    return 0 if score and score["time_to_train_s"] is not None else 1


def _show(account: dict[str, Any], folder: Path, as_json: bool) -> None:
    page = write_page(account, folder)
    if as_json:
        click.echo(json.dumps(account, allow_nan=False))
        return
    from rich.console import Console

    from perfsuite.report.terminal import summary

    Console().print(summary(account, report_path=page if isinstance(page, str) else str(page)))


def _window(_: Any, __: Any, text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, colon, last = text.partition(":")
    if not colon or not first.isdigit() or not last.isdigit() or int(first) >= int(last):
        raise click.BadParameter(f"{text!r} is not a window of steps: give FIRST:LAST with FIRST < LAST, e.g. 50:150")
    return int(first), int(last)


@cli.command()
@click.argument("run", default="last")
@click.option("--steps", callback=_window, metavar="A:B", help="Account for steps A to B (not including B) only.")
@click.option("--html", is_flag=True, help="Write report.html and print its path only.")
@click.option("--perfetto", type=click.Path(dir_okay=False, path_type=Path), is_flag=False, flag_value=BESIDE,
              metavar="[PATH]", help="Write a timeline for ui.perfetto.dev, beside the record or to PATH, and print "
              "its path only.")
@OUT
@JSON
def report(run: str, steps: tuple[int, int] | None, html: bool, perfetto: Path | None, out: Path,
           as_json: bool) -> int:  # fmt: skip
    """Show a record: RUN is a number, a folder or 'last'."""
    from perfsuite import record

    folder = record.find(run, out)
    if perfetto is not None:
        if steps is not None:
            raise click.UsageError("--perfetto draws the whole run: leave --steps out")
        _write_trace(folder, perfetto, as_json)
        return 0
    account = account_of(folder, steps)
    if html:
        click.echo(write_page(account, folder))
    else:
        _show(account, folder, as_json)
    return 0


def _write_trace(folder: Path, path: Path, as_json: bool) -> None:
    from perfsuite import record
    from perfsuite.report import perfetto

    if path == BESIDE:
        path = folder / perfetto.FILE_NAME
    trace, absent = perfetto.render(vars(record.load(folder)), lambda name: record.arrays_of(folder, name))
    record.write_atomically(path, trace)
    if as_json:
        click.echo(json.dumps({"path": str(path), "absent": absent}))
        return
    for line in absent:
        click.echo(line, err=True)
    click.echo(path)


@cli.command()
@OUT
@JSON
def runs(out: Path, as_json: bool) -> int:
    """List what was recorded."""
    from perfsuite import record
    from perfsuite.report.runs_text import brief, table

    rows = []
    for folder in record.list_folders(out):
        try:
            rows.append(brief(record.load(folder)))
        except record.RecordError as error:
            rows.append({"id": folder.name, "error": str(error)})
    if as_json:
        click.echo(json.dumps(rows))
    elif not rows:
        click.echo(f"nothing recorded in {out} yet: `perfsuite run` makes the first record")
    else:
        from rich.console import Console

        Console().print(table(rows))
    return 0


@cli.command()
@click.option("--quick", is_flag=True, help="Fewer repetitions, wider spread.")
@JSON
def machine(quick: bool, as_json: bool) -> int:
    """Measure this machine's ceilings: bandwidths, latencies, peaks. Kept for later reports."""
    from rich.console import Console

    from perfsuite import ceilings
    from perfsuite.machine import fingerprint
    from perfsuite.report.machine_text import render_machine

    with Console(stderr=True).status("measuring bandwidths, latencies and peaks") as status:
        measured = ceilings.measure(
            lambda done, total, what: status.update(f"measuring {what} ({100 * done // total} %)"), quick=quick
        )
    path, reason = ceilings.save(measured)
    if as_json:
        click.echo(json.dumps(measured, allow_nan=False))
    else:
        Console().print(render_machine(fingerprint(), measured))
    click.echo(f"kept in {path}" if path else reason, err=True)
    return 0


@cli.command()
@click.argument("workload")
@click.option("--scale", default="tiny", show_default=True)
@click.option("--seeds", type=click.IntRange(2), default=20, show_default=True)
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="Runs at the same time.")
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), help="Folder of the data.")
@JSON
def rcp(workload: str, scale: str, seeds: int, jobs: int, data: Path | None, as_json: bool) -> int:
    """Make the reference convergence points of WORKLOAD and store them beside it."""
    from perfsuite.harness import reference_points
    from perfsuite.report.progress import RunProgress

    with RunProgress() as progress:
        points, path = reference_points.make(workload, scale, seeds, jobs, data, progress)
    reached = sum(s is not None for s in points["samples_to_target"])
    if as_json:
        click.echo(json.dumps(points))
    else:
        click.echo(f"{reached} of {seeds} seeds reached {points['target']}; stored in {path}")
    return 0 if reached >= 0.95 * seeds else 1


@cli.command()
@JSON
def doctor(as_json: bool) -> int:
    """Say what was built, which instruments work here, and why others do not."""
    from perfsuite.doctor import examine
    from perfsuite.report.doctor_text import table

    rows = examine()
    if as_json:
        click.echo(json.dumps(rows))
    else:
        from rich.console import Console

        Console().print(table(rows))
    return 0

"""`perfsuite ops`: list, check, bench and inspect the op library."""

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from perfsuite.cli_options import JSON

DEVICE = click.option("--device", type=click.Choice(["cpu", "cuda"]), help="cuda where there is one by default.")
IMPL = click.option("--impl", multiple=True, metavar="NAME", help="Only this implementation; repeatable.")


@click.group()
def ops() -> None:
    """The op library: what there is, whether it is right, how fast it is, and the code that it became."""


def _names(op: str | None) -> list[str]:
    from perfsuite.kernels import contract

    if op is None:
        return sorted(contract.MODULES)
    contract.op(op)  # ValueError for one that there is not
    return [op]


def _device(device: str | None) -> str:
    from perfsuite import conditions

    return conditions.device(device)


def _show(rendered: Any) -> None:
    console = Console()
    if not console.is_terminal:  # in a file lines need not be folded
        console = Console(width=200)
    console.print(rendered)


def _bars() -> Progress:
    return Progress(TextColumn("{task.description}", markup=False), BarColumn(bar_width=20),
                    console=Console(stderr=True), transient=True)  # fmt: skip


@ops.command("list")
@DEVICE
@JSON
def list_ops(device: str | None, as_json: bool) -> int:
    """Every op, its implementations, and why one does not run here."""
    from perfsuite.kernels import contract, tuning
    from perfsuite.report.ops_text import listing

    where = _device(device)
    found = []
    for name in _names(None):
        op = contract.op(name)
        module = __import__(contract.MODULES[name], fromlist=["OP"])
        does = (module.__doc__ or "").strip().splitlines()[0]
        here = {impl: one.why_not(where) for impl, one in op.implementations.items()}
        found.append({"op": name, "does": does, "implementations": here})
    entries, reason = tuning.load()
    tuned = f"--ops native: {reason or f'{len(entries)} measured shapes in {tuning.path_of()}'}"
    if as_json:
        click.echo(json.dumps({"device": where, "ops": found, "tuning": tuned}))
    else:
        _show(listing(found, tuned))
    return 0


@ops.command()
@click.argument("op", required=False)
@IMPL
@DEVICE
@click.option("--kernel", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.py",
              help="Check the function named OP in this file instead of our implementations.")
@click.option("--draws", type=click.IntRange(32), default=32, show_default=True, help="Fresh inputs for each case.")
@click.option("--examples", type=click.IntRange(0), default=100, show_default=True, help="Cases drawn by hypothesis.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--huge", is_flag=True, help="Also more than 2^31 elements, where memory allows (slow on a CPU).")
@JSON
def check(op: str | None, impl: tuple[str, ...], device: str | None, kernel: Path | None, draws: int, examples: int,
          seed: int, huge: bool, as_json: bool) -> int:
    """Compare implementations with float64 and eager torch. Exit code 1 where one is wrong."""
    from perfsuite.kernels import contract
    from perfsuite.kernels.own_file import kernel_from_file
    from perfsuite.op_check import check_implementation
    from perfsuite.report.ops_text import checked

    where = _device(device)
    if kernel is not None and op is None:
        raise ValueError("--kernel needs the op that the file implements: perfsuite ops check OP --kernel FILE.py")
    results: list[dict[str, Any]] = []
    left_out: list[str] = []
    with _bars() as bars:
        for name in _names(op):
            one = contract.op(name)
            if kernel is not None:
                wanted = [kernel_from_file(kernel, one)]
            else:
                wanted = _chosen(one, impl, ("compile", "eager"))
            for implementation in wanted:
                reason = implementation.why_not(where)
                if reason:
                    left_out.append(f"not checked: {name}={implementation.name}: {reason}")
                    continue
                cases = len(one.cases("tiny"))
                task = bars.add_task(f"{name}={implementation.name}", total=cases + 6)
                for result in check_implementation(one, implementation, where, draws, examples, seed, huge):
                    results.append(result._asdict() | {"errors": [e._asdict() for e in result.errors]})
                    bars.advance(task)
                bars.remove_task(task)
    if as_json:
        click.echo(json.dumps({"device": where, "results": results, "left_out": left_out}))
    else:
        _show(checked(results))
        for line in left_out:
            click.echo(line)
    if not results:
        raise ValueError("nothing was checked: " + "; ".join(left_out))
    return 1 if any(result["ok"] is False for result in results) else 0


def _chosen(op: Any, impl: tuple[str, ...], but: tuple[str, ...]) -> list[Any]:
    for name in impl:
        if name not in op.implementations:
            raise ValueError(f"{op.name} has no implementation {name!r}; it has {', '.join(op.implementations)}")
    return [one for name, one in op.implementations.items() if (name in impl if impl else name not in but)]


@ops.command()
@click.argument("op", required=False)
@IMPL
@DEVICE
@click.option("--case", "case_filter", default="", help="Only cases whose name contains this.")
@click.option("--scale", help="Of the cases; the device's own by default.")
@click.option("--budget", type=click.FloatRange(0.1), default=4.0, show_default=True, metavar="SECONDS",
              help="For each case, with cold and with warm inputs.")
@click.option("--max-autotune/--no-max-autotune", default=None, help="Also torch.compile in this mode (GPU: yes).")
@click.option("--cold-only", is_flag=True, help="Leave out the timings with inputs in the caches.")
@click.option("--no-tuning", is_flag=True, help="Do not keep the choices for --ops native.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Also write the JSON to this file.")
@JSON
def bench(op: str | None, impl: tuple[str, ...], device: str | None, case_filter: str, scale: str | None,
          budget: float, max_autotune: bool | None, cold_only: bool, no_tuning: bool, out: Path | None,
          as_json: bool) -> int:
    """Time every implementation against all that a user would pick instead, interleaved, and tune --ops native."""
    from perfsuite.kernels import contract
    from perfsuite.op_bench.run import bench as run_bench
    from perfsuite.report.ops_text import benched

    where = _device(device)
    if op is not None:
        _chosen(contract.op(op), impl, ())  # ValueError for one that it does not have
    with _bars() as bars:
        task = bars.add_task("", total=1.0)
        shown = ""

        def progress(what: str, share: float) -> None:
            nonlocal shown
            if not bars.console.is_terminal and what != shown:
                click.echo(what, err=True)
            shown = what
            bars.update(task, description=what, completed=share)

        result = run_bench(
            _names(op), where, scale=scale, case_filter=case_filter, budget_s=budget, impls=impl,
            max_autotune=max_autotune, warm_too=not cold_only, tune=not no_tuning, progress=progress,
        )  # fmt: skip
    if not result["rows"]:
        raise ValueError(f"no case has {case_filter!r} in its name: without --case all are timed, with their names")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result))
    if as_json:
        click.echo(json.dumps(result))
    else:
        _show(benched(result))
    return 0


@ops.command()
@click.argument("op", required=False)
@click.option("--arch", multiple=True, type=int, metavar="NN", default=(80, 90, 100), show_default=True,
              help="Compute capability, repeatable; 90 is sm_90, an H100.")
@click.option("--baseline", is_flag=True, help="Compare with the baseline kept with the op library; 1 where worse.")
@JSON
def inspect(op: str | None, arch: tuple[int, ...], baseline: bool, as_json: bool) -> int:
    """Compile the GPU kernels, with no GPU, and show what they became: registers, spills, widths, occupancy."""
    from perfsuite import op_inspect
    from perfsuite.op_inspect import baseline as kept
    from perfsuite.report import inspect_text

    found: dict[str, list[dict[str, Any]]] = {}
    with _bars() as bars:
        task = bars.add_task("compiling", total=None)
        for name in _names(op):
            found[name] = op_inspect.inspect(name, tuple(arch), lambda what: bars.update(task, description=what))
    worse: list[str] = []
    if baseline:
        before = kept.load()["ops"]
        for name, rows in found.items():
            worse += kept.worse(before.get(name, {}), kept.summarize(rows))
    if as_json:
        click.echo(json.dumps({"rows": [row for rows in found.values() for row in rows], "worse": worse}))
    else:
        for rows in found.values():
            if rows:
                _show(inspect_text.table(rows))
        for line in worse:
            click.echo(f"worse than the baseline: {line}")
    if not any(found.values()):
        raise ValueError(f"{op or 'no op'} has no GPU kernels to inspect")
    return 1 if worse else 0

"""`perfsuite counters`: which hardware counters are collected on which chip. Needs no GPU."""

import json

import click

from perfsuite.counters.sets import SETS


@click.group()
def counters() -> None:
    """Hardware counters: what is collected on a chip, and what is not."""


@counters.command("plan")
@click.option("--chip", default="GH100", show_default=True, help="As CUPTI calls it; `all` for every one it knows.")
@click.option("--set", "names", type=click.Choice(list(SETS)), multiple=True, help="Only this set; repeatable.")
@click.option("--passes", type=click.IntRange(1), help="Passes that are allowed; the set's own number by default.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def plan(chip: str, names: tuple[str, ...], passes: int | None, as_json: bool) -> int:
    """Plan the sets for a chip: the metrics of CUPTI, the passes, and the reason for what is left out."""
    from perfsuite.counters import library, planner

    try:
        cupti = library.load()
        known = cupti.chips()
    except RuntimeError as error:
        raise click.ClickException(str(error)) from None
    if chip not in [*known, "all"]:
        raise click.BadParameter(f"no chip {chip!r}; there are {', '.join(known)}", param_hint="--chip")
    chips = known if chip == "all" else [chip]
    plans = [planner.plan(cupti, one, name, passes) for one in chips for name in names or SETS]
    if as_json:
        click.echo(json.dumps({"cupti": cupti.version, "plans": [one.as_dict() for one in plans]}))
        return 0
    for one in plans:
        click.echo(f"{one.chip} {one.set}: {one.passes} {'pass' if one.passes == 1 else 'passes'}")
        for column in one.columns:
            shown = column.as_dict()
            click.echo(f"  {shown['name']:20} {shown['unit']:6} {shown['metric']}")
        for name, reason in one.absent.items():
            click.echo(f"  {name:20} absent: {reason}")
    return 0

"""Plans a set of counters for a chip: which of them it has, under which names, and what fits the allowed passes."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from perfsuite import _native
from perfsuite.counters.sets import SETS, Option, Quantity


class Column(NamedTuple):
    """A quantity that will be collected."""

    quantity: Quantity
    option: Option

    def as_dict(self) -> dict[str, str]:
        """{"name", "metric": CUPTI's name or names, "unit"}."""
        return {
            "name": self.quantity.name,
            "metric": " + ".join(self.option.metrics),
            "unit": self.quantity.unit,
        }


class Plan(NamedTuple):
    """chip, set: what was planned. passes: that the columns take together; 0 where there are none. absent: the reason
    for each quantity that is left out. config_bytes: size of the image that configures the hardware."""

    chip: str
    set: str
    passes: int
    columns: list[Column]
    absent: dict[str, str]
    config_bytes: int

    @property
    def metrics(self) -> list[str]:
        """CUPTI's names, each once, in the order of the values that it gives."""
        return list(dict.fromkeys(metric for column in self.columns for metric in column.option.metrics))

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return self._asdict() | {"columns": [column.as_dict() for column in self.columns]}


def plan(
    library: "_native.CounterLibrary",
    chip: str,
    name: str,
    passes: int | None = None,
    availability: bytes = b"",
    leave_out: Iterable[str] = (),
) -> Plan:
    """Plan the set `name` for a chip of library.chips(), e.g. "GH100".

    Greedy, in the set's order of importance: each quantity is taken where all so far still fit the passes. passes: how
    many are allowed, None for the set's own number. availability: what the device at hand says of itself.
    leave_out: quantities not to plan. Raises KeyError for an unknown set.
    """
    wanted = SETS[name]
    allowed = wanted.passes if passes is None else passes
    quantities = [quantity for quantity in wanted.quantities if quantity.name not in set(leave_out)]
    try:
        host = _native.CounterHost(library, chip, wanted.collection, availability)
    except RuntimeError as error:
        what = "PM sampling" if wanted.collection == _native.Collection.sampling else "range profiler"
        return Plan(chip, name, 0, [], {q.name: f"{chip} has no {what}: {error}" for q in quantities}, 0)

    found = Plan(chip, name, 0, [], {}, 0)
    for quantity in quantities:
        outcome = _with(host, found, quantity, allowed)
        if isinstance(outcome, Plan):
            found = outcome
        else:
            found.absent[quantity.name] = outcome
    return found


def _with(host: "_native.CounterHost", so_far: Plan, quantity: Quantity, allowed: int) -> Plan | str:
    """The plan with this quantity in it, or why it cannot be."""
    there = [option for option in quantity.options if all(_has(host, metric) for metric in option.metrics)]
    if not there:
        names = ", ".join(dict.fromkeys(metric for option in quantity.options for metric in option.metrics))
        return f"{so_far.chip} has none of {names}"
    reasons = []
    for option in there:
        longer = so_far._replace(columns=[*so_far.columns, Column(quantity, option)])
        try:
            image = host.config_image(longer.metrics)
            needed = host.passes(image)
        except RuntimeError as error:
            reasons.append(f"{' + '.join(option.metrics)}: {error}")
            continue
        if needed <= allowed:
            return longer._replace(passes=needed, config_bytes=len(image))
        reasons.append(f"with it {needed} passes are needed, {allowed} allowed")
    return "; ".join(dict.fromkeys(reasons))


def _has(host: "_native.CounterHost", metric: str) -> bool:
    try:
        host.properties(metric)
    except RuntimeError:
        return False
    return True

"""What an op file declares, and how one of its implementations is chosen. Importing this loads no torch.

An op file has one `OP = Op(...)` and a public function of the op's name that checks its arguments and calls OP.
Which implementation runs is chosen for the whole process with `select`: on the command line --use op=implementation.
"""

import difflib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

MODULES: dict[str, str] = {
    "adamw": "perfsuite.kernels.adamw",
    "batch_norm_add_relu": "perfsuite.kernels.batch_norm_add_relu",
    "cross_entropy": "perfsuite.kernels.cross_entropy",
    "dcn_cross": "perfsuite.kernels.dcn_cross",
    "dot_interaction": "perfsuite.kernels.dot_interaction",
    "embedding_bag": "perfsuite.kernels.embedding_bag",
    "embedding_bag_update": "perfsuite.kernels.embedding_bag_update",
    "focal_loss": "perfsuite.kernels.focal_loss",
    "global_norm": "perfsuite.kernels.global_norm",
    "lamb": "perfsuite.kernels.lamb",
    "layer_norm": "perfsuite.kernels.layer_norm",
    "linear": "perfsuite.kernels.linear",
    "linear_cross_entropy": "perfsuite.kernels.linear_cross_entropy",
    "qk_norm_rope": "perfsuite.kernels.qk_norm_rope",
    "rms_norm": "perfsuite.kernels.rms_norm",
    "rope": "perfsuite.kernels.rope",
    "softmax": "perfsuite.kernels.softmax",
    "swiglu": "perfsuite.kernels.swiglu",
}
"""Ops by name and the module that declares each; imported on first use."""

DEFAULT = "eager"

cost_log: dict[str, dict[str, dict[str, int]]] | None = None
"""None, or the least cost of every call outside compiled regions: {region: {signature: {"bytes", "flops", "calls"}}}.

bytes and flops are those of one call. region is "<op>=<implementation>"; a signature that ends in " grad" belongs to
calls whose gradient is wanted, and its cost covers forward and backward together. Set by whoever records, e.g. to {}.
"""


class Cost(NamedTuple):
    """The least that one call has to move and compute, whatever the implementation."""

    bytes: int
    flops: int


@dataclass(frozen=True)
class Case:
    """One shape that an op is tested and timed at."""

    dtype: str
    """Of the floating-point inputs, a name in torch: "float32"."""
    shape: Mapping[str, int]
    """Sizes by the names that the op file's formula uses."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the call besides the tensors, where they are not Op.defaults."""
    draw: Mapping[str, Any] = field(default_factory=dict)
    """What Op.inputs shall know about the values and strides."""
    gradient: bool = True
    """Whether the gradient is wanted."""

    @property
    def name(self) -> str:
        sizes = "x".join(str(size) for size in self.shape.values())
        extras = [f"{key}={value}" for key, value in [*self.options.items(), *self.draw.items()]]
        return " ".join([sizes, self.dtype, *extras])


@dataclass(frozen=True, eq=False)
class Implementation:
    """One way to compute an op."""

    name: str
    run: Callable[..., Any]
    """Takes what Op.reference takes."""
    why_not: Callable[[str], str | None]
    """Device type ("cpu", "cuda") -> None, or why it cannot run there, in one line. Builds what has to be built."""


class Op:
    """One operation: its reference, its cost, its cases and every implementation. Calling it runs the chosen one."""

    def __init__(
        self,
        name: str,
        reference: Callable[..., Any],
        defaults: Mapping[str, Any],
        cost: Callable[[Case], Cost],
        cases: Callable[[str], Sequence[Case]],
        case_of: Callable[..., Case],
        inputs: Callable[..., dict[str, Any]],
        differentiable: tuple[str, ...],
        scales: Callable[..., dict[str, Any]],
        implementations: Iterable[Implementation],
        outputs: tuple[str, ...] = ("output",),
        mutates: tuple[str, ...] = (),
        any_case: Callable[[], Any] | None = None,
        row_wise: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.reference = reference
        """The formula in plain torch: (**tensors, **options) -> a tensor, or a tuple of them. In float64 it is the
        truth."""
        self.defaults = defaults
        """The options, and their values where a case does not set them."""
        self.cost = cost
        self.cases = cases
        """Scale -> cases: "tiny" to check (small, odd, at the edge), "cpu" and "gpu" to time there (the workloads'
        shapes first), "code" to look at generated code (a few rows of the widths in "gpu")."""
        self.case_of = case_of
        """The case that a call with these arguments is, for its cost."""
        self.inputs = inputs
        """(case, device, generator) -> the tensors of one call by argument name, fresh and random; a value may be a
        list of tensors, or None for an optional one that the case leaves out."""
        self.differentiable = differentiable
        """Names of the tensors that get a gradient (those that a case leaves out do not)."""
        self.scales = scales
        """(inputs in float64, options, upstream in float64) -> {name: the largest operand that cancels in each
        element}, by the names of `outputs`, "grad_<name>" and, for what is changed in place, "<name>" or "<name>.0",
        "<name>.1" of a list. An error of one unit in its last place cannot be avoided. upstream is as the outputs are:
        a tensor, or a tuple of them."""
        self.implementations = {implementation.name: implementation for implementation in implementations}
        self.outputs = outputs
        """Names of what is returned, in order; a tensor that an implementation returns as None is left out."""
        self.mutates = mutates
        """Names of the tensors that a call changes in place: they are outputs as well."""
        self.any_case = any_case
        """A hypothesis strategy of small cases of any shape, stride, dtype and option."""
        self.row_wise = row_wise
        """Names of the tensors that hold a row of the op in each entry of their first dimension, where rows do not know
        of each other: the same rows again give the same results again. Empty where that does not hold."""
        self.chosen: Implementation | None = self.implementations[DEFAULT]
        """None: the best for each shape, see perfsuite.kernels.tuning."""
        self.best: Callable[[Op, Sequence[Any], Mapping[str, Any]], Implementation] | None = None

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Run the chosen implementation; outside compiled regions its time is marked as this op's."""
        import torch

        chosen = self.chosen or self.best(self, args, options)
        if torch.compiler.is_compiling():
            return chosen.run(*args, **options)
        from perfsuite import _native

        if cost_log is not None:
            self._log_cost(cost_log, chosen.name, args, options)
        _native.push_op(_region_id(self.name, chosen.name))
        try:
            return chosen.run(*args, **options)
        finally:
            _native.pop_op()

    def _log_cost(self, log: dict[str, Any], chosen: str, args: Sequence[Any], options: Mapping[str, Any]) -> None:
        case = self.case_of(*args, **options)
        calls = log.setdefault(f"{self.name}={chosen}", {})
        signature = " ".join(_shape(tensor) for tensor in flat(args)) + (" grad" if case.gradient else "")
        if signature not in calls:
            calls[signature] = {**self.cost(case)._asdict(), "calls": 0}
        calls[signature]["calls"] += 1


def flat(values: Iterable[Any]) -> list[Any]:
    """The tensors among the values, those in lists one by one; None is left out."""
    out: list[Any] = []
    for value in values:
        if isinstance(value, (list, tuple)):
            out += value
        elif value is not None:
            out.append(value)
    return out


def op(name: str) -> Op:
    """The op of this name. Imports its module, and torch with it. ValueError where there is none."""
    if name not in MODULES:
        raise ValueError(f"there is no op {name!r}{_perhaps(name, MODULES)}; ops: {', '.join(sorted(MODULES))}")
    return import_module(MODULES[name]).OP


def parse_use(items: Iterable[str]) -> dict[str, str]:
    """{"cross_entropy": "cpp"} from the arguments of --use, each "op=implementation". Imports no op.

    ValueError, one line, for anything else, an unknown op and an op named twice.
    """
    use: dict[str, str] = {}
    for item in items:
        name, equals, implementation = (part.strip() for part in item.partition("="))
        if not (name and equals and implementation):
            raise ValueError(f"--use {item}: write it as op=implementation, e.g. --use cross_entropy=cpp")
        if name not in MODULES:
            raise ValueError(
                f"--use {item}: there is no op {name!r}{_perhaps(name, MODULES)}; ops: {', '.join(sorted(MODULES))}"
            )
        if name in use:
            raise ValueError(f"--use {item}: {name} is chosen twice, {use[name]} first; name it once")
        use[name] = implementation
    return use


NATIVE = "native"


def is_file(choice: str) -> bool:
    """Whether --use op=choice names somebody's file, e.g. --use rms_norm=./my_kernel.py."""
    return choice.endswith(".py")


def select(use: Mapping[str, str], device: str = "cpu", ops: str = DEFAULT) -> dict[str, str]:
    """Choose implementations for this process, by device type.

    use: an implementation by op, or the path of somebody's file that ends in .py (perfsuite.kernels.own_file).
    ops: how the ops that `use` does not name are done: "eager", or "native", the measured best for each shape
    (perfsuite.kernels.tuning). Returns the choice for every op. ValueError, one line, for an unknown op or
    implementation and for one that is not available on the device; then nothing has changed. Builds native code where a
    choice needs it. An op that nobody has imported yet and that is to be done as every op is at first stays unimported.
    """
    chosen: dict[Op, Implementation | None] = {}
    for name in [*MODULES, *(name for name in use if name not in MODULES)]:
        wanted = use.get(name, ops)
        if name not in use and wanted == DEFAULT and MODULES[name] not in sys.modules:
            continue
        one = op(name)
        item = f"--use {name}={wanted}"
        if wanted == NATIVE:
            chosen[one] = None
            continue
        if is_file(wanted):
            from perfsuite.kernels.own_file import kernel_from_file

            chosen[one] = kernel_from_file(Path(wanted), one)
            continue
        if wanted not in one.implementations:
            have = ", ".join([*one.implementations, NATIVE])
            raise ValueError(
                f"{item}: {name} has no implementation {wanted!r}{_perhaps(wanted, one.implementations)}; it has {have}"
            )
        implementation = one.implementations[wanted]
        reason = implementation.why_not(device)
        if reason:
            raise ValueError(f"{item}: not available on {device}: {reason}")
        chosen[one] = implementation
    native = [one for one, implementation in chosen.items() if implementation is None]
    best = _chooser(native, device) if native else None
    for one, implementation in chosen.items():
        one.chosen, one.best = implementation, best
    names = {one.name: implementation.name if implementation else NATIVE for one, implementation in chosen.items()}
    return dict.fromkeys(MODULES, DEFAULT) | names


def _chooser(ops: Sequence[Op], device: str) -> Callable[..., Implementation]:
    from perfsuite.kernels import tuning

    return tuning.chooser(tuning.load()[0], device, ops)


def _perhaps(word: str, words: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, words, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


@cache
def _region_id(op_name: str, implementation: str) -> int:
    from perfsuite import _native

    return _native.intern(f"{op_name}={implementation}")


_SHORT = {"float": "f", "bfloat": "bf", "int": "i", "uint": "u"}


def _shape(tensor: Any) -> str:
    """ "f32[1024,256]", the way the op recorder writes it."""
    word = str(tensor.dtype).removeprefix("torch.")
    kind = word.rstrip("0123456789")
    return f"{_SHORT.get(kind, kind)}{word[len(kind):]}[{','.join(str(size) for size in tensor.shape)}]"

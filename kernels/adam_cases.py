"""Cases and inputs of AdamW and LAMB, which take the same lists of tensors."""

import math
from typing import Any

import torch
from torch import Tensor

from perfsuite.kernels.contract import Case, Cost


def _llama(width: int, depth: int, hidden: int, vocabulary: int = 256) -> list[tuple[int, ...]]:
    layer = [(width,), (3 * width, width), (width, width), (width,), (2 * hidden, width), (width, hidden)]
    return [(vocabulary, width), *(depth * layer), (width,), (vocabulary, width)]


def _bert_large() -> list[tuple[int, ...]]:
    """335 million parameters in 391 tensors, as MLPerf's BERT has them."""
    wide, inner = 1024, 4096
    layer = [*(4 * [(wide, wide), (wide,)]), (wide,), (wide,), (inner, wide), (inner,), (wide, inner), *(3 * [(wide,)])]
    return [(30522, wide), (512, wide), (2, wide), (wide,), (wide,), *(24 * layer), (wide, wide), (wide,)]


MODELS = {
    "llama small": _llama(16, 2, 44),
    "llama tiny": _llama(128, 3, 352),
    "llama gpu": _llama(512, 8, 1408),
    "bert large": _bert_large(),
    "odd": [(0,), (1,), (), (7, 3), (4097,), (2, 0, 3), (31, 33), (4096,)],
}
"""Shapes of all parameters of a model, by the name that a case has as draw["sizes"]."""


def case(
    tensors: int = 0, elements: int = 0, dtype: str = "float32", draw: dict[str, Any] | None = None, **options: Any
) -> Case:
    """A case of so many tensors with so many elements together.

    draw: sizes (a name in MODELS, which has the numbers; "equal", which is the default; or "mixed", of any sizes),
    grads and copies (dtypes, where they are not the parameters' and none), steps (updates before this one, default 9),
    layout ("channels last", "mixed" where only some tensors are permuted, "every second", which has holes) and values
    ("infinite", "nan": one gradient is; "zeros": whole tensors of zeros).
    """
    draw = draw or {}
    if draw.get("sizes") in MODELS:
        shapes = MODELS[draw["sizes"]]
        tensors, elements = len(shapes), sum(math.prod(shape) for shape in shapes)
    return Case(dtype, {"tensors": tensors, "elements": elements}, options, draw, gradient=False)


def case_of(params: list[Tensor], grads: list[Tensor], *lists: Any, **options: Any) -> Case:
    """The case that a call is, for its cost."""

    def name(tensors: list[Tensor]) -> str:
        return str(tensors[0].dtype).removeprefix("torch.") if tensors else "float32"

    copies = lists[4] if len(lists) > 4 else None
    draw = {"grads": name(grads), **({"copies": name(copies)} if copies else {})}
    return case(len(params), sum(p.numel() for p in params), name(params), draw, **options)


def least_bytes(one: Case) -> int:
    """Parameters and both moments are read and written, gradients read, copies written; each once."""
    draw, size = one.draw, getattr(torch, one.dtype).itemsize
    narrow = [getattr(torch, draw[key]).itemsize for key in ("grads", "copies") if draw.get(key)]
    return one.shape["elements"] * (6 * size + sum(narrow) + (0 if draw.get("grads") else size))


def cost_of(flops: int) -> Any:
    """Op.cost for so many flops to an element; square root and division count as one each."""
    return lambda one: Cost(bytes=least_bytes(one), flops=flops * one.shape["elements"])


def inputs(one: Case, device: str, generator: torch.Generator) -> dict[str, Any]:
    """Fresh tensors of one call: moments as they are after a while, gradients with norms below and above 1."""
    draw, dtype = one.draw, getattr(torch, one.dtype)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    shapes = _shapes(one, generator)
    spread = 10 ** uniform(-3, 0)  # of the gradients
    done = draw.get("steps", 9)

    def make(shape: tuple[int, ...], index: int, what: str, kind: torch.dtype) -> Tensor:
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        if what == "params":
            x = x * 0.05 + (1 if len(shape) == 1 else 0)  # the weights of norms are vectors around 1
        elif what == "grads":
            x = x * spread
        elif done == 0:
            x = x * 0
        elif what == "exp_avgs":
            x = x * (0.3 * spread)
        else:
            x = (0.1 + x.square()) * spread**2
        if draw.get("values") == "zeros" and index % 2 == 0 and what != "params":
            x = x * 0
        if draw.get("values") == "zeros" and index % 3 == 0:
            x = x * 0
        return _laid_out(x.to(kind), draw.get("layout", ""), index, what).to(device)

    def tensors(what: str, kind: torch.dtype = dtype) -> list[Tensor]:
        return [make(shape, index, what, kind) for index, shape in enumerate(shapes)]

    out: dict[str, Any] = {
        "params": tensors("params"),
        "grads": tensors("grads", getattr(torch, draw.get("grads", one.dtype))),
        "exp_avgs": tensors("exp_avgs"),
        "exp_avg_sqs": tensors("exp_avg_sqs"),
        "steps": [torch.tensor(float(done), device=device) for _ in shapes],
        "grad_norm": None,
        "copies": None,
    }
    special = {"infinite": math.inf, "nan": math.nan}.get(draw.get("values", ""))
    if special is not None:
        last = next(grad for grad in reversed(out["grads"]) if grad.numel())
        last[(0,) * last.dim()] = special  # in the last tensor that has an element
    if one.options.get("max_norm") is not None:
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        squares = sum(grad.double().square().sum() for grad in out["grads"])
        out["grad_norm"] = torch.as_tensor(squares, dtype=torch.float64).sqrt().to(wide).to(device)
    if draw.get("copies"):
        out["copies"] = [p.to(getattr(torch, draw["copies"])) for p in out["params"]]
    return out


def _shapes(one: Case, generator: torch.Generator) -> list[tuple[int, ...]]:
    count, elements, sizes = one.shape["tensors"], one.shape["elements"], one.draw.get("sizes", "equal")
    if sizes in MODELS:
        return MODELS[sizes]
    if count == 0:
        return []
    if sizes == "mixed":
        cuts = torch.randint(0, elements + 1, (count - 1,), generator=generator).sort().values.tolist()
        return [(end - start,) for start, end in zip([0, *cuts], [*cuts, elements], strict=True)]
    each = elements // count
    # Rows and columns, where there are some: layouts need them.
    rows = next((rows for rows in (6, 4, 2) if each % rows == 0 and each > rows), 0)
    return [(rows, each // rows) if rows else (each,)] * count


def _laid_out(x: Tensor, layout: str, index: int, what: str) -> Tensor:
    if layout == "channels last" or (layout == "mixed" and (index + len(what)) % 2):
        return x.T.contiguous().T if x.dim() == 2 else x
    if layout == "every second" and x.dim():
        wide = torch.full((*x.shape[:-1], 2 * x.shape[-1]), 99.0, dtype=x.dtype)
        wide[..., ::2] = x
        return wide[..., ::2]
    return x


def any_case(**options: Any) -> Any:
    """Strategy of small cases; options: strategies of the op's options by name."""
    from hypothesis import strategies as st

    @st.composite
    def cases(draw: Any) -> Case:
        dtype = draw(st.sampled_from(["float32", "float32", "bfloat16", "float16", "float64"]))
        how = {
            "sizes": draw(st.sampled_from(["equal", "mixed"])),
            "steps": draw(st.sampled_from([0, 1, 9, 5000])),
            "layout": draw(st.sampled_from(["", "", "channels last", "mixed", "every second"])),
        }
        if dtype == "float32":
            how["grads"] = draw(st.sampled_from(["float32", "bfloat16", "float16"]))
            how["copies"] = draw(st.sampled_from([None, "bfloat16", "float16"]))
        tensors = draw(st.integers(0, 5))
        elements = draw(st.integers(0, 300)) if tensors else 0
        made = {name: draw(strategy) for name, strategy in options.items()}
        return case(tensors, elements, dtype, how, **made)

    return cases()

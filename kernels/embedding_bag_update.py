"""Train an embedding table in place from the gradient of its bags: no gradient of the table, dense or sparse, is made.

For every row r that is looked up, once, however often it is:

    g = sum over the lookups p of r of grad_output[bag of p]
    sgd:              weight[r] -= lr g
    rowwise_adagrad:  state[r] += mean_j g_j^2
                      weight[r] -= lr g / (sqrt(state[r]) + eps)

Row-wise Adagrad (one number of state a row) is FBGEMM's EXACT_ROWWISE_ADAGRAD and torchrec's default for tables: the
state of this step is used. Other rows are not touched. This is the backward of embedding_bag and the optimizer at once:

    output = embedding_bag(weight, indices, offsets)         weight without requires_grad, output.requires_grad_()
    loss(output).backward()
    embedding_bag_update(weight, state, indices, offsets, output.grad, lr=0.01)

The bench tool times the two ops one by one; bench/embedding_bag_step.py times the whole step against
torch.nn.EmbeddingBag with sparse gradients and an optimizer.
"""

from typing import Any

import torch
from torch import Tensor

from perfsuite.kernels import native
from perfsuite.kernels.contract import Case, Cost, Op
from perfsuite.kernels.embedding_bag import (
    ZIPF,
    bag_of_lookup,
    check_lookups,
    compute_dtype,
    distinct_rows,
    draw_lookups,
    draw_rows,
    largest_partial_sum,
    lookup_case,
)

OPTIMIZERS = ("rowwise_adagrad", "sgd")


def embedding_bag_update(
    weight: Tensor, state: Tensor | None, indices: Tensor, offsets: Tensor, grad_output: Tensor, *,
    optimizer: str = "rowwise_adagrad", lr: float, eps: float = 1e-8,
) -> None:  # fmt: skip
    """Change weight, and state where the optimizer has one, by the chosen implementation.

    weight: (rows, width) float32, bfloat16, float16 or float64, elements of a row adjacent; autograd does not see the
    change, as with an optimizer. A half-precision weight is rounded to nearest after every update.
    state: (rows,) contiguous, float32 (float64 for a float64 weight), from 0; None for "sgd".
    indices, offsets: as embedding_bag has them. grad_output: (bags, width) in the dtype of weight. eps: at least 0.
    Sums are taken in float32 (float64 for float64), a row's lookups in their order, in cuda in pieces of at most 256:
    the same call gives the same bits.
    Raises ValueError for arguments of other shapes, dtypes, strides and values. On the CPU an index outside [0, rows)
    is an IndexError and cpp changes nothing then; on a GPU, where nobody waits to look, cuda leaves such a lookup out
    (embedding_bag has made its bag NaN).
    """
    check_lookups("embedding_bag_update", weight, indices, offsets)
    want = (offsets.shape[0] - 1, weight.shape[1])
    if tuple(grad_output.shape) != want or grad_output.dtype != weight.dtype:
        got = f"{tuple(grad_output.shape)} {grad_output.dtype}"
        raise ValueError(f"embedding_bag_update: grad_output must be {want} {weight.dtype}, got {got}")
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"embedding_bag_update: optimizer must be {' or '.join(OPTIMIZERS)}, got {optimizer!r}")
    if (state is None) != (optimizer == "sgd"):
        has = "no state" if state is None else "a state"
        raise ValueError(
            f"embedding_bag_update: rowwise_adagrad has a state and sgd has none, got {optimizer} and {has}"
        )
    if state is not None and (state.shape != weight.shape[:1] or state.dtype != compute_dtype(weight)):
        want_state = f"{tuple(weight.shape[:1])} {compute_dtype(weight)}"
        got = f"{tuple(state.shape)} {state.dtype}"
        raise ValueError(f"embedding_bag_update: state must be {want_state}, got {got}")
    if (weight.shape[1] > 1 and weight.stride(1) != 1) or (state is not None and not state.is_contiguous()):
        raise ValueError(
            "embedding_bag_update: weight must have adjacent columns and state must be contiguous, "
            f"got strides {weight.stride()} and {None if state is None else state.stride()}"
        )
    if not eps >= 0:
        raise ValueError(f"embedding_bag_update: eps must be at least 0, got {eps}")
    changed = [weight.detach(), None if state is None else state.detach()]
    OP(*changed, indices, offsets, grad_output.detach(), optimizer=optimizer, lr=float(lr), eps=float(eps))


def reference(
    weight: Tensor, state: Tensor | None, indices: Tensor, offsets: Tensor, grad_output: Tensor, *,
    optimizer: str, lr: float, eps: float,
) -> None:  # fmt: skip
    """The formula in plain torch, over the whole table; half precision is computed in float32."""
    terms = grad_output[bag_of_lookup(indices, offsets)].to(compute_dtype(weight))
    g = terms.new_zeros(weight.shape).index_add_(0, indices, terms)
    touched = torch.zeros_like(weight[:, :1], dtype=torch.bool).index_fill_(0, indices, True)
    if optimizer == "rowwise_adagrad":
        state.add_(g.square().mean(1))
        g = g / (state.sqrt() + eps)[:, None]
    weight.copy_(torch.where(touched, weight - lr * g, weight))


# -- cost and cases ---------------------------------------------------------------------------------------------------


def cost(case: Case) -> Cost:
    """Indices, offsets and the gradient of the bags are read once; every distinct row and its state is read and
    written.

    An addition per lookup and column; per column of a distinct row a multiply-subtract, and for row-wise Adagrad the
    sum of squares.
    """
    shape, size, rows = case.shape, getattr(torch, case.dtype).itemsize, distinct_rows(case)
    adagrad = case.options.get("optimizer", "rowwise_adagrad") != "sgd"
    state_size = 8 if case.dtype == "float64" else 4
    moved = size * shape["width"] * (shape["bags"] + 2 * rows) + 8 * (shape["lookups"] + shape["bags"] + 1)
    return Cost(
        bytes=moved + 2 * state_size * rows * adagrad,
        flops=shape["width"] * (shape["lookups"] + (4 if adagrad else 2) * rows),
    )


SGD = {"optimizer": "sgd"}


def _case(*shape: int, dtype: str = "float32", draw: dict[str, Any] | None = None, **options: Any) -> Case:
    one = lookup_case(*shape, dtype, draw, **options)
    return Case(one.dtype, one.shape, one.options, one.draw, gradient=False)


def cases(scale: str) -> list[Case]:
    """The first of "cpu" are the tables of bench/embedding_bag_step.py; "gpu" has DLRMv2's width."""
    one = _case
    if scale == "cpu":
        return [
            one(100_000, 64, 2048, 40_960),
            one(100_000, 64, 2048, 40_960, draw=ZIPF),
            one(100_000, 64, 2048, 40_960, **SGD),
            one(100_000, 64, 2048, 40_960, draw=ZIPF, **SGD),
            one(10_000, 128, 1024, 8192, draw=ZIPF),
            one(5003, 33, 777, 5000),
        ]
    if scale in ("gpu", "code"):
        shapes = [(1_000_000, 128, 65536, 65536 * 8), (4_000_000, 64, 16384, 16384 * 20), (200_003, 96, 4093, 40_000)]
        return [
            one(
                *((64, width, 16, 64) if scale == "code" else (rows, width, bags, lookups)),
                dtype=dtype,
                draw=ZIPF,
                **options,
            )
            for rows, width, bags, lookups in shapes
            for dtype, options in (("float32", {}), ("float32", SGD), ("bfloat16", {}))
        ]
    if scale != "tiny":
        raise ValueError(f"embedding_bag_update has cases for the scales tiny, cpu, gpu and code, not {scale!r}")
    return [
        one(100, 64, 32, 300),
        one(20, 64, 9, 200, draw=ZIPF),
        one(20, 64, 9, 200, draw=ZIPF, **SGD),
        one(5, 8, 40, 2000),
        one(1, 1, 1, 1),
        one(1, 5, 3, 1500, **SGD),
        one(7, 3, 0, 0),
        one(9, 130, 6, 0),
        one(50, 33, 20, 10, eps=1e-3),
        one(300, 257, 4, 90, draw={"layout": "padded rows"}),
        one(30, 2050, 8, 50),
        one(40, 20, 8, 60, draw={"values": "infinite"}),
        one(40, 20, 8, 60, draw={"values": "nan"}, **SGD),
        one(64, 64, 16, 200, dtype="bfloat16", draw=ZIPF),
        one(64, 48, 16, 200, dtype="bfloat16", draw=ZIPF, **SGD),
        one(64, 31, 16, 200, dtype="float16", draw=ZIPF),
        one(64, 40, 16, 100, dtype="float64", draw=ZIPF),
        one(64, 7, 16, 100, dtype="float64", draw=ZIPF, **SGD),
    ]


def any_case() -> Any:
    """Small cases of any shape, stride, dtype and optimizer."""
    from hypothesis import strategies as st

    return st.builds(
        lambda rows, width, bags, lookups, dtype, layout, distribution, optimizer: _case(
            rows, width, bags, lookups if bags else 0, dtype=dtype, optimizer=optimizer,
            draw={"layout": layout, "distribution": distribution},
        ),
        st.integers(1, 40), st.integers(1, 70), st.integers(0, 12), st.integers(0, 60),
        st.sampled_from(["float32", "bfloat16", "float16", "float64"]), st.sampled_from([None, "padded rows"]),
        st.sampled_from(["uniform", "zipf"]), st.sampled_from(OPTIMIZERS),
    )  # fmt: skip


def case_of(
    weight: Tensor, state: Tensor | None, indices: Tensor, offsets: Tensor, grad_output: Tensor, **options: Any
) -> Case:
    """The case that a call is, for its cost."""
    shape = {
        "rows": weight.shape[0],
        "width": weight.shape[1],
        "bags": offsets.shape[0] - 1,
        "lookups": indices.shape[0],
    }
    return Case(str(weight.dtype).removeprefix("torch."), shape, options, gradient=False)


def inputs(case: Case, device: str, generator: torch.Generator) -> dict[str, Tensor | None]:
    """Fresh table, state, lookups and gradient of one call; case.draw as embedding_bag.inputs has it.

    The state is 0 for a third of the rows, as before their first update. values "infinite" and "nan": one bag's
    gradient.
    """
    indices, offsets = draw_lookups(case, generator)
    rows, width, bags = (case.shape[name] for name in ("rows", "width", "bags"))
    weight = draw_rows(rows, width, case, generator)
    state = torch.rand(rows, generator=generator, dtype=compute_dtype(weight))
    state[torch.rand(rows, generator=generator) < 1 / 3] = 0
    gradient = torch.randn(bags, width, generator=generator).to(weight.dtype)
    if case.draw.get("values"):
        gradient[bags // 2, 0] = torch.nan if case.draw["values"] == "nan" else torch.inf
    return {
        "weight": weight.to(device),
        "state": None if case.options.get("optimizer") == "sgd" else state.to(device),
        "indices": indices.to(device),
        "offsets": offsets.to(device),
        "grad_output": gradient.to(device),
    }


def scales(tensors: dict[str, Any], options: dict[str, Any], _upstream: Any) -> dict[str, Tensor]:
    """weight: itself against the step. g is a sum; the state inherits its error through the square, and the step
    through both."""
    weight, state, indices = tensors["weight"], tensors["state"], tensors["indices"]
    terms = tensors["grad_output"][bag_of_lookup(indices, tensors["offsets"])]
    g = torch.zeros_like(weight).index_add_(0, indices, terms)
    passed = largest_partial_sum(torch.zeros_like(weight), indices, terms)
    step = options["lr"] * passed
    if state is None:
        return {"weight": torch.maximum(weight.abs(), step)}
    new = state + g.square().mean(1)
    inherited = state + (g.abs() * passed).mean(1)
    step = (step / (new.sqrt() + options["eps"])[:, None]) * (inherited / new).clamp_min(1)[:, None]
    return {"weight": torch.maximum(weight.abs(), step.nan_to_num(0.0)), "state": inherited}


# -- eager ------------------------------------------------------------------------------------------------------------


def _eager(
    weight: Tensor, state: Tensor | None, indices: Tensor, offsets: Tensor, grad_output: Tensor, *,
    optimizer: str, lr: float, eps: float,
) -> None:  # fmt: skip
    """sgd: what nn.EmbeddingBag(sparse=True) and torch.optim.SGD do. Row-wise Adagrad is not in torch: by indexing."""
    lengths, bags = offsets.diff(), torch.arange(grad_output.shape[0], device=offsets.device)
    bag = torch.repeat_interleave(bags, lengths, output_size=indices.shape[0])
    if optimizer == "sgd":
        gradient = torch.sparse_coo_tensor(indices[None], grad_output[bag], weight.shape, check_invariants=False)
        weight.add_(gradient, alpha=-lr)
        return
    rows, where = indices.unique(return_inverse=True)
    terms = grad_output[bag].to(state.dtype)
    g = terms.new_zeros(rows.shape[0], weight.shape[1]).index_add_(0, where, terms)
    state[rows] += g.square().mean(1)
    weight[rows] = (weight[rows] - lr * g / (state[rows].sqrt() + eps)[:, None]).to(weight.dtype)


# -- cpp: csrc/ops/cpu/row_updates.h ----------------------------------------------------------------------------------


def _cpp(
    weight: Tensor, state: Tensor | None, indices: Tensor, offsets: Tensor, grad_output: Tensor, *,
    optimizer: str, lr: float, eps: float,
) -> None:  # fmt: skip
    torch.ops.perfsuite.embedding_bag_update_cpp(weight, state, indices, offsets, grad_output, lr, eps)
    _mark_changed(weight, state)


def _mark_changed(*tensors: Tensor | None) -> None:
    """Tell autograd, which does not look into our operators: whoever saved a tensor for a backward shall be stopped."""
    if not torch.compiler.is_compiling():
        torch.autograd.graph.increment_version([tensor for tensor in tensors if tensor is not None])


# -- cuda: csrc/ops/cuda/embedding_bag_update.cu ----------------------------------------------------------------------

TILE = 256  # kTile there: a row with more lookups than these is summed in pieces


def _cuda_launcher(
    weight: Tensor, state: Tensor | None, indices: Tensor, offsets: Tensor, grad_output: Tensor, lr: float, eps: float
) -> None:
    from perfsuite import cuda_extension

    (rows, width), lookups, bags = weight.shape, indices.shape[0], grad_output.shape[0]
    if max(rows, lookups, bags) >= 2**31:
        raise ValueError(
            f"embedding_bag_update=cuda: at most 2^31 - 1 rows, lookups and bags, got {rows, lookups, bags}"
        )
    if not lookups or not width:
        return
    gradient, offsets = grad_output.contiguous(), offsets.contiguous()
    row_of, bag_of = indices.new_empty(2, lookups, dtype=torch.int32)  # half the radix passes that int64 needs
    cuda_extension.call(
        "perfsuite_embedding_bag_update_lookups", weight.dtype, indices.contiguous(), offsets, row_of, bag_of,
        lookups, bags, rows,
    )  # fmt: skip
    row_of, order = row_of.sort(stable=True)
    pieces = weight.new_empty(2 * -(-lookups // TILE), width, dtype=compute_dtype(weight))
    cuda_extension.call(
        "perfsuite_embedding_bag_update", weight.dtype, row_of, order, bag_of, gradient, weight, state, pieces,
        lookups, bags, rows, width, weight.stride(0), lr, eps,
    )  # fmt: skip


native.raw_op(
    "embedding_bag_update_cuda(Tensor(a!) weight, Tensor(b!)? state, Tensor indices, Tensor offsets, "
    "Tensor grad_output, float lr, float eps) -> ()",
    _cuda_launcher,
    lambda *arguments: None,
)


def _cuda(
    weight: Tensor, state: Tensor | None, indices: Tensor, offsets: Tensor, grad_output: Tensor, *,
    optimizer: str, lr: float, eps: float,
) -> None:  # fmt: skip
    torch.ops.perfsuite.embedding_bag_update_cuda(weight, state, indices, offsets, grad_output, lr, eps)
    _mark_changed(weight, state)


OP = Op(
    name="embedding_bag_update",
    reference=reference,
    defaults={"optimizer": "rowwise_adagrad", "lr": 0.02, "eps": 1e-8},
    cost=cost,
    cases=cases,
    case_of=case_of,
    inputs=inputs,
    differentiable=(),
    scales=scales,
    implementations=[
        native.eager(_eager),
        native.compiled(reference),
        native.cpp(_cpp),
        native.in_cuda(_cuda),
    ],
    outputs=(),
    mutates=("weight", "state"),
    any_case=any_case,
)

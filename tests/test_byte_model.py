"""Least bytes of operators, against sums by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from perfsuite.instruments.ops import OpRecorder


def record(run: Callable[[], Any]) -> list[dict[str, Any]]:
    """The rows of one run, recorded with shapes."""
    recorder = OpRecorder()
    recorder.start()
    recorder.begin_step(0)
    try:
        run()
    finally:
        data = recorder.stop()
    return data["rows"]


def moved(rows: list[dict[str, Any]], *names: str) -> int:
    """Bytes of all calls, of these ops or of all."""
    total = 0
    for row in rows:
        for shape in row["shapes"] if not names or row["name"] in names else ():
            assert shape["bytes"] is not None, f"unknown bytes: {row['name']} {shape['signature']}"
            assert (shape["footprint_bytes"] == 0) == (shape["bytes"] == 0)
            total += shape["bytes"] * shape["sampled_calls"]
    return total


def shape_of(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    (row,) = [row for row in rows if row["name"] == name]
    (shape,) = row["shapes"]
    return shape


A, B = torch.randn(64, 32), torch.randn(32, 48)
X = torch.randn(100)
BIAS = torch.randn(48)
IMAGE, FILTERS = torch.randn(2, 3, 16, 16), torch.randn(8, 3, 3, 3)
TABLE, INDEX = torch.randn(1000, 16), torch.randint(0, 1000, (40,))
LOGITS, TARGET = torch.randn(40, 10), torch.randint(0, 10, (40,))
HALF = torch.randn(100).bfloat16()
LIST = [torch.randn(10), torch.randn(20, 3)]


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        pytest.param(lambda: A @ B, 4 * (64 * 32 + 32 * 48 + 64 * 48), id="mm"),
        pytest.param(lambda: torch.addmm(BIAS, A, B), 4 * (48 + 64 * 32 + 32 * 48 + 64 * 48), id="addmm"),
        pytest.param(lambda: X + X, 4 * 200, id="the same tensor twice is read once"),
        pytest.param(lambda: X + HALF, 4 * 200 + 2 * 100, id="two dtypes"),
        pytest.param(lambda: X * 2.0, 4 * 200, id="a number has no memory"),
        pytest.param(lambda: X.clone().add_(X), 4 * 200 + 4 * 300, id="add_ reads and writes itself"),
        pytest.param(lambda: X.clone().fill_(1.0), 4 * 200 + 4 * 100, id="fill_ does not read"),
        pytest.param(lambda: torch.zeros(5000), 4 * 5000, id="zeros"),
        pytest.param(lambda: torch.zeros_like(X), 4 * 100, id="zeros_like does not read"),
        pytest.param(
            lambda: torch.empty(100).copy_(HALF), 4 * 100 + 2 * 100, id="copy_ does not read what it overwrites"
        ),
        pytest.param(lambda: torch.empty(100), 0, id="empty"),
        pytest.param(lambda: torch.empty(0).resize_(100), 0, id="resize_"),
        pytest.param(lambda: X.view(10, 10).t()[2:5].unsqueeze(0).detach().expand(7, 3, 10), 0, id="views"),
        pytest.param(lambda: X[:1].expand(50).neg(), 4 * (1 + 50), id="an expanded dimension counts once"),
        pytest.param(
            lambda: torch.mm(A, B, out=torch.empty(0)), 4 * (64 * 32 + 32 * 48 + 64 * 48), id="out= is written"
        ),
        pytest.param(lambda: X.bfloat16(), 4 * 100 + 2 * 100, id="a cast is one copy"),
        pytest.param(lambda: X.float(), 0, id="a cast to the same dtype is nothing"),
        pytest.param(lambda: A.t().contiguous(), 2 * 4 * 64 * 32, id="contiguous"),
        pytest.param(lambda: torch.cat([A, A]), 4 * (64 * 32 + 2 * 64 * 32), id="cat"),
        pytest.param(
            lambda: F.embedding(INDEX, TABLE), 8 * 40 + 4 * 2 * 40 * 16, id="embedding reads the rows it needs"
        ),
        pytest.param(lambda: TABLE[INDEX], 8 * 40 + 4 * 2 * 40 * 16, id="index"),
        pytest.param(lambda: TABLE.index_select(0, INDEX), 8 * 40 + 4 * 2 * 40 * 16, id="index_select"),
        pytest.param(lambda: LOGITS.gather(1, TARGET[:, None]), 8 * 40 + 4 * 2 * 40, id="gather"),
        pytest.param(lambda: F.nll_loss(LOGITS, TARGET), 4 * 40 + 8 * 40 + 2 * 4, id="nll_loss"),
        pytest.param(
            lambda: F.linear(A, B.t().contiguous()), 2 * 4 * 32 * 48 + 4 * (64 * 32 + 32 * 48 + 64 * 48), id="linear"
        ),
        pytest.param(lambda: F.cross_entropy(LOGITS, TARGET), 2 * 4 * 400 + 4 * 40 + 8 * 40 + 8, id="cross_entropy"),
        pytest.param(lambda: X.sum().item(), 4 * 101 + 4, id="sum and item"),
        pytest.param(
            lambda: TABLE.clone().index_put_((INDEX,), torch.ones(())), 2 * 64000 + 4 + 8 * 40 + 4 + 4 * 40 * 16,
            id="one value for the rows of an index",
        ),
    ],
)
def test_bytes_by_hand_and_nothing_twice(run: Callable[[], Any], expected: int):
    assert moved(record(run)) == expected


def own(rows: list[dict[str, Any]], name: str) -> int:
    """Bytes of the calls of one op, without those of the ops inside it."""
    return sum(shape["bytes"] for row in rows if row["name"] == name for shape in row["shapes"])


def test_an_op_moves_the_tensors_that_nothing_inside_it_touched() -> None:
    table = TABLE.clone().requires_grad_()
    bags = F.embedding_bag(INDEX.view(8, 5), table, mode="sum")
    gradient = torch.randn(8, 16)
    rows = record(lambda: bags.backward(gradient))
    # What is inside fills the gradient and sorts the indices; the gradient of the bags is the op's own to read.
    assert own(rows, "aten::_embedding_bag_dense_backward") >= 4 * 8 * 16
    mask = LOGITS > 0
    rows = record(lambda: LOGITS[mask])
    picked = int(mask.sum())
    assert own(rows, "aten::index") >= 4 * 2 * picked  # after nonzero has read the mask
    rows = record(lambda: LOGITS.sort(1))
    assert own(rows, "aten::sort") == 4 * 2 * 400 + 8 * 400  # a copy and the numbers to sort are made inside
    weight, image = FILTERS.clone().requires_grad_(), IMAGE.to(memory_format=torch.channels_last).requires_grad_()
    out = F.conv2d(image, weight, padding=1)
    gradient = torch.randn_like(out).contiguous()
    rows = record(lambda: out.backward(gradient))
    assert own(rows, "aten::convolution_backward") > 4 * IMAGE.numel()  # in spite of copies to another layout


def test_a_mask_is_filled_by_the_op_inside() -> None:
    x = LOGITS.clone()
    rows = record(lambda: x.__setitem__(x > 0, 1.0))
    assert all(shape["bytes"] is not None for row in rows for shape in row["shapes"])
    assert own(rows, "aten::masked_fill_") > 0 and own(rows, "aten::_index_put_impl_") <= 4


def test_parts_of_a_sparse_gradient_are_metadata() -> None:
    table = torch.nn.Embedding(100, 16, sparse=True)
    rows = record(lambda: table(INDEX % 100).sum().backward())
    unknown = {row["name"] for row in rows for shape in row["shapes"] if shape["bytes"] is None}
    assert not unknown & {"aten::_indices", "aten::_values", "aten::sparse_dim", "aten::is_coalesced",
                          "aten::_sparse_coo_tensor_with_dims_and_tensors"}  # fmt: skip


def test_convolution_counts_once_through_its_layers():
    with torch.no_grad():
        rows = record(lambda: F.conv2d(IMAGE, FILTERS, padding=1))
    exact = 4 * (2 * 3 * 256 + 8 * 27 + 2 * 8 * 256)
    assert exact <= moved(rows) <= exact * 1.5  # some kernels reorder their weights through ops of their own
    assert len([row for row in rows if "conv" in row["name"]]) >= 3


def test_foreach_and_fused_optimizers():
    n = sum(tensor.numel() for tensor in LIST)
    copies = [tensor.clone() for tensor in LIST]
    rows = record(lambda: torch._foreach_mul_(copies, 0.5))
    assert moved(rows) == 2 * 4 * n
    parameters = [torch.nn.Parameter(tensor.clone()) for tensor in LIST]
    optimizer = torch.optim.AdamW(parameters, fused=True)
    for _ in range(2):
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        rows = record(optimizer.step)
    shape = shape_of(rows, "aten::_fused_adamw_")
    # Parameter and both moments read and written, the gradient read.
    assert shape["bytes"] == pytest.approx(7 * 4 * n, abs=4 * len(LIST))
    assert shape["footprint_bytes"] == 4 * 4 * n + 4 * len(LIST)
    assert shape["signature"] == "[2xf32 70] [2xf32 70] [2xf32 70] [2xf32 70] [2xf32 2]"


def test_signatures_name_dtypes_and_outputs():
    rows = record(lambda: (A @ B, F.embedding(INDEX, TABLE), torch.cat([X] * 20), X.max(0)))
    assert shape_of(rows, "aten::mm")["signature"] == "f32[64,32] f32[32,48] -> f32[64,48]"
    assert shape_of(rows, "aten::embedding")["signature"] == "f32[1000,16] i64[40] -> f32[40,16]"
    assert shape_of(rows, "aten::cat")["signature"] == "[20xf32 2.0k] -> f32[2000]"
    assert shape_of(rows, "aten::max")["signature"] == "f32[100] -> f32[] i64[]"


def test_footprint_is_the_distinct_bytes_touched():
    shape = shape_of(record(lambda: A.clone().add_(A)), "aten::add_")
    assert (shape["bytes"], shape["footprint_bytes"]) == (3 * 4 * 64 * 32, 2 * 4 * 64 * 32)


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(lambda: torch.eye(3).to_sparse().coalesce().values(), id="sparse"),
        pytest.param(lambda: X.index_fill(0, INDEX[:2] % 100, 1.0), id="index_fill"),
    ],
)
def test_what_is_not_known_is_none(run: Callable[[], Any]):
    shapes = [shape for row in record(run) for shape in row["shapes"]]
    assert any(shape["bytes"] is None for shape in shapes)
    assert all(shape["bytes"] is None or shape["bytes"] >= 0 for shape in shapes)


def test_operators_of_other_libraries_are_unknown():
    @torch.library.custom_op("perfsuite_test::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    shapes = [
        shape for row in record(lambda: twice(X)) if row["name"] == "perfsuite_test::twice" for shape in row["shapes"]
    ]
    assert shapes and all(shape["bytes"] is None for shape in shapes)


def test_meta_tensors_have_no_bytes():
    rows = record(lambda: torch.empty(10, device="meta") + 1)
    assert shape_of(rows, "aten::add")["bytes"] is None


@pytest.mark.parametrize("causal", [False, True])
def test_attention_says_whether_its_mask_is_causal(causal: bool) -> None:
    q = torch.randn(2, 4, 16, 8)
    rows = record(lambda: F.scaled_dot_product_attention(q, q, q, is_causal=causal))
    (row,) = [row for row in rows if row["name"] == "aten::_scaled_dot_product_flash_attention_for_cpu"]
    assert row["shapes"][0]["signature"].split(" ->")[0].endswith(f" causal={int(causal)}")


def test_onednns_linear_map_is_known() -> None:
    from perfsuite.flops import FORMULAS
    from perfsuite.kernels.products import product
    from perfsuite.signature import parse

    shape = shape_of(record(lambda: product(A, B.t())), "mkldnn::_linear_pointwise")
    assert shape["bytes"] == 4 * (64 * 32 + 32 * 48 + 64 * 48)
    assert FORMULAS["mkldnn::_linear_pointwise"](parse(shape["signature"])) == 2 * 64 * 32 * 48

"""Every implementation of embedding_bag against float64, eager torch and each other."""

import ctypes
import json
import re

import pytest
import torch
import torch.nn.functional as F

from perfsuite.kernels import contract
from perfsuite.kernels.check import check, check_drawn
from perfsuite.kernels.contract import Implementation
from perfsuite.kernels.embedding_bag import OP, cases, distinct_rows, embedding_bag, inputs, lookup_case, reference

CASES = {case.name: case for case in cases("tiny")}
REFERENCE = Implementation("reference", reference, lambda device: None)


@pytest.fixture(autouse=True)
def everything_eager():
    yield
    contract.select({})


@pytest.fixture
def cpp():
    contract.select({"embedding_bag": "cpp"})


def random_call(rows=30, width=20, bags=8, lookups=60, dtype="float32", **draw):
    tensors = inputs(lookup_case(rows, width, bags, lookups, dtype, draw), "cpu", torch.Generator().manual_seed(0))
    tensors["weight"].requires_grad_()
    return tensors["weight"], tensors["indices"], tensors["offsets"]


def eager(weight, indices, offsets):
    return F.embedding_bag(indices, weight, offsets, mode="sum", include_last_offset=True)


# -- the correctness rule ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_cpp_is_right(case, cpp):
    report = check(OP, OP.implementations["cpp"], case)
    assert report.ok, report
    assert report.deterministic


def test_cpp_is_right_at_any_shape_stride_and_dtype(cpp):
    report = check_drawn(OP, OP.implementations["cpp"])
    assert report.ok, report


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_reference_is_right(case):
    report = check(OP, REFERENCE, case)
    assert report.ok, report


def test_compile_is_right():
    report = check(OP, OP.implementations["compile"], CASES["20x64x9x200 float32 distribution=zipf"])
    assert report.ok, report


class _Planted(torch.autograd.Function):
    """Right, but for what `changed` does to the gradient."""

    @staticmethod
    def forward(ctx, changed, weight, indices, offsets):
        ctx.save_for_backward(weight, indices, offsets)
        ctx.changed = changed
        return eager(weight, indices, offsets)

    @staticmethod
    def backward(ctx, upstream):
        weight, indices, offsets = ctx.saved_tensors
        lengths = offsets.diff()
        terms = upstream[torch.repeat_interleave(torch.arange(len(lengths)), lengths)]
        return None, ctx.changed(torch.zeros_like(weight), indices, terms), None, None


def _last_write_wins(zeros, indices, terms):
    zeros[indices] = terms
    return zeros


def _adds_in_bfloat16(zeros, indices, terms):
    return zeros.bfloat16().index_add(0, indices, terms.bfloat16()).float()


def _leaves_other_rows_unwritten(zeros, indices, terms):
    out = torch.empty_like(zeros)
    out[indices] = 0
    return out.index_add(0, indices, terms)


def _keeps_empty_bags_unwritten(weight, indices, offsets):
    out = torch.empty(len(offsets) - 1, weight.shape[1])
    filled = offsets.diff() > 0
    return torch.where(filled[:, None], eager(weight, indices, offsets), out)


@pytest.mark.parametrize(
    ("run", "complaint"),
    [
        (lambda *call: _Planted.apply(_last_write_wins, *call), "grad_weight: RMS"),
        (lambda *call: _Planted.apply(_adds_in_bfloat16, *call), "grad_weight: RMS"),
        (lambda *call: _Planted.apply(_leaves_other_rows_unwritten, *call), "grad_weight: NaN"),
        (lambda w, i, o: F.embedding_bag(i, w, o, mode="mean", include_last_offset=True), "output: RMS"),
        (lambda w, i, o: eager(w, i.flip(0), o), "output: RMS"),
        (_keeps_empty_bags_unwritten, "output: NaN"),
    ],
)
def test_a_wrong_kernel_is_refused(run, complaint):
    planted = Implementation("planted", lambda weight, indices, offsets: run(weight, indices, offsets), lambda _: None)
    report = check(OP, planted, CASES["50x33x20x10 float32 distribution=uniform"])
    assert any(complaint in failure for failure in report.failures), report


def test_the_planted_gradient_is_right_without_its_mistake():
    add = torch.Tensor.index_add
    planted = Implementation(
        "planted",
        lambda weight, indices, offsets: _Planted.apply(lambda z, i, t: add(z, 0, i, t), weight, indices, offsets),
        lambda _: None,
    )
    assert check(OP, planted, CASES["50x33x20x10 float32 distribution=uniform"]).ok


# -- autograd, compile, autocast --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eager", "cpp"])
def test_gradcheck_in_float64(name):
    contract.select({"embedding_bag": name})
    weight, indices, offsets = random_call(6, 3, 5, 14, "float64")
    assert torch.autograd.gradcheck(lambda w: embedding_bag(w, indices, offsets), weight)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_fullgraph_compile_gives_the_same(cpp, backend):
    weight, indices, offsets = random_call()
    compiled = torch.compile(
        lambda w, i, o: embedding_bag(w, i, o).sin(), fullgraph=True, backend=backend, dynamic=backend == "inductor"
    )
    for bags in (8, 6) if backend == "inductor" else (8,):
        here = offsets[: bags + 1].clone()
        call = (indices[: here[-1]], here)
        out, expected = compiled(weight, *call), eager(weight, *call).sin()
        torch.testing.assert_close(out, expected)
        for got, want in zip(*(torch.autograd.grad(y.sum(), weight) for y in (out, expected)), strict=True):
            torch.testing.assert_close(got, want)


def test_operators_keep_torchs_rules(cpp):
    weight, indices, offsets = random_call()
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    ops = torch.ops.perfsuite
    torch.library.opcheck(ops.embedding_bag_cpp_forward.default, (weight.detach(), indices, offsets), test_utils=tests)
    call = (torch.randn(8, 20), indices, offsets, 30)
    torch.library.opcheck(ops.embedding_bag_cpp_backward.default, call, test_utils=tests)


def test_a_second_derivative_is_refused_and_not_wrong(cpp):
    weight, indices, offsets = random_call()
    with pytest.raises(RuntimeError, match="embedding_bag=cpp has no second derivative"):
        torch.autograd.grad(embedding_bag(weight, indices, offsets).square().sum(), weight, create_graph=True)


def test_the_table_is_not_kept_for_the_backward(cpp):
    weight, indices, offsets = random_call()
    out = embedding_bag(weight, indices, offsets)
    with torch.no_grad():
        weight.add_(1)  # as an update in place does between forward and backward of a pipelined step
    torch.autograd.grad(out.sum(), weight)


@pytest.mark.parametrize("name", ["eager", "cpp"])
def test_autocast_leaves_the_dtype(name):
    contract.select({"embedding_bag": name})
    weight, indices, offsets = random_call()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = embedding_bag(weight, indices, offsets)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, eager(weight, indices, offsets))


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eager", "cpp"])
@pytest.mark.parametrize("bad", [-1, 30, 2**40])
def test_an_index_outside_the_table_is_an_error(name, bad):
    contract.select({"embedding_bag": name})
    weight, indices, offsets = random_call()
    indices[-2] = bad
    error, words = (RuntimeError, None) if name == "eager" else (IndexError, f"index {bad} of lookup 58 is outside")
    with pytest.raises(error, match=words):
        embedding_bag(weight, indices, offsets)


@pytest.mark.parametrize("offsets", [[1, 60], [0, 59], [0, 61], [0, 40, 30, 60], [0, -1, 60]])
def test_offsets_that_do_not_divide_the_lookups_are_refused(cpp, offsets):
    weight, indices, _ = random_call()
    with pytest.raises(ValueError, match="offsets must"):
        embedding_bag(weight, indices, torch.tensor(offsets))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight": torch.randn(3)}, "weight must be (rows, width)"),
        ({"offsets": torch.zeros(0, dtype=torch.int64)}, "offsets (bags + 1,)"),
        ({"indices": torch.zeros(3, 4, dtype=torch.int64)}, "(3, 4)"),
        ({"indices": torch.zeros(60, dtype=torch.int32)}, "indices and offsets int64"),
        ({"weight": torch.ones(30, 20, dtype=torch.int64)}, "floating-point"),
        ({"mode": "mean"}, "'sum', got 'mean'"),
    ],
)
def test_bad_arguments_are_refused(change, words):
    weight, indices, offsets = random_call()
    with pytest.raises(ValueError, match=re.escape(words)):
        embedding_bag(**{"weight": weight, "indices": indices, "offsets": offsets, **change})


def test_rows_more_than_2_to_the_31_elements_apart(cpp):
    # Two rows at the ends of 4 GiB that nobody touches: only their pages exist.
    far = torch.empty(2**31 + 600, dtype=torch.bfloat16).as_strided((2, 500), (2**31 + 64, 1))
    far.copy_(torch.randn(2, 500))
    call = (torch.tensor([1, 0, 1]), torch.tensor([0, 2, 3]))
    assert torch.equal(embedding_bag(far, *call), embedding_bag(far.contiguous(), *call))


def test_the_number_of_threads_does_not_change_a_bit(cpp):
    weight, indices, offsets = random_call(1000, 40, 3000, 40_000, distribution="zipf")
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            out = embedding_bag(weight, indices, offsets)
            results.append((out, *torch.autograd.grad(out.square().sum(), weight)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for result in results[1:] for a, b in zip(result, results[0], strict=True))


@pytest.mark.parametrize("distribution", ["uniform", "zipf"])
def test_the_cost_counts_as_many_rows_as_are_hit(distribution):
    case = lookup_case(3000, 8, 10, 4000, draw={"distribution": distribution})
    hit = [inputs(case, "cpu", torch.Generator().manual_seed(i))["indices"].unique().numel() for i in range(20)]
    assert distinct_rows(case) == pytest.approx(sum(hit) / 20, rel=0.02)


# -- the C++ kernel by itself -----------------------------------------------------------------------------------------

SHIM = """
#include "embedding_bag.h"
#include "row_updates.h"
using namespace perfsuite::cpu;
#define DEFINE(T, name)                                                                                             \\
  extern "C" void sum_##name(const T* table, int64_t rows, int64_t width, const int64_t* indices,                   \\
                             const int64_t* offsets, int64_t bags, T* out, int isa) {                               \\
    embedding_bag_forward<T>({table, width, rows, width, indices, offsets}, 0, bags, out, Isa(isa));                \\
  }                                                                                                                 \\
  extern "C" void update_##name(T* table, acc_t<T>* state, int64_t rows, int64_t width, const int64_t* indices,     \\
                                const int64_t* offsets, int64_t bags, const T* gradient, double lr, double eps,     \\
                                int64_t parts, int isa) {                                                           \\
    const RowUpdates<T> op{{indices, offsets, bags, rows}, gradient, width, table, width, width,                    \\
                           state ? RowRule::kRowwiseAdagrad : RowRule::kSgd, state, acc_t<T>(lr), acc_t<T>(eps)};   \\
    for (int64_t part = 0; part < parts; ++part) update_rows<T>(op, part, parts, Isa(isa));                         \\
  }
DEFINE(float, f32)
DEFINE(BFloat16, bf16)
DEFINE(Half, f16)
DEFINE(double, f64)
extern "C" int best() { return int(best_isa()); }
"""
ISAS = {"plain": 0, "avx2": 1, "avx512": 2}
DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "f64": "float64"}


@pytest.fixture(scope="module")
def library(compile_kernels):
    return compile_kernels(SHIM, "embedding_bag", "row_updates")


@pytest.fixture
def isa(request, library):
    if ISAS[request.param] > library.best():
        pytest.skip(f"this processor has no {request.param}")
    return ISAS[request.param]


def call(function, *arguments):
    kinds = {int: ctypes.c_int64, float: ctypes.c_double}
    function(*(a if isinstance(a, ctypes.c_int) else kinds[type(a)](a) if type(a) in kinds else
               ctypes.c_void_p(None if a is None else a.data_ptr()) for a in arguments))  # fmt: skip


@pytest.mark.parametrize("isa", ISAS, indirect=True)
@pytest.mark.parametrize("width", [1, 7, 16, 65, 131])
@pytest.mark.parametrize("name", DTYPES)
def test_every_instruction_set_agrees_with_float64(library, isa, name, width):
    weight, indices, offsets = random_call(40, width, 9, 150, DTYPES[name])
    weight = weight.detach()
    eps = torch.finfo(weight.dtype).eps
    # One element past the end, and rows that are not aligned to vectors: nothing is touched beyond its end.
    out = torch.full((9 * width + 1,), 99.0, dtype=weight.dtype)
    call(getattr(library, f"sum_{name}"), weight, 40, width, indices, offsets, 9, out, ctypes.c_int(isa))
    exact = reference(weight.double(), indices, offsets)
    torch.testing.assert_close(out[:-1].double().view(9, width), exact, rtol=2 * eps, atol=8 * eps)
    assert out[-1] == 99.0

    gradient = torch.randn(9, width).to(weight.dtype)
    acc = torch.float64 if name == "f64" else torch.float32
    for state in (None, torch.rand(40, dtype=acc)):
        changed = torch.cat([weight.flatten(), torch.tensor([99.0], dtype=weight.dtype)])
        new_state = None if state is None else state.clone()
        sizes = (40, width, indices, offsets, 9, gradient, 0.1, 1e-8, 3, ctypes.c_int(isa))
        call(getattr(library, f"update_{name}"), changed, new_state, *sizes)
        bag = torch.repeat_interleave(torch.arange(9), offsets.diff())
        g = torch.zeros(40, width, dtype=torch.float64).index_add_(0, indices, gradient.double()[bag])
        factor = torch.full((40,), 0.1, dtype=torch.float64)
        if state is not None:
            expected = state.double() + g.square().mean(1)
            torch.testing.assert_close(new_state.double(), expected, rtol=1e-5, atol=1e-6)
            factor = 0.1 / (expected.sqrt() + 1e-8)
        exact = weight.double() - factor[:, None] * g
        torch.testing.assert_close(changed[:-1].double().view(40, width), exact, rtol=2 * eps, atol=8 * eps)
        assert changed[-1] == 99.0


# -- Triton -----------------------------------------------------------------------------------------------------------

INTERPRETED = """
import json, sys
import torch
from perfsuite.kernels import contract, embedding_bag as module
from perfsuite.kernels.check import check

contract.select({"embedding_bag": "triton"})
op, failures = module.OP, {}
wanted = json.loads(sys.argv[1])
for case in module.cases("tiny"):
    if case.name in wanted:
        failures[case.name] = check(op, op.implementations["triton"], case).failures

weight = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
indices, offsets = torch.tensor([5, 0, 5, 5, 2]), torch.tensor([0, 2, 2, 5])
assert torch.autograd.gradcheck(lambda w: module.embedding_bag(w, indices, offsets), weight)
compiled = torch.compile(lambda w: module.embedding_bag(w, indices, offsets), fullgraph=True, backend="aot_eager")
out, expected = compiled(weight), module._eager(weight, indices, offsets)
torch.testing.assert_close(out, expected)
torch.testing.assert_close(torch.autograd.grad(out.sum(), weight), torch.autograd.grad(expected.sum(), weight))
for bad in (-1, 6, 2**40):
    indices[1] = bad
    out = module.embedding_bag(weight, indices, offsets)
    assert out[0].isnan().all() and out[1:].isfinite().all()
far = torch.empty(2**31 + 600, dtype=torch.bfloat16).as_strided((2, 9), (2**31 + 64, 1))
far.copy_(torch.randn(2, 9))
call = (torch.tensor([1, 0, 1]), torch.tensor([0, 2, 3]))
assert torch.equal(module.embedding_bag(far, *call), module.embedding_bag(far.contiguous(), *call))
print(json.dumps(failures))
"""
INTERPRETED_CASES = [
    "7x3x0x0 float32 distribution=uniform",
    "40x16x8x60 float32 distribution=zipf layout=transposed",
    "40x20x8x60 float32 distribution=uniform values=nan",
    "50x33x20x10 float32 distribution=uniform",
]


def test_triton_in_the_interpreter(interpreted):
    failures = interpreted(INTERPRETED, json.dumps(INTERPRETED_CASES))
    assert len(failures) == len(INTERPRETED_CASES)
    assert not any(failures.values()), failures

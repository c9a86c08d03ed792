"""Rotary positions: every implementation against float64, eager torch and each other."""

import ctypes
import json
import re

import pytest
import torch

from perfsuite.kernels import contract
from perfsuite.kernels.check import check, check_drawn
from perfsuite.kernels.contract import Implementation
from perfsuite.kernels.rope import OP, cases, in_memory_order, reference, rope, row_dimensions

CASES = {case.name: case for case in cases("tiny")}


@pytest.fixture(autouse=True)
def everything_eager():
    yield
    contract.select({})


@pytest.fixture
def cpp():
    contract.select({"rope": "cpp"})


def tables(time, dim, dtype=torch.float32):
    angles = torch.arange(time, dtype=dtype)[:, None] * 10_000 ** (-torch.arange(0, dim, 2, dtype=dtype) / dim)
    return angles.cos(), angles.sin()


def by_hand(x, cos, sin):
    """Element by element, in float64."""
    y, half = x.detach().double().clone(), x.shape[-1] // 2
    for t in range(x.shape[-2]):
        for j in range(half):
            a, b = x[..., t, j].detach().double(), x[..., t, half + j].detach().double()
            c, s = cos[t, j].double(), sin[t, j].double()
            y[..., t, j], y[..., t, half + j] = a * c - b * s, b * c + a * s
    return y


# -- the correctness rule ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_cpp_is_right(case, cpp):
    report = check(OP, OP.implementations["cpp"], case)
    assert report.ok, report


def test_cpp_is_right_on_drawn_cases(cpp):
    report = check_drawn(OP, OP.implementations["cpp"], draws=100)
    assert report.ok, report


def test_compile_is_right():
    report = check(OP, OP.implementations["compile"], CASES["2x4x24x32 float32 layout=qkv"])
    assert report.ok, report


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_reference_is_right(case):
    report = check(OP, Implementation("reference", reference, lambda device: None), case)
    assert report.ok, report


def test_reference_is_the_formula():
    x, (cos, sin) = torch.randn(2, 5, 6), tables(5, 6)
    torch.testing.assert_close(rope(x, cos, sin).double(), by_hand(x, cos, sin))


def _wrong(name):
    """Kernels with the mistakes that people make."""
    eager = OP.implementations["eager"].run

    def pairs_neighbours(x, cos, sin, **options):  # the convention of GPT-J
        half = x.shape[-1] // 2
        order = torch.arange(x.shape[-1]).view(half, 2).T.reshape(-1)
        return eager(x[..., order], cos, sin, **options)[..., order.argsort()]

    def takes_the_tables_of_other_positions(x, cos, sin, **options):
        return eager(x, cos.roll(1, 0), sin.roll(1, 0), **options)

    def takes_heads_for_positions(x, cos, sin, position_dim, inplace):
        return eager(x, cos, sin, position_dim=-2, inplace=False)

    def takes_the_last_rows_of_the_tables(x, cos, sin, position_dim, inplace):
        time = x.shape[position_dim]
        return eager(x, cos[-time:], sin[-time:], position_dim=position_dim, inplace=False)

    def turns_in_bfloat16(x, cos, sin, **options):
        return eager(x.bfloat16(), cos.bfloat16().float(), sin.bfloat16().float(), **options).to(x.dtype)

    def takes_strided_input_for_contiguous(x, cos, sin, **options):
        flat = torch.as_strided(x, (x.numel(),), (1,), x.storage_offset())
        return eager(flat.view(x.shape), cos, sin, **options)

    def works_in_place(x, cos, sin, **options):
        y = eager(x, cos, sin, **options)
        x.detach().copy_(y.detach())
        return y

    class Turn(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, cos, sin, options):
            ctx.tables, ctx.options = (cos, sin), options
            return eager(x.detach(), cos, sin, **options)

        @staticmethod
        def turned_back(ctx, upstream):
            cos, sin = ctx.tables
            return eager(upstream, cos, -sin, **ctx.options)

    class TurnsTheGradientForward(Turn):
        @staticmethod
        def backward(ctx, upstream):
            return eager(upstream, *ctx.tables, **ctx.options), None, None, None

    class DropsWhatIsNoPowerOfTwo(Turn):
        @staticmethod
        def backward(ctx, upstream):
            gradient = Turn.turned_back(ctx, upstream)
            half = upstream.shape[-1] // 2
            block = 1 << (half.bit_length() - 1)
            gradient[..., block:half] = 0
            return gradient, None, None, None

    class LosesALittle(Turn):
        @staticmethod
        def backward(ctx, upstream):
            return Turn.turned_back(ctx, upstream) * (1 + 1e-6), None, None, None

    def function(kernel):
        return lambda x, cos, sin, **options: kernel.apply(x, cos, sin, options)

    kernel = dict(locals())[name]
    return Implementation(name, function(kernel) if isinstance(kernel, type) else kernel, lambda device: None)


QKV = "2x4x24x32 float32 layout=qkv"


@pytest.mark.parametrize(
    ("name", "case", "complaint"),
    [
        ("pairs_neighbours", QKV, "output: RMS"),
        ("takes_the_tables_of_other_positions", QKV, "output: RMS"),
        ("takes_heads_for_positions", "2x3x9x6 float32 position_dim=-3 table=3", "output: RMS"),
        ("takes_the_last_rows_of_the_tables", "2x3x9x80 float32 layout=tokens table=5", "grad_x: RMS"),
        ("takes_the_last_rows_of_the_tables", "2x3x11x20 float16 layout=qkv table=2", "output: RMS"),
        ("turns_in_bfloat16", QKV, "output: RMS"),
        ("takes_strided_input_for_contiguous", "2x3x11x96 bfloat16 layout=tokens", "output: RMS"),
        ("works_in_place", QKV, "x was changed"),
        ("TurnsTheGradientForward", QKV, "grad_x: RMS"),
        ("DropsWhatIsNoPowerOfTwo", "3x2x7x96 float32", "grad_x: RMS"),
        ("DropsWhatIsNoPowerOfTwo", "2x3x6x34 float32 layout=odd start", "grad_x: RMS"),
        ("LosesALittle", QKV, "grad_x: RMS"),
    ],
)
def test_a_wrong_kernel_is_refused(name, case, complaint):
    report = check(OP, _wrong(name), CASES[case])
    assert any(complaint in failure for failure in report.failures), report


# -- autograd, compile, autocast --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eager", "cpp"])
@pytest.mark.parametrize("position_dim", [-2, 1])
def test_both_derivatives_in_float64(name, position_dim):
    contract.select({"rope": name})
    x = torch.randn(2, 3, 3, 6, dtype=torch.float64).transpose(0, 2).requires_grad_()
    cos, sin = tables(4, 6, torch.float64)
    assert torch.autograd.gradcheck(lambda x: rope(x, cos, sin, position_dim=position_dim), x)
    assert torch.autograd.gradgradcheck(lambda x: rope(x, cos, sin, position_dim=position_dim), x)


def attention_inputs(packed, cos, sin):
    """A function of both turned and unturned slices, as attention is."""
    q, k, v = packed.permute(2, 0, 3, 1, 4)
    q, k = rope(q, cos, sin), rope(k, cos, sin)
    return (q * k * v).sum() + rope(packed.permute(2, 0, 3, 1, 4)[:2], cos, sin).square().sum()


@pytest.mark.parametrize(("backend", "dynamic"), [("aot_eager", False), ("aot_eager", True), ("inductor", False)])
def test_fullgraph_compile_gives_the_same(cpp, backend, dynamic):
    packed, (cos, sin) = torch.randn(2, 7, 3, 2, 8, requires_grad=True), tables(9, 8)
    expected = attention_inputs(packed, cos, sin)
    torch._dynamo.reset()
    compiled = torch.compile(attention_inputs, fullgraph=True, backend=backend, dynamic=dynamic)
    found = compiled(packed, cos, sin)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, packed), torch.autograd.grad(expected, packed))


def test_in_place_within_a_compiled_region(cpp):
    x, (cos, sin) = torch.randn(2, 3, 7, 8), tables(7, 8)
    expected = 2 * rope(x, cos, sin)

    def double_turned(x):
        return 2 * rope(x, cos, sin, inplace=True)

    torch.testing.assert_close(torch.compile(double_turned, fullgraph=True, backend="aot_eager")(x), expected)
    torch.testing.assert_close(2 * x, expected)


def test_operators_keep_torchs_rules(cpp):
    ops, (cos, sin) = torch.ops.perfsuite, tables(7, 8)
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    for x, position_dim in ((torch.randn(2, 7, 3, 8).transpose(1, 2), 2), (torch.randn(2, 7, 3, 8), 1)):
        for inverse in (False, True):
            arguments = (x, cos, sin, position_dim, inverse)
            torch.library.opcheck(ops.rope_cpp.default, arguments, test_utils=tests)
            torch.library.opcheck(ops.rope_cpp_.default, arguments, test_utils=tests)


@pytest.mark.parametrize("name", ["eager", "cpp"])
def test_autocast_keeps_the_dtype_and_turns_in_float32(name):
    contract.select({"rope": name})
    x, (cos, sin) = torch.randn(2, 3, 50, 16).bfloat16().requires_grad_(), tables(50, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = rope(x, cos, sin)
    assert y.dtype == torch.bfloat16
    exact = by_hand(x, cos, sin)
    half_an_ulp = 2.0 ** (torch.frexp(exact).exponent - 9)  # bfloat16 has 8 bits
    # Rounded once, from a float32 sum of two products of numbers below 8: arithmetic in bfloat16 is a whole ulp off.
    assert ((y.double() - exact).abs() <= half_an_ulp + 8 * 2**-22).all()
    assert torch.autograd.grad(y.sum(), x)[0].dtype == torch.bfloat16


def test_the_backward_leaves_its_incoming_gradient_alone(cpp):
    x, z = (torch.randn(2, 3, 5, 8, requires_grad=True) for _ in range(2))
    cos, sin = tables(5, 8)
    upstream = torch.randn(2, 3, 5, 8)
    before = upstream.clone()
    grad_x, grad_z = torch.autograd.grad(rope(x, cos, sin) + z, (x, z), upstream)  # both get the same tensor
    assert torch.equal(upstream, before) and torch.equal(grad_z, before)
    torch.testing.assert_close(grad_x.double(), by_hand(before, cos, -sin))


def test_the_backward_does_not_need_x(cpp):
    x, (cos, sin) = torch.randn(3, 5, 8, requires_grad=True), tables(5, 8)
    y = rope(2 * x, cos, sin)
    held = {id(tensor.untyped_storage()) for tensor in y.grad_fn.saved_tensors}
    assert held == {id(cos.untyped_storage()), id(sin.untyped_storage())}


# -- layouts ----------------------------------------------------------------------------------------------------------


def test_a_view_of_packed_qkv_is_not_copied(cpp):
    qkv = torch.randn(2, 7, 3, 4, 32, requires_grad=True)
    cos, sin = tables(7, 32)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        y = rope(qkv.permute(2, 0, 3, 1, 4)[:2], cos, sin)
        rope(torch.randn(2, 7, 4, 64)[..., ::2], cos, sin, position_dim=1)  # this one is
    names = [event.name for event in profile.events()]
    assert names.count("perfsuite::rope_cpp") == 2 and names.count("aten::clone") == 1
    assert y.is_contiguous()
    torch.testing.assert_close(y.double(), by_hand(qkv.permute(2, 0, 3, 1, 4)[:2], cos, sin))


def test_the_gradient_lies_as_x_does(cpp):
    x, (cos, sin) = torch.randn(2, 7, 3, 8).transpose(1, 2).requires_grad_(), tables(7, 8)
    (gradient,) = torch.autograd.grad(rope(x, cos, sin).sum(), x)
    assert gradient.stride() == x.stride()
    assert in_memory_order(x) == [0, 2, 1, 3] and in_memory_order(x.contiguous()) is None


def test_expanded_input(cpp):
    base, (cos, sin) = torch.randn(1, 3, 7, 8, requires_grad=True), tables(7, 8)
    y = rope(base.expand(4, 3, 7, 8), cos, sin)
    torch.testing.assert_close(y.double(), by_hand(base.expand(4, 3, 7, 8), cos, sin))
    upstream = torch.randn(4, 3, 7, 8)
    (gradient,) = torch.autograd.grad(y, base, upstream)
    torch.testing.assert_close(gradient, by_hand(upstream, cos, -sin).sum(0, keepdim=True).float())


def test_more_dimensions_than_any_layer_has(cpp):
    x, (cos, sin) = torch.randn(2, 1, 3, 2, 2, 5, 2, 8).permute(6, 3, 1, 0, 2, 4, 5, 7), tables(5, 8)
    torch.testing.assert_close(rope(x, cos, sin).double(), by_hand(x, cos, sin))


@pytest.mark.parametrize("inplace", [False, True])
def test_rows_more_than_2_to_the_31_elements_apart(cpp, inplace):
    # Rows at the ends of 4 GiB that nobody touches: only their pages exist.
    far = torch.empty(2**31 + 600, dtype=torch.bfloat16).as_strided((2, 5, 96), (2**31 + 64, 96, 1))
    near, (cos, sin) = torch.randn(2, 5, 96).bfloat16(), tables(5, 96)
    far.copy_(near)
    assert torch.equal(rope(far, cos, sin, inplace=inplace), rope(near, cos, sin))


def test_tables_of_other_dtypes_and_strides(cpp):
    x, (cos, sin) = torch.randn(2, 7, 8), tables(9, 8, torch.float64)
    expected = by_hand(x, cos, sin).float()
    torch.testing.assert_close(rope(x, cos, sin), expected)
    strided = [table.float().T.contiguous().T for table in (cos, sin)]
    torch.testing.assert_close(rope(x, *strided), expected)
    half = [table.bfloat16() for table in (cos, sin)]
    torch.testing.assert_close(rope(x.bfloat16(), *half), by_hand(x.bfloat16(), *half).bfloat16())


def test_the_number_of_threads_does_not_change_a_bit(cpp):
    x, (cos, sin) = torch.randn(3, 700, 5, 40).transpose(1, 2), tables(700, 40)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(rope(x, cos, sin))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)
    assert torch.equal(results[0], rope(x.contiguous(), cos, sin))


def test_dimensions_that_are_one_step_become_one():
    qkv = torch.empty(2, 7, 3, 4, 32).permute(2, 0, 3, 1, 4)[:2]
    assert row_dimensions([qkv], 3) == ([1, 2, 8, 7], [[0, 7 * 384, 32, 384]])
    sizes, strides = row_dimensions([qkv, qkv.contiguous()], 3)
    assert sizes == [2, 2, 4, 7] and strides == [[128, 7 * 384, 32, 384], [2 * 4 * 224, 4 * 224, 224, 32]]
    deep = torch.empty(2, 3, 2, 3, 5, 8).permute(3, 2, 1, 0, 4, 5)
    assert row_dimensions([deep, torch.empty(deep.shape)], 4) is None


# -- in place ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eager", "cpp"])
@pytest.mark.parametrize("layout", ["contiguous", "qkv", "every second"])
def test_in_place(name, layout):
    contract.select({"rope": name})
    base, (cos, sin) = torch.randn(2, 7, 3, 4, 32), tables(7, 32)
    x = {
        "contiguous": base.permute(2, 0, 3, 1, 4).contiguous(),
        "qkv": base.permute(2, 0, 3, 1, 4)[:2],
        "every second": base.permute(2, 0, 3, 1, 4)[..., ::2],
    }[layout]
    if layout == "every second":
        cos, sin = cos[:, :8], sin[:, :8]
    untouched, expected, version = base[:, :, 2].clone(), by_hand(x, cos, sin), x._version
    assert rope(x, cos, sin, inplace=True) is x
    torch.testing.assert_close(x.double(), expected)
    assert x._version > version
    if layout == "qkv":
        assert torch.equal(base[:, :, 2], untouched)


@pytest.mark.parametrize("name", ["eager", "cpp"])
def test_in_place_never_spoils_what_a_backward_needs(name):
    contract.select({"rope": name})
    x, weight, (cos, sin) = torch.randn(3, 7, 8), torch.randn(8, requires_grad=True), tables(7, 8)
    y = (x * weight).sum()  # has saved x
    rope(x, cos, sin, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_in_place_is_refused_where_a_gradient_is_wanted(cpp):
    x, (cos, sin) = torch.randn(3, 7, 8, requires_grad=True), tables(7, 8)
    with pytest.raises(ValueError, match="inplace=True needs an x without gradient"):
        rope(x, cos, sin, inplace=True)
    with torch.no_grad():
        rope(x, cos, sin, inplace=True)
    with torch.inference_mode():
        rope(torch.ones(7, 8), cos, sin, inplace=True)
    with pytest.raises(ValueError, match="do not share memory"):
        rope(torch.randn(1, 7, 8).expand(2, 7, 8), cos, sin, inplace=True)


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": torch.randn(2, 5, 7)}, "an even dim, got torch.float32(2, 5, 7)"),
        ({"x": torch.randn(8)}, "(..., T, dim)"),
        ({"x": torch.ones(2, 5, 8, dtype=torch.int64)}, "floating-point"),
        ({"x": torch.randn(2, 6, 8)}, "at least 6 positions, 4"),
        ({"x": torch.randn(2, 5, 10)}, "(at least 5 positions, 5), got (5, 4) and (5, 4)"),
        ({"cos": torch.randn(5, 4, requires_grad=True)}, "need no gradient"),
        ({"sin": torch.randn(4)}, "got (5, 4) and (4,)"),
        ({"sin": torch.ones(5, 4, dtype=torch.int64)}, "got torch.int64"),
        ({"position_dim": -1}, "before the last, got -1"),
        ({"position_dim": 3}, "before the last, got 3"),
        ({"position_dim": -4}, "before the last, got -4"),
    ],
)
def test_bad_arguments_are_refused(change, words):
    cos, sin = tables(5, 8)
    with pytest.raises(ValueError, match=re.escape(words)):
        rope(**{"x": torch.randn(2, 5, 8), "cos": cos, "sin": sin, **change})


def test_the_operator_itself_does_not_read_past_the_tables(cpp):
    cos, sin = tables(5, 8)
    for x in (torch.randn(2, 6, 8), torch.randn(2, 5, 16), torch.randn(2, 5, 7), torch.randn(2, 5, 8).double()):
        with pytest.raises(ValueError, match="rope:"):
            torch.ops.perfsuite.rope_cpp(x, cos, sin, 1, False)


def test_cost_of_a_call():
    x, (cos, sin) = torch.randn(2, 3, 5, 8, requires_grad=True), tables(5, 8)
    case = OP.case_of(x, cos, sin)
    assert case.shape == {"batch": 2, "heads": 3, "time": 5, "dim": 8} and case.gradient
    assert OP.cost(case) == (2 * (2 * 240 * 4 + 40 * 4), 2 * 3 * 240)
    assert OP.case_of(x.detach(), cos, sin, position_dim=-2).shape == case.shape
    assert OP.case_of(torch.randn(2, 5, 3, 8), cos, sin, position_dim=-3).shape == case.shape


# -- the C++ kernel by itself -----------------------------------------------------------------------------------------

SHIM = """
#include "rope.h"
using namespace perfsuite::cpu;
#define DEFINE(T, name)                                                                                        \\
  extern "C" void name(const T* x, T* out, const acc_t<T>* cos, const acc_t<T>* sin, int64_t distance,         \\
                       int64_t out_distance, int64_t rows, int64_t half, int inverse, int isa) {               \\
    rope<T>({x, out, cos, sin, distance, out_distance, half, rows, half, inverse != 0}, Isa(isa));             \\
  }
DEFINE(float, turn_f32)
DEFINE(BFloat16, turn_bf16)
DEFINE(Half, turn_f16)
DEFINE(double, turn_f64)
extern "C" int best() { return int(best_isa()); }
"""
ISAS = {"plain": 0, "avx2": 1, "avx512": 2}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "f64": torch.float64}


@pytest.fixture(scope="module")
def library(compile_kernels):
    return compile_kernels(SHIM, "rope")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", DTYPES)
def test_every_instruction_set_agrees_with_float64(library, isa, name):
    if ISAS[isa] > library.best():
        pytest.skip(f"this processor has no {isa}")
    dtype, acc = DTYPES[name], torch.float64 if name == "f64" else torch.float32
    for half in (1, 3, 8, 13, 16, 40, 53):
        for inverse in (False, True):
            rows, dim = 3, 2 * half
            x, (cos, sin) = torch.randn(rows, dim + 1).to(dtype), tables(rows, dim, acc)
            # One element after each row, which is not touched.
            out = torch.full((rows, dim + 1), 99.0, dtype=dtype)
            pointers = [ctypes.c_void_p(t.data_ptr()) for t in (x, out, cos, sin)]
            sizes = [ctypes.c_int64(n) for n in (dim + 1, dim + 1, rows, half)]
            getattr(library, f"turn_{name}")(*pointers, *sizes, ctypes.c_int(inverse), ctypes.c_int(ISAS[isa]))
            expected = by_hand(x[:, :dim], cos, -sin if inverse else sin)
            eps = torch.finfo(dtype).eps
            torch.testing.assert_close(out[:, :dim].double(), expected, rtol=eps, atol=4 * eps)
            assert (out[:, dim] == 99).all()


# -- Triton -----------------------------------------------------------------------------------------------------------

INTERPRETED = """
import json, sys
import torch
from perfsuite.kernels import contract
from perfsuite.kernels.check import check
from perfsuite.kernels.rope import OP, cases, rope

contract.select({"rope": "triton"})
eager, failures = OP.implementations["eager"].run, {}
wanted = json.loads(sys.argv[1])
for case in cases("tiny"):
    if case.name in wanted:
        failures[case.name] = check(OP, OP.implementations["triton"], case).failures

def tables(time, dim):
    angles = torch.arange(time)[:, None] * 10_000 ** (-torch.arange(0, dim, 2) / dim)
    return angles.cos(), angles.sin()

cos, sin = tables(3, 4)
x = torch.randn(1, 3, 2, 4, dtype=torch.float64, requires_grad=True)
for position_dim in (1, 2):
    turn = lambda x: rope(x, cos, sin, position_dim=position_dim)
    torch.autograd.gradcheck(turn, x)
    torch.autograd.gradgradcheck(turn, x)
    expected = eager(x, cos, sin, position_dim=position_dim - 4, inplace=False)
    found = torch.compile(turn, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(found)
    torch.testing.assert_close(torch.autograd.grad(found, x, weight), torch.autograd.grad(expected, x, weight))

# More heads and positions than one program takes, and more dimensions than the kernel walks.
cos, sin = tables(300, 8)
for shape, order in (((1, 70, 17, 8), (0, 2, 1, 3)), ((2, 3, 2, 3, 5, 8), (3, 2, 1, 0, 4, 5))):
    x = torch.randn(shape).permute(order)
    expected = eager(x, cos, sin, position_dim=-2, inplace=False)
    torch.testing.assert_close(rope(x, cos, sin), expected)
    version = x._version
    assert rope(x, cos, sin, inplace=True) is x and x._version > version
    torch.testing.assert_close(x, expected)

far = torch.empty(2**31 + 600, dtype=torch.bfloat16).as_strided((2, 5, 8), (2**31 + 64, 8, 1))
near = torch.randn(2, 5, 8).bfloat16()
far.copy_(near)
assert torch.equal(rope(far, cos, sin), rope(near, cos, sin))
far = torch.empty(2**31 + 600, dtype=torch.bfloat16).as_strided((17, 8), (2**27 + 1, 1))  # positions far apart
near = torch.randn(17, 8).bfloat16()
far.copy_(near)
assert torch.equal(rope(far, cos, sin, inplace=True), rope(near, cos, sin))
print(json.dumps(failures))
"""
INTERPRETED_CASES = [
    QKV,
    "1x1x1x2 float32",
    "0x2x3x4 float32",
    "2x3x9x80 float32 layout=tokens table=5",
    "2x3x9x6 float32 position_dim=-3 table=3",
    "2x3x6x40 float32 layout=every second",
    "2x3x11x96 bfloat16 layout=tokens",
]


def test_triton_in_the_interpreter(interpreted):
    failures = interpreted(INTERPRETED, json.dumps(INTERPRETED_CASES))
    assert len(failures) == len(INTERPRETED_CASES)
    assert not any(failures.values()), failures

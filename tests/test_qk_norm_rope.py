"""QK norm with rotary positions: every implementation against float64, eager torch and each other."""

import ctypes
import json
import re

import pytest
import torch

from perfsuite.kernels import contract
from perfsuite.kernels.check import check, check_drawn
from perfsuite.kernels.contract import Implementation
from perfsuite.kernels.qk_norm_rope import OP, cases, qk_norm_rope, reference

CASES = {case.name: case for case in cases("tiny")}


@pytest.fixture(autouse=True)
def everything_eager():
    yield
    contract.select({})


@pytest.fixture
def cpp():
    contract.select({"qk_norm_rope": "cpp"})


def random_call(batch=2, heads=3, kv_heads=2, time=7, dim=8, dtype=torch.float32):
    """The six arguments; (batch, time, heads, dim) in memory."""
    q, k = (torch.randn(batch, time, n, dim).to(dtype).transpose(1, 2) for n in (heads, kv_heads))
    q_weight, k_weight = (1 + 0.3 * torch.randn(2, dim)).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    frequencies = 10_000 ** (-torch.arange(0, dim, 2, dtype=wide) / dim)
    angles = torch.arange(time, dtype=wide)[:, None] * frequencies
    differentiable = [tensor.detach().requires_grad_() for tensor in (q, k, q_weight.clone(), k_weight.clone())]
    return *differentiable, angles.cos(), angles.sin()


def results(arguments, **options):
    """Both outputs and all four gradients, for upstream gradients that differ from place to place."""
    outputs = qk_norm_rope(*arguments, **options)
    upstream = [torch.linspace(-1, 1, y.numel()).to(y.dtype).view(y.shape) for y in outputs]
    return *outputs, *torch.autograd.grad(outputs, arguments[:4], upstream)


# -- the correctness rule ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_cpp_is_right(case, cpp):
    report = check(OP, OP.implementations["cpp"], case)
    assert report.ok, report


def test_cpp_is_right_on_drawn_cases(cpp):
    report = check_drawn(OP, OP.implementations["cpp"], draws=80)
    assert report.ok, report


def test_compile_is_right():
    report = check(OP, OP.implementations["compile"], CASES["2x4x2x24x32 float32 layout=qkv"])
    assert report.ok, report


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_reference_is_right(case):
    report = check(OP, Implementation("reference", reference, lambda device: None), case)
    assert report.ok, report


def test_reference_is_the_formula():
    q, k, q_weight, k_weight, cos, sin = (tensor.detach() for tensor in random_call())
    y, z = qk_norm_rope(q, k, q_weight, k_weight, cos, sin)
    for x, weight, found in ((q, q_weight, y), (k, k_weight, z)):
        normal = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight
        pairs = torch.complex(normal[..., :4], normal[..., 4:]) * torch.complex(cos, sin)
        torch.testing.assert_close(found, torch.cat((pairs.real, pairs.imag), -1))


def _wrong(name):
    """Kernels with the mistakes that people make."""
    eager = OP.implementations["eager"].run

    def swaps_the_weights(q, k, q_weight, k_weight, cos, sin, eps):
        return eager(q, k, k_weight, q_weight, cos, sin, eps=eps)

    def forgets_eps(q, k, q_weight, k_weight, cos, sin, eps):
        return eager(q, k, q_weight, k_weight, cos, sin, eps=1e-9)

    def turns_before_it_weighs(q, k, q_weight, k_weight, cos, sin, eps):
        one = torch.ones_like(q_weight)
        y, z = eager(q, k, one, one, cos, sin, eps=eps)
        return y * q_weight, z * k_weight

    def subtracts_the_mean(q, k, q_weight, k_weight, cos, sin, eps):
        return eager(q - q.mean(-1, keepdim=True), k, q_weight, k_weight, cos, sin, eps=eps)

    def takes_the_mean_of_a_padded_row(q, k, q_weight, k_weight, cos, sin, eps):
        dim = q.shape[-1]
        factor = (dim / (1 << (dim - 1).bit_length())) ** 0.5
        return tuple(y / factor for y in eager(q, k, q_weight, k_weight, cos, sin, eps=eps))

    def normalises_in_half_precision(q, k, q_weight, k_weight, cos, sin, eps):
        return tuple(
            y.float() for y in eager(*(x.bfloat16() for x in (q, k, q_weight, k_weight)), cos, sin, eps=eps)
        )

    class Detached(torch.autograd.Function):
        """Right, but for what `spoil` does to the four gradients."""

        @staticmethod
        def forward(ctx, spoil, eps, *tensors):
            with torch.enable_grad():
                ctx.arguments = [tensor.detach().requires_grad_(i < 4) for i, tensor in enumerate(tensors)]
                ctx.outputs = eager(*ctx.arguments, eps=eps)
            ctx.spoil = spoil
            return tuple(y.detach() for y in ctx.outputs)

        @staticmethod
        def backward(ctx, *upstream):
            found = list(torch.autograd.grad(ctx.outputs, ctx.arguments[:4], upstream))
            return None, None, *ctx.spoil(found, ctx.arguments, upstream), None, None

    def spoiled(spoil):
        return lambda q, k, q_weight, k_weight, cos, sin, eps: Detached.apply(
            spoil, eps, q, k, q_weight, k_weight, cos, sin
        )

    def forgets_the_last_row(found, arguments, upstream):
        q, cos, sin = arguments[0].detach(), *arguments[4:]
        x, dy, half = q[-1, -1, -1], upstream[0][-1, -1, -1], q.shape[-1] // 2
        c, s = cos[q.shape[-2] - 1], sin[q.shape[-2] - 1]
        u = torch.cat((dy[:half] * c + dy[half:] * s, dy[half:] * c - dy[:half] * s))
        found[2] = found[2] - u * x * x.square().mean().rsqrt()
        return found

    def forgets_that_the_norm_depends_on_x(found, arguments, upstream):
        x = arguments[0].detach()
        n = x * x.square().mean(-1, keepdim=True).rsqrt()
        along = (found[0] * n).mean(-1, keepdim=True)
        found[0] = found[0] + 0.01 * n * (along + found[0].abs().mean(-1, keepdim=True))
        return found

    def sums_the_weight_in_half_precision(found, arguments, upstream):
        found[3] = found[3].bfloat16().to(found[3].dtype)
        return found

    def exchanges_the_gradients_of_the_weights(found, arguments, upstream):
        return [*found[:2], found[3], found[2]]

    kernel = dict(locals())[name]
    takes_gradients = "found" in kernel.__code__.co_varnames[:1]
    return Implementation(name, spoiled(kernel) if takes_gradients else kernel, lambda device: None)


TOKENS = "5x8x4x33x32 float32 layout=tokens"


@pytest.mark.parametrize(
    ("name", "case", "complaint"),
    [
        ("swaps_the_weights", TOKENS, "q_output: RMS"),
        ("forgets_eps", "3x2x4x7x96 float32 eps=0.1", "k_output: RMS"),
        ("turns_before_it_weighs", TOKENS, "q_output: RMS"),
        ("subtracts_the_mean", "2x3x1x11x96 bfloat16 layout=tokens", "q_output: RMS"),
        ("takes_the_mean_of_a_padded_row", "2x3x3x9x80 float32 layout=tokens table=5", "q_output: RMS"),
        ("normalises_in_half_precision", TOKENS, "grad_q: RMS"),
        ("forgets_the_last_row", TOKENS, "grad_q_weight: RMS"),
        ("forgets_that_the_norm_depends_on_x", TOKENS, "grad_q: RMS"),
        ("sums_the_weight_in_half_precision", TOKENS, "grad_k_weight: RMS"),
        ("exchanges_the_gradients_of_the_weights", TOKENS, "grad_q_weight: RMS"),
    ],
)
def test_a_wrong_kernel_is_refused(name, case, complaint):
    report = check(OP, _wrong(name), CASES[case])
    assert any(complaint in failure for failure in report.failures), report


# -- autograd, compile, autocast --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eager", "cpp"])
def test_gradcheck_in_float64(name):
    contract.select({"qk_norm_rope": name})
    *differentiable, cos, sin = random_call(1, 2, 1, 3, 6, torch.float64)
    assert torch.autograd.gradcheck(lambda *four: qk_norm_rope(*four, cos, sin, eps=0.01), differentiable)


def test_a_second_derivative_is_refused_and_not_wrong(cpp):
    arguments = random_call()
    y, _ = qk_norm_rope(*arguments)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(y.square().sum(), arguments[0], create_graph=True)


@pytest.mark.parametrize(("backend", "dynamic"), [("aot_eager", False), ("aot_eager", True), ("inductor", False)])
def test_fullgraph_compile_gives_the_same(cpp, backend, dynamic):
    *four, cos, sin = random_call()

    def step(q, k, q_weight, k_weight, cos, sin):
        y, z = qk_norm_rope(q, k, q_weight, k_weight, cos, sin)
        a, b = qk_norm_rope(q, q, q_weight, q_weight, cos, sin)  # one tensor twice
        return (y * a).sum() + z.pow(3).sum() + b.sum()

    expected = step(*four, cos, sin)
    torch._dynamo.reset()
    found = torch.compile(step, fullgraph=True, backend=backend, dynamic=dynamic)(*four, cos, sin)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, four), torch.autograd.grad(expected, four))


def test_operators_keep_torchs_rules(cpp):
    ops = torch.ops.perfsuite
    q, _, weight, _, cos, sin = (tensor.detach() for tensor in random_call())
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(ops.qk_norm_rope_cpp_forward.default, (q, weight, cos, sin, 2, 1e-6), test_utils=tests)
    arguments = (torch.randn(q.shape), q, weight, cos, sin, 2, 1e-6)
    torch.library.opcheck(ops.qk_norm_rope_cpp_backward.default, arguments, test_utils=tests)


@pytest.mark.parametrize("name", ["eager", "cpp"])
def test_autocast_and_weights_of_another_dtype(name):
    contract.select({"qk_norm_rope": name})
    q, k, _, _, cos, sin = random_call(dtype=torch.bfloat16)
    weights = [torch.rand(8, requires_grad=True) for _ in range(2)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, z = qk_norm_rope(q, k, *weights, cos, sin)
    assert y.dtype == z.dtype == torch.bfloat16
    expected = reference(q.float(), k.float(), *weights, cos, sin, eps=1e-6)
    torch.testing.assert_close((y.float(), z.float()), expected, rtol=0.02, atol=0.02)
    grad_q, grad_weight = torch.autograd.grad(y.sum(), (q, weights[0]))
    assert grad_q.dtype == torch.bfloat16 and grad_weight.dtype == torch.float32


def test_only_what_is_wanted_gets_a_gradient(cpp):
    q, k, q_weight, k_weight, cos, sin = random_call()
    y, z = qk_norm_rope(q, k.detach(), q_weight, k_weight.detach(), cos, sin)
    assert y.requires_grad and not z.requires_grad
    with torch.no_grad():
        assert not qk_norm_rope(q, k, q_weight, k_weight, cos, sin)[0].requires_grad


def test_the_backward_leaves_its_incoming_gradient_and_its_inputs_alone(cpp):
    arguments = random_call()
    y, _ = qk_norm_rope(*arguments)
    upstream = torch.randn(y.shape)
    before, kept = upstream.clone(), [tensor.detach().clone() for tensor in arguments]
    first = torch.autograd.grad(y, arguments[0], upstream, retain_graph=True)[0]
    second = torch.autograd.grad(y, arguments[0], upstream)[0]
    assert torch.equal(first, second) and torch.equal(upstream, before)
    assert all(torch.equal(tensor, old) for tensor, old in zip(arguments, kept, strict=True))


# -- layouts ----------------------------------------------------------------------------------------------------------


def test_views_are_not_copied_and_gradients_lie_as_they_do(cpp):
    arguments = random_call()
    assert not arguments[0].is_contiguous()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        found = results(arguments)
    names = [event.name for event in profile.events()]
    assert names.count("perfsuite::qk_norm_rope_cpp_backward") == 2 and "aten::clone" not in names
    assert found[0].is_contiguous() and found[2].stride() == arguments[0].stride()
    near = [tensor.detach().contiguous().requires_grad_() for tensor in arguments[:4]]
    torch.testing.assert_close(found, results([*near, *arguments[4:]]))


def test_expanded_keys(cpp):
    q, k, q_weight, k_weight, cos, sin = random_call(kv_heads=1)
    found = results((q, k.expand(2, 3, 7, 8), q_weight, k_weight, cos, sin))
    contract.select({})
    torch.testing.assert_close(found, results((q, k.expand(2, 3, 7, 8), q_weight, k_weight, cos, sin)))


def test_tables_longer_than_needed_and_of_another_dtype(cpp):
    q, k, q_weight, k_weight, cos, sin = random_call()
    longer = [torch.cat((table, torch.full((2, 4), torch.nan))).double() for table in (cos, sin)]
    found = results((q, k, q_weight, k_weight, *longer))
    torch.testing.assert_close(found, results((q, k, q_weight, k_weight, cos, sin)), rtol=0, atol=0)


def test_rows_more_than_2_to_the_31_elements_apart(cpp):
    # Rows at the ends of 4 GiB that nobody touches: only their pages exist.
    far = torch.empty(2**31 + 600, dtype=torch.bfloat16).as_strided((2, 5, 96), (2**31 + 64, 96, 1))
    near = torch.randn(2, 5, 96).bfloat16()
    far.copy_(near)
    *_, weight, _, cos, sin = random_call(time=5, dim=96)
    y, z = qk_norm_rope(far, near, weight, weight, cos, sin)
    assert torch.equal(y, z)


def test_the_number_of_threads_does_not_change_a_bit(cpp):
    arguments = random_call(2, 5, 3, 700, 40)
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(results(arguments))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for one in found for a, b in zip(one, found[0], strict=True))


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({0: torch.randn(2, 7, 9), 1: torch.randn(2, 7, 9)}, "one T and one even dim, got (2, 7, 9)"),
        ({1: torch.randn(2, 2, 6, 8)}, "one T and one even dim"),
        ({0: torch.randn(8)}, "(..., T, dim)"),
        ({1: torch.randn(2, 2, 7, 8).double()}, "one floating-point dtype, got torch.float32 and torch.float64"),
        ({2: torch.randn(4)}, "q_weight must be floating-point (8,), got torch.float32(4,)"),
        ({3: torch.ones(8, dtype=torch.int64)}, "k_weight must be floating-point (8,), got torch.int64"),
        ({4: torch.randn(6, 4)}, "at least 7 positions, 4"),
        ({5: torch.randn(7, 4, requires_grad=True)}, "need no gradient"),
    ],
)
def test_bad_arguments_are_refused(change, words):
    arguments = list(random_call())
    for place, value in change.items():
        arguments[place] = value
    with pytest.raises(ValueError, match=re.escape(words)):
        qk_norm_rope(*arguments)
    with pytest.raises(ValueError, match="eps must be at least 0"):
        qk_norm_rope(*random_call(), eps=-1.0)


def test_the_operator_itself_does_not_read_past_the_tables(cpp):
    q, _, weight, _, cos, sin = (tensor.detach() for tensor in random_call())
    for x, w in ((torch.randn(8, 8), weight), (q, weight[:4]), (q.double(), weight), (torch.randn(5, 16), weight)):
        with pytest.raises(ValueError, match="qk_norm_rope:"):
            torch.ops.perfsuite.qk_norm_rope_cpp_forward(x, w, cos, sin, x.dim() - 2, 1e-6)


def test_cost_of_a_call():
    arguments = random_call()
    case = OP.case_of(*arguments)
    assert case.shape == {"batch": 2, "heads": 3, "kv_heads": 2, "time": 7, "dim": 8} and case.gradient
    assert OP.cost(case) == (5 * 560 * 4 + 2 * 56 * 4, 19 * 560)


# -- the C++ kernel by itself -----------------------------------------------------------------------------------------

SHIM = """
#include "qk_norm_rope.h"
using namespace perfsuite::cpu;
#define DEFINE(T, name)                                                                                         \\
  extern "C" void name(const T* x, const T* dy, T* y, T* dx, const acc_t<T>* w, acc_t<T>* dw,                   \\
                       const acc_t<T>* cos, const acc_t<T>* sin, int64_t distance, int64_t rows, int64_t half,  \\
                       double eps, int isa) {                                                                   \\
    NormRopeRun<T> run{x, nullptr, y, w, cos, sin, nullptr, distance, distance, distance, half, rows, half,     \\
                       acc_t<T>(eps)};                                                                          \\
    norm_rope_forward<T>(run, Isa(isa));                                                                        \\
    run.upstream = dy, run.out = dx, run.weight_gradient = dw;                                                  \\
    norm_rope_backward<T>(run, Isa(isa));                                                                       \\
  }
DEFINE(float, run_f32)
DEFINE(BFloat16, run_bf16)
DEFINE(Half, run_f16)
DEFINE(double, run_f64)
extern "C" int best() { return int(best_isa()); }
"""
ISAS = {"plain": 0, "avx2": 1, "avx512": 2}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "f64": torch.float64}


@pytest.fixture(scope="module")
def library(compile_kernels):
    return compile_kernels(SHIM, "qk_norm_rope")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", DTYPES)
def test_every_instruction_set_agrees_with_float64(library, isa, name):
    if ISAS[isa] > library.best():
        pytest.skip(f"this processor has no {isa}")
    dtype, acc = DTYPES[name], torch.float64 if name == "f64" else torch.float32
    rows = 3
    for half in (1, 3, 8, 13, 16, 40, 53):
        dim, distance = 2 * half, 2 * half + 1
        x, dy = torch.randn(2, rows, distance).to(dtype)
        cos, sin, weight = torch.randn(rows, half, dtype=acc), torch.randn(rows, half, dtype=acc), torch.rand(dim)
        weight = weight.to(acc)
        # One element after each row, and one after the weight's gradient, which are not touched.
        y, dx = torch.full((2, rows, distance), 99.0, dtype=dtype)
        dw = torch.zeros(dim + 1, dtype=acc)
        dw[dim] = 99.0
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in (x, dy, y, dx, weight, dw, cos, sin)]
        sizes = [ctypes.c_int64(n) for n in (distance, rows, half)]
        getattr(library, f"run_{name}")(*pointers, *sizes, ctypes.c_double(0.01), ctypes.c_int(ISAS[isa]))
        exact, w = x[:, :dim].double().requires_grad_(), weight.double().requires_grad_()
        expected, _ = reference(exact, exact, w, w, cos.double(), sin.double(), eps=0.01)
        grads = torch.autograd.grad(expected, (exact, w), dy[:, :dim].double())
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(y[:, :dim].double(), expected, rtol=2 * eps, atol=8 * eps)
        torch.testing.assert_close(dx[:, :dim].double(), grads[0], rtol=2 * eps, atol=64 * eps)
        torch.testing.assert_close(dw[:dim].double(), grads[1], rtol=1e-5, atol=1e-5)
        assert (y[:, dim] == 99).all() and (dx[:, dim] == 99).all() and dw[dim] == 99


# -- Triton -----------------------------------------------------------------------------------------------------------

INTERPRETED = """
import json, sys
import torch
from perfsuite.kernels import contract, qk_norm_rope as module
from perfsuite.kernels.check import check
from perfsuite.kernels.qk_norm_rope import OP, cases, qk_norm_rope

contract.select({"qk_norm_rope": "triton"})
eager, failures = OP.implementations["eager"].run, {}
wanted = json.loads(sys.argv[1])
for case in cases("tiny"):
    if case.name in wanted:
        failures[case.name] = check(OP, OP.implementations["triton"], case).failures

def call(batch, heads, kv_heads, time, dim):
    q, k = (torch.randn(batch, time, n, dim, dtype=torch.float64).transpose(1, 2) for n in (heads, kv_heads))
    weights = torch.rand(2, dim, dtype=torch.float64)
    cos, sin = torch.randn(2, time, dim // 2, dtype=torch.float64)
    return [t.detach().requires_grad_() for t in (q, k, *weights)], cos, sin

four, cos, sin = call(1, 2, 1, 2, 4)
assert torch.autograd.gradcheck(lambda *four: qk_norm_rope(*four, cos, sin, eps=0.01), four, fast_mode=True)

def results(run, four):
    outputs = run(*four, cos, sin, eps=0.01)
    upstream = [torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape) for y in outputs]
    return *outputs, *torch.autograd.grad(outputs, four, upstream)

module._programs = lambda x: 3  # programs that go on from tile to tile
module.FORWARD_TILE = module.BACKWARD_TILE = 64
four, cos, sin = call(2, 17, 3, 6, 12)
expected = results(eager, four)
torch.testing.assert_close(results(qk_norm_rope, four), expected)
torch.testing.assert_close(results(torch.compile(qk_norm_rope, fullgraph=True, backend="aot_eager"), four), expected)

far = torch.empty(2**31 + 600, dtype=torch.bfloat16).as_strided((2, 6, 12), (2**31 + 64, 12, 1))
near = torch.randn(2, 6, 12).bfloat16()
far.copy_(near)
y, z = qk_norm_rope(far, near, four[2], four[2], cos, sin)
assert torch.equal(y, z)
print(json.dumps(failures))
"""
INTERPRETED_CASES = [
    "2x3x1x5x8 float32",
    "0x2x2x3x4 float32",
    "2x3x2x6x40 float32 layout=every second",
    "2x3x1x11x96 bfloat16 layout=tokens",
]


def test_triton_in_the_interpreter(interpreted):
    failures = interpreted(INTERPRETED, json.dumps(INTERPRETED_CASES))
    assert len(failures) == len(INTERPRETED_CASES)
    assert not any(failures.values()), failures

"""Every implementation of dcn_cross against float64, eager torch and each other."""

import ctypes
import json
import re

import pytest
import torch

from perfsuite.kernels import contract
from perfsuite.kernels.check import check, check_drawn
from perfsuite.kernels.contract import Implementation
from perfsuite.kernels.dcn_cross import OP, _case, cases, dcn_cross, inputs, reference

CASES = {case.name: case for case in cases("tiny")}
REFERENCE = Implementation("reference", reference, lambda device: None)
NAMES = ("x0", "x", "v", "u", "bias")


@pytest.fixture(autouse=True)
def everything_eager():
    yield
    contract.select({})


@pytest.fixture
def cpp():
    contract.select({"dcn_cross": "cpp"})


def random_call(rows=12, width=20, rank=4, dtype="float32", **draw):
    tensors = inputs(_case(rows, width, rank, dtype, draw), "cpu", torch.Generator().manual_seed(0))
    return [tensors[name].requires_grad_() for name in NAMES]


def gradients_of(output, leaves):
    return torch.autograd.grad(output, leaves, torch.linspace(-1, 1, output.numel()).view_as(output).to(output.dtype))


# -- the correctness rule ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_cpp_is_right(case, cpp):
    report = check(OP, OP.implementations["cpp"], case)
    assert report.ok, report


def test_cpp_is_right_at_any_shape_stride_and_dtype(cpp):
    report = check_drawn(OP, OP.implementations["cpp"])
    assert report.ok, report


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_reference_is_right(case):
    report = check(OP, REFERENCE, case)
    assert report.ok, report


def test_compile_is_right():
    report = check(OP, OP.implementations["compile"], CASES["40x64x8 float32"])
    assert report.ok, report


def _wrong(name):
    """Kernels with the mistakes that people make."""

    def no_residual(x0, x, v, u, bias):
        return x0 * (x @ v.T @ u.T + bias)

    def residual_of_x0(x0, x, v, u, bias):
        return x0 * (x @ v.T @ u.T + bias) + x0

    def bias_outside(x0, x, v, u, bias):
        return x0 * (x @ v.T @ u.T) + bias + x

    def products_in_bfloat16(x0, x, v, u, bias):
        return x0 * ((x.bfloat16() @ v.T.bfloat16()).float() @ u.T + bias) + x

    class NoResidualGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *call):
            ctx.save_for_backward(*call)
            return reference(*call)

        @staticmethod
        def backward(ctx, upstream):
            leaves = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
            with torch.enable_grad():
                return torch.autograd.grad(no_residual(*leaves), leaves, upstream)

    class BiasOfAFewRows(NoResidualGradient):
        """The last, unfinished block of rows is left out of a sum."""

        @staticmethod
        def backward(ctx, upstream):
            leaves = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
            with torch.enable_grad():
                gradients = torch.autograd.grad(reference(*leaves), leaves, upstream)
            return *gradients[:4], (upstream * leaves[0])[: len(upstream) // 64 * 64].sum(0).detach()

    class BiasIsAddedInBfloat16(NoResidualGradient):
        @staticmethod
        def backward(ctx, upstream):
            leaves = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
            with torch.enable_grad():
                gradients = torch.autograd.grad(reference(*leaves), leaves, upstream)
            return *gradients[:4], (upstream * leaves[0]).bfloat16().float().sum(0).detach()

    class X0OfTheProductAlone(NoResidualGradient):
        @staticmethod
        def backward(ctx, upstream):
            leaves = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
            with torch.enable_grad():
                gradients = torch.autograd.grad(reference(*leaves), leaves, upstream)
            _, x, v, u, _ = ctx.saved_tensors
            return upstream * (x @ v.T @ u.T), *gradients[1:]

    kernel = locals()[name]
    run = kernel.apply if isinstance(kernel, type) else kernel
    return Implementation(name, lambda x0, x, v, u, bias: run(x0, x, v, u, bias), lambda device: None)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("no_residual", "output: RMS"),
        ("residual_of_x0", "output: RMS"),
        ("bias_outside", "output: RMS"),
        ("products_in_bfloat16", "output: RMS"),
        ("products_in_bfloat16", "grad_x0: RMS"),
        ("NoResidualGradient", "grad_x: RMS"),
        ("BiasOfAFewRows", "grad_bias: RMS"),
        ("BiasIsAddedInBfloat16", "grad_bias: RMS"),
        ("X0OfTheProductAlone", "grad_x0: RMS"),
    ],
)
def test_a_wrong_kernel_is_refused(name, complaint):
    report = check(OP, _wrong(name), CASES["130x33x5 float32"])
    assert any(complaint in failure for failure in report.failures), report


# -- autograd, compile, autocast --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eager", "cpp"])
def test_gradcheck_in_float64(name):
    contract.select({"dcn_cross": name})
    assert torch.autograd.gradcheck(dcn_cross, random_call(3, 4, 2, "float64"))


@pytest.mark.parametrize("wanted", range(5))
def test_one_gradient_alone(cpp, wanted):
    call = [tensor if i == wanted else tensor.detach() for i, tensor in enumerate(random_call())]
    got, expected = (gradients_of(run(*call), call[wanted]) for run in (dcn_cross, reference))
    torch.testing.assert_close(got, expected)


def test_x0_and_x_may_be_one_tensor(cpp):  # as in the first layer
    x0, _, *weights = random_call()
    got, expected = (gradients_of(run(x0, x0, *weights), [x0, *weights]) for run in (dcn_cross, reference))
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_fullgraph_compile_gives_the_same(cpp, backend):
    compiled = torch.compile(
        lambda *call: dcn_cross(*call).sin(), fullgraph=True, backend=backend, dynamic=backend == "inductor"
    )
    for rows in (12, 7) if backend == "inductor" else (12,):
        call = random_call(rows)
        output, expected = compiled(*call), reference(*call).sin()
        torch.testing.assert_close(output, expected)
        torch.testing.assert_close(gradients_of(output, call), gradients_of(expected, call))


@pytest.mark.parametrize("lower", [torch.float32, torch.bfloat16])
def test_operators_keep_torchs_rules(cpp, lower):
    x0, x, v, u, bias = (tensor.detach() for tensor in random_call())
    v, u = v.to(lower), u.to(lower)
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    ops = torch.ops.perfsuite
    torch.library.opcheck(ops.dcn_cross_cpp_forward.default, (x0, x, v, u, bias), test_utils=tests)
    _, p, q = ops.dcn_cross_cpp_forward(x0, x, v, u, bias)
    call = (torch.randn(12, 20), x0, x, p, q, v, u, bias)
    torch.library.opcheck(ops.dcn_cross_cpp_backward.default, call, test_utils=tests)


def test_a_second_derivative_is_refused_and_not_wrong(cpp):
    call = random_call()
    with pytest.raises(RuntimeError, match="dcn_cross=cpp has no second derivative"):
        torch.autograd.grad(dcn_cross(*call).square().sum(), call, create_graph=True)


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float32), (torch.bfloat16, torch.float32)])
def test_autocast_gives_eagers_dtypes(dtypes):
    results = {}
    for name in ("eager", "cpp"):
        contract.select({"dcn_cross": name})
        call = [tensor.detach().to(dtypes[i >= 2]).requires_grad_() for i, tensor in enumerate(random_call())]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = dcn_cross(*call)
        results[name] = (output, *gradients_of(output, call))
    for got, expected in zip(*results.values(), strict=True):
        torch.testing.assert_close(got, expected, rtol=3e-2, atol=3e-2)  # dtypes too


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": torch.randn(11, 20)}, "got (12, 20), (11, 20), (4, 20), (20, 4), (20,)"),
        ({"u": torch.randn(4, 20)}, "u (width, rank)"),
        ({"x0": torch.randn(12)}, "x0 and x must be (rows, width)"),
        ({"bias": torch.randn(1)}, "bias (width,)"),
        ({"v": torch.randn(4, 20).bfloat16()}, "of one dtype, got torch.float32, torch.float32, torch.bfloat16"),
    ],
)
def test_bad_arguments_are_refused(change, words):
    call = dict(zip(NAMES, random_call(), strict=True))
    with pytest.raises(ValueError, match=re.escape(words)):
        dcn_cross(**{**call, **change})


def test_rows_more_than_2_to_the_31_elements_apart(cpp):
    # Two rows at the ends of 4 GiB that nobody touches: only their pages exist.
    far = torch.empty(2**31 + 600, dtype=torch.bfloat16).as_strided((2, 20), (2**31 + 64, 1))
    near, *others = random_call(2, dtype="bfloat16")
    far.copy_(near.detach())
    assert torch.equal(dcn_cross(far, *others), dcn_cross(near, *others))


def test_the_number_of_threads_does_not_change_the_bias(cpp):
    call = random_call(700, 130)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(gradients_of(dcn_cross(*call), call)[-1])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


# -- the C++ kernel by itself -----------------------------------------------------------------------------------------

SHIM = """
#include "dcn_cross.h"
using namespace perfsuite::cpu;
#define DEFINE(T, name)                                                                                             \\
  extern "C" void run_##name(const T* x0, const T* x, const T* q, const T* bias, const T* upstream, int64_t rows,   \\
                             int64_t width, T* y, T* grad_x0, T* grad_q, T* grad_x, acc_t<T>* sum, int isa) {       \\
    const CrossRows<T> op{x0, width, q, bias, width};                                                               \\
    dcn_cross_forward<T>(op, 0, rows, x, width, y, Isa(isa));                                                       \\
    dcn_cross_backward<T>(op, 0, rows, {upstream, width, grad_x0, grad_q, grad_x}, sum, Isa(isa));                  \\
  }
DEFINE(float, f32)
DEFINE(BFloat16, bf16)
DEFINE(Half, f16)
DEFINE(double, f64)
extern "C" int best() { return int(best_isa()); }
"""
ISAS = {"plain": 0, "avx2": 1, "avx512": 2}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "f64": torch.float64}


@pytest.fixture(scope="module")
def library(compile_kernels):
    return compile_kernels(SHIM, "dcn_cross")


@pytest.fixture
def isa(request, library):
    if ISAS[request.param] > library.best():
        pytest.skip(f"this processor has no {request.param}")
    return ISAS[request.param]


@pytest.mark.parametrize("isa", ISAS, indirect=True)
@pytest.mark.parametrize("width", [1, 7, 16, 65, 131])
@pytest.mark.parametrize("name", DTYPES)
def test_every_instruction_set_agrees_with_float64(library, isa, name, width):
    dtype, rows = DTYPES[name], 5
    x0, x, q, upstream = (torch.randn(rows, width).to(dtype) for _ in range(4))
    bias = torch.randn(width).to(dtype)
    # One element past the end, and rows that are not aligned to vectors: nothing is touched beyond its end.
    y, grad_x0, grad_q, grad_x = (torch.full((rows * width + 1,), 99.0, dtype=dtype) for _ in range(4))
    sums = torch.ones(width, dtype=torch.float64 if name == "f64" else torch.float32)  # it adds to what is there
    before = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (x0, x, q, bias, upstream)]
    after = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (y, grad_x0, grad_q, grad_x, sums)]
    call = getattr(library, f"run_{name}")
    call(*before, ctypes.c_int64(rows), ctypes.c_int64(width), *after, ctypes.c_int(isa))
    wide = [tensor.double() for tensor in (x0, x, q, bias, upstream)]
    inner = wide[2] + wide[3]
    wanted = (wide[0] * inner + wide[1], wide[4] * inner, wide[4] * wide[0], wide[4])
    eps = torch.finfo(dtype).eps
    for got, want in zip((y, grad_x0, grad_q, grad_x), wanted, strict=True):
        assert got[-1] == 99.0
        torch.testing.assert_close(got[:-1].double().view(rows, width), want, rtol=2 * eps, atol=8 * eps)
    torch.testing.assert_close(sums.double(), 1 + wanted[2].sum(0), rtol=1e-5, atol=1e-5)


# -- Triton -----------------------------------------------------------------------------------------------------------

INTERPRETED = """
import json, sys
import torch
from perfsuite.kernels import contract, dcn_cross as module
from perfsuite.kernels.check import check

contract.select({"dcn_cross": "triton"})
op, failures = module.OP, {}
wanted = json.loads(sys.argv[1])
for case in module.cases("tiny"):
    if case.name in wanted:
        failures[case.name] = check(op, op.implementations["triton"], case).failures

def tensors(*args):
    made = module.inputs(module._case(*args), "cpu", torch.Generator().manual_seed(0))
    return [tensor.requires_grad_() for tensor in made.values()]

assert torch.autograd.gradcheck(module.dcn_cross, tensors(3, 4, 2, "float64"))
call = tensors(9, 20, 3)
compiled = torch.compile(lambda *call: module.dcn_cross(*call).sin(), fullgraph=True, backend="aot_eager")
output, expected = compiled(*call), module.reference(*call).sin()
torch.testing.assert_close(output, expected)
torch.testing.assert_close(torch.autograd.grad(output.sum(), call), torch.autograd.grad(expected.sum(), call))
results = []
for run in (module.dcn_cross, module._eager):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = run(*call)
        results.append((output, *torch.autograd.grad(output.sum(), call)))
for got, expected in zip(*results, strict=True):
    # As a whole: the interpreter cuts float32 off to bfloat16 where a GPU rounds.
    assert got.dtype == expected.dtype and (got - expected).norm() < 0.01 * expected.norm()
far = torch.empty(2**31 + 600, dtype=torch.bfloat16).as_strided((2, 20), (2**31 + 64, 1))
near, *others = tensors(2, 20, 3, "bfloat16")
far.copy_(near.detach())
assert torch.equal(module.dcn_cross(far, *others), module.dcn_cross(near, *others))
print(json.dumps(failures))
"""
INTERPRETED_CASES = [
    "0x8x4 float32",
    "130x33x5 float32",
    "3x1030x3 float32",
    "30x20x4 float32 layout=every second",
    "9x20x4 float32 values=nan",
    "40x64x16 bfloat16",
]


def test_triton_in_the_interpreter(interpreted):
    failures = interpreted(INTERPRETED, json.dumps(INTERPRETED_CASES))
    assert len(failures) == len(INTERPRETED_CASES)
    assert not any(failures.values()), failures

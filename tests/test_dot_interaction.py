"""Every implementation of dot_interaction against float64, eager torch and each other."""

import ctypes
import json
import re

import pytest
import torch

from perfsuite.kernels import contract
from perfsuite.kernels.check import check, check_drawn
from perfsuite.kernels.contract import Implementation
from perfsuite.kernels.dot_interaction import OP, _case, cases, dot_interaction, inputs, reference

CASES = {case.name: case for case in cases("tiny")}
REFERENCE = Implementation("reference", reference, lambda device: None)


@pytest.fixture(autouse=True)
def everything_eager():
    yield
    contract.select({})


@pytest.fixture
def cpp():
    contract.select({"dot_interaction": "cpp"})


def random_call(samples=5, features=6, width=20, dtype="float32", **draw):
    tensors = inputs(_case(samples, features, width, dtype, draw), "cpu", torch.Generator().manual_seed(0))
    return tensors["dense"].requires_grad_(), tensors["sparse"].requires_grad_()


def gradients_of(output, *leaves):
    return torch.autograd.grad(output, leaves, torch.linspace(-1, 1, output.numel()).view_as(output).to(output.dtype))


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
    report = check(OP, OP.implementations["compile"], CASES["3x16x47 float32"])
    assert report.ok, report


def _wrong(name):
    """Kernels with the mistakes that people make."""

    def features(dense, sparse):
        return torch.cat([dense[:, None], sparse], 1)

    def products(x):
        return torch.bmm(x, x.transpose(1, 2))

    def upper_triangle(dense, sparse):
        z = products(features(dense, sparse))
        i, j = torch.triu_indices(z.shape[1], z.shape[1], 1)
        return torch.cat([dense, z[:, i, j]], 1)

    def dense_comes_last(dense, sparse):
        z = products(torch.cat([sparse, dense[:, None]], 1))
        i, j = torch.tril_indices(z.shape[1], z.shape[1], -1)
        return torch.cat([dense, z[:, i, j]], 1)

    def products_in_bfloat16(dense, sparse):
        return reference(dense.bfloat16(), sparse.bfloat16()).float()

    def drops_the_last_column(dense, sparse):
        output = reference(torch.cat([dense[:, :-1], 0 * dense[:, -1:]], 1), sparse)
        return torch.cat([dense, output[:, dense.shape[1] :]], 1)

    class OneSideOfTheGradient(torch.autograd.Function):
        """s without its transpose."""

        @staticmethod
        def forward(ctx, dense, sparse):
            ctx.save_for_backward(dense, sparse)
            return reference(dense, sparse)

        @staticmethod
        def backward(ctx, upstream):
            dense, sparse = ctx.saved_tensors
            x = features(dense, sparse)
            i, j = torch.tril_indices(x.shape[1], x.shape[1], -1)
            s = x.new_zeros(x.shape[0], x.shape[1], x.shape[1])
            s[:, i, j] = upstream[:, dense.shape[1] :]
            gradient = torch.bmm(s, x)
            gradient[:, 0] += upstream[:, : dense.shape[1]]
            return gradient[:, 0], gradient[:, 1:]

    class ForgetsTheCopyOfDense(OneSideOfTheGradient):
        @staticmethod
        def backward(ctx, upstream):
            dense, sparse = (tensor.detach().requires_grad_() for tensor in ctx.saved_tensors)
            upstream = torch.cat([torch.zeros_like(dense), upstream[:, dense.shape[1] :]], 1)
            with torch.enable_grad():
                return torch.autograd.grad(reference(dense, sparse), (dense, sparse), upstream)

    kernel = locals()[name]
    run = kernel.apply if isinstance(kernel, type) else kernel
    return Implementation(name, lambda dense, sparse: run(dense, sparse), lambda device: None)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("upper_triangle", "output: RMS"),
        ("dense_comes_last", "output: RMS"),
        ("products_in_bfloat16", "output: RMS"),
        ("drops_the_last_column", "output: RMS"),
        ("OneSideOfTheGradient", "grad_dense: RMS"),
        ("OneSideOfTheGradient", "grad_sparse: RMS"),
        ("ForgetsTheCopyOfDense", "grad_dense: RMS"),
    ],
)
def test_a_wrong_kernel_is_refused(name, complaint):
    report = check(OP, _wrong(name), CASES["3x16x47 float32"])
    assert any(complaint in failure for failure in report.failures), report


# -- autograd, compile, autocast --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eager", "cpp"])
def test_gradcheck_in_float64(name):
    contract.select({"dot_interaction": name})
    assert torch.autograd.gradcheck(dot_interaction, random_call(2, 4, 3, "float64"))


@pytest.mark.parametrize("wanted", [0, 1])
def test_one_gradient_alone(cpp, wanted):
    call = list(random_call())
    call[1 - wanted] = call[1 - wanted].detach()
    (got,) = gradients_of(dot_interaction(*call), call[wanted])
    torch.testing.assert_close(got, *gradients_of(reference(*call), call[wanted]))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_fullgraph_compile_gives_the_same(cpp, backend):
    compiled = torch.compile(
        lambda dense, sparse: dot_interaction(dense, sparse).sin(),
        fullgraph=True, backend=backend, dynamic=backend == "inductor",
    )  # fmt: skip
    for samples in (5, 3) if backend == "inductor" else (5,):
        call = random_call(samples)
        output, expected = compiled(*call), reference(*call).sin()
        torch.testing.assert_close(output, expected)
        torch.testing.assert_close(gradients_of(output, *call), gradients_of(expected, *call))


def test_operators_keep_torchs_rules(cpp):
    call = [tensor.detach() for tensor in random_call()]
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    ops = torch.ops.perfsuite
    torch.library.opcheck(ops.dot_interaction_cpp_forward.default, call, test_utils=tests)
    upstream = torch.randn(5, 20 + 21)
    torch.library.opcheck(ops.dot_interaction_cpp_backward.default, (upstream, *call), test_utils=tests)


def test_a_second_derivative_is_refused_and_not_wrong(cpp):
    call = random_call()
    with pytest.raises(RuntimeError, match="dot_interaction=cpp has no second derivative"):
        torch.autograd.grad(dot_interaction(*call).square().sum(), call, create_graph=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_gives_eagers_dtype(dtype):
    call = [tensor.detach().to(dtype) for tensor in random_call()]
    made = {}
    for name in ("eager", "cpp"):
        contract.select({"dot_interaction": name})
        with torch.autocast("cpu", dtype=torch.bfloat16):
            made[name] = dot_interaction(*call)
    assert made["eager"].dtype == made["cpp"].dtype
    torch.testing.assert_close(made["cpp"], made["eager"], rtol=2e-2, atol=2e-2)


def test_an_infinite_feature(cpp):
    dense, sparse = (tensor.detach() for tensor in random_call())
    sparse[1, 2, 3] = torch.inf
    output, expected = dot_interaction(dense, sparse), reference(dense, sparse)
    assert torch.equal(output.isnan(), expected.isnan()) and torch.equal(output.isinf(), expected.isinf())


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dense": torch.randn(4, 20)}, "got (4, 20) and (5, 6, 20)"),
        ({"dense": torch.randn(5, 19)}, "got (5, 19) and (5, 6, 20)"),
        ({"sparse": torch.randn(5, 20)}, "sparse (samples, features, width)"),
        ({"dense": torch.randn(5, 20).double()}, "same dtype, got torch.float64 and torch.float32"),
        ({"dense": torch.ones(5, 20).int(), "sparse": torch.ones(5, 6, 20).int()}, "floating-point"),
    ],
)
def test_bad_arguments_are_refused(change, words):
    dense, sparse = random_call()
    with pytest.raises(ValueError, match=re.escape(words)):
        dot_interaction(**{"dense": dense, "sparse": sparse, **change})


def test_samples_more_than_2_to_the_31_elements_apart(cpp):
    # Two samples at the ends of 4 GiB that nobody touches: only their pages exist.
    far = torch.empty(2**31 + 600, dtype=torch.bfloat16).as_strided((2, 5, 20), (2**31 + 64, 20, 1))
    dense, near = random_call(2, 5, 20, "bfloat16")
    far.copy_(near.detach())
    assert torch.equal(dot_interaction(dense, far), dot_interaction(dense, near))


def test_the_number_of_threads_does_not_change_a_bit(cpp):
    call = random_call(200, 26, 64)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            output = dot_interaction(*call)
            results.append((output, *gradients_of(output, *call)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for result in results[1:] for a, b in zip(result, results[0], strict=True))


# -- the C++ kernel by itself -----------------------------------------------------------------------------------------

SHIM = """
#include "dot_interaction.h"
using namespace perfsuite::cpu;
#define DEFINE(T, name)                                                                                             \\
  extern "C" void run_##name(const T* dense, const T* sparse, int64_t samples, int64_t others, int64_t width,       \\
                             T* out, const T* upstream, T* grad_dense, T* grad_sparse, int isa) {                   \\
    const DotInteraction<T> op{dense, sparse, width, others * width, width, samples, others + 1, width};            \\
    dot_interaction_forward<T>(op, 0, samples, out, Isa(isa));                                                      \\
    dot_interaction_backward<T>(op, 0, samples, upstream, width + op.pairs(), grad_dense, grad_sparse, Isa(isa));   \\
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
    return compile_kernels(SHIM, "dot_interaction")


@pytest.fixture
def isa(request, library):
    if ISAS[request.param] > library.best():
        pytest.skip(f"this processor has no {request.param}")
    return ISAS[request.param]


@pytest.mark.parametrize("isa", ISAS, indirect=True)
@pytest.mark.parametrize(("others", "width"), [(0, 5), (1, 1), (3, 16), (6, 67), (13, 130)])
@pytest.mark.parametrize("name", DTYPES)
def test_every_instruction_set_agrees_with_float64(library, isa, name, others, width):
    dense, sparse = random_call(2, others, width, DTYPES[name])
    exact = [tensor.detach().double().requires_grad_() for tensor in (dense, sparse)]
    expected = reference(*exact)
    upstream = torch.randn(expected.shape).to(dense.dtype)
    wanted = (expected, *torch.autograd.grad(expected, exact, upstream.double()))
    # One element past the end, and rows that are not aligned to vectors: nothing is touched beyond its end.
    outputs = [torch.full((tensor.numel() + 1,), 99.0, dtype=dense.dtype) for tensor in wanted]
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (dense, sparse, outputs[0], upstream, *outputs[1:])]
    sizes = [ctypes.c_int64(size) for size in (2, others, width)]
    getattr(library, f"run_{name}")(*pointers[:2], *sizes, *pointers[2:], ctypes.c_int(isa))
    eps = torch.finfo(dense.dtype).eps
    for got, want in zip(outputs, wanted, strict=True):
        assert got[-1] == 99.0
        torch.testing.assert_close(got[:-1].double().view_as(want), want, rtol=2 * eps, atol=16 * eps)


# -- Triton -----------------------------------------------------------------------------------------------------------

INTERPRETED = """
import json, sys
import torch, triton.language as tl
from perfsuite.kernels import contract, dot_interaction as module
from perfsuite.kernels.check import check

contract.select({"dot_interaction": "triton"})
# The interpreter has no products of bfloat16: there they are taken of the same values in float32.
real = module.operand
module.operand = lambda dtype: tl.float32 if dtype == torch.bfloat16 else real(dtype)
op, failures = module.OP, {}
wanted = json.loads(sys.argv[1])
for case in module.cases("tiny"):
    if case.name in wanted:
        failures[case.name] = check(op, op.implementations["triton"], case).failures
case = module._case(2, 2, 140)  # two blocks of columns
failures["blocks"] = check(op, op.implementations["triton"], case).failures

call = [tensor.requires_grad_() for tensor in (torch.randn(2, 3).double(), torch.randn(2, 4, 3).double())]
assert torch.autograd.gradcheck(module.dot_interaction, call)
compiled = torch.compile(lambda *call: module.dot_interaction(*call).sin(), fullgraph=True, backend="aot_eager")
output, expected = compiled(*call), module.reference(*call).sin()
torch.testing.assert_close(output, expected)
torch.testing.assert_close(torch.autograd.grad(output.sum(), call), torch.autograd.grad(expected.sum(), call))
try:
    module.dot_interaction(torch.randn(1, 2), torch.randn(1, 128, 2))
    raise AssertionError("128 features")
except ValueError as error:
    assert "at most 127 sparse features, got 128" in str(error)
far = torch.empty(2**31 + 600, dtype=torch.float16).as_strided((2, 5, 20), (2**31 + 64, 20, 1))
dense, near = torch.randn(2, 20).half(), torch.randn(2, 5, 20).half()
far.copy_(near)
assert torch.equal(module.dot_interaction(dense, far), module.dot_interaction(dense, near))
print(json.dumps(failures))
"""
INTERPRETED_CASES = [
    "1x1x1 float32",
    "4x0x9 float32",
    "0x5x8 float32",
    "6x7x20 float32 layout=transposed",
    "5x6x31 bfloat16 layout=padded rows",
]


def test_triton_in_the_interpreter(interpreted):
    failures = interpreted(INTERPRETED, json.dumps(INTERPRETED_CASES))
    assert len(failures) == len(INTERPRETED_CASES) + 1
    assert not any(failures.values()), failures

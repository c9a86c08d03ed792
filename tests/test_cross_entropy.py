"""Every implementation of cross-entropy against float64, eager torch and each other."""

import ctypes
import json
import re
import subprocess

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from perfsuite.kernels import contract
from perfsuite.kernels.check import check, check_drawn
from perfsuite.kernels.contract import Implementation
from perfsuite.kernels.cross_entropy import OP, cases, cross_entropy, reference

CASES = {case.name: case for case in cases("tiny")}
COMPILE_CASES = [  # few: each is compiled anew
    "7x33 float32 reduction=none label_smoothing=0.1 z_loss=0.001 ignored=0.4",
    "12x1500 float32 reduction=none values=infinite",
]


@pytest.fixture(autouse=True)
def everything_eager():
    yield
    contract.select({})


@pytest.fixture
def cpp():
    contract.select({"cross_entropy": "cpp"})


def gradient_of(loss, logits, upstream=None):
    (gradient,) = torch.autograd.grad(loss, logits, torch.ones_like(loss) if upstream is None else upstream)
    return gradient


def random_call(rows=6, classes=50, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(rows, classes, generator=generator)).to(dtype).requires_grad_()
    return logits, torch.randint(0, classes, (rows,), generator=generator)


# -- the correctness rule ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_cpp_is_right(case, cpp):
    report = check(OP, OP.implementations["cpp"], case)
    assert report.ok, report


def test_cpp_is_right_at_drawn_cases(cpp):
    report = check_drawn(OP, OP.implementations["cpp"])
    assert report.ok, report


@pytest.mark.parametrize("name", COMPILE_CASES)
def test_compile_is_right(name):
    report = check(OP, OP.implementations["compile"], CASES[name])
    assert report.ok, report


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_reference_is_right(case):
    report = check(OP, Implementation("reference", reference, lambda device: None), case)
    assert report.ok, report


def _wrong(name):
    """Kernels with the mistakes that people make."""
    eager = OP.implementations["eager"].run

    def drops_smoothing(logits, target, **options):
        return eager(logits, target, **{**options, "label_smoothing": 0.0})

    def drops_z_loss(logits, target, **options):
        return eager(logits, target, **{**options, "z_loss": 0.0})

    def counts_ignored_rows(logits, target, **options):
        total = eager(logits, target, **{**options, "reduction": "sum"})
        return total / len(target)

    def adds_in_bfloat16(logits, target, **options):
        return eager(logits.bfloat16(), target, **options).to(logits.dtype)

    def forgets_the_maximum(logits, target, **options):
        p = logits.exp() / logits.exp().sum(1, keepdim=True)
        return F.nll_loss(p.log(), target)

    class ForgetsTheUpstreamGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, logits, target, options):
            with torch.enable_grad():
                leaf = logits.detach().requires_grad_()
                loss = eager(leaf, target, **options)
            ctx.gradient = gradient_of(loss, leaf)
            return loss.detach()

        @staticmethod
        def backward(ctx, upstream):
            return ctx.gradient, None, None

    class DropsTheTail(ForgetsTheUpstreamGradient):
        @staticmethod
        def backward(ctx, upstream):
            gradient = ctx.gradient * upstream
            gradient[:, -1] = 0
            return gradient, None, None

    class FastExponential(ForgetsTheUpstreamGradient):
        @staticmethod
        def backward(ctx, upstream):
            return (ctx.gradient * upstream) * (1 + 2e-5), None, None

    class LeavesIgnoredRowsUnwritten(ForgetsTheUpstreamGradient):
        @staticmethod
        def backward(ctx, upstream):
            out = torch.empty_like(ctx.gradient)
            written = ctx.gradient.abs().sum(1) > 0
            out[written] = (ctx.gradient * upstream)[written]
            return out, None, None

    def changes_its_input(logits, target, **options):
        loss = eager(logits, target, **options)
        logits.detach().view(-1)[-1] += 1
        return loss

    def function(kernel):
        return lambda logits, target, **options: kernel.apply(logits, target, options)

    known = dict(locals())
    kernel = known[name]
    return Implementation(name, function(kernel) if isinstance(kernel, type) else kernel, lambda device: None)


SMOOTHED = "13x100 float32 label_smoothing=0.3 ignored=0.4 layout=transposed"


@pytest.mark.parametrize(
    ("name", "case", "complaint"),
    [
        ("drops_smoothing", SMOOTHED, "output: RMS"),
        ("drops_smoothing", "16x512 bfloat16 label_smoothing=0.1 z_loss=0.001 ignored=0.4", "grad_logits: RMS"),
        ("drops_z_loss", "16x512 float16 label_smoothing=0.1 z_loss=0.001 ignored=0.4", "RMS"),
        ("counts_ignored_rows", SMOOTHED, "output: RMS"),
        ("adds_in_bfloat16", "128x256 float32", "output: RMS"),
        ("adds_in_bfloat16", "128x256 float32", "grad_logits: RMS"),
        ("forgets_the_maximum", "8x1040 float32 values=large", "NaN or infinite"),
        ("ForgetsTheUpstreamGradient", "128x256 float32", "grad_logits: RMS"),
        ("DropsTheTail", "128x256 float32", "grad_logits: RMS"),
        ("DropsTheTail", "5x1030 bfloat16 reduction=sum layout=padded rows", "grad_logits: an error"),
        ("FastExponential", "128x256 float32", "grad_logits: RMS"),
        ("LeavesIgnoredRowsUnwritten", SMOOTHED, "NaN or infinite"),
        ("changes_its_input", "128x256 float32", "logits was changed"),
    ],
)
def test_a_wrong_kernel_is_refused(name, case, complaint):
    report = check(OP, _wrong(name), CASES[case])
    assert any(complaint in failure for failure in report.failures), report


def test_too_few_draws_are_refused():
    with pytest.raises(ValueError, match="at least 32"):
        check(OP, OP.implementations["eager"], CASES["64x10 float32"], draws=8)


# -- autograd, compile, autocast --------------------------------------------------------------------------------------

OPTION_SETS = [
    {},
    {"reduction": "sum", "label_smoothing": 0.2},
    {"reduction": "none", "z_loss": 0.01},
    {"ignore_index": 3, "label_smoothing": 0.1, "z_loss": 0.1},
]


@pytest.mark.parametrize("options", OPTION_SETS)
@pytest.mark.parametrize("name", ["eager", "cpp"])
def test_gradcheck_in_float64(name, options):
    contract.select({"cross_entropy": name})
    logits, target = random_call(5, 7, torch.float64)
    target[1] = options.get("ignore_index", -100)
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, target, **options), logits)


@pytest.mark.parametrize("options", OPTION_SETS)
def test_fullgraph_compile_gives_the_same(cpp, options):
    weight = torch.randn(20, 50, requires_grad=True)
    inputs, (_, target) = torch.randn(6, 20), random_call()
    target[2] = options.get("ignore_index", -100)

    def step(inputs, weight, target):
        return 0.5 * cross_entropy(inputs @ weight, target, **options).sum()

    expected = step(inputs, weight, target)
    loss = torch.compile(step, fullgraph=True, backend="aot_eager")(inputs, weight, target)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient_of(loss, weight), gradient_of(expected, weight))


def test_fullgraph_compile_with_inductor_and_changing_rows(cpp):
    """With rows to ignore: a compiled count of them was silently wrong in Liger (#1338)."""
    compiled = torch.compile(lambda x, t: 0.5 * cross_entropy(2 * x, t), fullgraph=True, dynamic=True)
    for rows in (6, 9):
        logits, target = random_call(rows)
        target[1:4] = -100
        loss, expected = compiled(logits, target), 0.5 * F.cross_entropy(2 * logits, target)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(gradient_of(loss, logits), gradient_of(expected, logits))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_a_loss_without_gradient_is_not_zero(cpp, reduction):
    """Under no_grad, and where nothing requires a gradient (Liger #507)."""
    logits, target = random_call()
    target[1] = -100
    expected = F.cross_entropy(logits, target, reduction=reduction).detach()
    with torch.no_grad():
        torch.testing.assert_close(cross_entropy(logits, target, reduction=reduction), expected)
    torch.testing.assert_close(cross_entropy(logits.detach(), target, reduction=reduction), expected)


@pytest.mark.parametrize("keep_gradient", [True, False])
@pytest.mark.parametrize("reduction", [0, 1])
def test_operators_keep_torchs_rules(cpp, reduction, keep_gradient):
    ops = torch.ops.perfsuite
    logits, target = random_call()
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    options = (-100, 0.1, 0.01, reduction)
    plain = logits.detach()
    forward, backward = ops.cross_entropy_cpp_forward.default, ops.cross_entropy_cpp_backward.default
    torch.library.opcheck(forward, (plain, target, *options, keep_gradient), test_utils=tests)
    loss, stats, _ = forward(plain, target, *options, False)
    torch.library.opcheck(backward, (loss, plain, target, stats, *options), test_utils=tests)


def test_a_kept_graph_gives_the_gradient_again(cpp):
    logits, target = random_call()
    loss = cross_entropy(logits, target)
    expected = gradient_of(F.cross_entropy(logits, target), logits)
    for upstream in (3.0, 1.0, 1.0):
        (gradient,) = torch.autograd.grad(loss, logits, torch.tensor(upstream), retain_graph=True)
        torch.testing.assert_close(gradient, upstream * expected)
        gradient.zero_()  # the caller's own: taking it again does not give zeros
    torch.testing.assert_close(gradient_of(loss, logits), expected)


def test_a_second_derivative_is_refused_and_not_wrong(cpp):
    logits, target = random_call()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(cross_entropy(logits, target), logits, create_graph=True)


def test_float16_gradients_survive_loss_scaling(cpp):
    logits, target = random_call(64, 4000, torch.float16)
    scaled = cross_entropy(logits, target) * 4096.0
    exact = gradient_of(F.cross_entropy(logits.double(), target) * 4096.0, logits)
    torch.testing.assert_close(gradient_of(scaled, logits), exact, rtol=2e-3, atol=2**-24)


@pytest.mark.parametrize("name", ["eager", "cpp"])
def test_autocast_gives_a_float32_loss(name):
    contract.select({"cross_entropy": name})
    logits, target = random_call(dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cross_entropy(logits, target)
    assert loss.dtype == torch.float32 and gradient_of(loss, logits).dtype == torch.bfloat16
    torch.testing.assert_close(loss, F.cross_entropy(logits.float(), target))


@pytest.mark.parametrize("name", ["eager", "compile", "cpp"])
def test_the_op_recorder_books_its_ops_to_it(name):
    from perfsuite.instruments.ops import OpRecorder

    contract.select({"cross_entropy": name})
    logits, target = random_call()
    gradient_of(cross_entropy(logits, target), logits)  # compiled before it is watched
    recorder = OpRecorder(None)
    recorder.start()
    loss = cross_entropy(2 * logits, target)
    gradient_of(loss, logits)
    booked = {(row["op"], row["direction"]) for row in recorder.stop()["rows"]}
    assert {(f"cross_entropy={name}", "forward"), (f"cross_entropy={name}", "backward")} <= booked
    assert ("", "forward") in booked  # the multiplication is nobody's


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eager", "cpp"])
@pytest.mark.parametrize("bad", [-1, 50, 2**40])
def test_a_target_outside_the_classes_is_an_error(name, bad):
    contract.select({"cross_entropy": name})
    logits, target = random_call()
    target[4] = bad
    with pytest.raises(IndexError):
        cross_entropy(logits, target)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"logits": torch.randn(3, 4, 5)}, "(rows, classes)"),
        ({"target": torch.zeros(5, dtype=torch.int64)}, "(6, 50) and (5,)"),
        ({"target": torch.zeros(6)}, "target int64"),
        ({"reduction": "max"}, "none, mean or sum"),
        ({"label_smoothing": 1.5}, "[0, 1]"),
    ],
)
def test_bad_arguments_are_refused(change, words):
    logits, target = random_call()
    with pytest.raises(ValueError, match=re.escape(words)):
        cross_entropy(**{"logits": logits, "target": target, **change})


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 9), classes=st.integers(1, 70), step=st.integers(1, 3), padding=st.integers(0, 5),
    transposed=st.booleans(), offset=st.integers(0, 3), smoothing=st.sampled_from([0.0, 0.3]), seed=st.integers(0, 99),
)  # fmt: skip
def test_cpp_at_any_shape_and_stride(rows, classes, step, padding, transposed, offset, smoothing, seed):
    contract.select({"cross_entropy": "cpp"})
    torch.manual_seed(seed)
    if transposed:
        base = torch.randn(classes + padding, rows + offset).T[offset:, :classes]
    else:
        base = torch.randn(rows, offset + step * classes + padding)[:, offset : offset + step * classes : step]
    logits = base.requires_grad_()
    target = torch.where(torch.rand(rows) < 0.2, -100, torch.randint(0, classes, (rows,)))
    loss = cross_entropy(logits, target, label_smoothing=smoothing, reduction="sum")
    expected = F.cross_entropy(logits, target, label_smoothing=smoothing, reduction="sum")
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient_of(loss, logits), gradient_of(expected, logits), rtol=1e-5, atol=1e-6)


def test_rows_more_than_2_to_the_31_elements_apart(cpp):
    # Two rows at the ends of 4 GiB that nobody touches: only their pages exist.
    far = torch.empty(2**31 + 600, dtype=torch.bfloat16).as_strided((2, 500), (2**31 + 64, 1))
    near, target = random_call(2, 500, torch.bfloat16)
    far.copy_(near.detach())
    torch.testing.assert_close(cross_entropy(far, target), cross_entropy(near, target), rtol=0, atol=0)


def test_the_number_of_threads_does_not_change_a_bit(cpp):
    logits, target = random_call(300, 1000)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            loss = cross_entropy(logits, target, label_smoothing=0.1)
            results.append((loss, gradient_of(loss, logits)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(loss, results[0][0]) and torch.equal(g, results[0][1]) for loss, g in results)


def test_an_ignored_row_is_not_read(cpp):
    logits, target = random_call()
    with torch.no_grad():
        logits[3] = torch.nan
    target[3] = -100
    loss = cross_entropy(logits, target)
    assert loss.isfinite() and gradient_of(loss, logits)[3].eq(0).all()


# -- the C++ kernel by itself -----------------------------------------------------------------------------------------

SHIM = """
#include "cross_entropy.h"
#include "vector.h"
using namespace perfsuite::cpu;
#define DEFINE(T, name)                                                                                              \\
  extern "C" void name(const T* x, int64_t stride, const int64_t* target, int64_t rows, int64_t classes, double e,   \\
                       double z, acc_t<T>* loss, RowStats<T>* stats, T* grad, T* again, int stream, int isa) {       \\
    const CrossEntropy<T> op{x, stride, target, rows, classes, -100, acc_t<T>(e), acc_t<T>(z)};                      \\
    const Gradient<T> out{grad, 1, nullptr, 0, stream != 0}, second{again, 1, nullptr, 0, stream != 0};              \\
    cross_entropy_forward<T>(op, 0, rows, loss, stats, &out, Isa(isa));                                              \\
    cross_entropy_backward<T>(op, 0, rows, stats, second, Isa(isa));                                                 \\
  }
DEFINE(float, forward_f32)
DEFINE(BFloat16, forward_bf16)
DEFINE(Half, forward_f16)
DEFINE(double, forward_f64)
extern "C" int best() { return int(best_isa()); }
extern "C" PERFSUITE_AVX2 void exp_1(const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += Avx2::width) Avx2::store(y + i, Avx2::exp(Avx2::load(x + i)));
}
extern "C" PERFSUITE_AVX512 void exp_2(const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += Avx512::width) Avx512::store(y + i, Avx512::exp(Avx512::load(x + i)));
}
"""
ISAS = {"plain": 0, "avx2": 1, "avx512": 2}


@pytest.fixture(scope="module")
def library(compile_kernels):
    return compile_kernels(SHIM, "cross_entropy")


@pytest.fixture
def isa(request, library):
    if ISAS[request.param] > library.best():
        pytest.skip(f"this processor has no {request.param}")
    return ISAS[request.param]


@pytest.mark.parametrize("isa", ["avx2", "avx512"], indirect=True)
def test_the_exponential_is_within_its_stated_error(library, isa):
    x = np.concatenate([np.linspace(-87.3, 0, 1 << 20), -np.logspace(-30, 1.94, 1 << 16)]).astype(np.float32)
    y = np.empty_like(x)
    call = getattr(library, f"exp_{isa}")
    call(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data), ctypes.c_int64(x.size))
    exact = np.exp(x.astype(np.float64))
    error = np.abs(y - exact) / np.spacing(exact.astype(np.float32))
    assert error.max() < 1.1
    special = np.resize(np.array([0, -np.inf, np.nan, -104, -1e30], np.float32), 16)
    call(ctypes.c_void_p(special.ctypes.data), ctypes.c_void_p(y.ctypes.data), ctypes.c_int64(16))
    np.testing.assert_array_equal(y[:5], np.array([1, 0, np.nan, 0, 0], np.float32))


@pytest.mark.parametrize("isa", ISAS, indirect=True)
@pytest.mark.parametrize("stream", [0, 1])
@pytest.mark.parametrize("classes", [1, 7, 16, 65, 1024, 2603])
@pytest.mark.parametrize("name", ["f32", "bf16", "f16", "f64"])
def test_every_instruction_set_agrees_with_float64(library, isa, name, classes, stream):
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "f64": torch.float64}[name]
    acc = torch.float64 if name == "f64" else torch.float32
    rows, smoothing, z = 5, 0.1, 0.01
    logits, target = random_call(rows, classes, dtype)
    target[1] = -100
    loss, stats = torch.full((rows,), torch.nan, dtype=acc), torch.full((rows, 2), torch.nan, dtype=acc)
    # One element past the end, and rows that are not aligned to vectors: neither is touched beyond its end.
    grads = torch.full((2, rows * classes + 1), 99.0, dtype=dtype)
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (logits, target, loss, stats, grads[0], grads[1])]
    x, t, *outputs = pointers
    sizes = [ctypes.c_int64(n) for n in (rows, classes)]
    options = [ctypes.c_double(smoothing), ctypes.c_double(z)]
    getattr(library, f"forward_{name}")(
        x, ctypes.c_int64(classes), t, *sizes, *options, *outputs, ctypes.c_int(stream), ctypes.c_int(isa)
    )
    exact = logits.detach().double().requires_grad_()
    kwargs = {"ignore_index": -100, "label_smoothing": smoothing, "z_loss": z}
    expected = reference(exact, target, reduction="none", **kwargs)
    gradient = gradient_of(expected, exact)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(loss.double(), expected, rtol=8 * torch.finfo(acc).eps, atol=8 * torch.finfo(acc).eps)
    for got in grads:
        assert got[-1] == 99.0
        torch.testing.assert_close(got[:-1].double().view(rows, classes), gradient, rtol=2 * eps, atol=8 * eps)


# -- Triton -----------------------------------------------------------------------------------------------------------

INTERPRETED = """
import json, sys
import torch
from perfsuite.kernels import ahead, contract, cross_entropy as ce, cross_entropy_triton as kernels
from perfsuite.kernels.check import check, check_drawn

contract.select({"cross_entropy": "triton"})
op, failures = ce.OP, {}
wanted = json.loads(sys.argv[1])
for case in ce.cases("tiny"):
    if case.name in wanted:
        failures[case.name] = check(op, op.implementations["triton"], case).failures
kernels.ONE_BLOCK_CLASSES, kernels.LOOP_BLOCK = 512, 512
for case in ce.cases("tiny"):
    if case.name in ("1x1031 float32 reduction=sum", "5x1030 float16 reduction=none"):
        failures["loop " + case.name] = check(op, op.implementations["triton"], case).failures

x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
t = torch.tensor([1, -100, 4])
for options in ({}, {"reduction": "none", "z_loss": 0.1}, {"reduction": "sum", "label_smoothing": 0.2}):
    torch.autograd.gradcheck(lambda x: ce.cross_entropy(x, t, **options), x)
    eager = ce.eager(x, t, **{**op.defaults, **options}).sum()
    loss = torch.compile(lambda x: ce.cross_entropy(x, t, **options).sum(), fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(loss, eager)
    torch.testing.assert_close(torch.autograd.grad(loss, x), torch.autograd.grad(eager, x))

loss = ce.cross_entropy(x, t)
(expected,) = torch.autograd.grad(ce.eager(x, t, **op.defaults), x)
for upstream in (3.0, 1.0, 0.5):  # a kept graph
    (gradient,) = torch.autograd.grad(loss, x, torch.tensor(upstream, dtype=torch.float64), retain_graph=True)
    torch.testing.assert_close(gradient, upstream * expected)
loss = ce.cross_entropy(x, torch.tensor([1, 5, 2]))
assert loss.isnan() and torch.autograd.grad(loss, x)[0][1].isnan().all()
second = {}
for reduction in ("mean", "none"):
    loss = ce.cross_entropy(x, t, reduction=reduction).sum()
    try:
        (first,) = torch.autograd.grad(loss, x, create_graph=True)
        torch.autograd.grad(first.square().sum(), x)
        second[reduction] = "silent"
    except RuntimeError as error:
        second[reduction] = "refused"
values = torch.randn(5000)
for factor in (2.0, 1.0):
    expected = values * factor
    ahead.launch_multiply(values, torch.tensor(factor))
    assert torch.equal(values, expected)
far = torch.empty(2**31 + 600, dtype=torch.bfloat16).as_strided((2, 9), (2**31 + 64, 1))
far.copy_(torch.randn(2, 9))
near = far.contiguous()
assert torch.equal(ce.cross_entropy(far, t[[0, 2]]), ce.cross_entropy(near, t[[0, 2]]))
print(json.dumps({"failures": failures, "second": second}))
"""
INTERPRETED_CASES = [
    "1x1 float32",
    "1x1031 float32 reduction=sum",
    "0x7 float32 reduction=sum",
    "7x33 float32 reduction=none label_smoothing=0.1 z_loss=0.001 ignored=0.4",
    "9x40 float32 ignored=1.0",
    "5x1030 bfloat16 reduction=sum layout=padded rows",
]


def test_triton_in_the_interpreter(interpreted):
    result = interpreted(INTERPRETED, json.dumps(INTERPRETED_CASES))
    assert len(result["failures"]) == len(INTERPRETED_CASES) + 2
    assert not any(result["failures"].values()), result["failures"]
    assert result["second"] == {"mean": "refused", "none": "refused"}


@pytest.mark.parametrize("arch", [90])
@pytest.mark.parametrize("name", ["forward", "backward"])
@pytest.mark.parametrize(("dtype", "classes"), [("fp32", 32000), ("bf16", 32000), ("bf16", 128256)])
def test_triton_compiles_without_spills_and_in_16_byte_pieces(name, dtype, classes, arch, tmp_path):
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from perfsuite.kernels import cross_entropy_triton as module

    kernel = getattr(module, f"{name}_kernel")
    options = module.launch_options(classes, torch.float32)
    warps = options.pop("num_warps")
    constants = {"SMOOTH": 0.1, "Z": 1e-4, "WITH_GRADIENT": True, "SCALED": True, "LOWEST": -3e38, **options}
    integers = {"row_stride": "i32", "upstream_stride": "i32", "classes": "i32", "ignore_index": "i32"}
    pointers = {"target": "*i64", "logits": f"*{dtype}", "gradient": f"*{dtype}"}
    signature, values, aligned = {}, {}, {}
    for i, argument in enumerate(kernel.arg_names):
        if argument in constants:
            signature[argument], values[(i,)] = "constexpr", constants[argument]
        else:
            signature[argument] = integers.get(argument) or pointers.get(argument, "*fp32")
            if argument not in ("ignore_index", "upstream_stride"):
                aligned[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=values, attrs=aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": warps})
    ptx = tmp_path / "kernel.ptx"
    ptx.write_text(compiled.asm["ptx"])
    nvidia = triton.knobs.nvidia
    ptxas = nvidia.ptxas_blackwell if arch >= 100 and hasattr(nvidia, "ptxas_blackwell") else nvidia.ptxas
    target = re.search(r"\.target (sm_\w+)", compiled.asm["ptx"])[1]
    command = [ptxas.path, "-v", f"-arch={target}", str(ptx), "-o", str(tmp_path / "kernel.cubin")]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert set(re.findall(r"(\d+) bytes spill", answer.stderr)) == {"0"}, answer.stderr
    assert re.search(r"ld\.global[.\w]*\.v4\.b32", compiled.asm["ptx"])
    assert re.search(r"st\.global[.\w]*\.v4\.b32", compiled.asm["ptx"])

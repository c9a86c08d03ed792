"""Every implementation of batch_norm_add_relu against float64, eager torch and each other."""

import ctypes
import json
import re

import pytest
import torch
import torch.nn.functional as F

from perfsuite.kernels import contract
from perfsuite.kernels.batch_norm_add_relu import OP, _update, batch_norm_add_relu, cases, reference
from perfsuite.kernels.check import check, check_drawn
from perfsuite.kernels.contract import Implementation

CASES = {case.name: case for case in cases("tiny")}
EAGER = OP.implementations["eager"].run


@pytest.fixture(autouse=True)
def everything_eager():
    yield
    contract.select({})


@pytest.fixture
def cpp():
    contract.select({"batch_norm_add_relu": "cpp"})


def random_call(shape=(3, 10, 4, 5), dtype=torch.float32, add=True, seed=0):
    """x, weight, bias, running_mean, running_var, add."""
    torch.manual_seed(seed)
    x = (2 * torch.randn(shape, dtype=torch.float64) + 1).to(dtype).contiguous(memory_format=torch.channels_last)
    other = torch.randn(shape, dtype=torch.float64).to(dtype).contiguous(memory_format=torch.channels_last)
    kind, channels = torch.float64 if dtype == torch.float64 else torch.float32, shape[1]
    weight, bias = torch.rand(channels, dtype=kind) + 0.5, torch.randn(channels, dtype=kind)
    running = torch.randn(channels, dtype=kind), torch.rand(channels, dtype=kind) + 0.5
    for tensor in (x, weight, bias, other):
        tensor.requires_grad_()
    return x, weight, bias, *running, other if add else None


def gradients(y, call, upstream):
    wanted = [tensor for tensor in call if tensor is not None and tensor.requires_grad]
    return torch.autograd.grad(y, wanted, upstream)


def copies(call):
    return [t if t is None else t.detach().clone().requires_grad_(t.requires_grad) for t in call]


# -- the correctness rule ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_cpp_is_right(case, cpp):
    report = check(OP, OP.implementations["cpp"], case)
    assert report.ok, report
    assert report.deterministic


def test_cpp_is_right_in_any_case(cpp):
    report = check_drawn(OP, OP.implementations["cpp"])
    assert report.ok, report


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_cuda_is_right_on_the_emulator(case, cuda_emulator):
    contract.select({"batch_norm_add_relu": "cuda"})
    report = check(OP, OP.implementations["cuda"], case)
    assert report.ok, report


@pytest.mark.parametrize("case", list(CASES.values())[::3], ids=list(CASES)[::3])
@pytest.mark.parametrize("name", ["reference", "eager"])
def test_what_is_compared_with_is_right(name, case):
    run = {"reference": reference, "eager": EAGER}[name]
    report = check(OP, Implementation(name, run, lambda device: None), case)
    assert report.ok, report


def test_compile_is_right():
    report = check(OP, OP.implementations["compile"], CASES["3x37x5x3 float32 add=True"])
    assert report.ok, report


class _Wrong(torch.autograd.Function):
    """The op in training, in plain torch, with one mistake."""

    @staticmethod
    def forward(ctx, x, weight, bias, add, eps, relu, mistake):
        x, rows = x.float(), (0, 2, 3)
        mean = x.mean(rows, keepdim=True)
        var = (x - mean).square().mean(rows, keepdim=True)
        if mistake == "squares minus squared mean":
            var = (x.square().mean(rows, keepdim=True) - mean.square()).clamp_min(0)
        rstd = (var + eps).rsqrt()
        h = (x - mean) * rstd
        z = h * weight[:, None, None] + bias[:, None, None]
        mask = z > 0 if mistake == "mask before add" or add is None else z + add > 0
        z = z if add is None else z + add
        ctx.save_for_backward(h, rstd * weight[:, None, None], mask if relu else torch.ones_like(mask))
        ctx.mistake, ctx.add = mistake, add is not None
        n = x.numel() // x.shape[1]
        ctx.mark_non_differentiable(mean, var)
        return (z.relu() if relu else z), mean[0, :, 0, 0], var[0, :, 0, 0] * n / (n - 1)

    @staticmethod
    def backward(ctx, dy, *_):
        h, slope, mask = ctx.saved_tensors
        mistake, rows = ctx.mistake, (0, 2, 3)
        g = dy * mask
        dx = g
        if mistake != "no mean of g in dx":
            dx = dx - g.mean(rows, keepdim=True)
        if mistake != "no h in dx":
            dx = dx - h * (g * h).mean(rows, keepdim=True)
        d_add = dy if mistake == "gradient of add not masked" else g
        return dx * slope, (g * h).sum(rows), g.sum(rows), d_add if ctx.add else None, None, None, None


def _with(mistake):
    def run(x, weight, bias, running_mean, running_var, add, *, training, momentum, eps, relu):
        options = {"training": training, "momentum": momentum, "eps": eps, "relu": relu}
        if mistake == "batch statistics in evaluation" or mistake == "updates in evaluation":
            if mistake == "updates in evaluation":
                running_mean.mul_(0.99)
            return EAGER(x, weight, bias, running_mean, running_var, add, **{**options, "training": True})
        y, mean, var = _Wrong.apply(x, weight, bias, add, eps, relu, mistake)
        if mistake == "running statistics not updated":
            return y
        n = x.numel() // x.shape[1]
        _update(running_mean, mean, 1 - momentum if mistake == "momentum the other way round" else momentum)
        _update(running_var, var * (n - 1) / n if mistake == "biased running variance" else var, momentum)
        if mistake == "changes add":
            add.detach()[0, 0, 0, 0] += 1
        return y

    return Implementation(mistake, run, lambda device: None)


LARGE = "40x8x6x6 float32 add=True values=large"
EVALUATION = "3x37x5x3 float32 training=False add=True"


@pytest.mark.parametrize(
    ("mistake", "case", "complaint"),
    [
        ("biased running variance", "3x37x5x3 float32 add=True", "running_var: RMS"),
        ("biased running variance", LARGE, "running_var: RMS"),
        ("running statistics not updated", "3x37x5x3 float32 add=True", "running_mean: RMS"),
        ("running statistics not updated", "3x37x5x3 float32 add=True", "running_var: RMS"),
        ("momentum the other way round", "3x37x5x3 float32 add=True", "running_mean: RMS"),
        ("mask before add", "3x37x5x3 float32 add=True", "grad_x: RMS"),
        ("mask before add", "3x37x5x3 float32 add=True", "grad_add: RMS"),
        ("no mean of g in dx", "3x37x5x3 float32 add=True", "grad_x: RMS"),
        ("no mean of g in dx", LARGE, "grad_x: RMS"),
        ("no h in dx", "3x37x5x3 float32 add=True", "grad_x: RMS"),
        ("no h in dx", "2x64x4x3 float32 relu=False add=False", "grad_x: RMS"),
        ("gradient of add not masked", "3x37x5x3 float32 add=True", "grad_add: RMS"),
        ("squares minus squared mean", LARGE, "output: RMS"),
        ("batch statistics in evaluation", EVALUATION, "output: RMS"),
        ("updates in evaluation", EVALUATION, "running_mean: RMS"),
        ("changes add", "4x16x7x5 float32 add=True", "add was changed"),
    ],
)
def test_a_wrong_kernel_is_refused(mistake, case, complaint):
    report = check(OP, _with(mistake), CASES[case])
    assert any(complaint in failure for failure in report.failures), report


@pytest.mark.parametrize("case", ["3x37x5x3 float32 add=True", "2x64x4x3 float32 relu=False add=False"])
def test_the_same_kernel_without_the_mistake_is_right(case):
    report = check(OP, _with("none"), CASES[case])
    assert report.ok, report


# -- running statistics -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.1, 0.8, 1.0])
@pytest.mark.parametrize("name", ["eager", "cpp"])
def test_running_statistics_are_torchs(name, momentum):
    contract.select({"batch_norm_add_relu": name})
    module = torch.nn.BatchNorm2d(10, momentum=momentum)
    x, weight, bias, _, _, _ = random_call()
    mean, var = torch.zeros(10), torch.ones(10)
    for step in range(3):
        module(x + step)
        batch_norm_add_relu(x + step, weight, bias, mean, var, momentum=momentum)
    torch.testing.assert_close(mean, module.running_mean)
    torch.testing.assert_close(var, module.running_var)


@pytest.mark.parametrize("wants_gradient", [True, False])
def test_an_evaluation_or_nothing_at_all_leaves_them(cpp, wants_gradient):
    x, weight, bias, mean, var, add = random_call()
    before = mean.clone(), var.clone()
    with torch.set_grad_enabled(wants_gradient):
        y = batch_norm_add_relu(x, weight, bias, mean, var, add, training=False)
        batch_norm_add_relu(x[:0], weight, bias, mean, var, add[:0])
    torch.testing.assert_close(y, EAGER(x, weight, bias, *before, add, **{**OP.defaults, "training": False}))
    assert torch.equal(mean, before[0]) and torch.equal(var, before[1])


def test_an_outlier_and_constant_channels_keep_their_variance(cpp):
    x = torch.zeros(2000, 3, 4, 4)
    x[:, 1] = 3e4 + torch.randn(2000, 4, 4)  # 1 in 30000: of x^2 nothing would be left in float32
    x[0, 2, 0, 0] = 1e6
    mean, var = torch.zeros(3), torch.ones(3)
    y = batch_norm_add_relu(x, None, None, mean, var, momentum=1.0, relu=False)
    exact = x.double().var((0, 2, 3))
    torch.testing.assert_close(var.double(), exact, rtol=256 * 2**-24, atol=0)  # 256 rows are added up in float32
    assert y[:, 0].eq(0).all()


# -- autograd, compile, autocast --------------------------------------------------------------------------------------

OPTION_SETS = [{}, {"relu": False}, {"training": False}]


@pytest.mark.parametrize("add", [True, False])
@pytest.mark.parametrize("options", OPTION_SETS)
def test_gradcheck_in_float64(cpp, options, add):
    x, weight, bias, mean, var, other = random_call((2, 3, 2, 3), torch.float64, add, seed=1)

    def call(x, weight, bias, other):
        return batch_norm_add_relu(x, weight, bias, mean.clone(), var.clone(), other, **options)

    y = call(x, weight, bias, other)
    assert not options.get("relu", True) or (0.1 < y.eq(0).double().mean() < 0.9 and y[y > 0].min() > 1e-4)
    assert torch.autograd.gradcheck(call, (x, weight, bias, other))


@pytest.mark.parametrize("add", [True, False])
@pytest.mark.parametrize("options", OPTION_SETS)
def test_fullgraph_compile_gives_the_same_and_updates_once(cpp, options, add):
    call = random_call(add=add)
    again, upstream = copies(call), torch.randn_like(call[0])

    def step(x, *rest):
        return 0.5 * batch_norm_add_relu(2 * x, *rest, **options)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        expected, y = step(*call), compiled(*again)
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(gradients(y, again, upstream), gradients(expected, call, upstream))
        torch.testing.assert_close(again[3:5], call[3:5])


def test_fullgraph_compile_with_inductor_and_changing_sizes(cpp):
    compiled = torch.compile(lambda *call: 0.5 * batch_norm_add_relu(*call), fullgraph=True, dynamic=True)
    for shape in ((3, 10, 4, 5), (5, 10, 7, 6)):
        call = random_call(shape)
        again, upstream = copies(call), torch.randn(shape)
        y, expected = compiled(*again), 0.5 * EAGER(*call, **OP.defaults)
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(gradients(y, again, upstream), gradients(expected, call, upstream))
        torch.testing.assert_close(again[3:5], call[3:5])


@pytest.mark.parametrize("keep_mask", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_operators_keep_torchs_rules(cpp, training, keep_mask):
    ops = torch.ops.perfsuite
    x, weight, bias, mean, var, add = (tensor.detach() for tensor in random_call())
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    given = (None, None) if training else (mean, var)
    arguments = (x, weight, bias, add, *given, 1e-5, True, keep_mask)
    torch.library.opcheck(ops.batch_norm_add_relu_cpp_forward.default, arguments, test_utils=tests)
    y, mean, rstd, _, mask = ops.batch_norm_add_relu_cpp_forward(*arguments)
    arguments = (y, x, weight, mean, rstd, mask, training, keep_mask, keep_mask)
    torch.library.opcheck(ops.batch_norm_add_relu_cpp_backward.default, arguments, test_utils=tests)


def test_gradients_that_nobody_wants_are_not_made(cpp):
    x, weight, bias, mean, var, add = random_call()
    for frozen in (x, weight, bias, add):
        call = [None if t is None else t.detach().requires_grad_(t is not frozen) for t in (x, weight, bias, add)]
        y = batch_norm_add_relu(*call[:3], mean, var, call[3])
        y.sum().backward()
        for tensor in call:
            assert (tensor.grad is not None) == tensor.requires_grad
    y = batch_norm_add_relu(x.detach(), None, None, None, None)
    assert not y.requires_grad
    torch.testing.assert_close(y, F.relu(F.batch_norm(x.detach(), None, None, training=True)))


def test_a_second_derivative_is_refused_and_not_wrong(cpp):
    call = random_call()
    with pytest.raises(RuntimeError, match="batch_norm_add_relu=cpp has no second derivative"):
        torch.autograd.grad(batch_norm_add_relu(*call).square().sum(), call[0], create_graph=True)


@pytest.mark.parametrize("name", ["eager", "cpp"])
def test_autocast_keeps_half_precision_beside_float32_parameters(name):
    contract.select({"batch_norm_add_relu": name})
    call = random_call()
    kernel = torch.randn(10, 10, 1, 1, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = F.conv2d(call[0], kernel)
        y = batch_norm_add_relu(x, *call[1:5], call[5].bfloat16())
    assert y.dtype == torch.bfloat16 and y.is_contiguous(memory_format=torch.channels_last)
    y.float().sum().backward()
    assert call[1].grad.dtype == torch.float32 and call[5].grad.dtype == torch.float32
    assert kernel.grad.isfinite().all()


def test_a_view_and_an_expanded_gradient(cpp):
    base = torch.randn(4, 20, 5, 6)
    call = [base[::2, 3:13, :, 1:].requires_grad_(), *random_call()[1:5], base[1::2, 3:13, :, 1:].requires_grad_()]
    again = copies(call)
    y, expected = batch_norm_add_relu(*call), EAGER(*again, **OP.defaults)
    upstream = torch.randn(2, 1, 1, 1).expand_as(y)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(gradients(y, call, upstream), gradients(expected, again, upstream))


def test_the_number_of_threads_does_not_change_a_bit(cpp):
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            call = random_call((30, 40, 14, 14))
            y = batch_norm_add_relu(*call)
            results.append([y, *call[3:5], *gradients(y, call, torch.ones_like(y))])
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eager", "cpp"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": torch.randn(3, 4, 5)}, "x must be (N, C, H, W)"),
        ({"x": torch.ones(3, 10, 4, 5, dtype=torch.int64)}, "floating-point"),
        ({"weight": torch.ones(9)}, "weight must be (10,) torch.float32, got (9,)"),
        ({"bias": torch.ones(10).half()}, "bias must be (10,) torch.float32"),
        ({"add": torch.randn(3, 10, 4, 1)}, "add must be like x"),
        ({"running_var": None}, "both or neither"),
        ({"running_mean": None, "running_var": None, "training": False}, "needs running_mean"),
        ({"x": torch.randn(1, 10, 1, 1), "add": None}, "Expected more than 1 value per channel"),
        ({"momentum": None}, "momentum must be a number"),
    ],
)
def test_bad_arguments_are_refused(name, change, words):
    contract.select({"batch_norm_add_relu": name})
    names = ("x", "weight", "bias", "running_mean", "running_var", "add")
    call = dict(zip(names, random_call(), strict=True))
    with pytest.raises(ValueError, match=re.escape(words)):
        batch_norm_add_relu(**{**call, **change})


@pytest.mark.parametrize("scale", ["cpu", "gpu", "code"])
def test_the_cases_for_timing_have_costs(scale):
    for case in cases(scale):
        cost = OP.cost(case)
        elements = case.shape["images"] * case.shape["channels"] * case.shape["height"] * case.shape["width"]
        assert 5 <= cost.bytes / elements / getattr(torch, case.dtype).itemsize <= 7.2
        assert scale == "gpu" or cost.bytes < 800e6


# -- the C++ kernels by themselves ------------------------------------------------------------------------------------

SHIM = """
#include "batch_norm_add_relu.h"
using namespace perfsuite::cpu;
#define DEFINE(T, name)                                                                                               \\
  extern "C" void forward_##name(const T* x, const T* add, const acc_t<T>* stats, int64_t rows, int64_t channels,     \\
                                 double* sums, T* y, uint8_t* mask, int stream, int isa) {                            \\
    batch_norm_sums<T>(x, stats, rows, channels, sums, Isa(isa));                                                     \\
    const Normalise<T> normalise{stats, stats + channels, stats + 2 * channels};                                      \\
    batch_norm_add_relu_apply<T>(x, add, normalise, true, rows, channels, y, mask, stream != 0, Isa(isa));            \\
  }                                                                                                                   \\
  extern "C" void backward_##name(const T* dy, const uint8_t* mask, const T* x, const acc_t<T>* of, int64_t rows,     \\
                                  int64_t channels, double* sums, T* dx, T* g, int isa) {                             \\
    batch_norm_add_relu_backward_sums<T>(dy, mask, x, of, rows, channels, sums, Isa(isa));                            \\
    const Coefficients<T> coefficients{of, of + channels, of + 2 * channels, of + 3 * channels};                      \\
    batch_norm_add_relu_backward<T>(dy, mask, x, coefficients, rows, channels, dx, g, Isa(isa));                      \\
  }                                                                                                                   \\
  extern "C" void sums_##name(const T* x, const acc_t<T>* origin, int64_t rows, int64_t channels, double* sums) {     \\
    batch_norm_sums<T>(x, origin, rows, channels, sums, best_isa());                                                  \\
  }
DEFINE(float, f32)
DEFINE(BFloat16, bf16)
DEFINE(Half, f16)
DEFINE(double, f64)
extern "C" int best() { return int(best_isa()); }
"""
ISAS = {"plain": 0, "avx2": 1, "avx512": 2}


@pytest.fixture(scope="module")
def library(compile_kernels):
    return compile_kernels(SHIM, "batch_norm_add_relu")


def _arguments(*values):
    kinds = {int: ctypes.c_int64, bool: ctypes.c_int}
    return [ctypes.c_void_p(v.data_ptr()) if isinstance(v, torch.Tensor) else kinds[type(v)](v) for v in values]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels", [1, 3, 16, 41, 64, 130])
@pytest.mark.parametrize("name", ["f32", "bf16", "f16", "f64"])
def test_every_instruction_set_agrees_with_float64(library, isa, name, channels):
    if ISAS[isa] > library.best():
        pytest.skip(f"this processor has no {isa}")
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "f64": torch.float64}[name]
    acc, rows, number = torch.float64 if name == "f64" else torch.float32, 70, ctypes.c_int(ISAS[isa])
    torch.manual_seed(channels)
    x, add, dy = (torch.randn(rows, channels).to(dtype) for _ in range(3))
    x[3, 0] = torch.nan
    per_channel = torch.randn(4, channels).to(acc)
    # One element or byte past the end: not touched. y starts on a cache line, for stores past the caches.
    outputs = torch.full((3, -(-rows * channels // 64) * 64 + 64), 99.0, dtype=dtype)
    y, dx, g = outputs
    stream = channels % 16 == 0 and y.data_ptr() % 64 == 0
    mask = torch.full((rows * (-(-channels // 8)) + 1,), 99, dtype=torch.uint8)
    sums, back = torch.zeros(2, channels, dtype=torch.float64), torch.zeros(2, channels, dtype=torch.float64)
    forward, backward = getattr(library, f"forward_{name}"), getattr(library, f"backward_{name}")
    forward(*_arguments(x, add, per_channel, rows, channels, sums, y, mask, stream), number)
    backward(*_arguments(dy, mask, x, per_channel, rows, channels, back, dx, g), number)

    mean, first, second, third = per_channel.double()
    d, eps, whole = x.double() - mean, torch.finfo(dtype).eps, rows * channels
    z = d * first + second + add.double()
    passes = ~(z <= 0)
    assert (outputs[:, whole:] == 99).all() and mask[-1] == 99
    bits = (mask[:-1].view(rows, -1, 1) >> torch.arange(8)) & 1
    assert torch.equal(bits.view(rows, -1)[:, :channels].bool(), passes)
    exact = dy.double().where(passes, 0)
    close = {"rtol": 2 * eps, "atol": 16 * torch.finfo(acc).eps, "equal_nan": True}
    torch.testing.assert_close(y[:whole].view(rows, -1).double(), z.where(passes, 0), **close)
    torch.testing.assert_close(g[:whole].view(rows, -1).double(), exact)
    torch.testing.assert_close(dx[:whole].view(rows, -1).double(), exact * first + second * d + third, **close)
    close = {"rtol": 64 * torch.finfo(acc).eps, "atol": 64 * torch.finfo(acc).eps, "equal_nan": True}
    torch.testing.assert_close(sums, torch.stack([d.sum(0), d.square().sum(0)]), **close)
    torch.testing.assert_close(back, torch.stack([exact.sum(0), (exact * d).sum(0)]), **close)


def test_sums_over_more_than_2_to_the_31_elements(library):
    # 4 GiB of zeros that nobody has written: they are all one page of memory.
    rows, channels = 2**27 + 5, 16
    x = torch.empty(rows * channels, dtype=torch.bfloat16)
    x.view(rows, channels)[-1] = torch.arange(channels)
    origin, sums = torch.zeros(channels), torch.zeros(2, channels, dtype=torch.float64)
    library.sums_bf16(*_arguments(x, origin, rows, channels, sums))
    expected = torch.arange(channels, dtype=torch.float64)
    torch.testing.assert_close(sums, torch.stack([expected, expected.square()]), rtol=1e-6, atol=0)


# -- Triton -----------------------------------------------------------------------------------------------------------

INTERPRETED = """
import json, sys
import torch
from perfsuite.kernels import contract, batch_norm_add_relu_gpu as gpu
from perfsuite.kernels.batch_norm_add_relu import OP, batch_norm_add_relu, cases
from perfsuite.kernels.check import check

contract.select({"batch_norm_add_relu": "triton"})
wanted, failures = json.loads(sys.argv[1]), {}
for case in cases("tiny"):
    if case.name in wanted:
        failures[case.name] = check(OP, OP.implementations["triton"], case).failures
gpu.TILE, gpu.MOST_CHANNELS = 64, 8  # small pieces, so that there are several
for case in cases("tiny"):
    if case.name == "9x20x1x1 float32 add=True":
        failures["tiles"] = check(OP, OP.implementations["triton"], case).failures

x, add = (torch.randn(2, 3, 2, 1, dtype=torch.float64, requires_grad=True) for _ in range(2))
weight, bias = (torch.rand(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
def call(x, weight, bias, add):
    running = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    return batch_norm_add_relu(x, weight, bias, *running, add), *running
torch.autograd.gradcheck(lambda *c: call(*c)[0], (x, weight, bias, add))
compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
torch.testing.assert_close(compiled(x, weight, bias, add), call(x, weight, bias, add))
print(json.dumps(failures))
"""
INTERPRETED_CASES = [
    "3x37x5x3 bfloat16 add=True",
    "5x1x3x3 float32 add=True",
    "0x5x3x3 float32 add=True",
    "3x16x4x4 float32 add=False values=infinite",
    "3x21x5x3 bfloat16 training=False add=True",
]


def test_triton_in_the_interpreter(interpreted):
    failures = interpreted(INTERPRETED, json.dumps(INTERPRETED_CASES))
    assert len(failures) == len(INTERPRETED_CASES) + 1
    assert not any(failures.values()), failures

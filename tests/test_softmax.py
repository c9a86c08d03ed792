"""Every implementation of softmax against float64, eager torch and each other."""

import json
import re

import pytest
import torch

from perfsuite.kernels import contract
from perfsuite.kernels.check import check, check_drawn
from perfsuite.kernels.contract import Implementation
from perfsuite.kernels.softmax import OP, cases, reference, softmax

CASES = {case.name: case for case in cases("tiny")}


@pytest.fixture(autouse=True)
def everything_eager():
    yield
    contract.select({})


@pytest.fixture
def cpp():
    contract.select({"softmax": "cpp"})


def drawn(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(*shape, generator=generator)).to(dtype).requires_grad_()


def gradient_of(y, x):
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(7)).to(y)
    return torch.autograd.grad(y, x, upstream)[0]


# -- the correctness rule ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_cpp_is_right(case, cpp):
    report = check(OP, OP.implementations["cpp"], case)
    assert report.ok, report


def test_cpp_is_right_at_any_shape(cpp):
    report = check_drawn(OP, OP.implementations["cpp"])
    assert report.ok, report


def test_compile_is_right():
    report = check(OP, OP.implementations["compile"], CASES["12x51 float32 values=infinite"])
    assert report.ok, report


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_reference_is_right(case):
    report = check(OP, Implementation("reference", reference, lambda device: None), case)
    assert report.ok, report


def _wrong(name):
    """Kernels with the mistakes that people make."""

    def forgets_the_maximum(x):
        return x.exp() / x.exp().sum(-1, keepdim=True)

    def takes_the_maximum_of_all_rows(x):
        exponentials = torch.exp(x - x.max().detach())
        return exponentials / exponentials.sum(-1, keepdim=True)

    def masked_rows_are_zero(x):
        return torch.softmax(x, -1).nan_to_num(0.0)

    def pads_with_zero(x):  # as many lanes too many as a power of two has
        width = 1 << (x.shape[-1] - 1).bit_length()
        return torch.softmax(torch.nn.functional.pad(x, (0, width - x.shape[-1])), -1)[..., : x.shape[-1]]

    def adds_in_bfloat16(x):
        exponentials = torch.exp(x - x.amax(-1, keepdim=True))
        return exponentials / exponentials.sum(-1, keepdim=True, dtype=torch.bfloat16).to(x.dtype)

    def stale_maximum_of_the_first_block(x):
        m = x[..., :512].amax(-1, keepdim=True).detach()
        blocks = [torch.exp(part - m).sum(-1, keepdim=True) for part in x.split(512, -1)[:-1]]
        return torch.exp(x - m) / sum(blocks)

    def over_the_first_dimension(x):
        return torch.softmax(x, 0)

    class ForgetsTheDot(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            y = torch.softmax(x, -1)
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx, upstream):
            return upstream * ctx.saved_tensors[0]

    class RoundsTheDot(ForgetsTheDot):
        @staticmethod
        def backward(ctx, upstream):
            (y,) = ctx.saved_tensors
            return y * (upstream - (upstream * y).sum(-1, keepdim=True).bfloat16().to(y.dtype))

    class WritesIntoTheOutput(ForgetsTheDot):
        @staticmethod
        def forward(ctx, x):
            ctx.y = torch.softmax(x, -1)
            return ctx.y

        @staticmethod
        def backward(ctx, upstream):
            dot = (upstream * ctx.y).sum(-1, keepdim=True)
            return ctx.y.data.mul_(upstream - dot)

    known = dict(locals())
    kernel = known[name]
    run = kernel.apply if isinstance(kernel, type) else kernel
    return Implementation(name, lambda x: run(x), lambda device: None)


@pytest.mark.parametrize(
    ("name", "case", "complaint"),
    [
        ("forgets_the_maximum", "8x1040 float32 values=large", "NaN or infinite"),
        ("takes_the_maximum_of_all_rows", "12x51 float32 values=infinite", "NaN or infinite"),
        ("masked_rows_are_zero", "12x51 float32 values=infinite", "output: NaN or infinite"),
        ("pads_with_zero", "7x33 float32", "output: RMS"),
        ("pads_with_zero", "16x200 bfloat16", "output: RMS"),
        ("adds_in_bfloat16", "64x128 float32", "output: RMS"),
        ("stale_maximum_of_the_first_block", "2x5003 float32", "output: RMS"),
        ("over_the_first_dimension", "64x128 float32", "output: RMS"),
        ("ForgetsTheDot", "64x128 float32", "grad_x: RMS"),
        ("RoundsTheDot", "64x128 float32", "grad_x: RMS"),
        ("WritesIntoTheOutput", "64x128 float32", "output: RMS"),
    ],
)
def test_a_wrong_kernel_is_refused(name, case, complaint):
    report = check(OP, _wrong(name), CASES[case])
    assert any(complaint in failure for failure in report.failures), report


# -- shapes and layouts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5,), (3, 4, 10), (2, 3, 4, 17), (2, 0, 6), (2, 3, 0), (3, 40000)])
def test_any_number_of_dimensions(cpp, shape):
    x = drawn(*shape)
    y, expected = softmax(x), torch.softmax(x, -1)
    assert y.shape == x.shape
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(gradient_of(y, x), gradient_of(expected, x), rtol=1e-4, atol=1e-6)


def test_any_strides(cpp):
    x = torch.randn(4, 6, 5, 7)
    for view in (x.transpose(1, 2), x.permute(3, 0, 1, 2), x[:, ::2, :, 1:6], x.expand(3, 4, 6, 5, 7), x[..., ::3]):
        leaf = view.detach().requires_grad_()
        torch.testing.assert_close(softmax(leaf), torch.softmax(leaf, -1))
        torch.testing.assert_close(gradient_of(softmax(leaf), leaf), gradient_of(torch.softmax(leaf, -1), leaf))


def test_padded_rows_are_read_where_they_lie(cpp):
    x = torch.randn(8, 4, 1000)[..., :777]
    with torch.profiler.profile() as profile:
        softmax(x)
    names = {event.key for event in profile.key_averages()}
    assert not {"aten::copy_", "aten::clone", "aten::contiguous"} & names, names


def test_rows_more_than_2_to_the_31_elements_apart(cpp):
    # Two rows at the ends of 4 GiB that nobody touches: only their pages exist.
    far = torch.empty(2**31 + 600, dtype=torch.bfloat16).as_strided((2, 500), (2**31 + 64, 1))
    near = torch.randn(2, 500).bfloat16()
    far.copy_(near)
    assert torch.equal(softmax(far), softmax(near))


def test_outputs_larger_than_the_caches(cpp):
    for width in (2064, 2067):  # 17 MB, written past the caches where rows are whole vectors
        x = drawn(2100, width)
        y, expected = softmax(x), torch.softmax(x, -1)
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(gradient_of(y, x), gradient_of(expected, x), rtol=1e-4, atol=1e-6)


def test_the_number_of_threads_does_not_change_a_bit(cpp):
    x = drawn(300, 1001)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y = softmax(x)
            results.append((y, gradient_of(y, x)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_a_masked_row_is_nan_and_the_others_are_not(cpp):
    x = torch.randn(3, 40)
    x[1], x[2, 20:] = -torch.inf, -torch.inf
    y = softmax(x)
    assert y[1].isnan().all() and y[[0, 2]].isfinite().all() and bool((y[2, 20:] == 0).all())


# -- autograd, compile, autocast --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eager", "cpp"])
def test_gradcheck_in_float64(name):
    contract.select({"softmax": name})
    assert torch.autograd.gradcheck(softmax, drawn(3, 7, dtype=torch.float64))


def test_a_kept_graph_gives_the_gradient_again(cpp):
    x = drawn(4, 10)
    y = softmax(x)
    upstream = torch.randn(4, 10)
    first = torch.autograd.grad(y, x, upstream, retain_graph=True)[0]
    second = torch.autograd.grad(y, x, 2 * upstream)[0]
    torch.testing.assert_close(second, 2 * first)


def test_changing_the_output_that_the_graph_keeps_is_an_error(cpp):
    x = drawn(4, 10)
    y = softmax(x)
    with torch.no_grad():
        y.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_second_derivative_is_refused_and_not_wrong(cpp):
    x = drawn(3, 4)
    with pytest.raises(RuntimeError, match="softmax=cpp has no second derivative"):
        torch.autograd.grad(softmax(x).square().sum(), x, create_graph=True)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_fullgraph_compile_gives_the_same(cpp, backend):
    def step(x, weight):
        return softmax(x @ weight).square().sum()

    compiled = torch.compile(step, fullgraph=True, backend=backend, dynamic=True)
    for rows in (5, 9):
        x, weight = torch.randn(rows, 8), torch.randn(8, 12, requires_grad=True)
        expected, loss = step(x, weight), compiled(x, weight)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(torch.autograd.grad(loss, weight), torch.autograd.grad(expected, weight))


def test_operators_keep_torchs_rules(cpp):
    x = torch.randn(3, 4, 8)
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(torch.ops.perfsuite.softmax_cpp_forward.default, (x,), test_utils=tests)
    arguments = (torch.randn_like(x), torch.softmax(x, -1))
    torch.library.opcheck(torch.ops.perfsuite.softmax_cpp_backward.default, arguments, test_utils=tests)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_gives_torchs_dtype(cpp, dtype):
    x = drawn(3, 8, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = softmax(x)
        assert y.dtype == torch.softmax(x, -1).dtype and gradient_of(y, x).dtype == dtype


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "dim", "words"),
    [
        (torch.randn(3, 4), 0, "dim=0 and x of (3, 4)"),
        (torch.randn(3, 4), 2, "dim=2"),
        (torch.tensor(1.0), -1, "x of ()"),
        (torch.zeros(3, dtype=torch.int64), -1, "floating-point, got torch.int64"),
    ],
)
def test_bad_arguments_are_refused(x, dim, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        softmax(x, dim=dim)


def test_the_last_dimension_by_its_number(cpp):
    x = torch.randn(2, 3, 4)
    torch.testing.assert_close(softmax(x, dim=2), torch.softmax(x, 2))


# -- Triton -----------------------------------------------------------------------------------------------------------

INTERPRETED = """
import json, sys
import torch
from perfsuite.kernels import contract, softmax as module
from perfsuite.kernels.check import check

contract.select({"softmax": "triton"})
op, failures = module.OP, {}
wanted = json.loads(sys.argv[1])
for case in module.cases("tiny"):
    if case.name in wanted:
        failures[case.name] = check(op, op.implementations["triton"], case).failures

x = torch.randn(3, 40, dtype=torch.float64, requires_grad=True)
loss = torch.compile(lambda x: module.softmax(x).square().sum(), fullgraph=True, backend="aot_eager")(x)
expected = torch.softmax(x, -1).square().sum()
torch.testing.assert_close(loss, expected)
torch.testing.assert_close(torch.autograd.grad(loss, x), torch.autograd.grad(expected, x))
far = torch.empty(2**31 + 600, dtype=torch.bfloat16).as_strided((2, 10), (2**31 + 64, 1))
far.copy_(torch.randn(2, 10))
near = far.contiguous()
assert torch.equal(module.softmax(far), module.softmax(near))

module.ONE_BLOCK_BYTES, module.LOOP_BLOCK = 64, 32
assert torch.equal(module.softmax(far), module.softmax(near))
for case in module.cases("tiny"):
    if case.name in json.loads(sys.argv[2]):
        failures["loop " + case.name] = check(op, op.implementations["triton"], case).failures
print(json.dumps(failures))
"""
INTERPRETED_CASES = [
    "5x1 float32",
    "0x7 float32",
    "3x0 float32",
    "7x33 float32",
    "13x40 float32 layout=transposed",
    "9x65 float32 layout=padded rows",
    "12x100 float32 values=masked",
    "12x51 float32 values=infinite",
    "16x200 bfloat16",
    "5x31 float16 layout=transposed",
    "6x1100 float64 values=masked",
]
LOOP_CASES = [
    "12x100 float32 values=masked",
    "12x51 float32 values=infinite",
    "5x31 float16 layout=transposed",
]


def test_triton_in_the_interpreter(interpreted):
    failures = interpreted(INTERPRETED, json.dumps(INTERPRETED_CASES), json.dumps(LOOP_CASES))
    assert len(failures) == len(INTERPRETED_CASES) + len(LOOP_CASES)
    assert not any(failures.values()), failures

"""Every implementation of swiglu against float64, eager torch and each other."""

import json
import re

import pytest
import torch
import torch.nn.functional as F

from perfsuite.kernels import contract
from perfsuite.kernels.check import check, check_drawn
from perfsuite.kernels.contract import Implementation
from perfsuite.kernels.swiglu import ACTIVATIONS, OP, cases, reference, swiglu

CASES = {case.name: case for case in cases("tiny")}


@pytest.fixture(autouse=True)
def everything_eager():
    yield
    contract.select({})


@pytest.fixture
def cpp():
    contract.select({"swiglu": "cpp"})


def pair(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator).to(dtype).requires_grad_() for _ in range(2)]


def gradients(output, *leaves):
    upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(7)).to(output)
    return torch.autograd.grad(output, leaves, upstream)


# -- the correctness rule ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_cpp_is_right(case, cpp):
    report = check(OP, OP.implementations["cpp"], case)
    assert report.ok, report


def test_cpp_is_right_at_any_shape(cpp):
    report = check_drawn(OP, OP.implementations["cpp"])
    assert report.ok, report


@pytest.mark.parametrize("name", ["9x100 float32 activation=gelu layout=halves", "16x200 bfloat16 packed=True"])
def test_compile_is_right(name):
    report = check(OP, OP.implementations["compile"], CASES[name])
    assert report.ok, report


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_reference_is_right(case):
    if "infinite" in case.name:
        pytest.skip("eager has its own NaN there: F.silu's gradient at infinity")
    report = check(OP, Implementation("reference", reference, lambda device: None), case)
    assert report.ok, report


def _wrong(name):
    """Kernels with the mistakes that people make."""
    eager = OP.implementations["eager"].run

    def halves(gate, up):
        return gate.chunk(2, -1) if up is None else (gate, up)

    def swaps_gate_and_up(gate, up=None, **options):
        gate, up = halves(gate, up)
        return eager(up, gate, **options)

    def takes_tanh_for_erf(gate, up=None, *, activation):
        return eager(gate, up, activation="gelu_tanh" if activation == "gelu" else activation)

    def cuts_the_tail_off(gate, up=None, *, activation):
        return torch.where(gate < -4, 0.0, eager(gate, up, activation=activation))

    def computes_in_bfloat16(gate, up=None, **options):
        gate, up = halves(gate, up)
        return eager(gate.bfloat16(), up.bfloat16(), **options).to(gate.dtype)

    def rounds_the_sigmoid(gate, up=None, **options):
        gate, up = halves(gate, up)
        return gate * torch.sigmoid(gate).half().to(gate.dtype) * up

    def one_half_twice(gate, up=None, **options):
        gate, up = halves(gate, up)
        return eager(gate, gate, **options)

    def changes_its_input(gate, up=None, **options):
        output = eager(gate, up, **options)
        gate.data[-1, -1] += 1
        return output

    class WritesIntoWhatIsKept(torch.autograd.Function):
        @staticmethod
        def forward(ctx, gate, up, options):
            ctx.kept, ctx.options = gate, options
            return eager(gate, up, **options)

        @staticmethod
        def backward(ctx, upstream):
            with torch.enable_grad():
                leaf = ctx.kept.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(eager(leaf, None, **ctx.options), leaf, upstream)
            return ctx.kept.detach().copy_(gradient), None, None

    class SigmoidForTheDerivative(torch.autograd.Function):
        @staticmethod
        def forward(ctx, gate, up, options):
            ctx.save_for_backward(gate)
            return eager(gate, up, **options)

        @staticmethod
        def backward(ctx, upstream):
            x, y = ctx.saved_tensors[0].chunk(2, -1)
            return torch.cat([upstream * y * torch.sigmoid(x), upstream * F.silu(x)], -1), None, None

    known = dict(locals())
    kernel = known[name]
    if isinstance(kernel, type):
        return Implementation(name, lambda gate, up=None, **o: kernel.apply(gate, up, o), lambda device: None)
    return Implementation(name, kernel, lambda device: None)


@pytest.mark.parametrize(
    ("name", "case", "complaint"),
    [
        ("swaps_gate_and_up", "33x65 float32", "output: RMS"),
        ("swaps_gate_and_up", "16x200 bfloat16 packed=True", "output: RMS"),
        ("takes_tanh_for_erf", "9x100 float32 activation=gelu layout=halves", "output: RMS"),
        ("cuts_the_tail_off", "33x65 float32", "output: RMS"),
        ("cuts_the_tail_off", "9x100 float32 activation=gelu layout=halves", "output: an error"),
        ("computes_in_bfloat16", "33x65 float32", "output: RMS"),
        ("computes_in_bfloat16", "16x200 float16 activation=gelu_tanh", "output: RMS"),
        ("rounds_the_sigmoid", "33x65 float32", "output: RMS"),
        ("one_half_twice", "64x352 float32 packed=True", "output: RMS"),
        ("changes_its_input", "64x352 float32 packed=True", "gate was changed"),
        ("WritesIntoWhatIsKept", "64x352 float32 packed=True", "gate was changed"),
        ("SigmoidForTheDerivative", "64x352 float32 packed=True", "grad_gate: RMS"),
        ("SigmoidForTheDerivative", "16x200 bfloat16 packed=True", "grad_gate: RMS"),
    ],
)
def test_a_wrong_kernel_is_refused(name, case, complaint):
    report = check(OP, _wrong(name), CASES[case])
    assert any(complaint in failure for failure in report.failures), report


# -- shapes and layouts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(5,), (3, 4, 10), (2, 3, 4, 7), (2, 0, 6), (3, 40000)])
def test_any_number_of_dimensions(cpp, shape, activation):
    gate, up = pair(*shape)
    expected = OP.implementations["eager"].run(gate, up, activation=activation)
    output = swiglu(gate, up, activation=activation)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients(output, gate, up), gradients(expected, gate, up), rtol=1e-5, atol=1e-5)


def test_halves_of_one_tensor_are_read_where_they_lie(cpp):
    both = torch.randn(4, 16, 1536)  # its halves are not contiguous
    gate, up = both.chunk(2, -1)
    with torch.profiler.profile() as profile:
        output = swiglu(gate, up)
        packed = swiglu(both)
    names = {event.key for event in profile.key_averages()}
    assert "perfsuite::swiglu_cpp_forward" in names
    assert not {"aten::copy_", "aten::clone", "aten::contiguous"} & names, names
    assert torch.equal(output, packed)


def test_the_gradient_of_a_packed_tensor_is_written_once(cpp):
    both = torch.randn(6, 20, requires_grad=True)
    output, expected = swiglu(both), F.silu(both[:, :10]) * both[:, 10:]
    with torch.profiler.profile() as profile:
        got = gradients(output, both)
    names = {event.key for event in profile.key_averages()}
    assert not {"aten::cat", "aten::add", "aten::add_", "aten::copy_", "aten::zeros"} & names, names
    torch.testing.assert_close(got, gradients(expected, both))


def test_upstream_gradients_of_any_stride(cpp):
    gate, up = pair(5, 6)
    output = swiglu(gate, up)
    (ones,) = torch.autograd.grad(output.sum(), gate, retain_graph=True)  # an expanded number
    torch.testing.assert_close(ones, torch.autograd.grad((F.silu(gate) * up).sum(), gate)[0])
    turned = torch.randn(6, 5).T
    (got,) = torch.autograd.grad(output, gate, turned)
    torch.testing.assert_close(got, torch.autograd.grad(F.silu(gate) * up, gate, turned)[0])


def test_rows_more_than_2_to_the_31_elements_apart(cpp):
    # Two rows at the ends of 4 GiB that nobody touches: only their pages exist.
    far = torch.empty(2**31 + 600, dtype=torch.bfloat16).as_strided((2, 500), (2**31 + 64, 1))
    near = torch.randn(2, 500).bfloat16()
    far.copy_(near)
    assert torch.equal(swiglu(far), swiglu(near))
    assert torch.equal(swiglu(far, near), swiglu(near, near))


def test_the_number_of_threads_does_not_change_a_bit(cpp):
    gate, up = pair(300, 1001)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            output = swiglu(gate, up)
            results.append([output, *gradients(output, gate, up)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("packed", [False, True])
def test_outputs_larger_than_the_caches(cpp, packed):
    gate, up = pair(2100, 2064)  # 17 MB, written past the caches
    if packed:
        both = torch.cat([gate, up], 1).detach().requires_grad_()
        output, leaves = swiglu(both), [both]
        expected = F.silu(both[:, :2064]) * both[:, 2064:]
    else:
        output, leaves, expected = swiglu(gate, up), [gate, up], F.silu(gate) * up
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients(output, *leaves), gradients(expected, *leaves), rtol=1e-5, atol=1e-6)


# -- autograd, compile, autocast --------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ["eager", "cpp"])
def test_gradcheck_in_float64(name, activation):
    contract.select({"swiglu": name})
    gate, up = pair(3, 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x, y: swiglu(x, y, activation=activation), (gate, up))
    assert torch.autograd.gradcheck(lambda x: swiglu(x, activation=activation), gate)


def test_only_one_of_the_two_wants_a_gradient(cpp):
    gate, up = pair(3, 6)
    for leaf, x, y in ((gate, gate, up.detach()), (up, gate.detach(), up)):
        torch.testing.assert_close(gradients(swiglu(x, y), leaf), gradients(F.silu(x) * y, leaf))
    with torch.no_grad():
        assert not swiglu(gate, up).requires_grad


def test_a_kept_graph_gives_the_gradient_again(cpp):
    (both, _) = pair(4, 10)
    output = swiglu(both)
    first = torch.autograd.grad(output, both, torch.ones_like(output), retain_graph=True)
    second = torch.autograd.grad(output, both, 2 * torch.ones_like(output))
    torch.testing.assert_close(second[0], 2 * first[0])


def test_changing_what_the_graph_keeps_is_an_error(cpp):
    both = (2 * torch.randn(4, 10, requires_grad=True)).clone()
    output = swiglu(both)
    with torch.no_grad():
        both.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_a_second_derivative_is_refused_and_not_wrong(cpp):
    gate, up = pair(3, 4)
    with pytest.raises(RuntimeError, match="swiglu=cpp has no second derivative"):
        torch.autograd.grad(swiglu(gate, up).sum(), gate, create_graph=True)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_fullgraph_compile_gives_the_same(cpp, backend):
    def step(x, weight):
        both = x @ weight
        return (swiglu(both, activation="gelu") + swiglu(*both.chunk(2, -1))).square().sum()

    compiled = torch.compile(step, fullgraph=True, backend=backend, dynamic=True)
    for rows in (5, 9):
        x, weight = torch.randn(rows, 8), torch.randn(8, 12, requires_grad=True)
        expected, loss = step(x, weight), compiled(x, weight)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(torch.autograd.grad(loss, weight), torch.autograd.grad(expected, weight))


@pytest.mark.parametrize("packed", [False, True])
def test_operators_keep_torchs_rules(cpp, packed):
    gate, up = (x.detach() for x in pair(3, 8))
    arguments = (gate, None if packed else up, "silu")
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(torch.ops.perfsuite.swiglu_cpp_forward.default, arguments, test_utils=tests)
    upstream = torch.randn(3, 4 if packed else 8)
    torch.library.opcheck(torch.ops.perfsuite.swiglu_cpp_backward.default, (upstream, *arguments), test_utils=tests)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_leaves_the_dtype(cpp, dtype):
    gate, up = pair(3, 8, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = swiglu(gate, up)
        assert output.dtype == dtype == OP.implementations["eager"].run(gate, up, activation="silu").dtype


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((torch.randn(3, 5), None), "(..., 2 * hidden), got (3, 5)"),
        ((torch.randn(3, 4), torch.randn(3, 2)), "torch.float32 (3, 4) and torch.float32 (3, 2)"),
        ((torch.randn(3, 4), torch.randn(3, 4).half()), "torch.float32 (3, 4) and torch.float16 (3, 4)"),
        ((torch.tensor(1.0), torch.tensor(1.0)), "(..., hidden)"),
        ((torch.zeros(3, 4, dtype=torch.int64), None), "floating-point, got torch.int64"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        swiglu(*arguments)


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="silu, gelu or gelu_tanh, got 'relu'"):
        swiglu(torch.randn(3, 4), activation="relu")


# -- Triton -----------------------------------------------------------------------------------------------------------

INTERPRETED = """
import json, sys
import torch
from perfsuite.kernels import contract, swiglu as module
from perfsuite.kernels.check import check

contract.select({"swiglu": "triton"})
op, failures = module.OP, {}
wanted = json.loads(sys.argv[1])
for case in module.cases("tiny"):
    if case.name in wanted:
        failures[case.name] = check(op, op.implementations["triton"], case).failures

x = torch.randn(2, 600, dtype=torch.float64, requires_grad=True)
loss = torch.compile(lambda x: module.swiglu(x).square().sum(), fullgraph=True, backend="aot_eager")(x)
expected = op.implementations["eager"].run(x, activation="silu").square().sum()
torch.testing.assert_close(loss, expected)
torch.testing.assert_close(torch.autograd.grad(loss, x), torch.autograd.grad(expected, x))
far = torch.empty(2**31 + 600, dtype=torch.bfloat16).as_strided((2, 10), (2**31 + 64, 1))
far.copy_(torch.randn(2, 10))
near = far.contiguous()
assert torch.equal(module.swiglu(far), module.swiglu(near))
assert torch.equal(module.swiglu(far, near), module.swiglu(near, near))
print(json.dumps(failures))
"""
INTERPRETED_CASES = [
    "33x65 float32",
    "0x8 float32",
    "5x0 float32 packed=True",
    "9x100 float32 activation=gelu layout=halves",
    "13x37 float32 activation=gelu_tanh values=large packed=True",
    "5x31 bfloat16 activation=gelu layout=padded rows",
    "5x31 float16 layout=halves",
    "6x70 float64",
    "6x70 float64 activation=gelu packed=True",
    "6x70 float64 activation=gelu_tanh layout=transposed",
]


def test_triton_in_the_interpreter(interpreted):
    failures = interpreted(INTERPRETED, json.dumps(INTERPRETED_CASES))
    assert len(failures) == len(INTERPRETED_CASES)
    assert not any(failures.values()), failures

"""Every implementation of linear cross-entropy against float64, eager torch and each other."""

import os
import re
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from perfsuite.kernels import contract
from perfsuite.kernels import linear_cross_entropy as module
from perfsuite.kernels.check import check, check_drawn
from perfsuite.kernels.contract import Implementation
from perfsuite.kernels.linear_cross_entropy import OP, cases, chunk_rows, linear_cross_entropy, reference

CASES = {case.name: case for case in cases("tiny")}
CHUNKED = "37x9x33 float32 workspace_bytes=1000 label_smoothing=0.1 z_loss=0.001 ignored=0.4"
EAGER = OP.implementations["eager"].run


@pytest.fixture(autouse=True)
def everything_eager():
    yield
    contract.select({})


@pytest.fixture
def cpp():
    contract.select({"linear_cross_entropy": "cpp"})


def random_call(rows=12, width=6, classes=30, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, weight = (torch.randn(n, width, generator=generator).to(dtype).requires_grad_() for n in (rows, classes))
    return x, weight, torch.randint(0, classes, (rows,), generator=generator)


def eager(x, weight, target, **options):
    return EAGER(x, weight, target, **{**OP.defaults, **options})


# -- the correctness rule ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_cpp_is_right(case, cpp):
    report = check(OP, OP.implementations["cpp"], case)
    assert report.ok and report.deterministic, report


def test_cpp_is_right_at_drawn_cases(cpp):
    report = check_drawn(OP, OP.implementations["cpp"])
    assert report.ok, report


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_reference_is_right(case):
    report = check(OP, Implementation("reference", reference, lambda device: None), case)
    assert report.ok, report


class _Planted(torch.autograd.Function):
    """Chunks of 5 rows with one mistake."""

    @staticmethod
    def forward(ctx, x, weight, target, options, mistake):
        grad_x, grad_weight, loss = torch.zeros_like(x), torch.zeros_like(weight), x.new_zeros(())
        for i in range(0, len(x), 5):
            with torch.enable_grad():
                leaves = [t.detach().requires_grad_() for t in (x[i : i + 5], weight)]
                part = eager(*leaves, target[i : i + 5], **{**options, "reduction": "sum"})
                gradients = torch.autograd.grad(part, leaves)
            if mistake == "mean of means":
                part, gradients = part / 5, [g / 5 for g in gradients]
            loss = loss + part.detach()
            if not (mistake == "drops the last chunk" and i + 5 >= len(x)):
                grad_x[i : i + 5] = gradients[0]
                grad_weight = gradients[1] if mistake == "keeps one chunk" else grad_weight + gradients[1]
        count = len(x) if mistake == "counts ignored rows" else (target != options["ignore_index"]).sum()
        count = count if options["reduction"] == "mean" else 1
        ctx.gradients, ctx.mistake = (grad_x / count, grad_weight / count), mistake
        return loss / count

    @staticmethod
    def backward(ctx, upstream):
        given = [g if ctx.mistake == "forgets the upstream gradient" else g * upstream for g in ctx.gradients]
        return *given, None, None, None


@pytest.mark.parametrize(
    ("mistake", "complaint"),
    [
        ("mean of means", "output: RMS"),
        ("drops the last chunk", "grad_x: an error"),
        ("keeps one chunk", "grad_weight: RMS"),
        ("counts ignored rows", "output: RMS"),
        ("forgets the upstream gradient", "grad_weight: RMS"),
        ("none", None),
    ],
)
def test_a_wrong_kernel_is_refused(mistake, complaint):
    def run(x, weight, target, **options):
        return _Planted.apply(x, weight, target, options, mistake)

    report = check(OP, Implementation(mistake, run, lambda device: None), CASES[CHUNKED])
    assert report.ok if complaint is None else any(complaint in line for line in report.failures), report


# -- chunks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "classes", "budget", "expected"),
    [
        (2048, 128256, module.GPU_WORKSPACE_BYTES, 2048),
        (8192, 128256, module.GPU_WORKSPACE_BYTES, 2048),
        (3000, 128256, module.GPU_WORKSPACE_BYTES, 1536),  # two chunks of nearly the same size
        (1024, 256, module.CPU_WORKSPACE_BYTES, 1024),
        (10, 1000, 1, 1),
        (0, 1000, 1, 1),
    ],
)
def test_chunks_are_whole_tiles_and_within_the_workspace(rows, classes, budget, expected):
    assert chunk_rows(rows, 2 * classes, budget) == expected


def test_less_memory_than_the_logits_take(cpp):
    """A forward and backward over 10 chunks holds a tenth of the logits and the gradients, as the allocator has it."""
    from perfsuite import torch_extension
    from perfsuite.instruments.allocator import AllocatorAccount

    x, weight, target = random_call(2000, 8, 2000)
    chunk, logits = 200 * 2000 * 4, 2000 * 2000 * 4

    def peak(loss_of):
        torch_extension.load().reuse_release()
        account = AllocatorAccount()
        account.start()
        try:
            loss = loss_of(x, weight, target)
            torch.autograd.grad(loss, (x, weight))
        finally:
            found = account.stop()
        return found["peak_bytes"]

    assert peak(lambda *args: linear_cross_entropy(*args, workspace_bytes=chunk)) < 2 * chunk < 2 * logits < peak(eager)


def test_the_size_of_chunks_changes_little(cpp):
    x, weight, target = random_call(300, 20, 50, torch.float64)
    expected = torch.autograd.grad(linear_cross_entropy(x, weight, target), (x, weight))
    for workspace in (1, 8 * 50 * 130, 8 * 50 * 299):
        loss = linear_cross_entropy(x, weight, target, workspace_bytes=workspace)
        torch.testing.assert_close(torch.autograd.grad(loss, (x, weight)), expected, rtol=1e-12, atol=1e-15)


def test_many_chunks_in_bfloat16_add_up_in_float32(cpp):
    # One class of 512 gets all rows: sums in bfloat16 would stop growing at 256 times their terms.
    x, weight = torch.ones(1024, 1, dtype=torch.bfloat16), torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    target = torch.zeros(1024, dtype=torch.int64)
    loss = linear_cross_entropy(x, weight, target, reduction="sum", workspace_bytes=1)
    (gradient,) = torch.autograd.grad(loss, weight)
    assert gradient.flatten().tolist() == [-512.0, 512.0]


# -- autograd, compile, autocast --------------------------------------------------------------------------------------

OPTION_SETS = [
    {},
    {"reduction": "sum", "label_smoothing": 0.2, "workspace_bytes": 8 * 30 * 5},
    {"ignore_index": 3, "label_smoothing": 0.1, "z_loss": 0.1, "workspace_bytes": 1},
]


@pytest.mark.parametrize("options", OPTION_SETS)
@pytest.mark.parametrize("name", ["eager", "cpp"])
def test_gradcheck_in_float64(name, options):
    contract.select({"linear_cross_entropy": name})
    x, weight, target = random_call(5, 3, 7, torch.float64)
    target[1] = options.get("ignore_index", -100)
    assert torch.autograd.gradcheck(lambda x, w: linear_cross_entropy(x, w, target, **options), (x, weight))


@pytest.mark.parametrize("wanted", ["x", "weight", "none"])
def test_only_what_is_wanted_is_computed(cpp, wanted):
    x, weight, target = random_call()
    expected = eager(x, weight, target)
    expected_gradients = dict(zip(("x", "weight"), torch.autograd.grad(expected, (x, weight)), strict=True))
    leaves = {"x": x.detach(), "weight": weight.detach()}
    if wanted == "none":
        loss = linear_cross_entropy(**leaves, target=target)
        assert not loss.requires_grad
    else:
        leaves[wanted].requires_grad_()
        loss = linear_cross_entropy(**leaves, target=target)
        (gradient,) = torch.autograd.grad(loss, leaves[wanted])
        torch.testing.assert_close(gradient, expected_gradients[wanted])
    torch.testing.assert_close(loss, expected.detach(), check_stride=False)
    flags = (wanted == "x", wanted == "weight")
    args = (x.detach(), weight.detach(), target, -100, 0, 0, True, None, *flags)
    sizes = [t.numel() for t in torch.ops.perfsuite.linear_cross_entropy_cpp_forward(*args)]
    assert sizes[1:3] == [x.numel() * flags[0], weight.numel() * flags[1]]


def test_a_loss_without_gradient_is_not_zero(cpp):
    """Under no_grad, and where nothing requires a gradient."""
    x, weight, target = random_call()
    expected = eager(x, weight, target).item()
    with torch.no_grad():
        assert linear_cross_entropy(x, weight, target).item() == pytest.approx(expected)
    assert linear_cross_entropy(x.detach(), weight.detach(), target).item() == pytest.approx(expected)


@pytest.mark.parametrize("options", OPTION_SETS)
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_fullgraph_compile_gives_the_same(cpp, options, backend):
    x, weight, target = random_call()
    target[2] = options.get("ignore_index", -100)

    def step(x, weight, target):
        return 0.5 * linear_cross_entropy(2 * x, weight, target, **options)

    expected = 0.5 * eager(2 * x, weight, target, **options)
    loss = torch.compile(step, fullgraph=True, backend=backend)(x, weight, target)
    torch.testing.assert_close(loss, expected)
    gradients = torch.autograd.grad(loss, (x, weight))
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, (x, weight)))


def test_compile_with_changing_rows(cpp):
    compiled = torch.compile(linear_cross_entropy, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (6, 9):
        x, weight, target = random_call(rows)
        loss, expected = compiled(x, weight, target), eager(x, weight, target)
        torch.testing.assert_close(torch.autograd.grad(loss, (x, weight)), torch.autograd.grad(expected, (x, weight)))


def test_the_operator_keeps_torchs_rules(cpp):
    x, weight, target = (t.detach() for t in random_call())
    operator = torch.ops.perfsuite.linear_cross_entropy_cpp_forward.default
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    for dtype, *flags in [(torch.float32, True, True), (torch.float16, False, True), (torch.bfloat16, True, False)]:
        args = (x.to(dtype), weight.to(dtype), target, -100, 0.1, 0.01, True, 700, *flags)
        torch.library.opcheck(operator, args, test_utils=tests)


def test_a_kept_graph_gives_the_gradients_again(cpp):
    x, weight, target = random_call()
    loss = linear_cross_entropy(x, weight, target)
    expected = torch.autograd.grad(eager(x, weight, target), (x, weight))
    for upstream in (3.0, 0.0, 1.0, 1.0):
        gradients = torch.autograd.grad(loss, (x, weight), torch.tensor(upstream), retain_graph=True)
        torch.testing.assert_close(gradients, tuple(upstream * g for g in expected))
        for gradient in gradients:
            gradient.zero_()  # the caller's own
    (0.5 * loss).backward()
    torch.testing.assert_close((x.grad, weight.grad), tuple(0.5 * g for g in expected))


def test_a_second_derivative_is_refused_and_not_wrong(cpp):
    x, weight, target = random_call()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(linear_cross_entropy(x, weight, target), x, create_graph=True)


@pytest.mark.parametrize("workspace_bytes", [None, 1000])
def test_float16_gradients_survive_loss_scaling(cpp, workspace_bytes):
    """1 / 3000 of a small probability is below float16; times a scale of 32768 it is not."""
    x, weight, target = random_call(3000, 8, 40, torch.float16)
    exact = [t.detach().double().requires_grad_() for t in (x, weight)]
    loss = linear_cross_entropy(x, weight, target, workspace_bytes=workspace_bytes)
    gradients = torch.autograd.grad(loss.float() * 32768.0, (x, weight))
    expected = torch.autograd.grad(eager(*exact, target) * 32768.0, exact)
    for gradient, wanted in zip(gradients, expected, strict=True):
        error = (gradient.double() - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()
        assert gradient.isfinite().all() and error < 2e-3


def test_float16_sums_over_many_rows_do_not_overflow(cpp):
    """70,000 rows that all pull one class the same way, in the mean: no partial sum may pass 65504."""
    x = torch.full((70_000, 1), 2.0, dtype=torch.float16)
    weight, target = torch.zeros(2, 1, dtype=torch.float16, requires_grad=True), torch.zeros(70_000, dtype=torch.int64)
    (gradient,) = torch.autograd.grad(linear_cross_entropy(x, weight, target), weight)
    torch.testing.assert_close(gradient.flatten().float(), torch.tensor([-1.0, 1.0]), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", ["eager", "cpp"])
def test_autocast_multiplies_in_bfloat16_and_gives_a_float32_loss(name):
    contract.select({"linear_cross_entropy": name})
    x, weight, target = random_call()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(x, weight, target)
        expected = F.cross_entropy(F.linear(x, weight).float(), target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)
    gradients, wanted = (torch.autograd.grad(one, (x, weight)) for one in (loss, expected))
    assert gradients[0].dtype == gradients[1].dtype == torch.float32
    torch.testing.assert_close(gradients, wanted, rtol=2e-2, atol=2e-3)


def test_training_goes_the_same_way(cpp):
    """20 steps of SGD with tied weights and an odd last chunk, as whole models see it."""
    table, _, target = random_call(50, 16, 50, torch.float64)
    results = []
    for loss_of in (lambda *args: linear_cross_entropy(*args, workspace_bytes=8 * 50 * 16), eager):
        weight = table.detach().clone().requires_grad_()
        for _ in range(20):
            loss = loss_of(torch.tanh(weight[target]), weight, target.roll(1))
            (gradient,) = torch.autograd.grad(loss, weight)
            weight.data -= 0.5 * gradient
        results.append((loss.detach(), weight.detach()))
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [-1, 30, 2**40])
def test_a_target_outside_the_classes_is_an_error(cpp, bad):
    x, weight, target = random_call()
    target[4] = bad
    with pytest.raises(IndexError):
        linear_cross_entropy(x, weight, target)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": torch.randn(12, 5)}, "got (12, 5), (30, 6) and (12,)"),
        ({"target": torch.zeros(5, dtype=torch.int64)}, "(rows,)"),
        ({"target": torch.zeros(12)}, "target int64"),
        ({"x": torch.randn(12, 6).double()}, "one dtype"),
        ({"reduction": "none"}, "mean or sum, got 'none'"),
        ({"label_smoothing": -0.5}, "[0, 1]"),
        ({"workspace_bytes": 0}, "positive"),
    ],
)
def test_bad_arguments_are_refused(change, words):
    x, weight, target = random_call()
    with pytest.raises(ValueError, match=re.escape(words)):
        linear_cross_entropy(**{"x": x, "weight": weight, "target": target, **change})


def test_the_number_of_threads_does_not_change_much(cpp):
    x, weight, target = random_call(300, 32, 500)
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            loss = linear_cross_entropy(x, weight, target, workspace_bytes=4 * 500 * 128)
            results.append((loss, *torch.autograd.grad(loss, (x, weight))))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-7)  # the products are torch's own


# -- CUDA C++ on the emulator, Triton in the interpreter --------------------------------------------------------------

FEW = [
    "3x0x5 float32",
    CHUNKED,
    "21x40x300 bfloat16 workspace_bytes=3000 layout=padded rows",
    "16x40x300 float16 label_smoothing=0.1 z_loss=0.001 ignored=0.4",
]


@pytest.mark.parametrize("name", FEW)
def test_cuda_is_right(cuda_emulator, name):
    contract.select({"linear_cross_entropy": "cuda"})
    report = check(OP, OP.implementations["cuda"], CASES[name])
    assert report.ok, report


INTERPRETED = """
import sys
import torch
from perfsuite.kernels import contract, linear_cross_entropy as lce
from perfsuite.kernels.check import check

contract.select({"linear_cross_entropy": "triton"})
op = lce.OP
for case in lce.cases("tiny"):
    if case.name in sys.argv[1:]:
        report = check(op, op.implementations["triton"], case)
        assert report.ok, report
x, w = (torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (6, 5))
t = torch.tensor([1, -100, 4, 0, 0, 2])
loss_of = lambda x, w: lce.linear_cross_entropy(x, w, t, workspace_bytes=8 * 5 * 4)
torch.autograd.gradcheck(loss_of, (x, w))
loss = torch.compile(loss_of, fullgraph=True, backend="aot_eager")(x, w)
expected = op.implementations["eager"].run(x, w, t, **op.defaults)
torch.testing.assert_close(torch.autograd.grad(loss, (x, w)), torch.autograd.grad(expected, (x, w)))
t[2] = 5  # outside of the classes: on a GPU nobody waits to see it
loss = loss_of(x, w)
gradients = torch.autograd.grad(loss, (x, w))
assert loss.isnan() and gradients[0][2].isnan().all() and gradients[0][3].isfinite().all()
"""


def test_triton_in_the_interpreter(tmp_path):
    pytest.importorskip("triton")
    command = [sys.executable, "-c", INTERPRETED, *FEW[1:3]]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    answer = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr[-3000:]

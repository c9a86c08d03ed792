"""Every implementation of the focal loss against float64, eager torch and each other."""

import json
import re

import pytest
import torch

from perfsuite.kernels import contract
from perfsuite.kernels.check import check, check_drawn
from perfsuite.kernels.contract import Implementation
from perfsuite.kernels.focal_loss import BACKGROUND, IGNORED, OP, cases, focal_loss, reference

CASES = {case.name: case for case in cases("tiny")}


@pytest.fixture(autouse=True)
def everything_eager():
    yield
    contract.select({})


@pytest.fixture
def cpp():
    contract.select({"focal_loss": "cpp"})


def drawn(images=2, anchors=30, classes=11, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = (2 * torch.randn(images, anchors, classes, generator=generator) - 1).to(dtype).requires_grad_()
    return logits, torch.randint(IGNORED, classes, (images, anchors), generator=generator)


def eager(logits, target, normalizer=None, alpha=0.25, gamma=2.0):
    return OP.implementations["eager"].run(logits, target, normalizer, alpha=alpha, gamma=gamma)


def gradient_of(loss, logits, upstream=1.0):
    return torch.autograd.grad(loss, logits, torch.tensor(upstream).to(loss))[0]


# -- the correctness rule ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_cpp_is_right(case, cpp):
    report = check(OP, OP.implementations["cpp"], case)
    assert report.ok, report


def test_cpp_is_right_at_any_shape(cpp):
    report = check_drawn(OP, OP.implementations["cpp"])
    assert report.ok, report


def test_compile_is_right():
    report = check(OP, OP.implementations["compile"], CASES["2x30x17 float32 gamma=1.5 alpha=0.6"])
    assert report.ok, report


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_reference_is_right(case):
    report = check(OP, Implementation("reference", reference, lambda device: None), case)
    assert report.ok, report


def _wrong(name):
    """Kernels with the mistakes that people make."""
    run = OP.implementations["eager"].run

    def swaps_alpha(logits, target, normalizer=None, *, alpha, gamma):
        return run(logits, target, normalizer, alpha=1 - alpha, gamma=gamma)

    def forgets_alpha(logits, target, normalizer=None, *, alpha, gamma):
        return run(logits, target, normalizer, alpha=-1.0, gamma=gamma)

    def ignores_nothing(logits, target, normalizer=None, **options):
        return run(logits, target.clamp_min(BACKGROUND), normalizer, **options)

    def takes_background_for_class_0(logits, target, normalizer=None, **options):
        return run(logits, target.where(target != BACKGROUND, 0), normalizer, **options)

    def forgets_the_normalizer(logits, target, normalizer=None, **options):
        return run(logits, target, None, **options)

    def gamma_is_always_2(logits, target, normalizer=None, *, alpha, gamma):
        return run(logits, target, normalizer, alpha=alpha, gamma=2.0)

    def logarithm_of_the_sigmoid(logits, target, normalizer=None, *, alpha, gamma):
        hot = target[..., None] == torch.arange(logits.shape[-1])
        p = torch.sigmoid(torch.where(hot, logits, -logits))
        loss = -((1 - p) ** gamma) * p.log() * torch.where(hot, alpha, 1 - alpha)
        return loss.where((target != IGNORED)[..., None], 0).sum()

    class Ahead(torch.autograd.Function):
        """The gradient is written in the forward; `change` spoils it."""

        @staticmethod
        def forward(ctx, logits, target, normalizer, options, change):
            with torch.enable_grad():
                leaf = logits.detach().requires_grad_()
                loss = run(leaf, target, normalizer, **options)
            ctx.gradient, ctx.change = gradient_of(loss, leaf), change
            return loss.detach()

        @staticmethod
        def backward(ctx, upstream):
            return ctx.change(ctx.gradient, upstream), None, None, None, None

    def ahead(change):
        return lambda logits, target, normalizer=None, **options: Ahead.apply(
            logits, target, normalizer, options, change
        )

    def drop_the_tail(gradient, upstream):
        gradient = gradient * upstream
        gradient.view(-1)[-1] = 0
        return gradient

    forgets_the_upstream = ahead(lambda gradient, upstream: gradient)
    drops_the_tail = ahead(drop_the_tail)
    rounds_the_gradient = ahead(lambda gradient, upstream: (gradient * upstream).bfloat16().to(gradient.dtype))
    cuts_easy_ones_off = ahead(lambda g, upstream: g.where(g.abs() > 1e-4 * g.abs().max(), 0) * upstream)
    return Implementation(name, dict(locals())[name], lambda device: None)


USUAL = "2x60x20 float32"


@pytest.mark.parametrize(
    ("name", "case", "complaint"),
    [
        ("swaps_alpha", USUAL, "output: RMS"),
        ("forgets_alpha", USUAL, "grad_logits: RMS"),
        ("forgets_alpha", "2x50x20 bfloat16 normalizer=True", "output: RMS"),
        ("ignores_nothing", USUAL, "grad_logits: RMS"),
        ("takes_background_for_class_0", USUAL, "grad_logits: RMS"),
        ("forgets_the_normalizer", "2x9x1 float32 normalizer=True", "output: RMS"),
        ("gamma_is_always_2", "2x30x17 float32 gamma=1.5 alpha=0.6", "output: RMS"),
        ("logarithm_of_the_sigmoid", "2x40x20 float32 values=large", "NaN or infinite"),
        ("forgets_the_upstream", USUAL, "grad_logits: RMS"),
        ("drops_the_tail", USUAL, "grad_logits: an error"),
        ("rounds_the_gradient", USUAL, "grad_logits: RMS"),
        ("cuts_easy_ones_off", USUAL, "grad_logits: RMS"),
    ],
)
def test_a_wrong_kernel_is_refused(name, case, complaint):
    report = check(OP, _wrong(name), CASES[case])
    assert any(complaint in failure for failure in report.failures), report


# -- what the formula says --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eager", "cpp"])
def test_it_is_the_formula_of_torchvision(name):
    contract.select({"focal_loss": name})
    logits, target = drawn()
    hot = torch.zeros(logits.shape)
    for place in (target >= 0).nonzero():
        hot[*place, target[*place]] = 1
    p = torch.sigmoid(logits.detach())
    ce = torch.nn.functional.binary_cross_entropy_with_logits(logits.detach(), hot, reduction="none")
    p_t = p * hot + (1 - p) * (1 - hot)
    losses = (0.25 * hot + 0.75 * (1 - hot)) * ce * (1 - p_t) ** 2
    torch.testing.assert_close(focal_loss(logits, target), losses[target != IGNORED].sum(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
def test_far_from_0_loss_and_gradient_are_the_limits(cpp, gamma):
    x = torch.tensor([[100.0], [-100.0], [100.0], [-100.0], [-80.0]], requires_grad=True)
    target = torch.tensor([0, 0, BACKGROUND, BACKGROUND, BACKGROUND])
    losses = [focal_loss(x[i : i + 1], target[i : i + 1], alpha=-1.0, gamma=gamma) for i in range(5)]
    assert losses[1] == losses[2] == 100.0
    assert gradient_of(losses[1], x)[1, 0] == -1.0 and gradient_of(losses[2], x)[2, 0] == 1.0
    assert 0 <= losses[0] < 1e-38 and losses[3] == losses[0]
    exact = x.detach().double().requires_grad_()
    expected = reference(exact, target, alpha=-1.0, gamma=gamma)
    if gamma == 0.0:  # 1e-35: 1 + exp(-80) has lost it
        torch.testing.assert_close(losses[4].double(), reference(exact[4:], target[4:], alpha=-1.0, gamma=gamma))
    got = gradient_of(focal_loss(x, target, alpha=-1.0, gamma=gamma), x).double()
    torch.testing.assert_close(got, gradient_of(expected, exact), rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize("name", ["eager", "cpp"])
def test_a_normalizer_divides(name):
    contract.select({"focal_loss": name})
    logits, target = drawn()
    expected = focal_loss(logits, target) / 7
    for normalizer in (7, 7.0, torch.tensor(7), torch.tensor(7.0), torch.tensor(7.0, dtype=torch.float64)):
        loss = focal_loss(logits, target, normalizer=normalizer)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(gradient_of(loss, logits), gradient_of(focal_loss(logits, target) / 7, logits))


def test_an_ignored_anchor_is_not_read(cpp):
    logits, target = drawn()
    target[1, 3] = IGNORED
    expected = focal_loss(logits, target)
    with torch.no_grad():
        logits[1, 3] = torch.nan
    loss = focal_loss(logits, target)
    assert torch.equal(loss, expected) and gradient_of(loss, logits)[1, 3].eq(0).all()


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4)])
def test_any_number_of_dimensions(cpp, shape):
    logits = torch.randn(*shape, 6, requires_grad=True)
    target = torch.randint(BACKGROUND, 6, shape)
    loss, expected = focal_loss(logits, target), eager(logits, target)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient_of(loss, logits), gradient_of(expected, logits))


def test_rows_more_than_2_to_the_31_elements_apart(cpp):
    # Two rows at the ends of 4 GiB that nobody touches: only their pages exist.
    far = torch.empty(2**31 + 600, dtype=torch.bfloat16).as_strided((2, 500), (2**31 + 64, 1))
    near, target = torch.randn(2, 500).bfloat16(), torch.tensor([3, BACKGROUND])
    far.copy_(near)
    assert torch.equal(focal_loss(far, target), focal_loss(near, target))


def test_the_number_of_threads_does_not_change_a_bit(cpp):
    logits, target = drawn(2, 4001, 33)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            loss = focal_loss(logits, target)
            results.append((loss, gradient_of(loss, logits)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


# -- autograd, compile, autocast --------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"gamma": 0.0}, {"gamma": 1.5, "alpha": -1.0}, {"normalizer": 3.0}])
@pytest.mark.parametrize("name", ["eager", "cpp"])
def test_gradcheck_in_float64(name, options):
    contract.select({"focal_loss": name})
    logits, target = drawn(1, 6, 5, torch.float64)
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, target, **options), logits)


def test_logits_are_read_once_where_loss_backward_is_called(cpp):
    logits, target = drawn()
    loss = focal_loss(logits, target)
    with torch.profiler.profile() as profile:
        loss.backward()
    names = {event.key for event in profile.key_averages()}
    assert not {"perfsuite::focal_loss_cpp_backward", "aten::mul", "aten::mul_"} & names, names


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_kept_graph_gives_the_gradient_again(cpp, dtype):
    logits, target = drawn(dtype=dtype)
    loss = focal_loss(logits, target)
    expected = gradient_of(eager(logits, target), logits)
    for upstream in (3.0, 1.0, 0.0, 1.0):
        (gradient,) = torch.autograd.grad(loss, logits, torch.tensor(upstream), retain_graph=True)
        tolerance = 4 * torch.finfo(dtype).eps
        torch.testing.assert_close(gradient, upstream * expected, rtol=tolerance, atol=1e-6)
        gradient.zero_()  # it is the caller's
    torch.testing.assert_close(gradient_of(loss, logits, 2.0), 2 * expected, rtol=tolerance, atol=1e-6)


def test_a_second_derivative_is_refused_and_not_wrong(cpp):
    logits, target = drawn()
    with pytest.raises(RuntimeError, match="focal_loss=cpp has no second derivative"):
        torch.autograd.grad(focal_loss(logits, target), logits, create_graph=True)


def test_float16_gradients_survive_loss_scaling(cpp):
    logits, target = drawn(2, 1000, 20, torch.float16)
    with torch.no_grad():
        logits -= 4
    normalizer = torch.tensor(400.0)
    scaled = focal_loss(logits, target, normalizer=normalizer) * 4096.0
    exact = logits.detach().double().requires_grad_()
    expected = gradient_of(eager(exact, target, normalizer.double()) * 4096.0, exact)
    torch.testing.assert_close(gradient_of(scaled, logits).double(), expected, rtol=2e-3, atol=2**-24)
    assert (expected / 4096.0).half().eq(0).float().mean() > 0.1  # what would be left of it, rounded first


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_fullgraph_compile_gives_the_same(cpp, backend):
    weight = torch.randn(20, 11, requires_grad=True)
    _, target = drawn()

    def step(inputs, weight, target, count):
        return 0.5 * focal_loss(inputs @ weight, target, normalizer=count, gamma=1.5)

    compiled = torch.compile(step, fullgraph=True, backend=backend)
    inputs = torch.randn(2, 30, 20)
    for normalizer in (torch.tensor(3.0), 2.0):
        expected, loss = (f(inputs, weight, target, normalizer) for f in (step, compiled))
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(gradient_of(loss, weight), gradient_of(expected, weight))


@pytest.mark.parametrize("normalizer", [None, torch.tensor(3.0)])
@pytest.mark.parametrize("with_gradient", [True, False])
def test_operators_keep_torchs_rules(cpp, with_gradient, normalizer):
    logits, target = drawn()
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    arguments = (logits.detach(), target, normalizer, 0.25, 2.0)
    ops = torch.ops.perfsuite
    torch.library.opcheck(ops.focal_loss_cpp_forward.default, (*arguments, with_gradient), test_utils=tests)
    torch.library.opcheck(ops.focal_loss_cpp_backward.default, (torch.tensor(2.0), *arguments), test_utils=tests)


@pytest.mark.parametrize("name", ["eager", "cpp"])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_loss_of_half_precision_is_float32(name, autocast):
    contract.select({"focal_loss": name})
    logits, target = drawn(dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = focal_loss(logits, target)
    assert loss.dtype == torch.float32 and gradient_of(loss, logits).dtype == torch.bfloat16
    torch.testing.assert_close(loss, eager(logits.float(), target))


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [-3, 11, 2**40])
def test_a_target_outside_the_classes_is_an_error(cpp, bad):
    logits, target = drawn()
    target[1, 4] = bad
    with pytest.raises(IndexError, match=f"target {bad} of row 34"):
        focal_loss(logits, target)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"target": torch.zeros(2, 29, dtype=torch.int64)}, "(2, 30, 11) and (2, 29)"),
        ({"target": torch.zeros(2, 30)}, "target int64"),
        ({"logits": torch.zeros(2, 30, 11, dtype=torch.int32)}, "floating-point"),
        ({"alpha": 1.5}, "got 1.5 and 2.0"),
        ({"gamma": -1.0}, "got 0.25 and -1.0"),
        ({"gamma": float("nan")}, "nan"),
        ({"normalizer": torch.ones(1)}, "normalizer must be () on cpu and gets no gradient, got (1,)"),
        ({"normalizer": torch.tensor(1.0, requires_grad=True)}, "gets no gradient"),
    ],
)
def test_bad_arguments_are_refused(change, words):
    logits, target = drawn()
    with pytest.raises(ValueError, match=re.escape(words)):
        focal_loss(**{"logits": logits, "target": target, **change})


# -- Triton -----------------------------------------------------------------------------------------------------------

INTERPRETED = """
import json, sys
import torch
from perfsuite.kernels import contract, focal_loss as module
from perfsuite.kernels.check import check

contract.select({"focal_loss": "triton"})
op, failures = module.OP, {}
wanted = json.loads(sys.argv[1])
module.BLOCK = 512
for case in module.cases("tiny"):
    if case.name in wanted:
        failures[case.name] = check(op, op.implementations["triton"], case).failures

x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
t = torch.tensor([1, -1, -2])
for options in ({"gamma": 1.5, "alpha": -1.0}, {"normalizer": 3.0}):
    loss = torch.compile(lambda x: 2 * module.focal_loss(x, t, **options), fullgraph=True, backend="aot_eager")(x)
    expected = 2 * module.focal_loss(x, t, **options)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, x), torch.autograd.grad(expected, x))
loss = module.focal_loss(x, t)
(expected,) = torch.autograd.grad(module.focal_loss(x, t), x)
for upstream in (3.0, 0.0, 1.0):  # a kept graph
    (gradient,) = torch.autograd.grad(loss, x, torch.tensor(upstream, dtype=torch.float64), retain_graph=True)
    torch.testing.assert_close(gradient, upstream * expected)
for bad in (-3, 5, 2**40):
    loss = module.focal_loss(x, torch.tensor([1, bad, -2]))
    gradient = torch.autograd.grad(loss, x)[0]
    assert loss.isnan() and gradient[1].isnan().all() and gradient[[0, 2]].isfinite().all()
print(json.dumps(failures))
"""
INTERPRETED_CASES = [
    "2x60x20 float32",
    "1x1x1 float32",
    "1x0x7 float32",
    "2x33x5 float32 alpha=-1.0 targets=1.0 normalizer=True",
    "2x33x5 float32 ignored=1.0",
    "2x30x17 float32 gamma=0.0",
    "2x21x13 float32 layout=transposed",
    "2x40x20 float32 gamma=1.5 values=large",
    "2x40x20 float32 values=infinite",
    "2x40x20 float32 values=nan normalizer=True",
    "2x50x20 bfloat16 normalizer=True",
    "1x31x7 float16 alpha=0.5 layout=transposed",
    "2x30x11 float64 normalizer=True",
]


def test_triton_in_the_interpreter(interpreted):
    failures = interpreted(INTERPRETED, json.dumps(INTERPRETED_CASES))
    assert len(failures) == len(INTERPRETED_CASES)
    assert not any(failures.values()), failures

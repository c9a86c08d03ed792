"""AdamW: every implementation against float64 and torch.optim, and the optimizer built on it."""

import copy
import math
import re

import pytest
import torch
import torch.nn as nn

from perfsuite.kernels import adam_cases, adamw, contract, global_norm
from perfsuite.kernels.check import check, check_drawn
from perfsuite.kernels.contract import Implementation

OP = adamw.OP
CASES = {case.name: case for case in OP.cases("tiny")}
ON_THE_EMULATOR = [
    "8x9239 float32 sizes=odd",
    "5x600 float32 max_norm=0.1 layout=mixed copies=bfloat16",
    "5x600 float32 layout=every second copies=float16",
    "5x600 float32 max_norm=1.0 values=infinite",
    "5x600 float32 max_norm=1.0 values=nan",
    "8x9239 float32 max_norm=1.0 sizes=odd grads=bfloat16 copies=bfloat16",
    "8x9239 bfloat16 lr=0.01 sizes=odd",
    "8x9239 float16 eps=0.0001 max_norm=1.0 sizes=odd steps=0",
    "8x9239 float64 max_norm=1.0 sizes=odd",
]


@pytest.fixture(autouse=True)
def everything_eager():
    yield
    contract.select({})


@pytest.fixture(params=["eager", "cpp"])
def each(request):
    contract.select({"adamw": request.param, "global_norm": request.param})
    return request.param


@pytest.fixture
def cpp():
    contract.select({"adamw": "cpp", "global_norm": "cpp"})


def lists(count=4, elements=400, **draw):
    """Arguments of one call."""
    case = adam_cases.case(count, elements, draw=draw, max_norm=1.0)
    return OP.inputs(case, "cpu", torch.Generator().manual_seed(3))


# -- the correctness rule ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_cpp_is_right(name, cpp):
    report = check(OP, OP.implementations["cpp"], CASES[name])
    assert report.ok and report.deterministic, report


def test_cpp_is_right_in_any_case(cpp):
    report = check_drawn(OP, OP.implementations["cpp"], draws=100)
    assert report.ok, report


@pytest.mark.parametrize("name", CASES)
def test_eager_and_reference_are_right(name):
    for implementation in (OP.implementations["eager"], Implementation("reference", OP.reference, lambda device: None)):
        report = check(OP, implementation, CASES[name])
        assert report.ok, report


def test_compile_is_right():
    report = check(OP, OP.implementations["compile"], CASES["5x600 float32 max_norm=1.0 values=nan"])
    assert report.ok, report


@pytest.mark.parametrize("name", ON_THE_EMULATOR)
def test_cuda_is_right(name, cuda_emulator):
    report = check(OP, OP.implementations["cuda"], CASES[name])
    assert report.ok and report.deterministic, report


def test_cuda_takes_more_tensors_than_one_launch_has_room_for(cuda_emulator):
    report = check(OP, OP.implementations["cuda"], adam_cases.case(61, 61 * 6))
    assert report.ok, report


def _wrong(name):
    """Kernels with the mistakes that people make."""
    right = OP.reference

    def no_bias_correction(*lists, **options):
        for step in lists[4]:
            step += 1e6
        right(*lists, **options)
        for step in lists[4]:
            step -= 1e6

    def counts_steps_from_0(*lists, **options):
        for step in lists[4]:
            step.clamp_(min=2).sub_(1)
        right(*lists, **options)
        for step in lists[4]:
            step += 1

    def forgets_to_count(*lists, **options):
        right(*lists, **options)
        for step in lists[4]:
            step -= 1

    def l2_instead_of_decoupled_decay(params, grads, *rest, weight_decay, **options):
        grads = [g + weight_decay * p for g, p in zip(grads, params, strict=True)]
        right(params, grads, *rest, weight_decay=0.0, **options)

    def decays_the_new_parameter(params, *rest, lr, weight_decay, **options):
        right(params, *rest, lr=lr, weight_decay=0.0, **options)
        torch._foreach_mul_(params, 1 - lr * weight_decay)

    def decay_without_lr(params, *rest, lr, weight_decay, **options):
        right(params, *rest, lr=lr, weight_decay=weight_decay / lr, **options)

    def eps_in_the_root(params, grads, ms, vs, steps, norm=None, copies=None, *, eps, beta2, **options):
        before = [v.clone() for v in vs]
        t = steps[0].item() + 1
        shift = eps * (1 - beta2**t) / beta2
        torch._foreach_add_(vs, shift)
        right(params, grads, ms, vs, steps, norm, copies, eps=0.0, beta2=beta2, **options)
        for v, old, g in zip(vs, before, grads, strict=True):
            v.copy_(old * beta2 + (1 - beta2) * g.square())

    def forgets_to_clip(params, grads, ms, vs, steps, norm=None, *rest, **options):
        right(params, grads, ms, vs, steps, None, *rest, **options)

    def clips_each_tensor(params, grads, ms, vs, steps, norm=None, copies=None, *, max_norm, **options):
        grads = [g * adamw.clip_coefficient(g.norm(), max_norm) for g in grads]
        right(params, grads, ms, vs, steps, None, copies, max_norm=None, **options)

    def scales_small_gradients_up(params, grads, ms, vs, steps, norm=None, copies=None, *, max_norm, **options):
        right(params, [g * (max_norm / norm) for g in grads], ms, vs, steps, None, copies, max_norm=None, **options)

    def leaves_copies_stale(params, grads, ms, vs, steps, norm=None, copies=None, **options):
        right(params, grads, ms, vs, steps, norm, None, **options)

    def scales_gradients_in_place(params, grads, ms, vs, steps, norm=None, copies=None, *, max_norm, **options):
        torch._foreach_mul_(grads, adamw.clip_coefficient(norm, max_norm))
        right(params, grads, ms, vs, steps, None, copies, max_norm=None, **options)

    def drops_the_last_element(params, grads, *rest, **options):
        before = [p.clone() for p in params]
        right(params, grads, *rest, **options)
        for p, old in zip(params, before, strict=True):
            if p.numel():
                p.view(-1)[-1] = old.view(-1)[-1]

    def rounds_moments(params, grads, ms, vs, *rest, **options):
        right(params, grads, ms, vs, *rest, **options)
        for tensor in (*ms, *vs):
            tensor.copy_(tensor.bfloat16())

    def walks_through_memory(*lists, **options):
        torch._foreach_add_(lists[4], 1)
        del options["max_norm"], options["grads_are_scratch"]
        torch._fused_adamw_(*lists[:4], [], lists[4], amsgrad=False, maximize=False, **options)

    return Implementation(name, dict(locals())[name], lambda device: None)


CLIPPED = adam_cases.case(4, 2000, max_norm=0.5, weight_decay=0.1)
FIRST = adam_cases.case(4, 2000, draw={"steps": 0}, lr=0.01, weight_decay=0.1)


@pytest.mark.parametrize(
    ("name", "case", "complaint"),
    [
        ("no_bias_correction", FIRST, "params.0: RMS"),
        ("counts_steps_from_0", CLIPPED, "params.0: RMS"),
        ("forgets_to_count", CLIPPED, "steps.0: RMS"),
        ("l2_instead_of_decoupled_decay", CLIPPED, "exp_avgs.0: RMS"),
        ("decays_the_new_parameter", FIRST, "params.0"),
        ("decay_without_lr", FIRST, "params.0: RMS"),
        ("eps_in_the_root", FIRST, "params.0: RMS"),
        ("forgets_to_clip", CLIPPED, "exp_avg_sqs.0: RMS"),
        ("clips_each_tensor", CLIPPED, "exp_avgs.0: RMS"),
        ("scales_small_gradients_up", CLIPPED, "exp_avgs.0: RMS"),
        ("leaves_copies_stale", adam_cases.case(4, 2000, draw={"copies": "bfloat16"}), "copies.0: RMS"),
        ("leaves_copies_stale", adam_cases.case(4, 2000, draw={"copies": "float16"}), "copies.0: RMS"),
        ("scales_gradients_in_place", CLIPPED, "grads.0 was changed"),
        ("drops_the_last_element", FIRST, "params.0"),
        ("rounds_moments", CLIPPED, "exp_avgs.0: RMS"),
        ("walks_through_memory", adam_cases.case(4, 600, draw={"layout": "mixed"}), "params.0: RMS"),
        ("walks_through_memory", adam_cases.case(4, 600, draw={"layout": "every second"}), "params.0: RMS"),
    ],
)
def test_a_wrong_kernel_is_refused(name, case, complaint):
    run = _wrong(name).run
    # By position, as the planted kernels take them.
    wrong = Implementation(name, lambda **given: run(*_positional(given), **_options(given)), lambda device: None)
    report = check(OP, wrong, case)
    assert any(complaint in failure for failure in report.failures), report


LISTS = ("params", "grads", "exp_avgs", "exp_avg_sqs", "steps", "grad_norm", "copies")


def _positional(given):
    return [given[name] for name in LISTS]


def _options(given):
    return {name: value for name, value in given.items() if name not in LISTS}


# -- against torch.optim ----------------------------------------------------------------------------------------------


def model(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 17), nn.LayerNorm(17), nn.Linear(17, 1))
    return layers.to(dtype, memory_format=torch.channels_last)


def groups_of(net):
    matrices = [p for p in net.parameters() if p.dim() > 1]
    vectors = [p for p in net.parameters() if p.dim() == 1]
    return [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0, "lr": 3e-3}]


def gradients(net, step):
    """The same whatever the parameters are: rounding does not grow from step to step."""
    torch.manual_seed(100 + step)
    for p in net.parameters():
        p.grad = (0.1 * torch.randn_like(p, dtype=torch.float32)).to(p.dtype)


def train(net, optimizer, steps, clip=None, skip=False):
    for step in steps:
        optimizer.zero_grad()
        gradients(net, step)
        if skip and step == 1:
            net[0].bias.grad = None
        if clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimizer.step()


HOW = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-6}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("clip", [None, 0.5, 1e3])
def test_some_steps_are_those_of_torch(each, clip, dtype):
    ours, theirs = model(dtype=dtype), model(dtype=dtype)
    optimizer = adamw.AdamW(groups_of(ours), **HOW, max_norm=clip)
    train(ours, optimizer, range(5), skip=True)
    other = torch.optim.AdamW(groups_of(theirs), **HOW)
    train(theirs, other, range(5), clip, skip=True)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q)
        for name in ("step", "exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(optimizer.state[p][name], other.state[q][name], atol=1e-8, rtol=1e-5)
    assert optimizer.state[ours[0].bias]["step"] == 4 and optimizer.state[ours[0].weight]["step"] == 5
    assert (optimizer.grad_norm is None) == (clip is None)


def test_some_steps_by_cuda_are_those_of_torch(cuda_emulator):
    contract.select({"adamw": "cuda", "global_norm": "cuda"})
    ours, theirs = model(), model()
    train(ours, adamw.AdamW(groups_of(ours), **HOW, max_norm=0.5), range(3), skip=True)
    train(theirs, torch.optim.AdamW(groups_of(theirs), **HOW), range(3), 0.5, skip=True)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_the_step_leaves_gradients_as_they_are_or_clipped(each):
    net = model()
    optimizer = adamw.AdamW(net.parameters(), max_norm=0.01)
    gradients(net, 0)
    given = [p.grad.clone() for p in net.parameters()]
    optimizer.step()
    left = [p.grad.clone() for p in net.parameters()]
    gradients(net, 0)
    norm = nn.utils.clip_grad_norm_(net.parameters(), 0.01)
    torch.testing.assert_close(optimizer.grad_norm, norm)
    wanted = [p.grad for p in net.parameters()] if each == "eager" else given
    for grad, want in zip(left, wanted, strict=True):
        torch.testing.assert_close(grad, want)


@pytest.mark.parametrize("there_and_back", ["from torch", "to torch"])
def test_state_goes_to_and_from_torch(each, there_and_back):
    def ours(net):
        return adamw.AdamW(groups_of(net), **HOW, max_norm=None)

    def theirs(net):
        return torch.optim.AdamW(groups_of(net), **HOW)

    first, second = (theirs, ours) if there_and_back == "from torch" else (ours, theirs)
    net, whole = model(), model()
    optimizer = first(net)
    train(net, optimizer, range(2))
    saved = copy.deepcopy(optimizer.state_dict())
    moved = model(seed=1)
    moved.load_state_dict(net.state_dict())
    continued = second(moved)
    continued.load_state_dict(saved)
    train(moved, continued, range(2, 5))
    train(whole, theirs(whole), range(5))
    for p, q in zip(moved.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(p, q)
        assert continued.state[p]["step"] == 5
    assert continued.param_groups[1]["weight_decay"] == 0.0 and continued.param_groups[1]["lr"] == 3e-3


def test_state_with_other_options_is_refused():
    net = model()
    theirs = torch.optim.AdamW(net.parameters(), amsgrad=True)
    with pytest.raises(ValueError, match="AdamW: state with amsgrad=True"):
        adamw.AdamW(net.parameters()).load_state_dict(theirs.state_dict())


def test_a_copied_optimizer_still_clips(cpp):
    net = model()
    pair = copy.deepcopy((net, adamw.AdamW(net.parameters(), max_norm=0.1)))
    assert pair[1].max_norm == 0.1
    train(*pair, range(1))
    assert pair[1].grad_norm > 0.1


def test_parameters_of_several_dtypes_are_clipped_together(each):
    wide, narrow = model(), model(seed=1, dtype=torch.bfloat16)
    params = [*wide.parameters(), *narrow.parameters()]
    optimizer = adamw.AdamW(params, lr=0.1, max_norm=0.1)
    gradients(wide, 0), gradients(narrow, 0)
    squares = sum(p.grad.double().square().sum() for p in params)
    before = [p.detach().clone() for p in params]
    optimizer.step()
    torch.testing.assert_close(optimizer.grad_norm.double(), squares.sqrt(), rtol=1e-5, atol=0)
    assert optimizer.grad_norm.dtype == torch.float32
    assert all(not torch.equal(p, old) for p, old in zip(params, before, strict=True) if old.count_nonzero())


def test_torchs_gradient_scaler_divides_before_the_step(each):
    net, plain = model(), model()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer, other = adamw.AdamW(net.parameters(), lr=0.1), adamw.AdamW(plain.parameters(), lr=0.1)
    for one, scale in ((net, scaler.scale), (plain, lambda loss: loss)):
        torch.manual_seed(1)
        scale(one(torch.randn(4, 3, 8, 8)).square().mean()).backward()
    scaler.step(optimizer)
    scaler.update()
    other.step()
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(optimizer.state[p]["exp_avg"], other.state[q]["exp_avg"])
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_bad_gradients_do_what_they_do_in_torch(each, bad, clip):
    results = []
    for make in (torch.optim.AdamW, adamw.AdamW):
        net = model()
        how = {"max_norm": clip} if make is adamw.AdamW else {}
        optimizer = make(net.parameters(), **HOW, **how)
        for step in range(2):
            optimizer.zero_grad()
            gradients(net, step)
            if step == 0:
                net[2].weight.grad[3, 5] = bad
            if clip and not how:
                nn.utils.clip_grad_norm_(net.parameters(), clip)
            optimizer.step()
        results.append([t for p in net.parameters() for t in (p, *optimizer.state[p].values())])
    for mine, theirs in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(mine, theirs, equal_nan=True, rtol=1e-4, atol=1e-7)


def test_a_closure_and_no_gradients(each):
    net = model()
    optimizer = adamw.AdamW(net.parameters(), max_norm=1.0)
    before = [p.detach().clone() for p in net.parameters()]
    optimizer.step()  # nobody has a gradient
    assert all(torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True))

    def closure():
        gradients(net, 0)
        return 7.0

    assert optimizer.step(closure) == 7.0
    assert not torch.equal(net[0].weight, before[0])


# -- the functions ----------------------------------------------------------------------------------------------------


def test_lr_as_a_tensor_is_the_same(each):
    one, two = lists(), lists()
    adamw.adamw(*_positional(one), lr=0.01, max_norm=1.0)
    adamw.adamw(*_positional(two), lr=torch.tensor(0.01), max_norm=1.0)
    for a, b in zip(one["params"], two["params"], strict=True):
        torch.testing.assert_close(a, b)


def test_what_has_changed_cannot_be_used_for_an_old_gradient(cpp):
    given = lists()
    w = given["params"][0].requires_grad_()
    loss = (w * w).sum()
    adamw.adamw(*_positional(given), lr=0.01, max_norm=1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_the_number_of_threads_does_not_change_a_bit(cpp):
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            given = lists(7, 200_003, sizes="mixed")
            adamw.adamw(*_positional(given), lr=0.01, max_norm=1.0)
            results.append([*given["params"], *given["exp_avgs"], *given["exp_avg_sqs"]])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_fullgraph_compile_gives_the_same(cpp, backend):
    def step(params, grads, ms, vs, steps, copies):
        norm = global_norm.global_norm([2 * g for g in grads])
        adamw.adamw(params, grads, ms, vs, steps, norm, copies, lr=0.01, max_norm=0.1)
        return params[0].sum()

    pairs = [lists(3, 300, copies="bfloat16") for _ in range(2)]
    names = [name for name in LISTS if name != "grad_norm"]
    results = [run(*(given[name] for name in names)) for run, given in
               zip((step, torch.compile(step, fullgraph=True, backend=backend)), pairs, strict=True)]  # fmt: skip
    torch.testing.assert_close(results[1], results[0])
    for name in names:
        for a, b in zip(pairs[0][name], pairs[1][name], strict=True):
            torch.testing.assert_close(a, b)


def test_the_operator_keeps_torchs_rules(cpp):
    arguments = (*_positional(lists(2, 40, copies="float16")), None, 0.01, 0.9, 0.95, 1e-6, 0.1, 1.0)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.perfsuite.adamw_cpp.default, arguments, test_utils=tests)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"grads": []}, "as many grads as params are needed, got 0 and 4"),
        ({"grad_norm": None}, "given together"),
        ({"grads": [torch.zeros(3)] * 4}, "grads[0] must be (4, 25), got (3,)"),
        ({"exp_avgs": [torch.zeros(4, 25).bfloat16()] * 4}, "exp_avgs must be torch.float32"),
        ({"grads": [torch.zeros(4, 25).double()] * 4}, "grads of torch.float64 do not go with"),
        ({"steps": [torch.zeros(1)] * 4}, "steps[0] must be (), got (1,)"),
        ({"steps": [torch.tensor(1)] * 4}, "steps must be float32"),
        ({"copies": [torch.zeros(4, 25)] * 4}, "copies of torch.float32 do not go with"),
        ({"params": [torch.zeros(4, 25, dtype=torch.int32)] * 4}, "params must be floating-point"),
        ({"exp_avg_sqs": [torch.zeros(4, 25), *[torch.zeros(4, 25).half()] * 3]}, "one dtype for all exp_avg_sqs"),
        ({"max_norm": -1.0}, "max_norm must be positive, got -1.0"),
    ],
)
def test_bad_arguments_are_refused(change, words):
    given = {**lists(4, 400), "max_norm": 1.0, "lr": 0.1, **change}
    assert given["params"][0].shape == (4, 25)
    with pytest.raises(ValueError, match="adamw: .*" + re.escape(words)):
        adamw.adamw(*_positional(given), **_options(given))


def test_bad_tensors_are_refused_by_the_operator_as_well(cpp):
    given = lists()
    given["exp_avgs"][1] = torch.zeros(7)
    with pytest.raises(ValueError, match="adamw: the tensors of parameter 1 differ"):
        OP.implementations["cpp"].run(*_positional(given), **OP.defaults | {"max_norm": 1.0})
    with pytest.raises(ValueError, match="AdamW: max_norm must be positive"):
        adamw.AdamW(model().parameters(), max_norm=0.0)

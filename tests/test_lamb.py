"""LAMB: every implementation against float64 and the published formula, and the optimizer built on it."""

import copy
import math
import re

import pytest
import torch
import torch.nn as nn

from perfsuite.kernels import adam_cases, contract, lamb
from perfsuite.kernels.check import check, check_drawn
from perfsuite.kernels.contract import Implementation

OP = lamb.OP
CASES = {case.name: case for case in OP.cases("tiny")}
ON_THE_EMULATOR = [
    "8x9239 float32 sizes=odd",
    "8x9239 float32 weight_decay=0.0 sizes=odd",
    "8x9239 float32 weight_decay=0.0 use_nvlamb=True sizes=odd",
    "5x600 float32 max_norm=0.1 layout=mixed copies=bfloat16",
    "5x600 float32 layout=every second copies=float16",
    "5x600 float32 max_norm=1.0 values=infinite",
    "6x600 float32 weight_decay=0.0 use_nvlamb=True values=zeros",
    "8x9239 float32 max_norm=1.0 sizes=odd grads=float16 copies=float16",
    "8x9239 bfloat16 lr=0.01 sizes=odd",
    "8x9239 float16 eps=0.0001 max_norm=1.0 sizes=odd steps=0",
    "8x9239 float64 max_norm=1.0 sizes=odd",
]
LISTS = ("params", "grads", "exp_avgs", "exp_avg_sqs", "steps", "grad_norm", "copies")


@pytest.fixture(autouse=True)
def everything_eager():
    yield
    contract.select({})


@pytest.fixture(params=["eager", "cpp"])
def each(request):
    contract.select({"lamb": request.param, "global_norm": request.param})
    return request.param


@pytest.fixture
def cpp():
    contract.select({"lamb": "cpp", "global_norm": "cpp"})


def lists(count=4, elements=400, **draw):
    """Arguments of one call."""
    case = adam_cases.case(count, elements, draw=draw, max_norm=1.0)
    given = OP.inputs(case, "cpu", torch.Generator().manual_seed(3))
    return [given[name] for name in LISTS]


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

    def no_ratio(*lists, weight_decay, **options):
        params = [p.clone() for p in lists[0]]
        right(*lists, weight_decay=weight_decay, **options)
        for p, old, m, v in zip(lists[0], params, lists[2], lists[3], strict=True):
            t = lists[4][0].double()
            step = (m / (1 - options["beta1"] ** t)) / ((v / (1 - options["beta2"] ** t)).sqrt() + options["eps"])
            p.copy_(old - options["lr"] * (step + weight_decay * old))

    def ratio_of_all_tensors(params, grads, ms, vs, steps, norm=None, copies=None, **options):
        together = [torch.cat([t.flatten() for t in tensors]) for tensors in (params, grads, ms, vs)]
        right(*[[t] for t in together], steps[:1], norm, None, **options)
        for step in steps[1:]:
            step += 1
        for tensors, flat in zip((params, ms, vs), (together[0], *together[2:]), strict=True):
            for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def ratio_without_decay_as_well(*lists, use_nvlamb, **options):
        right(*lists, use_nvlamb=True, **options)

    def decay_outside_the_ratio(params, *lists, lr, weight_decay, use_nvlamb, **options):
        before = [p.clone() for p in params]
        right(params, *lists, lr=lr, weight_decay=0.0, use_nvlamb=True, **options)
        for p, old in zip(params, before, strict=True):
            p.sub_(lr * weight_decay * old)

    def no_bias_correction(*lists, **options):
        for step in lists[4]:
            step += 1e6
        right(*lists, **options)
        for step in lists[4]:
            step -= 1e6

    def forgets_to_clip(params, grads, ms, vs, steps, norm=None, *rest, **options):
        right(params, grads, ms, vs, steps, None, *rest, **options)

    def leaves_copies_stale(params, grads, ms, vs, steps, norm=None, copies=None, **options):
        right(params, grads, ms, vs, steps, norm, None, **options)

    def divides_by_a_zero_norm(params, grads, *lists, lr, **options):
        before = [p.clone() for p in params]
        right(params, grads, *lists, lr=lr, **options)
        for p, old in zip(params, before, strict=True):
            if torch.equal(p, old):
                p.fill_(torch.nan)

    known = dict(locals())

    def run(**given):
        options = {key: value for key, value in given.items() if key not in LISTS}
        known[name](*(given[key] for key in LISTS), **options)

    return Implementation(name, run, lambda device: None)


FIRST = adam_cases.case(4, 2000, draw={"steps": 0}, lr=0.01, weight_decay=0.1)
CLIPPED = adam_cases.case(4, 2000, max_norm=0.5)
ZEROS = CASES["6x600 float32 weight_decay=0.0 use_nvlamb=True values=zeros"]


@pytest.mark.parametrize(
    ("name", "case", "complaint"),
    [
        ("no_ratio", FIRST, "params.0: RMS"),
        ("ratio_of_all_tensors", CASES["8x9239 float32 lr=0.01 weight_decay=0.1 sizes=odd steps=0"], "params"),
        ("ratio_without_decay_as_well", CASES["8x9239 float32 weight_decay=0.0 sizes=odd"], "params.3: RMS"),
        ("decay_outside_the_ratio", FIRST, "params.0: RMS"),
        ("no_bias_correction", CASES["8x9239 float32 weight_decay=0.0 sizes=odd"], "params.3: RMS"),
        ("forgets_to_clip", CLIPPED, "exp_avg_sqs.0: RMS"),
        ("leaves_copies_stale", adam_cases.case(4, 2000, draw={"copies": "bfloat16"}), "copies.0: RMS"),
        (
            "divides_by_a_zero_norm",
            CASES["6x600 float32 weight_decay=0.0 use_nvlamb=True values=zeros"],
            "params.0: NaN",
        ),
    ],
)
def test_a_wrong_kernel_is_refused(name, case, complaint):
    report = check(OP, _wrong(name), case)
    assert any(complaint in failure for failure in report.failures), report


# -- the optimizer ----------------------------------------------------------------------------------------------------


def published(params, grads, state, t, groups, max_norm, use_nvlamb):
    """A step of apex's FusedLAMB, tensor by tensor, in float64."""
    norm = math.sqrt(sum(g.square().sum().item() for g in grads))
    clip = norm / max_norm if norm > max_norm else 1.0
    for index, (p, g, options) in enumerate(zip(params, grads, groups, strict=True)):
        m, v = state.setdefault(index, (torch.zeros_like(p), torch.zeros_like(p)))
        scaled = g / clip
        m.copy_(options["betas"][0] * m + (1 - options["betas"][0]) * scaled)
        v.copy_(options["betas"][1] * v + (1 - options["betas"][1]) * scaled**2)
        m_hat, v_hat = m / (1 - options["betas"][0] ** t), v / (1 - options["betas"][1] ** t)
        update = m_hat / (v_hat.sqrt() + options["eps"]) + options["weight_decay"] * p
        ratio = 1.0
        if use_nvlamb or options["weight_decay"] != 0:
            a, b = p.norm(), update.norm()
            ratio = a / b if a != 0 and b != 0 else 1.0
        p.sub_(options["lr"] * ratio * update)


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.LayerNorm(6), nn.Linear(6, 5)).to(memory_format=torch.channels_last)


def gradients(net, step):
    torch.manual_seed(100 + step)
    for p in net.parameters():
        p.grad = 0.3 * torch.randn_like(p)


def groups_of(net):
    matrices = [p for p in net.parameters() if p.dim() > 1]
    vectors = [p for p in net.parameters() if p.dim() == 1]
    return [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0, "lr": 3e-3}]


@pytest.mark.parametrize("use_nvlamb", [False, True])
@pytest.mark.parametrize("max_norm", [1.0, 100.0])
def test_some_steps_are_those_of_the_formula(each, max_norm, use_nvlamb):
    net = model()
    optimizer = lamb.Lamb(groups_of(net), lr=0.02, betas=(0.9, 0.95), max_norm=max_norm, use_nvlamb=use_nvlamb)
    pairs = [(p, group) for group in optimizer.param_groups for p in group["params"]]
    exact, state = [p.detach().double().clone() for p, _ in pairs], {}
    for step in range(4):
        gradients(net, step)
        grads = [p.grad.double() for p, _ in pairs]
        published(exact, grads, state, step + 1, [group for _, group in pairs], max_norm, use_nvlamb)
        optimizer.step()
    for index, (p, _) in enumerate(pairs):
        torch.testing.assert_close(p.detach().double(), exact[index], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(optimizer.state[p]["exp_avg"].double(), state[index][0], rtol=1e-5, atol=1e-7)


def test_state_goes_to_a_new_optimizer_and_comes_from_adam(cpp):
    net, whole = model(), model()
    for one, optimizer, steps in ((net, None, range(2)), (whole, None, range(4))):
        optimizer = lamb.Lamb(groups_of(one), lr=0.02)
        for step in steps:
            gradients(one, step)
            optimizer.step()
        if one is net:
            saved = copy.deepcopy(optimizer.state_dict())
    continued = lamb.Lamb(groups_of(net), lr=0.5)
    continued.load_state_dict(saved)
    for step in range(2, 4):
        gradients(net, step)
        continued.step()
    for p, q in zip(net.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    torch.optim.AdamW(groups_of(net)).load_state_dict(continued.state_dict())
    copied = copy.deepcopy(lamb.Lamb(net.parameters(), max_norm=0.5, use_nvlamb=True))
    assert copied.max_norm == 0.5 and copied.use_nvlamb


def test_lr_as_a_tensor_is_the_same(each):
    one, two = lists(), lists()
    lamb.lamb(*one, lr=0.01, max_norm=1.0)
    lamb.lamb(*two, lr=torch.tensor(0.01), max_norm=1.0)
    for a, b in zip(one[0], two[0], strict=True):
        torch.testing.assert_close(a, b)


def test_the_number_of_threads_does_not_change_a_bit(cpp):
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            given = lists(7, 200_003, sizes="mixed")
            lamb.lamb(*given, lr=0.01, max_norm=1.0)
            results.append([*given[0], *given[2], *given[3]])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_fullgraph_compile_gives_the_same(cpp):
    def step(params, grads, ms, vs, steps, norm, copies):
        lamb.lamb(params, [2 * g for g in grads], ms, vs, steps, norm, copies, lr=0.01, max_norm=0.1)
        return params[0].sum()

    plain, compiled = (lists(3, 300, copies="bfloat16") for _ in range(2))
    expected = step(*plain)
    torch.testing.assert_close(torch.compile(step, fullgraph=True, backend="aot_eager")(*compiled), expected)
    for a, b in zip(plain, compiled, strict=True):
        torch.testing.assert_close(a, b)


def test_the_operator_keeps_torchs_rules(cpp):
    arguments = (*lists(2, 40, copies="float16"), None, 0.01, 0.9, 0.95, 1e-6, 0.1, 1.0, False)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.perfsuite.lamb_cpp.default, arguments, test_utils=tests)


def test_bad_arguments_are_refused(cpp):
    given = lists()
    with pytest.raises(ValueError, match=re.escape("lamb: as many copies as params are needed, got 1 and 4")):
        lamb.lamb(*given[:6], [torch.zeros(3)], lr=0.1, max_norm=1.0)
    given[3][2] = torch.zeros(7)
    with pytest.raises(ValueError, match=re.escape("lamb: exp_avg_sqs[2] must be (4, 25), got (7,)")):
        lamb.lamb(*given, lr=0.1, max_norm=1.0)
    with pytest.raises(ValueError, match="lamb: the tensors of parameter 2 differ"):
        OP(*given, **OP.defaults | {"max_norm": 1.0})
    with pytest.raises(ValueError, match="Lamb: max_norm must be positive"):
        lamb.Lamb(model().parameters(), max_norm=-1.0)

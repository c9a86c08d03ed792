"""Every implementation of embedding_bag_update against float64, eager torch, torch.optim and each other.

The C++ kernel by itself, on every instruction set, is tested in test_embedding_bag.py.
"""

import re

import pytest
import torch

from perfsuite.kernels import contract
from perfsuite.kernels.check import check, check_drawn
from perfsuite.kernels.contract import Implementation
from perfsuite.kernels.embedding_bag import embedding_bag
from perfsuite.kernels.embedding_bag_update import OP, _case, cases, embedding_bag_update, inputs, reference

CASES = {case.name: case for case in cases("tiny")}
REFERENCE = Implementation("reference", reference, lambda device: None)
ADAGRAD = "20x64x9x200 float32 distribution=zipf"
SGD = "20x64x9x200 float32 optimizer=sgd distribution=zipf"


@pytest.fixture(autouse=True)
def everything_eager():
    yield
    contract.select({})


@pytest.fixture
def cpp():
    contract.select({"embedding_bag_update": "cpp"})


def random_call(rows=30, width=20, bags=8, lookups=60, **options):
    case = _case(rows, width, bags, lookups, draw={"distribution": "zipf"}, **options)
    return inputs(case, "cpu", torch.Generator().manual_seed(0))


# -- the correctness rule ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_cpp_is_right(case, cpp):
    report = check(OP, OP.implementations["cpp"], case)
    assert report.ok, report
    assert report.deterministic


def test_cpp_is_right_at_any_shape_stride_dtype_and_optimizer(cpp):
    report = check_drawn(OP, OP.implementations["cpp"])
    assert report.ok, report


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_reference_is_right(case):
    report = check(OP, REFERENCE, case)
    assert report.ok, report


@pytest.mark.parametrize("name", [ADAGRAD, SGD])
def test_compile_is_right(name):
    report = check(OP, OP.implementations["compile"], CASES[name])
    assert report.ok, report


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_cuda_is_right_in_the_emulator(case, cuda_emulator):
    report = check(OP, OP.implementations["cuda"], case)
    assert report.ok, report
    assert report.deterministic


@pytest.mark.parametrize("lookups", [255, 256, 257, 512, 3000])
def test_cuda_cuts_long_rows_right(lookups, cuda_emulator):
    for rows in (1, 2, 7):
        report = check(OP, OP.implementations["cuda"], _case(rows, 12, 5, lookups))
        assert report.ok, report


def _gradients(indices, offsets, grad_output):
    lengths = offsets.diff()
    return grad_output[torch.repeat_interleave(torch.arange(len(lengths)), lengths)]


def _planted(name):
    """Kernels with the mistakes that people make."""

    def update(weight, state, rows, g, optimizer, lr, eps):
        if optimizer == "sgd":
            weight[rows] -= lr * g
        else:
            state[rows] += g.square().mean(1)
            weight[rows] -= lr * g / (state[rows].sqrt() + eps)[:, None]

    def summed(indices, terms, width):
        rows, where = indices.unique(return_inverse=True)
        return rows, torch.zeros(len(rows), width).index_add_(0, where, terms)

    def last_write_wins(weight, state, indices, offsets, grad_output, **options):
        update(weight, state, indices, _gradients(indices, offsets, grad_output), **options)

    def first_lookup_of_a_row_only(weight, state, indices, offsets, grad_output, **options):
        terms = _gradients(indices, offsets, grad_output)
        first = [i for i in range(len(indices)) if indices[i] not in indices[:i]]
        update(weight, state, indices[first], terms[first], **options)

    def once_per_lookup(weight, state, indices, offsets, grad_output, **options):
        for row, g in zip(indices, _gradients(indices, offsets, grad_output), strict=True):
            update(weight, state, row[None], g[None], **options)

    def state_per_lookup(weight, state, indices, offsets, grad_output, *, optimizer, lr, eps):
        terms = _gradients(indices, offsets, grad_output)
        state.index_add_(0, indices, terms.square().mean(1))
        rows, g = summed(indices, terms, weight.shape[1])
        weight[rows] -= lr * g / (state[rows].sqrt() + eps)[:, None]

    def state_of_the_step_before(weight, state, indices, offsets, grad_output, *, optimizer, lr, eps):
        rows, g = summed(indices, _gradients(indices, offsets, grad_output), weight.shape[1])
        weight[rows] -= lr * g / (state[rows].sqrt() + eps)[:, None]
        state[rows] += g.square().mean(1)

    def sum_for_mean(weight, state, indices, offsets, grad_output, *, optimizer, lr, eps):
        rows, g = summed(indices, _gradients(indices, offsets, grad_output), weight.shape[1])
        state[rows] += g.square().sum(1)
        weight[rows] -= lr * g / (state[rows].sqrt() + eps)[:, None]

    def eps_within_the_root(weight, state, indices, offsets, grad_output, *, optimizer, lr, eps):
        rows, g = summed(indices, _gradients(indices, offsets, grad_output), weight.shape[1])
        state[rows] += g.square().mean(1)
        weight[rows] -= lr * g / (state[rows] + eps).sqrt()[:, None]

    def right(weight, state, indices, offsets, grad_output, **options):
        update(weight, state, *summed(indices, _gradients(indices, offsets, grad_output), weight.shape[1]), **options)

    return Implementation(name, locals()[name], lambda device: None)


@pytest.mark.parametrize(
    ("name", "case", "complaint"),
    [
        ("last_write_wins", ADAGRAD, "weight: RMS"),
        ("last_write_wins", ADAGRAD, "state: RMS"),
        ("last_write_wins", SGD, "weight: RMS"),
        ("first_lookup_of_a_row_only", SGD, "weight: RMS"),
        ("once_per_lookup", ADAGRAD, "weight: RMS"),
        ("once_per_lookup", ADAGRAD, "state: RMS"),
        ("state_per_lookup", ADAGRAD, "state: RMS"),
        ("state_per_lookup", ADAGRAD, "weight: RMS"),
        ("state_of_the_step_before", ADAGRAD, "weight"),
        ("sum_for_mean", ADAGRAD, "state: RMS"),
        ("eps_within_the_root", "50x33x20x10 float32 eps=0.001 distribution=uniform", "weight: RMS"),
    ],
)
def test_a_wrong_kernel_is_refused(name, case, complaint):
    report = check(OP, _planted(name), CASES[case])
    assert any(complaint in failure for failure in report.failures), report


@pytest.mark.parametrize("case", [ADAGRAD, SGD])
def test_what_the_wrong_kernels_are_made_of_is_right(case):
    assert check(OP, _planted("right"), CASES[case]).ok


# -- in use -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eager", "cpp"])
def test_sgd_trains_as_torch_does(name):
    contract.select({"embedding_bag": name, "embedding_bag_update": name})
    tensors = random_call(optimizer="sgd")
    indices, offsets = tensors["indices"], tensors["offsets"]
    module = torch.nn.EmbeddingBag(
        30, 20, mode="sum", sparse=True, include_last_offset=True, _weight=tensors["weight"].clone()
    )
    optimizer, weight = torch.optim.SGD(module.parameters(), lr=0.1), tensors["weight"]
    for _ in range(5):
        optimizer.zero_grad()
        module(indices, offsets).square().sum().backward()
        optimizer.step()
        output = embedding_bag(weight, indices, offsets).requires_grad_()
        output.square().sum().backward()
        embedding_bag_update(weight, None, indices, offsets, output.grad, optimizer="sgd", lr=0.1)
    torch.testing.assert_close(weight, module.weight.detach(), rtol=1e-4, atol=1e-6)


def test_width_1_is_torchs_adagrad(cpp):
    tensors = random_call(width=1)
    indices, offsets, upstream = (tensors[name] for name in ("indices", "offsets", "grad_output"))
    module = torch.nn.EmbeddingBag(
        30, 1, mode="sum", sparse=True, include_last_offset=True, _weight=tensors["weight"].clone()
    )
    optimizer, state = torch.optim.Adagrad(module.parameters(), lr=0.1, eps=1e-8), torch.zeros(30)
    for _ in range(5):
        optimizer.zero_grad()
        module(indices, offsets).backward(upstream)
        optimizer.step()
        embedding_bag_update(tensors["weight"], state, indices, offsets, upstream, lr=0.1)
    torch.testing.assert_close(tensors["weight"], module.weight.detach())
    torch.testing.assert_close(state, optimizer.state[module.weight]["sum"][:, 0])


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "sgd"])
def test_fullgraph_compile_gives_the_same(cpp, backend, optimizer):
    tensors = random_call(optimizer=optimizer)
    expected = {name: tensor if tensor is None else tensor.clone() for name, tensor in tensors.items()}

    def step(weight, state, indices, offsets, grad_output):
        embedding_bag_update(weight, state, indices, offsets, 2 * grad_output, optimizer=optimizer, lr=0.1)
        return weight.sum()

    total = torch.compile(step, fullgraph=True, backend=backend)(**tensors)
    torch.testing.assert_close(total, step(**expected))
    for name in ("weight", "state")[: 2 if optimizer == "rowwise_adagrad" else 1]:
        assert torch.equal(tensors[name], expected[name])


@pytest.mark.parametrize("name", ["cpp", "cuda"])
def test_operators_keep_torchs_rules(cpp, name, cuda_emulator):
    tensors = random_call()
    arguments = (*tensors.values(), 0.1, 1e-8)
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    operator = getattr(torch.ops.perfsuite, f"embedding_bag_update_{name}").default
    torch.library.opcheck(operator, arguments, test_utils=tests)
    torch.library.opcheck(operator, (arguments[0], None, *arguments[2:]), test_utils=tests)


@pytest.mark.parametrize("name", ["eager", "cpp"])
def test_a_parameter_is_changed_and_whoever_kept_it_is_told(name):
    contract.select({"embedding_bag_update": name})
    tensors = random_call()
    parameter = torch.nn.Parameter(tensors.pop("weight"))
    before, kept = parameter.detach().clone(), parameter.square().sum()
    embedding_bag_update(parameter, **tensors, lr=0.1)
    assert not torch.equal(parameter, before)
    assert parameter.grad is None and parameter.grad_fn is None
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.backward()


def test_the_number_of_threads_does_not_change_a_bit(cpp):
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            tensors = random_call(5000, 40, 3000, 40_000)
            embedding_bag_update(**tensors, lr=0.1)
            results.append((tensors["weight"], tensors["state"]))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for result in results[1:] for a, b in zip(result, results[0], strict=True))


def test_rows_more_than_2_to_the_31_elements_apart(cpp):
    # Two rows at the ends of 4 GiB that nobody touches: only their pages exist.
    tensors = random_call(2, 9, 3, 7, dtype="bfloat16")
    far = torch.empty(2**31 + 600, dtype=torch.bfloat16).as_strided((2, 9), (2**31 + 64, 1))
    far.copy_(tensors["weight"])
    state = tensors["state"].clone()
    embedding_bag_update(**tensors, lr=0.1)
    embedding_bag_update(far, state, *(tensors[name] for name in ("indices", "offsets", "grad_output")), lr=0.1)
    assert torch.equal(far, tensors["weight"])


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eager", "cpp"])
@pytest.mark.parametrize("bad", [-31, 30, 2**40])
def test_an_index_outside_the_table_is_an_error(name, bad):
    contract.select({"embedding_bag_update": name})
    tensors = random_call()
    tensors["indices"][3] = bad
    before = tensors["weight"].clone()
    with pytest.raises(IndexError):
        embedding_bag_update(**tensors, lr=0.1)
    if name == "cpp":
        assert torch.equal(tensors["weight"], before)


def test_cuda_leaves_out_an_index_outside_the_table(cuda_emulator):
    tensors = random_call(lookups=6)
    good = {**tensors, "weight": tensors["weight"].clone(), "state": tensors["state"].clone()}
    good["indices"], good["offsets"] = tensors["indices"][1:-2], (tensors["offsets"] - 1).clamp(0, 3)
    tensors["indices"][[0, 4, 5]] = torch.tensor([-1, 30, 2**32])
    update = OP.implementations["cuda"].run
    update(**tensors, optimizer="rowwise_adagrad", lr=0.1, eps=1e-8)
    update(**good, optimizer="rowwise_adagrad", lr=0.1, eps=1e-8)
    assert torch.equal(tensors["weight"], good["weight"]) and torch.equal(tensors["state"], good["state"])


@pytest.mark.parametrize("offsets", [[1, 60], [0, 59], [0, 61], [0, 40, 30, 60]])
def test_offsets_that_do_not_divide_the_lookups_are_refused(cpp, offsets):
    tensors = random_call()
    tensors["offsets"] = torch.tensor(offsets)
    tensors["grad_output"] = torch.randn(len(offsets) - 1, 20)
    with pytest.raises(ValueError, match="offsets must"):
        embedding_bag_update(**tensors, lr=0.1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"grad_output": torch.randn(7, 20)}, "grad_output must be (8, 20) torch.float32, got (7, 20)"),
        ({"grad_output": torch.randn(8, 20).bfloat16()}, "got (8, 20) torch.bfloat16"),
        ({"optimizer": "adam"}, "rowwise_adagrad or sgd, got 'adam'"),
        ({"optimizer": "sgd"}, "sgd has none, got sgd and a state"),
        ({"state": None}, "got rowwise_adagrad and no state"),
        ({"state": torch.zeros(29)}, "state must be (30,) torch.float32, got (29,)"),
        ({"state": torch.zeros(30).double()}, "got (30,) torch.float64"),
        ({"weight": torch.randn(20, 30).T}, "adjacent columns"),
        ({"state": torch.zeros(60)[::2]}, "state must be contiguous"),
        ({"eps": -1.0}, "eps must be at least 0, got -1.0"),
        ({"indices": torch.zeros(60, dtype=torch.int32)}, "indices and offsets int64"),
    ],
)
def test_bad_arguments_are_refused(change, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        embedding_bag_update(**{**random_call(), "lr": 0.1, **change})

"""Which implementation --ops native takes, with and without a table of this machine."""

import json

import pytest
import torch

from perfsuite.kernels import contract, tuning
from perfsuite.kernels.contract import Case
from perfsuite.kernels.cross_entropy import OP, cross_entropy
from perfsuite.kernels.tuning import Entry


@pytest.fixture(autouse=True)
def own_cache_and_eager_after(tmp_path, monkeypatch):
    from perfsuite.kernels import native

    native._load_extension()  # built in the real cache
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield
    contract.select({})
    contract.cost_log = None


def entry(rows, classes, impl, dtype="float32", device="cpu"):
    return Entry("cross_entropy", device, dtype, {"rows": rows, "classes": classes}, impl, 2.0)


def case(rows, classes, dtype="float32"):
    return Case(dtype, {"rows": rows, "classes": classes})


def test_a_table_is_kept_and_extended():
    assert tuning.load() == ([], "this machine was not tuned: run `perfsuite ops bench`")
    path = tuning.save([entry(8, 8, "cpp"), entry(64, 8, "eager")])
    assert path == tuning.path_of() and path.name.startswith("tuning-")
    tuning.save([entry(8, 8, "eager"), entry(8, 8, "cpp", "bfloat16")])
    entries, reason = tuning.load()
    assert reason is None
    assert {(e.dtype, e.shape["rows"], e.impl) for e in entries} == {
        ("float32", 8, "eager"), ("float32", 64, "eager"), ("bfloat16", 8, "cpp"),
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", "{}", '{"schema": 99, "entries": []}', '{"schema": 1, "entries": [{"op": 1}]}'])
def test_a_table_that_cannot_be_read_is_said_and_replaced(text):
    path = tuning.save([])
    path.write_text(text)
    entries, reason = tuning.load()
    assert entries == [] and "perfsuite ops bench" in reason
    tuning.save([entry(8, 8, "cpp")])
    assert len(tuning.load()[0]) == 1


@pytest.mark.parametrize(
    ("wanted", "impl"),
    [
        (case(8, 8), "eager"),  # measured
        (case(16, 8), "eager"),  # near
        (case(1000, 8), "cpp"),  # far from all: our own comes first
        (case(8, 8, "bfloat16"), "cpp"),  # another dtype
        (case(0, 8), "cpp"),
    ],
)
def test_the_nearest_shape_decides(wanted, impl):
    entries = [entry(8, 8, "eager"), entry(32, 32, "cpp"), entry(8, 8, "eager", device="cuda")]
    assert tuning.for_case(OP, wanted, entries, "cpu").name == impl


def test_what_the_table_names_and_is_not_here_is_passed_over():
    assert tuning.for_case(OP, case(8, 8), [entry(8, 8, "triton"), entry(8, 8, "gone")], "cpu").name == "cpp"


def test_native_runs_the_best_for_each_shape_and_books_it_so():
    tuning.save([entry(8, 8, "eager"), entry(512, 512, "cpp")])
    chosen = contract.select({}, "cpu", ops="native")
    assert chosen["cross_entropy"] == "native"
    contract.cost_log = log = {}
    for size in (8, 8, 512):
        logits, target = torch.randn(size, size, requires_grad=True), torch.zeros(size, dtype=torch.int64)
        cross_entropy(logits, target).backward()
    assert {region: sum(c["calls"] for c in calls.values()) for region, calls in log.items()} == {
        "cross_entropy=eager": 2, "cross_entropy=cpp": 1,
    }  # fmt: skip


def test_one_op_may_be_native_and_one_named_among_native_ones():
    assert contract.select({"cross_entropy": "native"})["cross_entropy"] == "native"
    assert contract.select({"cross_entropy": "eager"}, "cpu", ops="native")["cross_entropy"] == "eager"


def test_native_inside_a_compiled_region():
    contract.select({}, "cpu", ops="native")
    logits, target = torch.randn(6, 9, requires_grad=True), torch.arange(6)
    compiled = torch.compile(lambda x: cross_entropy(2 * x, target), fullgraph=True, backend="aot_eager")
    expected = torch.nn.functional.cross_entropy(2 * logits, target)
    torch.testing.assert_close(compiled(logits), expected)


def test_the_table_is_json_that_people_can_read():
    path = tuning.save([entry(8, 8, "cpp")])
    (one,) = json.loads(path.read_text())["entries"]
    assert one == {"op": "cross_entropy", "device": "cpu", "dtype": "float32", "shape": {"rows": 8, "classes": 8},
                   "impl": "cpp", "speedup": 2.0}  # fmt: skip

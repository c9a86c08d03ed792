"""Choosing implementations with --use, and what a choice changes."""

import subprocess
import sys

import pytest

from perfsuite.kernels import contract


@pytest.fixture(autouse=True)
def everything_eager():
    yield
    contract.select({})
    contract.cost_log = None


def test_parse_use_reads_op_and_implementation():
    assert contract.parse_use([]) == {}
    assert contract.parse_use(["cross_entropy=cpp"]) == {"cross_entropy": "cpp"}


@pytest.mark.parametrize(
    ("items", "words"),
    [
        (["cross_entropy"], ["op=implementation"]),
        (["=cpp"], ["op=implementation"]),
        (["cross_entropy="], ["op=implementation"]),
        (["cross_entropi=cpp"], ["no op 'cross_entropi'", "did you mean cross_entropy?", "ops: "]),
        (["cross_entropy=cpp", "cross_entropy=eager"], ["chosen twice", "cpp first"]),
    ],
)
def test_parse_use_refuses_in_one_line(items, words):
    with pytest.raises(ValueError) as error:
        contract.parse_use(items)
    message = str(error.value)
    assert message.startswith(f"--use {items[-1]}: ") and "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("use", "device", "words"),
    [
        ({"cross_entropy": "ccp"}, "cpu", ["no implementation 'ccp'", "did you mean cpp?", "cpp, triton"]),
        ({"cross_entropy": "cpp"}, "cuda", ["not available on cuda", "CPU only"]),
        ({"cross_entropy": "triton"}, "cpu", ["not available on cpu", "TRITON_INTERPRET=1"]),
        ({"softmacks": "cpp"}, "cpu", ["no op 'softmacks'"]),
    ],
)
def test_select_refuses_in_one_line_and_changes_nothing(use, device, words, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    contract.select({"cross_entropy": "compile"})
    with pytest.raises(ValueError) as error:
        contract.select(use, device)
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in words), message
    assert contract.op("cross_entropy").chosen.name == "compile"


def test_an_implementation_that_cannot_be_built_says_why(monkeypatch):
    from perfsuite import torch_extension
    from perfsuite.kernels import native

    def fail():
        raise ValueError("no C++ compiler found: install g++")

    monkeypatch.setattr(torch_extension, "load", fail)
    native._load_extension.cache_clear()
    try:
        with pytest.raises(ValueError, match=r"not available on cpu: no C\+\+ compiler found: install g\+\+"):
            contract.select({"cross_entropy": "cpp"})
    finally:
        native._load_extension.cache_clear()


def test_select_returns_every_choice_and_resets_what_is_not_named():
    others = dict.fromkeys(contract.MODULES, "eager")
    assert contract.select({"cross_entropy": "cpp"}) == {**others, "cross_entropy": "cpp"}
    assert contract.select({}) == others


def test_somebodys_file_is_an_implementation(tmp_path):
    import torch

    from perfsuite.kernels.rms_norm import rms_norm

    path = tmp_path / "mine.py"
    path.write_text("def rms_norm(x, weight, residual=None, **options):\n    return x * 7\n")
    assert contract.parse_use([f"rms_norm={path}"]) == {"rms_norm": str(path)}
    assert contract.select({"rms_norm": str(path)})["rms_norm"] == "mine"
    assert rms_norm(torch.ones(2, 3), None).tolist() == [[7.0] * 3] * 2
    path.write_text("")
    with pytest.raises(ValueError, match="lacks the function rms_norm"):
        contract.select({"rms_norm": str(path)})
    with pytest.raises(ValueError, match=r"nowhere\.py is not a Python file"):
        contract.select({"rms_norm": "nowhere.py"})


def test_the_chosen_implementation_runs():
    import torch

    from perfsuite.kernels.cross_entropy import cross_entropy

    logits, target = torch.randn(4, 7, requires_grad=True), torch.tensor([0, 1, 2, 3])
    for name, node in [("eager", "NllLossBackward0"), ("cpp", "CrossEntropyFunction")]:
        contract.select({"cross_entropy": name})
        assert node in cross_entropy(logits, target).grad_fn.name()


def test_recorded_calls_keep_their_least_cost():
    import torch

    from perfsuite.kernels.cross_entropy import cross_entropy

    logits, target = torch.randn(1024, 256, requires_grad=True), torch.zeros(1024, dtype=torch.int64)
    contract.cost_log = log = {}
    cross_entropy(logits, target)
    cross_entropy(logits, target)
    contract.select({"cross_entropy": "cpp"})
    with torch.no_grad():
        cross_entropy(logits, target)
    read, targets, written = 1024 * 256 * 4, 1024 * 8, 1024 * 256 * 4
    train = {"bytes": read + targets + written, "flops": 6 * 1024 * 256, "calls": 2}
    evaluate = {"bytes": read + targets, "flops": 4 * 1024 * 256, "calls": 1}
    assert log == {
        "cross_entropy=eager": {"f32[1024,256] i64[1024] grad": train},
        "cross_entropy=cpp": {"f32[1024,256] i64[1024]": evaluate},
    }
    contract.cost_log = None
    cross_entropy(logits, target)
    assert len(log) == 2


def test_the_contract_loads_no_torch():
    code = (
        "import sys; from perfsuite.kernels import contract; contract.parse_use(['cross_entropy=cpp']);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd="/").returncode == 0

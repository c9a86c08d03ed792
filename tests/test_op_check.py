"""The checker refuses what looks right without being computed, and what goes wrong outside the formula itself."""

import json

import pytest
import torch
import torch.nn.functional as F

from perfsuite.kernels import contract
from perfsuite.kernels.check import check, check_drawn
from perfsuite.kernels.contract import Case, Implementation
from perfsuite.kernels.own_file import kernel_from_file
from perfsuite.op_check import check_implementation

OP = contract.op("cross_entropy")
EAGER = OP.implementations["eager"].run
CASE = Case("float32", {"rows": 64, "classes": 40})


def judged(run, case=CASE):
    return check(OP, Implementation("theirs", run, lambda device: None), case)


class Kept(torch.autograd.Function):
    """Gives out a loss and a gradient that were computed at another time."""

    @staticmethod
    def forward(ctx, logits, loss, gradient):
        ctx.gradient = gradient
        return loss.clone()

    @staticmethod
    def backward(ctx, upstream):
        return ctx.gradient * upstream, None, None


def keeps_results(key):
    """The first result for a key is given out for good."""
    kept = {}

    def run(logits, target, **options):
        where = key(logits)
        if where not in kept:
            leaf = logits.detach().clone().requires_grad_()
            loss = EAGER(leaf, target, **options)
            kept[where] = loss.detach(), torch.autograd.grad(loss, leaf)[0], logits
        return Kept.apply(logits, *kept[where][:2])

    return run


@pytest.mark.parametrize(
    "key",
    [
        lambda logits: logits.data_ptr(),
        lambda logits: id(logits),
        lambda logits: (id(logits), logits._version),
        lambda logits: logits.shape,
    ],
    ids=["by address", "by identity", "by identity and version", "by shape"],
)
def test_kept_results_are_refused(key):
    assert not judged(keeps_results(key)).ok


def test_no_work_is_refused():
    class Nothing(torch.autograd.Function):
        @staticmethod
        def forward(ctx, logits):
            ctx.save_for_backward(logits)
            return logits.new_empty(())

        @staticmethod
        def backward(ctx, upstream):
            return torch.empty_like(ctx.saved_tensors[0])

    report = judged(lambda logits, target, **options: Nothing.apply(logits))
    assert any("output: NaN" in line for line in report.failures)
    assert any("grad_logits: NaN" in line for line in report.failures)


def test_memory_of_an_earlier_answer_is_refused():
    earlier = {}

    def run(logits, target, **options):
        loss = EAGER(logits, target, **options)
        stale = earlier.get("loss", loss.detach() * 0)
        earlier["loss"] = loss.detach()
        return stale + (loss - loss.detach())

    assert any("output: RMS" in line for line in judged(run).failures)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precision_is_refused(dtype):
    report = judged(lambda logits, target, **options: EAGER(logits.to(dtype), target, **options).float())
    assert any("RMS" in line for line in report.failures)


def test_lower_precision_of_the_gradient_alone_is_refused():
    class Rounds(torch.autograd.Function):
        @staticmethod
        def forward(ctx, logits):
            return logits.clone()

        @staticmethod
        def backward(ctx, upstream):
            return upstream.bfloat16().float()

    report = judged(lambda logits, target, **options: EAGER(Rounds.apply(logits), target, **options))
    assert [line for line in report.failures if "RMS" in line] and all("grad" in line for line in report.failures)


def test_a_tensor_that_puts_off_its_work_is_refused():
    class Lazy(torch.Tensor):
        pass

    report = judged(lambda logits, target, **options: EAGER(logits, target, **options).as_subclass(Lazy))
    assert any("is a Lazy" in line for line in report.failures)


def test_a_changed_input_is_refused():
    def run(logits, target, **options):
        loss = EAGER(logits, target, **options)
        logits.data.mul_(0.5)
        return loss

    assert judged(run).failures == ("logits was changed",)  # what it returned is judged by itself


def test_a_kernel_that_raises_or_has_another_shape_is_refused():
    def raises(logits, target, **options):
        raise KeyError("no such thing")

    assert judged(raises).failures == ("KeyError: 'no such thing'",)
    report = judged(lambda logits, target, **options: EAGER(logits, target, **options).repeat(3))
    assert not report.ok and "\n" not in report.failures[0]


def test_a_constant_is_refused():
    mean = float(F.cross_entropy(torch.randn(10_000, 40), torch.zeros(10_000, dtype=torch.int64)))
    assert not judged(lambda logits, target, **options: logits.sum() * 0 + mean).ok


def test_bits_that_differ_are_reported_and_not_refused():
    def run(logits, target, **options):
        scale = 1 + 1e-7 * float(torch.rand(()) > 0.5) if run.calls else 1.0
        run.calls += 1
        return EAGER(logits, target, **options) * scale

    run.calls = 0
    reports = []
    for _ in range(8):
        run.calls = 0
        reports.append(judged(run))
    assert all(report.ok for report in reports) and not all(report.deterministic for report in reports)


# -- drawn cases ------------------------------------------------------------------------------------------------------


def drawn_op():
    """Cross-entropy with a strategy of its own, so that the test does not depend on the op file's."""
    from hypothesis import strategies as st

    strategy = st.builds(
        lambda rows, classes, dtype: Case(dtype, {"rows": rows, "classes": classes}, {"reduction": "sum"}),
        st.integers(0, 9), st.integers(1, 80), st.sampled_from(["float32", "bfloat16", "float64"]),
    )  # fmt: skip
    return contract.Op(
        name="cross_entropy", reference=OP.reference, defaults=OP.defaults, cost=OP.cost, cases=OP.cases,
        case_of=OP.case_of, inputs=OP.inputs, differentiable=OP.differentiable, scales=OP.scales,
        implementations=OP.implementations.values(), any_case=lambda: strategy,
    )  # fmt: skip


def test_drawn_cases_pass_for_a_right_kernel():
    report = check_drawn(drawn_op(), OP.implementations["eager"], draws=60)
    assert report.ok and report.draws >= 60


def test_a_drawn_case_that_fails_is_made_small():
    def run(logits, target, **options):
        if logits.shape[1] > 33:  # a tail that was forgotten
            logits = torch.cat((logits[:, :33], logits[:, 33:] * 0), 1)
        return EAGER(logits, target, **options)

    report = check_drawn(drawn_op(), Implementation("theirs", run, lambda device: None), draws=100)
    (failure,) = report.failures
    assert failure.startswith("1x34 "), failure


def test_a_drawn_case_that_raises_is_named():
    def run(logits, target, **options):
        if logits.shape[0] == 0:
            raise RuntimeError("no rows")
        return EAGER(logits, target, **options)

    report = check_drawn(drawn_op(), Implementation("theirs", run, lambda device: None), draws=100)
    assert report.failures and "RuntimeError: no rows" in report.failures[0] and report.failures[0].startswith("0x")


# -- all checks of an implementation ----------------------------------------------------------------------------------


def results_of(run):
    return list(check_implementation(OP, Implementation("theirs", run, lambda device: None), "cpu", 32, 0))


def failed(results):
    return {result.check for result in results if result.ok is False}


def test_a_kernel_that_breaks_the_graph_is_refused():
    def run(logits, target, **options):
        torch._dynamo.graph_break()
        return EAGER(logits, target, **options)

    results = results_of(run)
    assert failed(results) == {"fullgraph"}


def test_a_kernel_that_is_wrong_under_compile_only_is_refused():
    def run(logits, target, **options):
        if torch.compiler.is_compiling():
            options["label_smoothing"] = 0.5
        return EAGER(logits, target, **options)

    assert failed(results_of(run)) == {"fullgraph"}


def test_a_wrong_gradient_fails_gradcheck_too():
    class Doubles(torch.autograd.Function):
        @staticmethod
        def forward(ctx, logits):
            return logits.clone()

        @staticmethod
        def backward(ctx, upstream):
            return 2 * upstream

    found = failed(results_of(lambda logits, target, **options: EAGER(Doubles.apply(logits), target, **options)))
    assert {"case", "gradcheck"} <= found


def test_an_index_that_overflows_is_refused(monkeypatch):
    from perfsuite import op_check

    monkeypatch.setattr(op_check, "HUGE_ELEMENTS", 20_000)  # the same road, in memory that everybody has
    softmax = contract.op("softmax")

    def wraps(x):
        y = torch.softmax(x, -1)
        return torch.cat((y[: 20_000 // x.shape[1]], y[: max(0, len(y) - 20_000 // x.shape[1])] * 0))

    for run, ok in ((softmax.implementations["eager"].run, True), (wraps, False)):
        results = check_implementation(softmax, Implementation("theirs", run, lambda d: None), "cpu", 32, 0, huge=True)
        (huge,) = [result for result in results if result.check == "huge"]
        assert huge.ok is ok, huge
    monkeypatch.setattr(op_check, "HUGE_ELEMENTS", 2**50)
    results = check_implementation(softmax, softmax.implementations["eager"], "cpu", 32, 0, huge=True)
    assert "needs about" in next(r.detail for r in results if r.check == "huge")


# -- the command ------------------------------------------------------------------------------------------------------

RIGHT = """
import torch.nn.functional as F

def cross_entropy(logits, target, *, ignore_index, label_smoothing, z_loss, reduction):
    x = logits.float() if logits.dtype.itemsize < 4 else logits
    loss = F.cross_entropy(x, target, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction="none")
    counted = target != ignore_index
    loss = loss + z_loss * (x.logsumexp(1) ** 2).where(counted, 0)
    if reduction == "mean":
        loss = loss.sum() / counted.sum()
    elif reduction == "sum":
        loss = loss.sum()
    return loss.to(logits.dtype)
"""


def command(*arguments):
    from click.testing import CliRunner

    from perfsuite.cli import cli

    return CliRunner().invoke(cli, ["ops", "check", *arguments], standalone_mode=False)


def test_somebodys_file_is_checked(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(RIGHT)
    done = command("cross_entropy", "--kernel", str(path), "--examples", "0", "--json")
    results = json.loads(done.stdout)["results"]
    assert done.return_value == 0, [r for r in results if r["ok"] is False]
    assert {"case", "gradcheck", "fullgraph", "deterministic"} == {result["check"] for result in results}
    path.write_text(RIGHT.replace("z_loss *", "0 *"))
    done = command("cross_entropy", "--kernel", str(path), "--examples", "0")
    assert done.return_value == 1 and "FAILED cross_entropy=mine" in done.stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [("def other(): pass\n", "lacks the function cross_entropy"), ("import nothing_here\n", "ModuleNotFoundError")],
)
def test_a_file_without_the_kernel_is_refused_in_one_line(tmp_path, text, words):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as error:
        kernel_from_file(path, OP)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    "arguments", [["ops", "check", "softmax"], ["ops", "bench", "softmax"], ["ops", "list"], ["run", "llama"]]
)
def test_a_gpu_that_is_not_there_is_one_line(arguments, tmp_path, monkeypatch):
    from click.testing import CliRunner

    from perfsuite.cli import cli

    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, [*arguments, "--device", "cuda"], standalone_mode=False)
    assert not (tmp_path / "runs").exists()
    assert isinstance(done.exception, ValueError) and "torch sees no CUDA device" in str(done.exception)


def test_an_unknown_implementation_is_refused():
    done = command("cross_entropy", "--impl", "ccp")
    assert isinstance(done.exception, ValueError) and "has no implementation 'ccp'" in str(done.exception)

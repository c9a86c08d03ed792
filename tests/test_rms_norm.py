"""What RMSNorm alone can get wrong. The rest: test_norms.py."""

from perfsuite.kernels import norm_cases, rms_norm
from perfsuite.kernels.check import check
from perfsuite.kernels.contract import Implementation

CASES = {case.name: case for case in norm_cases.tiny()}


def failures(run, name):
    return check(rms_norm.OP, Implementation("wrong", run, lambda device: None), CASES[name]).failures


def test_a_centered_norm_is_refused():
    def run(x, **arguments):
        return rms_norm.OP.implementations["eager"].run(x=x - x.mean(-1, keepdim=True), **arguments)

    assert any("output: RMS" in line for line in failures(run, "1x1031 float32"))


def test_a_norm_in_bfloat16_is_refused():
    def run(x, **arguments):
        return rms_norm.OP.implementations["eager"].run(x=x.bfloat16(), **arguments).float()

    found = failures(run, "9x70 float32 values=zeros")
    assert any("output: RMS" in line for line in found) and any("grad_x: RMS" in line for line in found)


def test_compile_is_right():
    case = CASES["13x100 float32 layout=every second residual=same"]
    report = check(rms_norm.OP, rms_norm.OP.implementations["compile"], case)
    assert report.ok, report

"""The flop formulas against torch.utils.flop_counter on real ops, and what they do with what they cannot know."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from perfsuite.flops import FORMULAS, WITHOUT_ARITHMETIC, flops
from perfsuite.signature import parse, write_share

_DTYPES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.int64: "i64", torch.uint8: "u8"}


def _text(values) -> str:
    tensors = [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]
    return " ".join(f"{_DTYPES[t.dtype]}[{','.join(map(str, t.shape))}]" for t in tensors)


class _Signatures(TorchDispatchMode):
    """Name and signature of every op, written as the op recorder does."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        signature = f"{_text([args, kwargs])} -> {_text(out)}"
        if "attention" in str(func):
            signature += " causal=0"  # torch's counter does not look at the mask
        self.calls.append((str(func).rsplit(".", 1)[0].replace(".", "::"), signature))
        return out


def _counted(run) -> tuple[int, dict[str, int]]:
    """Flops of run() by torch's counter, and ours by op name."""
    signatures = _Signatures()
    with FlopCounterMode(display=False) as counter, signatures:
        run()
    ours = {}
    for name, signature in signatures.calls:
        count = flops(name, signature)
        if count is not None:
            ours[name] = ours.get(name, 0) + count
    return counter.get_total_flops(), ours


def _t(*shape, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("aten::mm", lambda: (_t(5, 7) @ _t(7, 11)).sum().backward()),
        ("aten::addmm", lambda: F.linear(_t(6, 7), _t(11, 7), _t(11)).sum().backward()),
        ("aten::bmm", lambda: torch.bmm(_t(3, 5, 7), _t(3, 7, 11)).sum().backward()),
        ("aten::baddbmm", lambda: torch.baddbmm(_t(3, 5, 11), _t(3, 5, 7), _t(3, 7, 11)).sum().backward()),
        ("aten::convolution", lambda: F.conv1d(_t(2, 4, 16), _t(6, 4, 5), stride=2)),
        ("aten::convolution", lambda: F.conv2d(_t(2, 4, 16, 15), _t(6, 4, 3, 5), padding=1)),
        ("aten::convolution", lambda: F.conv2d(_t(2, 8, 16, 16), _t(6, 4, 3, 3), groups=2)),
        ("aten::convolution", lambda: F.conv_transpose2d(_t(2, 4, 7, 7), _t(4, 6, 3, 3), stride=2)),
        ("aten::convolution_backward", lambda: F.conv2d(_t(2, 4, 16, 15), _t(6, 4, 3, 3), _t(6)).sum().backward()),
        ("aten::convolution_backward", lambda: F.conv_transpose2d(_t(2, 4, 7, 7), _t(4, 6, 3, 3)).sum().backward()),
        (
            "aten::convolution_backward",  # no gradient of the input: half the products
            lambda: F.conv2d(torch.randn(2, 4, 16, 15), _t(6, 4, 3, 3), _t(6)).sum().backward(),
        ),
    ],
)
def test_counts_are_torchs(name, run):
    theirs, ours = _counted(run)
    assert ours[name] > 0
    assert sum(ours.values()) == theirs


def test_attention_counts_are_torchs():
    # The counter has no entry for the CPU's fused kernels, but the functions that it counts other backends' with.
    q, k, v = _t(2, 3, 16, 8), _t(2, 3, 24, 8), _t(2, 3, 24, 8)
    _, ours = _counted(lambda: F.scaled_dot_product_attention(q, k, v).sum().backward())
    assert ours == {
        "aten::_scaled_dot_product_flash_attention_for_cpu": sdpa_flop_count(q.shape, k.shape, v.shape),
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward": sdpa_backward_flop_count(
            q.shape, q.shape, k.shape, v.shape
        ),
    }


@pytest.mark.filterwarnings("ignore:TF32")  # torch says so where oneDNN is switched off
@pytest.mark.parametrize(("kind", "layers", "both_ways"), [("LSTM", 1, False), ("LSTM", 2, True), ("GRU", 2, True)])
def test_recurrent_layers_count_what_their_steps_do(kind: str, layers: int, both_ways: bool) -> None:
    length, batch, hidden = 5, 3, 6
    net = getattr(torch.nn, kind)(4, hidden, num_layers=layers, bidirectional=both_ways)
    x, states = _t(length, batch, 4), [_t(layers * (1 + both_ways), batch, hidden) for _ in range(2)]

    def run() -> None:
        net(x, tuple(states) if kind == "LSTM" else states[0])[0].sum().backward()

    with torch.backends.mkldnn.flags(enabled=False):  # step by step, in products that torch's counter knows
        theirs, ours = _counted(run)
    assert sum(ours.values()) == theirs > 0
    if kind == "GRU":
        return
    _, layer = _counted(run)
    assert layer["aten::mkldnn_rnn_layer"] + layer["aten::mkldnn_rnn_layer_backward"] == theirs
    # cuDNN does all layers and directions in one call.
    state = f"f32[{layers * (1 + both_ways)},{batch},{hidden}]"
    out = f"f32[{length},{batch},{hidden * (1 + both_ways)}]"
    inputs = f"f32[5,3,4] [8xf32 1.2k] f32[1234] {state} {state}"
    forward = flops("aten::_cudnn_rnn", f"{inputs} -> {out} {state} {state} u8[99] f32[1234]")
    backward = flops("aten::_cudnn_rnn_backward", f"{inputs} {out} {out} u8[99] -> f32[5,3,4] {state} {state}")
    assert forward == layer["aten::mkldnn_rnn_layer"]
    assert backward == layer["aten::mkldnn_rnn_layer_backward"]


def test_the_gates_of_other_layers_on_a_gpu_are_not_known() -> None:
    state, out = "f32[2,3,6]", "f32[5,3,12]"
    assert flops("aten::_cudnn_rnn", f"f32[5,3,4] [8xf32 1.2k] f32[1234] {state} -> {out} {state}") is None
    once = "f32[1,3,6]"  # one step of one layer: its output could be taken for a state
    inputs = f"f32[1,3,4] [4xf32 0.3k] f32[300] {once}"
    assert flops("aten::_cudnn_rnn_backward", f"{inputs} {once} {once} u8[9] -> f32[1,3,4] {once}") is None


@pytest.mark.parametrize(
    ("run", "products"),
    [
        (lambda: torch.mv(torch.randn(4, 5), torch.randn(5)), 2 * 20),
        (lambda: torch.addmv(torch.randn(4), torch.randn(4, 5), torch.randn(5)), 2 * 20),
        (lambda: torch.dot(torch.randn(7), torch.randn(7)), 2 * 7),
    ],
)
def test_products_with_vectors(run, products):
    _, ours = _counted(run)
    assert sum(ours.values()) == products


def test_what_only_moves_or_compares_has_no_formula():
    assert not WITHOUT_ARITHMETIC & FORMULAS.keys()
    schemas = {schema.name for schema in torch._C._jit_get_all_schemas()}
    assert schemas >= WITHOUT_ARITHMETIC


def test_real_ops_are_recorded_under_names_that_have_a_formula():
    with torch.profiler.profile(record_shapes=True) as profile:
        F.conv2d(torch.randn(2, 4, 16, 16), torch.randn(6, 4, 3, 3))
        F.scaled_dot_product_attention(*(torch.randn(2, 3, 16, 8) for _ in range(3)))
    names = {event.name for event in profile.events()}
    assert {"aten::mkldnn_convolution", "aten::_slow_conv2d_forward"} & names
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in names
    assert flops("aten::mkldnn_convolution", "f32[2,4,16,16] f32[6,4,3,3] -> f32[2,6,14,14]") == 2 * 2 * 6 * 196 * 4 * 9


def test_a_causal_mask_counts_half_and_an_unknown_mask_not_at_all():
    name, shapes = "aten::_scaled_dot_product_flash_attention_for_cpu", "f32[2,3,16,8] f32[2,3,16,8] f32[2,3,16,8]"
    full = flops(name, f"{shapes} -> f32[2,3,16,8] causal=0")
    assert full == 2 * 2 * (2 * 3 * 16 * 16 * 8)
    assert flops(name, f"{shapes} -> f32[2,3,16,8] causal=1") == full // 2
    assert flops(name, f"{shapes} -> f32[2,3,16,8]") is None


@pytest.mark.parametrize(
    ("name", "signature"),
    [
        ("aten::add", "f32[4] f32[4] -> f32[4]"),  # no formula
        ("aten::mm", "f32[4,5]"),  # an operand is missing
        ("aten::mm", "f32[4,5] f32[6,7] -> f32[4,7]"),  # not a product
        ("aten::mm", ""),
        ("aten::bmm", "f32[?] f32[3,4,5] f32[3,5,6] -> f32[3,4,6]"),
        ("aten::convolution", "f32[2,4,16,16] f32[6,4,3,3]"),  # what came out was not recorded
        ("aten::convolution", "f32[2,4,8,8] f32[4,4,3,3] -> f32[2,4,16,16]"),  # plain or transposed: cannot tell
        ("aten::convolution_backward", "f32[2,6,14,14] f32[2,4,16,16]"),
    ],
)
def test_what_is_not_known_is_none(name, signature):
    assert flops(name, signature) is None


def test_signature_is_read_back():
    signature = parse("f32[1024,128] bf16[] i64[3] -> f32[1024,384] causal=1")
    assert [(t.dtype, t.shape) for t in signature.inputs] == [("f32", (1024, 128)), ("bf16", ()), ("i64", (3,))]
    assert signature.outputs[0].shape == (1024, 384)
    assert signature.attributes == {"causal": "1"}
    assert signature.inputs[1].size_bytes == 2
    assert len(parse("[24xf32 1.2M] f32[2] -> f32[2]").inputs) == 1


def test_write_share_is_of_bytes():
    assert write_share("f32[10] f32[10] -> f32[10]") == pytest.approx(1 / 3)
    assert write_share("bf16[10] -> f32[10]") == pytest.approx(2 / 3)
    assert write_share("f32[10] f32[10]") is None
    assert write_share("[24xf32 1.2M] f32[2] -> f32[2]") is None
    assert write_share("odd[10] -> f32[10]") is None

"""Floating-point operations of one call, from the op's name and the shapes it was called with.

A multiply-add counts as two. Bias additions, softmax and scalings are left out: they are of lower order than the
products, and torch.utils.flop_counter, against which the tests check these formulas, leaves them out too. An op without
a formula has no known count: None, never 0.
"""

import math
from collections.abc import Callable

from perfsuite.signature import Signature, parse

Formula = Callable[[Signature], int | None]


def _matmul(signature: Signature) -> int | None:
    """(..., m, k) @ (..., k, n), the last two tensor inputs: 2 m k n times the batch."""
    if len(signature.inputs) < 2:
        return None
    left, right = signature.inputs[-2:]
    if len(left.shape) < 2 or len(right.shape) != len(left.shape) or left.shape[-1] != right.shape[-2]:
        return None
    return 2 * left.numel * right.shape[-1]


def _linear(signature: Signature) -> int | None:
    """x (..., k) and weight (n, k): 2 n per element of x."""
    if len(signature.inputs) < 2:
        return None
    x, weight = signature.inputs[:2]
    if not x.shape or len(weight.shape) != 2 or x.shape[-1] != weight.shape[1]:
        return None
    return 2 * x.numel * weight.shape[0]


def _is_transposed(out: tuple[int, ...], x: tuple[int, ...], weight: tuple[int, ...]) -> bool | None:
    """Whether a convolution from x to out is a transposed one; None where the shapes fit both or neither.

    A weight is (out, in / groups, ...), transposed (in, out / groups, ...).
    """
    plain = weight[0] == out[1] and x[1] % weight[1] == 0
    transposed = weight[0] == x[1] and out[1] % weight[1] == 0
    if plain != transposed:
        return transposed
    # Both fit where the channels are equal. The two counts agree where the sizes do; a plain convolution that
    # enlarges its input (padding beyond half the filter) cannot be told from a transposed one by shapes.
    return False if plain and math.prod(out[2:]) <= math.prod(x[2:]) else None


def _convolution_products(out: tuple[int, ...], x: tuple[int, ...], weight: tuple[int, ...],
                          transposed: bool | None) -> int | None:  # fmt: skip
    """2 multiply-adds per filter tap: for each output element (transposed: each input element)."""
    if not len(out) == len(x) == len(weight) or len(x) < 3:
        return None
    if transposed is None and (transposed := _is_transposed(out, x, weight)) is None:
        return None
    return 2 * math.prod(x if transposed else out) * math.prod(weight[1:])


def _convolution(transposed: bool | None) -> Formula:
    def formula(signature: Signature) -> int | None:
        if len(signature.inputs) < 2 or not signature.outputs:
            return None
        x, weight = signature.inputs[:2]
        return _convolution_products(signature.outputs[0].shape, x.shape, weight.shape, transposed)

    return formula


def _convolution_backward(signature: Signature) -> int | None:
    """grad_output, input, weight: as many products as the forward for each of grad_input and grad_weight."""
    if len(signature.inputs) < 3 or signature.outputs is None:
        return None
    grad, x, weight = (tensor.shape for tensor in signature.inputs[:3])
    products = _convolution_products(grad, x, weight, None)
    gradients = sum(len(tensor.shape) >= 3 for tensor in signature.outputs)  # grad_bias has one dimension
    return None if products is None else gradients * products


def _attention(skip: int, products_qk: int, products_v: int, heads_axis: int) -> Formula:
    """Attention over q, k, v, which follow `skip` other inputs.

    products_qk matrix products have the head size of q and k as an edge, products_v that of v. Forward: Q K' and P V.
    Backward of the fused kernels (Dao et al. 2022, algorithm 4): Q K' again, dP = dO V', dV = P' dO, dQ = dS K,
    dK = dS' Q. A causal mask leaves half of the square.
    """

    def formula(signature: Signature) -> int | None:
        causal = signature.attributes.get("causal", signature.attributes.get("is_causal"))
        if len(signature.inputs) < skip + 3 or causal is None:
            return None
        q, k, v = (tensor.shape for tensor in signature.inputs[skip : skip + 3])
        if not len(q) == len(k) == len(v) == 4:
            return None
        batch, heads, queries, keys = q[0], q[heads_axis], q[3 - heads_axis], k[3 - heads_axis]
        total = 2 * batch * heads * queries * keys * (products_qk * q[3] + products_v * v[3])
        return total // 2 if causal in ("1", "true") else total

    return formula


def _matrix_vector(signature: Signature) -> int | None:
    """(m, k) @ (k), the last two tensor inputs: 2 m k."""
    if len(signature.inputs) < 2:
        return None
    matrix, vector = signature.inputs[-2:]
    return 2 * matrix.numel if len(matrix.shape) == 2 and matrix.shape[1:] == vector.shape else None


def _dot(signature: Signature) -> int | None:
    """Two vectors of n elements: 2 n."""
    if len(signature.inputs) != 2:
        return None
    left, right = signature.inputs
    return 2 * left.numel if len(left.shape) == 1 and left.shape == right.shape else None


def _recurrent(times: int) -> Formula:
    """One layer in one direction over x (..., I), with weights (G, I) and (G, H) next: 2 G (I + H) for each of the time
    steps of all sequences. G is 4 H for an LSTM (Hochreiter and Schmidhuber 1997), 3 H for a GRU (Cho et al. 2014).

    times: 1 forward; 2 backward, as each of the two products has a gradient for either factor. The gates' own
    arithmetic is left out, as are biases.
    """

    def formula(signature: Signature) -> int | None:
        if len(signature.inputs) < 3:
            return None
        x, of_x, of_state = signature.inputs[:3]
        if not x.shape or len(of_x.shape) != 2 or len(of_state.shape) != 2:
            return None
        if x.shape[-1] != of_x.shape[1] or of_x.shape[0] != of_state.shape[0]:
            return None
        return times * 2 * math.prod(x.shape[:-1]) * (of_x.numel + of_state.numel)

    return formula


def _cudnn_lstm(times: int) -> Formula:
    """All L layers in all D directions of an LSTM at once: x (..., I), states (L D, B, H), output (..., D H).

    A layer has weights (4 H, inputs) and (4 H, H) in each direction; from the second on its inputs are D H. Only an
    LSTM has a second state of the shape of the first, the cells; of other layers the number of gates is not known.
    """

    def formula(signature: Signature) -> int | None:
        x, *rest = signature.inputs or (None,)
        states = [tensor for tensor in rest if len(tensor.shape) == 3]
        if x is None or len(states) < 2 or states[0].shape != states[1].shape or not signature.outputs:
            return None
        layers, _, hidden = states[0].shape
        out = signature.outputs[0].shape if times == 1 else states[2].shape if len(states) > 2 else ()
        if not out or not hidden or out[-1] % hidden:
            return None
        if times == 2 and out == states[0].shape:
            return None  # in a GRU's backward, output and its gradient stand where states are looked for
        directions = out[-1] // hidden
        if not directions or layers % directions:
            return None
        first = 4 * hidden * (x.shape[-1] + hidden)
        other = 4 * hidden * (directions + 1) * hidden
        weights = directions * (first + (layers // directions - 1) * other)
        return times * 2 * math.prod(x.shape[:-1]) * weights

    return formula


_HEADS_SECOND, _HEADS_THIRD = 1, 2  # (batch, heads, length, head size), (batch, length, heads, head size)

FORMULAS: dict[str, Formula] = {
    **dict.fromkeys(("aten::mm", "aten::addmm", "aten::addmm_", "aten::_addmm_activation", "aten::bmm",
                     "aten::baddbmm", "aten::baddbmm_"), _matmul),
    **dict.fromkeys(("aten::mv", "aten::addmv", "aten::addmv_"), _matrix_vector),
    **dict.fromkeys(("aten::dot", "aten::vdot"), _dot),
    "aten::mkldnn_rnn_layer": _recurrent(1),
    "aten::mkldnn_rnn_layer_backward": _recurrent(2),
    "aten::_cudnn_rnn": _cudnn_lstm(1),
    "aten::_cudnn_rnn_backward": _cudnn_lstm(2),
    **dict.fromkeys(("aten::linear", "aten::mkldnn_linear", "mkldnn::_linear_pointwise"), _linear),
    **dict.fromkeys(("aten::convolution", "aten::_convolution", "aten::conv1d", "aten::conv2d", "aten::conv3d"),
                    _convolution(None)),
    **dict.fromkeys(("aten::mkldnn_convolution", "aten::cudnn_convolution", "aten::cudnn_convolution_relu",
                     "aten::_slow_conv2d_forward", "aten::slow_conv3d_forward", "aten::_conv_depthwise2d",
                     "aten::thnn_conv2d", "aten::slow_conv_dilated2d"), _convolution(False)),
    **dict.fromkeys(("aten::cudnn_convolution_transpose", "aten::slow_conv_transpose2d",
                     "aten::conv_transpose1d", "aten::conv_transpose2d", "aten::conv_transpose3d"), _convolution(True)),
    "aten::convolution_backward": _convolution_backward,
    **dict.fromkeys(("aten::scaled_dot_product_attention", "aten::_scaled_dot_product_flash_attention",
                     "aten::_scaled_dot_product_flash_attention_for_cpu",
                     "aten::_scaled_dot_product_efficient_attention",
                     "aten::_scaled_dot_product_cudnn_attention"), _attention(0, 1, 1, _HEADS_SECOND)),
    **dict.fromkeys(("aten::_scaled_dot_product_flash_attention_backward",
                     "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
                     "aten::_scaled_dot_product_efficient_attention_backward",
                     "aten::_scaled_dot_product_cudnn_attention_backward"), _attention(1, 3, 2, _HEADS_SECOND)),
    **dict.fromkeys(("aten::_flash_attention_forward", "aten::_efficient_attention_forward"),
                    _attention(0, 1, 1, _HEADS_THIRD)),
    **dict.fromkeys(("aten::_flash_attention_backward", "aten::_efficient_attention_backward"),
                    _attention(1, 3, 2, _HEADS_THIRD)),
}  # fmt: skip

WRAPPERS = frozenset({
    "aten::mv", "aten::linear", "aten::convolution", "aten::_convolution", "aten::conv1d", "aten::conv2d",
    "aten::conv3d", "aten::thnn_conv2d", "aten::conv_transpose1d", "aten::conv_transpose2d", "aten::conv_transpose3d",
    "aten::scaled_dot_product_attention", "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_efficient_attention", "aten::_scaled_dot_product_flash_attention_backward",
    "aten::_scaled_dot_product_efficient_attention_backward",
})  # fmt: skip
"""Ops with a formula that leave the work to another op with one: in an account of both, theirs is 0."""

WITHOUT_ARITHMETIC = frozenset({
    # Move, fill or repeat.
    "aten::copy_", "aten::_foreach_copy_", "aten::fill_", "aten::zero_", "aten::_foreach_zero_", "aten::cat",
    "aten::index", "aten::_unsafe_index", "aten::index_select", "aten::gather", "aten::take", "aten::index_copy",
    "aten::index_copy_", "aten::index_fill_", "aten::masked_fill_", "aten::masked_select", "aten::masked_scatter_",
    "aten::where", "aten::flip", "aten::tril", "aten::triu", "aten::tril_", "aten::triu_", "aten::im2col",
    "aten::pixel_shuffle", "aten::reflection_pad2d", "aten::upsample_nearest2d", "aten::repeat_interleave",
    "aten::max_pool2d_with_indices_backward",
    # Compare: an order or a mask, the elements as they were.
    "aten::eq", "aten::ne", "aten::lt", "aten::le", "aten::gt", "aten::ge", "aten::sort", "aten::topk", "aten::argmax",
    "aten::argmin", "aten::max", "aten::min", "aten::amax", "aten::amin", "aten::maximum", "aten::minimum",
    "aten::median", "aten::kthvalue", "aten::clamp", "aten::clamp_", "aten::clamp_min", "aten::clamp_min_",
    "aten::clamp_max", "aten::clamp_max_", "aten::threshold_backward", "aten::max_pool2d_with_indices",
    "aten::searchsorted", "aten::bucketize", "aten::nonzero", "aten::isnan", "aten::isin", "aten::any", "aten::all",
    "aten::bitwise_not", "aten::logical_not", "aten::logical_and", "aten::logical_or", "aten::equal",
    "aten::_local_scalar_dense",
})  # fmt: skip
"""Ops that add and multiply nothing: in an account their count is 0, which is known."""


def flops(name: str, signature: str) -> int | None:
    """Floating-point operations of one call of the op `name` with this signature, or None where not known."""
    formula = FORMULAS.get(name)
    return None if formula is None else formula(parse(signature))


def is_counted(name: str) -> bool:
    """Whether there is a formula for this op, so that None from flops() is missing knowledge and not a cheap op."""
    return name in FORMULAS


def is_attention(name: str) -> bool:
    """Whether the count of this op depends on its mask."""
    return name in FORMULAS and "attention" in name


_ATTENTION_BACKWARD = {
    **dict.fromkeys(("aten::_scaled_dot_product_flash_attention_for_cpu_backward",
                     "aten::_scaled_dot_product_cudnn_attention_backward"), _attention(1, 1, 0, _HEADS_SECOND)),
    **dict.fromkeys(("aten::_flash_attention_backward", "aten::_efficient_attention_backward"),
                    _attention(1, 1, 0, _HEADS_THIRD)),
}  # fmt: skip


def recomputed(name: str, signature: str) -> int | None:
    """Of flops(): what one call computes a second time to save memory. Fused attention's backward does Q K' again."""
    formula = _ATTENTION_BACKWARD.get(name)
    return 0 if formula is None else formula(parse(signature))


def is_forward_only(name: str) -> bool:
    """Whether no derivative calls this op, so that one in a backward pass is a forward that runs again.

    Matrix products are what gradients are made of, too: they are not among these.
    """
    return name in FORMULAS and "backward" not in name and any(kind in name for kind in ("conv", "attention", "rnn"))

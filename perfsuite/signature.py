"""Read back the tensor signatures that the op recorder writes: "f32[1024,128] f32[128,384] -> f32[1024,384]"."""

import math
import re
from functools import lru_cache
from typing import NamedTuple

OTHER_SHAPES = "(other shapes)"
"""What stands for the calls of an op beyond the shapes that the recorder keeps apart (csrc/torch/op_thread.cpp)."""
_TENSOR = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\[([0-9,]*)\]")
_LIST = re.compile(r"\[\d+x")
_ATTRIBUTE = re.compile(r"\b([a-z_]+)=([a-z0-9_.+-]+)", re.IGNORECASE)
_ITEM_BYTES = {
    "f64": 8, "f32": 4, "f16": 2, "bf16": 2, "Float8_e4m3fn": 1, "Float8_e5m2": 1, "c64": 8, "c128": 16,
    "i64": 8, "i32": 4, "i16": 2, "i8": 1, "u8": 1, "bool": 1,
}  # fmt: skip


class Tensor(NamedTuple):
    """One tensor of a signature."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int | None:
        """Bytes of its elements, or None where the dtype is not known here."""
        item = _ITEM_BYTES.get(self.dtype)
        return None if item is None else item * self.numel


class Signature(NamedTuple):
    """Tensor inputs and outputs of one call, in the order of the op's schema."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...] | None
    """None where the signature does not say what came out."""
    attributes: dict[str, str]
    """What is not a tensor, e.g. {"causal": "1"}."""


def _tensors(text: str) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(dtype, tuple(int(n) for n in shape.split(",") if n.strip())) for dtype, shape in _TENSOR.findall(text)
    )


@lru_cache(maxsize=4096)
def parse(text: str) -> Signature:
    """The signature written in `text`. Lists of tensors ("[24xf32 1.2M]") are left out: their shapes are not in it.

    Without tensors where a shape was not plain ("f32[?]"), so that none is taken for another.
    """
    if "[?]" in text:
        return Signature((), None, {})
    before, arrow, after = text.partition("->")
    attributes = {key.lower(): value.lower() for key, value in _ATTRIBUTE.findall(text)}
    return Signature(_tensors(before), _tensors(after) if arrow else None, attributes)


def write_share(text: str) -> float | None:
    """Share of the bytes of a call that are written: outputs over inputs and outputs, 0 to 1. None where not known."""
    signature = parse(text)
    if not signature.outputs or _LIST.search(text):
        return None
    sizes_in = [tensor.size_bytes for tensor in signature.inputs]
    sizes_out = [tensor.size_bytes for tensor in signature.outputs]
    if None in sizes_in or None in sizes_out:
        return None
    total = sum(sizes_in) + sum(sizes_out)
    return sum(sizes_out) / total if total else None

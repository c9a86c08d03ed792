"""TFRecord files and the tf.train.Example messages in them, read without TensorFlow.

A file is a row of records, little endian: length (uint64), masked CRC-32C of those 8 bytes (uint32), the message,
masked CRC-32C of the message (uint32). The length's sum is checked, and so is that the file ends where a record does.
The message's sum is not: there is no CRC-32C in the standard library, and byte by byte in Python it would cost more
than everything else here.

An Example is a protocol buffer: Features (field 1) of map entries (1) of a key (1) and a Feature (2), which is a list
of bytes (1), float32 (2) or int64 (3) with its values in field 1, packed. TensorFlow: core/lib/io/record_writer.h,
core/example/feature.proto. A batch's integers are decoded in one go: packages that do it value by value are slower than
a GPU that trains on them.
"""

from collections.abc import Iterator
from pathlib import Path

import torch

HEADER_BYTES, SUM_BYTES = 12, 4
POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed
MASK_DELTA = 0xA282EAD8
LENGTH_DELIMITED = 2  # wire type of messages, bytes and packed lists


def _crc_of_byte(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (POLYNOMIAL if value & 1 else 0)
    return value


_TABLE = [_crc_of_byte(value) for value in range(256)]


def masked_crc(data: bytes) -> int:
    """CRC-32C as TFRecord stores it: rotated, and a constant added."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF


def records(path: Path) -> Iterator[bytes]:
    """The messages of a file, in order. Raises ValueError, in one line, for another kind of file and a damaged one."""
    with path.open("rb") as file:
        while header := file.read(HEADER_BYTES):
            length, crc = int.from_bytes(header[:8], "little"), int.from_bytes(header[8:], "little")
            if len(header) < HEADER_BYTES or masked_crc(header[:8]) != crc:
                at = file.tell() - len(header)
                raise ValueError(f"{path} has no TFRecord at byte {at}: it is of another kind, or damaged")
            message = file.read(length + SUM_BYTES)
            if len(message) < length + SUM_BYTES:
                raise ValueError(f"{path} ends inside a record: it is cut off, copy it again")
            yield message[:length]


def features(example: bytes) -> dict[str, memoryview]:
    """The packed values of each feature of a tf.train.Example, by name; of a list of bytes, its one value.

    Raises ValueError for what is no such message, and for a list of several values of bytes.
    """
    found = {}
    for _, entries in _fields(memoryview(example)):
        for _, entry in _fields(entries):
            key, feature = (content for _, content in _fields(entry))
            values = [content for _, values in _fields(feature) for _, content in _fields(values)]
            if len(values) > 1:
                raise ValueError(f"feature {bytes(key).decode()} has {len(values)} values, one packed list is expected")
            found[bytes(key).decode()] = values[0] if values else memoryview(b"")
    return found


def integers(packed: bytes) -> torch.Tensor:
    """Values of packed int64 lists, one after the other: (values,) int64. Base 128, low digits first, high bit: more.

    Raises ValueError where the bytes end inside a value.
    """
    if not packed:
        return torch.empty(0, dtype=torch.int64)
    data = torch.frombuffer(bytearray(packed), dtype=torch.uint8)
    ends = (data < 128).nonzero()[:, 0]
    if not len(ends) or int(ends[-1]) != len(data) - 1:
        raise ValueError("a packed list of int64 ends inside a value")
    starts = torch.cat((ends.new_zeros(1), ends[:-1] + 1))
    digits, values = (data & 127).long(), torch.zeros_like(ends)
    for place in range(int((ends - starts).max()) + 1):
        at = starts + place
        values += torch.where(at <= ends, digits[at.clamp(max=len(data) - 1)] << 7 * place, 0)
    return values


def floats(packed: bytes) -> torch.Tensor:
    """Values of packed float lists, one after the other: (values,) float32."""
    return torch.frombuffer(bytearray(packed), dtype=torch.float32) if packed else torch.empty(0)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each field of a message whose fields are all length-delimited."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        length, at = _varint(message, at)
        if tag & 7 != LENGTH_DELIMITED or at + length > len(message):
            raise ValueError("a record is no tf.train.Example with packed lists")
        yield tag >> 3, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number that begins at a byte, and where it ends."""
    value = shift = 0
    while at < len(message):
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("a record is no tf.train.Example with packed lists")

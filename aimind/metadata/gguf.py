"""The header of a GGUF file: its keys and the list of its tensors, never a weight.

The layout is that of docs/gguf.md in ggml, the limits are those of `gguf_init_from_reader` in llama.cpp's
ggml/src/gguf.cpp: what that refuses is damaged here too. Arrays are walked over, not built: a vocabulary of
150,000 strings costs its bytes and a few nanoseconds each. No length in the file is believed before the bytes
that it promises are known to exist.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from aimind.errors import MetadataError
from aimind.metadata.summary import shown
from aimind.types import Reader, Tensor
from aimind.types.ggml import TENSOR_TYPES

TOKENIZER = "tokenizer.ggml.model"  # its kind: `gpt2`, `llama`, `bert`, `none`
Scalar = str | int | float | bool

FIRST_BLOCK_BYTES = 2 << 20
LARGEST_BLOCK_BYTES = 4 << 20
# Some times the largest known (Gemma 4: 16 MB): they bound the time and memory that a hostile file can take.
LARGEST_HEADER_BYTES = 64 << 20
MOST_KEYS = 1024
MOST_TENSORS = 32_768
LARGEST_STRING_BYTES = 1 << 20
LARGEST_KEPT_ARRAY = 1024  # of those with a number for each layer
LARGEST_NAME_BYTES = 1024
LARGEST_ALIGNMENT = 1 << 16
MAX_DIMENSIONS = 4

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
# The number is the file's `gguf_metadata_value_type`.
_NUMBERS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_STRING, _ARRAY = 8, 9
_SMALLEST_KEY_BYTES = 8 + 1 + 4 + 1
_SMALLEST_TENSOR_BYTES = 8 + 1 + 4 + 4 + 8

FETCH_AGAIN = "The download broke off or the file was damaged: delete it and download it again."


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a GGUF file says before its weights.

    Attributes:
        path: of the file, for messages.
        values: scalars and short arrays of numbers, by key. Text of the tokenizer is left out.
        lengths: of every array, by key.
        tensors: in the file's order.
    """

    path: str
    values: Mapping[str, Scalar | tuple[Scalar, ...]]
    lengths: Mapping[str, int]
    tensors: tuple[Tensor, ...]


def read_header(reader: Reader, path: str) -> Header:
    """The header of one GGUF file (version 2 or 3, little endian).

    Raises:
        MetadataError: not a GGUF file, damaged, or cut short (in its header or in its weights).
    """
    cursor = _Cursor(reader, path)
    _check_magic(cursor)
    tensor_count = cursor.count(_SMALLEST_TENSOR_BYTES, "tensors", MOST_TENSORS)
    key_count = cursor.count(_SMALLEST_KEY_BYTES, "keys", MOST_KEYS)
    values: dict[str, Scalar | tuple[Scalar, ...]] = {}
    lengths: dict[str, int] = {}
    keys: set[str] = set()
    for _ in range(key_count):
        key = cursor.name("a key")
        if key in keys:
            raise cursor.damaged(f"the key {shown(key)} appears twice")
        keys.add(key)
        _read_value(cursor, key, values, lengths)
    infos = [_read_tensor(cursor) for _ in range(tensor_count)]
    alignment = _alignment(cursor, values)
    tensors = _place(cursor, infos, alignment)
    return Header(path=path, values=values, lengths=lengths, tensors=tensors)


class _Cursor:
    """Walks forward through the file, fetching it in growing blocks, but not what it jumps over."""

    def __init__(self, reader: Reader, path: str) -> None:
        self.path = path
        self.size_bytes = reader.size_bytes
        self._reader = reader
        self._block_bytes = FIRST_BLOCK_BYTES
        self._buffer = b""
        self._start = 0  # of the buffer, in the file
        self._at = 0  # in the buffer; behind its end after a jump

    @property
    def offset(self) -> int:
        """Where it stands in the file."""
        return self._start + self._at

    def damaged(self, what: str) -> MetadataError:
        """The error to raise when the header contradicts itself."""
        return MetadataError(f"{self.path} is damaged: {what}", hint=FETCH_AGAIN)

    def take(self, length: int) -> bytes:
        """The next bytes."""
        self._fill(length)
        taken = self._buffer[self._at : self._at + length]
        self._at += length
        return taken

    def u32(self) -> int:
        """The next unsigned number of 4 bytes."""
        return int(_U32.unpack(self.take(4))[0])

    def u64(self) -> int:
        """The next unsigned number of 8 bytes."""
        return int(_U64.unpack(self.take(8))[0])

    def count(self, smallest_bytes: int, of: str, most: int | None = None) -> int:
        """A number of things that take at least so many bytes each, refused when the file is too small."""
        count = self.u64()
        if count * smallest_bytes > self.size_bytes - self.offset:
            raise self.damaged(f"it claims {count:,} {of}, more than its {self.size_bytes:,} bytes can hold")
        if most is not None and count > most:
            raise self.damaged(f"it claims {count:,} {of}, more than any model has")
        return count

    def name(self, what: str) -> str:
        """The next string, which must be one that a terminal can show."""
        length = self.u64()
        if not 0 < length <= LARGEST_NAME_BYTES:
            raise self.damaged(f"{what} of {length:,} bytes at byte {self.offset:,}")
        try:
            text = self.take(length).decode()
        except UnicodeDecodeError as error:
            raise self.damaged(f"{what} at byte {self.offset - length:,} is not UTF-8") from error
        if not text.isprintable():
            raise self.damaged(f"{what} at byte {self.offset - length:,} is {shown(text)}")
        return text

    def skip(self, length: int) -> None:
        """Jump over so many bytes without fetching them."""
        if length > self.size_bytes - self.offset:
            raise self._cut_short()
        self._at += length

    def skip_strings(self, count: int) -> None:
        """Jump over strings: only their lengths are read."""
        length_at = _U64.unpack_from  # hundreds of thousands of calls: what this loop does not do is time won
        while count:
            self._fill(8)
            buffer, at, walked = self._buffer, self._at, 0
            try:
                for walked in range(count):  # noqa: B007 - how many there were when the buffer ended
                    (length,) = length_at(buffer, at)
                    at += length + 8
                count = 0
            except (struct.error, OverflowError):  # the buffer ends before this one does
                count -= walked
            self._at = at

    def _fill(self, length: int) -> None:
        """Have the next bytes in the buffer, fetching as few blocks as that takes."""
        if self._at + length <= len(self._buffer):
            return
        end = min(self.size_bytes, LARGEST_HEADER_BYTES)
        if self.offset + length > end:
            raise self._cut_short()
        rest = self._buffer[self._at :]
        start = self.offset
        wanted = min(max(length, self._block_bytes), end - start) - len(rest)
        block = self._reader.read(start + len(rest), wanted)
        if len(block) < wanted:
            raise self._cut_short()
        self._block_bytes = min(2 * self._block_bytes, LARGEST_BLOCK_BYTES)
        self._buffer, self._start, self._at = rest + block, start, 0

    def _cut_short(self) -> MetadataError:
        if self.size_bytes > LARGEST_HEADER_BYTES:
            return self.damaged(f"its header does not end within {LARGEST_HEADER_BYTES >> 20} MiB")
        return MetadataError(
            f"{self.path} is truncated: its header goes on behind its {self.size_bytes:,} bytes",
            hint=FETCH_AGAIN,
        )


def _check_magic(cursor: _Cursor) -> None:
    if cursor.size_bytes < 24:
        raise MetadataError(
            f"{cursor.path} is not a GGUF file: it has only {cursor.size_bytes:,} bytes", hint=FETCH_AGAIN
        )
    magic = cursor.take(4)
    if magic != b"GGUF":
        hint = "Name a GGUF file; a failed download often leaves a web page under the file's name."
        if magic == b"vers":
            hint = "It looks like a Git LFS pointer: run `git lfs pull`, or download the file itself."
        raise MetadataError(f"{cursor.path} is not a GGUF file: it begins with {magic!r}", hint=hint)
    version = cursor.u32()
    if version & 0xFFFF == 0:
        raise MetadataError(
            f"{cursor.path} is a big-endian GGUF file",
            hint="Convert it with gguf_convert_endian.py, or download the little-endian file.",
        )
    if version not in {2, 3}:
        raise MetadataError(
            f"{cursor.path} is GGUF version {version}; aimind reads versions 2 and 3",
            hint="Download a newer file of the model." if version < 2 else "Update aimind.",
        )


def _read_value(
    cursor: _Cursor,
    key: str,
    values: dict[str, Scalar | tuple[Scalar, ...]],
    lengths: dict[str, int],
) -> None:
    kind = cursor.u32()
    if kind == _ARRAY:
        _read_array(cursor, key, values, lengths)
    elif kind == _STRING:
        values[key] = _read_string(cursor, key)
    elif number := _NUMBERS.get(kind):
        values[key] = number.unpack(cursor.take(number.size))[0]
    else:
        raise cursor.damaged(f"the key {shown(key)} has the unknown type {kind}")


def _read_string(cursor: _Cursor, key: str) -> str:
    """The text, or an empty one in place of a tokenizer's: but for its kind, only the presence counts."""
    length = cursor.u64()
    if key.startswith("tokenizer.") and key != TOKENIZER:
        cursor.skip(length)
        return ""
    if length > LARGEST_STRING_BYTES:
        raise cursor.damaged(f"the key {shown(key)} has a text of {length:,} bytes")
    # A stray byte in a licence text or an author's name is no reason to refuse a model.
    return cursor.take(length).decode(errors="replace")


def _read_array(
    cursor: _Cursor,
    key: str,
    values: dict[str, Scalar | tuple[Scalar, ...]],
    lengths: dict[str, int],
) -> None:
    kind = cursor.u32()
    number = _NUMBERS.get(kind)
    if number is None and kind != _STRING:
        raise cursor.damaged(f"the key {shown(key)} is an array of the type {kind}, which does not exist")
    count = lengths[key] = cursor.count(number.size if number else 8, f"elements of {shown(key)}")
    if number is None:
        cursor.skip_strings(count)
    elif count > LARGEST_KEPT_ARRAY or key.startswith("tokenizer."):
        cursor.skip(count * number.size)
    else:
        values[key] = tuple(value for (value,) in number.iter_unpack(cursor.take(count * number.size)))


@dataclass(frozen=True, slots=True)
class _Info:
    tensor: Tensor
    offset: int


def _read_tensor(cursor: _Cursor) -> _Info:
    name = cursor.name("a tensor's name")
    dimensions = cursor.u32()
    if dimensions > MAX_DIMENSIONS:
        raise cursor.damaged(f"the tensor {shown(name)} has {dimensions:,} dimensions")
    shape = struct.unpack(f"<{dimensions}Q", cursor.take(8 * dimensions)) or (1,)
    kind, offset = cursor.u32(), cursor.u64()
    elements = math.prod(shape)
    if not 0 < elements < 1 << 63:
        raise cursor.damaged(f"the tensor {shown(name)} has the shape {shape}")
    stored = TENSOR_TYPES.get(kind)
    if stored is None:
        raise MetadataError(
            f"{cursor.path}: the tensor {shown(name)} has the unknown type {kind}",
            hint="Download another quantization of the model, or update aimind if the type is new.",
        )
    if shape[0] % stored.block_elements:
        raise cursor.damaged(
            f"the tensor {shown(name)} has rows of {shape[0]:,} elements, stored as {stored.name}"
        )
    size = elements // stored.block_elements * stored.block_bytes
    return _Info(Tensor(name, shape, stored.name, size), offset)


def _alignment(cursor: _Cursor, values: Mapping[str, Scalar | tuple[Scalar, ...]]) -> int:
    alignment = values.get("general.alignment", 32)
    if (
        not isinstance(alignment, int)
        or not 0 < alignment <= LARGEST_ALIGNMENT
        or alignment & (alignment - 1)
    ):
        raise cursor.damaged(f"general.alignment is {alignment!r}, not a power of two")
    return alignment


def _place(cursor: _Cursor, infos: list[_Info], alignment: int) -> tuple[Tensor, ...]:
    """The tensors, once they are known to lie one behind the other and within the file."""
    names: set[str] = set()
    start = _padded(cursor.offset, alignment)
    end = expected = 0
    for info in infos:
        tensor = info.tensor
        if tensor.name in names:
            raise cursor.damaged(f"the tensor {shown(tensor.name)} appears twice")
        names.add(tensor.name)
        if info.offset != expected:
            raise cursor.damaged(
                f"the tensor {shown(tensor.name)} lies at {info.offset:,} instead of {expected:,}"
            )
        end = info.offset + tensor.size_bytes
        expected = _padded(end, alignment)
    missing = start + end - cursor.size_bytes
    if infos and missing > 0:
        raise MetadataError(
            f"{cursor.path} is truncated: {missing:,} of its {start + end:,} bytes are missing",
            hint=FETCH_AGAIN,
        )
    return tuple(info.tensor for info in infos)


def _padded(offset: int, alignment: int) -> int:
    return offset + -offset % alignment

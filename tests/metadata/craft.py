"""GGUF files written byte by byte, so that any of them can be wrong."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10
_FORMATS = {U32: "<I", I32: "<i", F32: "<f", BOOL: "<?", U64: "<Q"}


class T(NamedTuple):
    """A tensor: its type's number is ggml's, its offset follows from those before unless given."""

    name: str
    shape: tuple[int, ...] = (32,)
    kind: int = 0
    offset: int | None = None


def text(value: str | bytes) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(item: object) -> bytes:
    """A value with its type: text, flags, whole numbers, others, and lists of them; bytes go as they are."""
    match item:
        case bytes():
            return item
        case str():
            return struct.pack("<I", STRING) + text(item)
        case bool():
            return struct.pack("<I?", BOOL, item)
        case int():
            return struct.pack("<II", U32, item)
        case float():
            return struct.pack("<If", F32, item)
        case list():
            kind = STRING if isinstance(item[0], str) else BOOL if isinstance(item[0], bool) else I32
            parts = [text(one) if kind == STRING else struct.pack(_FORMATS[kind], one) for one in item]
            return struct.pack("<IIQ", ARRAY, kind, len(item)) + b"".join(parts)
    raise TypeError(item)


def size_bytes(tensor: T) -> int:
    """F32 and F16 only: the tests need no other."""
    count = 1
    for dimension in tensor.shape:
        count *= dimension
    return count * (4 if tensor.kind == 0 else 2)


def gguf(
    keys: Mapping[str, object] | Sequence[tuple[str | bytes, object]],
    tensors: Sequence[T] = (T("token_embd.weight"),),
    *,
    version: int = 3,
    key_count: int | None = None,
    tensor_count: int | None = None,
    data: int | None = None,
) -> bytes:
    """The whole file, its weights all zero; counts and the size of the data may lie."""
    pairs = list(keys.items() if isinstance(keys, Mapping) else keys)
    out = [
        b"GGUF",
        struct.pack("<I", version),
        struct.pack("<Q", len(tensors) if tensor_count is None else tensor_count),
        struct.pack("<Q", len(pairs) if key_count is None else key_count),
    ]
    out += [text(key) + value(item) for key, item in pairs]
    offset = 0
    for tensor in tensors:
        place = offset if tensor.offset is None else tensor.offset
        out.append(text(tensor.name) + struct.pack("<I", len(tensor.shape)))
        out.append(struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape))
        out.append(struct.pack("<IQ", tensor.kind, place))
        offset += -(-size_bytes(tensor) // 32) * 32 if all(d < 1 << 20 for d in tensor.shape) else 0
    head = b"".join(out)
    return head + bytes(-len(head) % 32) + bytes(offset if data is None else data)


def write(folder: Path, name: str, keys: Mapping[str, object], tensors: Sequence[T]) -> Path:
    path = folder / name
    path.write_bytes(gguf(keys, tensors))
    return path

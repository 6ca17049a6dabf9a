"""The headers of safetensors files: what tensors they hold, never a weight.

The format and its limits are those of the reference implementation (safetensors/src/tensor.rs, version 0.8).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from posixpath import dirname, join

from aimind.errors import MetadataError
from aimind.metadata.config import Json, parse_json, read_json
from aimind.metadata.summary import shown
from aimind.types import INDEX_NAME, File, Reader, Tensor

# The reference implementation's limit (MAX_HEADER_SIZE). Headers and indexes of 10^6 tensors exist.
LARGEST_HEADER_BYTES = 100_000_000
LARGEST_INDEX_BYTES = 128 << 20
LONGEST_NAME = 1024
PARALLEL_READS = 8
# Holds the header of most shards (85 KB for DeepSeek V3), so that one read is enough.
FIRST_READ_BYTES = 128 << 10

_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
_HINT = "The download broke off or the file was damaged: delete it and download it again."


def read_tensors(files: Sequence[File], folder: str, open_file: Callable[[File], Reader]) -> list[Tensor]:
    """The tensors of all shards in a folder: those that its index names, or every file without one.

    Raises:
        MetadataError: a shard is missing, damaged or cut short, or holds a tensor that another one holds.
    """
    here = {file.path: file for file in files if dirname(file.path) == folder}
    index = here.get(join(folder, INDEX_NAME))
    if index is None:
        shards = [file for path, file in sorted(here.items()) if path.endswith(".safetensors")]
        return _without_twins([(None, tensors) for tensors in _headers(shards, open_file)])
    by_shard = read_index(open_file(index), index.path)
    missing = sorted(path for path in by_shard if path not in here)
    if missing:
        raise MetadataError(
            f"{shown(missing[0])} is missing; {len(missing)} of {len(by_shard)} shards were not found",
            hint="Download all shards of the model into one folder.",
        )
    paths = sorted(by_shard)
    headers = _headers([here[path] for path in paths], open_file)
    return _without_twins(
        [(set(by_shard[path]), tensors) for path, tensors in zip(paths, headers, strict=True)]
    )


def read_index(reader: Reader, path: str) -> dict[str, list[str]]:
    """The names of the tensors in each file of weights, by the file's path, as an index has them.

    Raises:
        MetadataError: it is damaged, or names no files.
    """
    weight_map = read_json(reader, path, LARGEST_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise MetadataError(f"{path} does not name any shards", hint=_HINT)
    by_shard: dict[str, list[str]] = {}
    for name, shard in weight_map.items():
        if not isinstance(shard, str):
            raise MetadataError(f"{path} is damaged: {shown(name)} is not in any file", hint=_HINT)
        by_shard.setdefault(join(dirname(path), shard), []).append(name)
    return by_shard


def _headers(shards: Sequence[File], open_file: Callable[[File], Reader]) -> list[list[Tensor]]:
    """Of all shards, several read at once: over a network reading them is waiting, twice for each."""
    if len(shards) < 2:
        return [read_header(open_file(file), file.path) for file in shards]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(PARALLEL_READS) as pool:
        return list(pool.map(lambda file: read_header(open_file(file), file.path), shards))


def _without_twins(shards: Sequence[tuple[set[str] | None, Sequence[Tensor]]]) -> list[Tensor]:
    """The tensors of all shards; one that the index places elsewhere is a leftover and is not loaded."""
    found: dict[str, Tensor] = {}
    for wanted, tensors in shards:
        for tensor in tensors:
            if wanted is None or tensor.name in wanted:
                if tensor.name in found:
                    raise MetadataError(f"two shards hold the tensor {shown(tensor.name)}", hint=_HINT)
                found[tensor.name] = tensor
    return list(found.values())


def read_header(reader: Reader, path: str) -> list[Tensor]:
    """The tensors of one file, in the order of their data.

    Raises:
        MetadataError: not safetensors, damaged, or cut short.
    """
    size = reader.size_bytes
    first = reader.read(0, min(FIRST_READ_BYTES, size))
    length = int.from_bytes(first[:8], "little")
    if len(first) < 8 or not 2 <= length <= LARGEST_HEADER_BYTES or first[8:9] != b"{":
        hint = _HINT
        if first.startswith(b"version https://git-lfs"):
            hint = "It is a Git LFS pointer: run `git lfs pull`, or download the file itself."
        raise MetadataError(f"{path} is not a safetensors file", hint=hint)
    if 8 + length > size:
        raise MetadataError(
            f"{path} is truncated: its header alone has {length:,} bytes, it {size:,}", hint=_HINT
        )
    text = first[8 : 8 + length]
    if len(text) < length:
        text += reader.read(len(first), 8 + length - len(first))
    entries = parse_json(text, path, unique=True)
    placed = [_entry(path, name, entry) for name, entry in entries.items() if name != "__metadata__"]
    return _contiguous(path, placed, size - 8 - length)


def _entry(path: str, name: str, entry: Json) -> tuple[int, int, Tensor]:
    """Begin and end of its data, and the tensor."""
    if not isinstance(entry, dict) or not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise _damaged(path, name)
    dtype, shape, offsets = (
        entry.get("dtype"),
        _numbers(entry.get("shape")),
        _numbers(entry.get("data_offsets")),
    )
    if shape is None or offsets is None or len(offsets) != 2:
        raise _damaged(path, name)
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise MetadataError(
            f"{path}: the tensor {shown(name)} has the unknown type {shown(dtype)}",
            hint="Update aimind if the type is new.",
        )
    begin, end = offsets
    bits = math.prod(shape) * _BITS[dtype]
    if bits != 8 * (end - begin):
        raise _damaged(path, name)
    return begin, end, Tensor(name, shape, dtype, end - begin)


def _numbers(value: Json) -> tuple[int, ...] | None:
    if not isinstance(value, list) or len(value) > 16:
        return None
    numbers = tuple(item for item in value if type(item) is int and 0 <= item < 1 << 63)
    return numbers if len(numbers) == len(value) else None


def _contiguous(path: str, placed: list[tuple[int, int, Tensor]], data_bytes: int) -> list[Tensor]:
    """The tensors in order, once they are known to fill the file without a gap and without overlap."""
    placed.sort(key=lambda item: item[:2])
    expected = 0
    for begin, end, tensor in placed:
        if begin != expected:
            raise _damaged(path, tensor.name)
        expected = end
    if expected > data_bytes:
        raise MetadataError(
            f"{path} is truncated: {expected - data_bytes:,} of its bytes are missing", hint=_HINT
        )
    if expected < data_bytes:
        raise MetadataError(
            f"{path} is damaged: {data_bytes - expected:,} bytes follow its tensors", hint=_HINT
        )
    return [tensor for _, _, tensor in placed]


def _damaged(path: str, name: str) -> MetadataError:
    return MetadataError(f"{path} is damaged: the entry of the tensor {shown(name)} is not valid", hint=_HINT)

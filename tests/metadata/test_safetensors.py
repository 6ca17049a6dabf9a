"""The safetensors reader against the reference implementation, and files that lie."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from aimind.errors import MetadataError
from aimind.metadata.safetensors import FIRST_READ_BYTES, read_header, read_index, read_tensors
from aimind.types import INDEX_NAME, Tensor
from tests.metadata.local import Account, Text, model

DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def test_reads_what_the_reference_writes(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    arrays: dict[str, np.ndarray] = {
        f"layer.{name}": np.zeros((3, 5), dtype=dtype) for name, dtype in DTYPES.items()
    }
    arrays["scalar"] = np.zeros((), dtype=np.float32)
    arrays["nothing"] = np.zeros((0, 4), dtype=np.float32)
    save_file(arrays, path, metadata={"format": "pt"})
    tensors = {tensor.name: tensor for tensor in read_header(Account(path), path.name)}
    with safe_open(path, framework="np") as oracle:
        assert set(tensors) == set(oracle.keys())
        for name in oracle.keys():  # noqa: SIM118 (it is no mapping)
            part = oracle.get_slice(name)
            expected = (tuple(part.get_shape()), part.get_dtype(), arrays[name].nbytes)
            assert (tensors[name].shape, tensors[name].dtype, tensors[name].size_bytes) == expected


def test_a_header_of_many_tensors() -> None:
    """Some published files have hundreds of thousands, and the format allows headers of 100 MB."""
    entries = {
        f"model.layers.{number}.weight": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
        for number in range(200_000)
    }
    text = json.dumps(entries).encode()
    assert len(read_header(Text(struct.pack("<Q", len(text)) + text), "model.safetensors")) == 200_000


def test_an_index_of_many_tensors() -> None:
    entries = {f"model.layers.{number}.mlp.weight": "model.safetensors" for number in range(600_000)}
    text = json.dumps({"weight_map": entries}).encode()
    index = read_index(Text(text), "model.safetensors.index.json")
    assert len(index["model.safetensors"]) == 600_000


def test_a_header_takes_one_read_or_two(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    small = {"a": np.zeros(1 << 20, dtype=np.float32)}
    save_file(small, path)
    reader = Account(path)
    read_header(reader, path.name)
    assert (reader.reads, reader.bytes_read) == (1, FIRST_READ_BYTES)
    save_file(
        {f"model.layers.{number}.weight": np.zeros(1, dtype=np.float32) for number in range(4000)}, path
    )
    reader = Account(path)
    assert len(read_header(reader, path.name)) == 4000
    assert reader.reads == 2


def packed(header: object, data: int = 0, length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + bytes(data)


def entry(begin: int, end: int, dtype: object = "F32", shape: object = (1,)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1", "not a safetensors file"),
        (b"<!DOCTYPE html><html>", "not a safetensors file"),
        (packed({}, length=1 << 63), "not a safetensors file"),
        (packed({}, length=9_000_000), "truncated: its header alone"),
        (packed(b"{not json}"), "not JSON"),
        (packed(b'{"a": "\xff"}'), "not JSON"),
        (packed(b'{"a": ' + b"[" * 60_000 + b"]" * 60_000 + b"}"), "not JSON"),
        (packed({"a": 7}), "entry of the tensor 'a'"),
        (packed({"a": entry(0, 4, shape="x")}, 4), "entry of the tensor 'a'"),
        (packed({"a": entry(0, 4, shape=[-1])}, 4), "entry of the tensor 'a'"),
        (packed({"a": entry(0, 4, shape=[True])}, 4), "entry of the tensor 'a'"),
        (packed({"a": entry(0, 4, shape=[1.0])}, 4), "entry of the tensor 'a'"),
        (packed({"a": entry(0, 4, shape=[1] * 99)}, 4), "entry of the tensor 'a'"),
        (packed({"a": entry(4, 0)}, 4), "entry of the tensor 'a'"),
        (packed({"a": entry(0, 8)}, 8), "entry of the tensor 'a'"),
        (packed(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', 4), "NaN is not a valid"),
        (packed({"a": entry(0, 4, dtype="F7")}, 4), "unknown type 'F7'"),
        (packed({"a": entry(0, 4, dtype=3)}, 4), "unknown type 3"),
        (packed({"a": entry(0, 4), "b": entry(2, 6)}, 8), "entry of the tensor 'b'"),
        (packed({"a": entry(0, 4), "b": entry(8, 12)}, 12), "entry of the tensor 'b'"),
        (
            packed(
                b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}',
                8,
            ),
            "a name appears twice",
        ),
        (packed({"a": entry(0, 4)}, 2), "truncated: 2 of its bytes"),
        (packed({"a": entry(0, 4)}, 9), "5 bytes follow"),
    ],
)
def test_a_damaged_file_is_an_error_that_says_what(raw: bytes, message: str) -> None:
    with pytest.raises(MetadataError) as caught:
        read_header(Text(raw), "model.safetensors")
    assert message in caught.value.message
    assert "model.safetensors" in caught.value.message
    assert caught.value.hint


# ── Shards ─────────────────────────────────────────────────────────────────────────────────────────────────


def sharded(folder: Path) -> None:
    """Two shards and their index; a leftover file that the index does not name."""
    save_file({"a": np.zeros(4, dtype=np.float32)}, folder / "model-00001-of-00002.safetensors")
    save_file(
        {"b": np.zeros(2, dtype=np.float16), "a": np.zeros(9, dtype=np.float32)},
        folder / "model-00002-of-00002.safetensors",
    )
    save_file({"c": np.zeros(1, dtype=np.float32)}, folder / "consolidated.safetensors")
    index = {
        "metadata": {"total_size": 20},
        "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"},
    }
    (folder / INDEX_NAME).write_text(json.dumps(index))


def tensors_in(folder: Path) -> list[Tensor]:
    files = model(folder).files
    return read_tensors(files, "", lambda file: Account(folder / file.path))


def test_the_index_says_which_shard_holds_what(tmp_path: Path) -> None:
    sharded(tmp_path)
    assert {tensor.name: tensor.size_bytes for tensor in tensors_in(tmp_path)} == {"a": 16, "b": 4}


def test_a_missing_shard(tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(MetadataError, match=r"'model-00002-of-00002.safetensors' is missing; 1 of 2 shards"):
        tensors_in(tmp_path)


def test_an_index_without_shards(tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / INDEX_NAME).write_text('{"weight_map": {}}')
    with pytest.raises(MetadataError, match="does not name any shards"):
        tensors_in(tmp_path)


def test_files_without_an_index_must_not_overlap(tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / INDEX_NAME).unlink()
    with pytest.raises(MetadataError, match="two shards hold the tensor 'a'"):
        tensors_in(tmp_path)

"""The GGUF reader against the `gguf` package, the recorded headers, and files that lie."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from aimind.errors import MetadataError
from aimind.metadata.gguf import FIRST_BLOCK_BYTES, LARGEST_BLOCK_BYTES, LARGEST_HEADER_BYTES, read_header
from aimind.types.ggml import TENSOR_TYPES
from tests import models
from tests.metadata import craft
from tests.metadata.craft import T
from tests.metadata.local import Account, Text


def header_of(raw: bytes) -> object:
    return read_header(Text(raw), "model.gguf")


# ── The package as the oracle ──────────────────────────────────────────────────────────────────────────────


def written(path: Path) -> Path:
    """A file with a value of every type, by the package's own writer."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("a.u8", 200)
    writer.add_int8("a.i8", -5)
    writer.add_uint16("a.u16", 60_000)
    writer.add_int16("a.i16", -30_000)
    writer.add_uint32("a.u32", 4_000_000_000)
    writer.add_int32("a.i32", -2_000_000_000)
    writer.add_uint64("a.u64", 1 << 60)
    writer.add_int64("a.i64", -(1 << 60))
    writer.add_float32("a.f32", 0.5)
    writer.add_float64("a.f64", 0.1)
    writer.add_bool("a.bool", val=True)
    writer.add_string("a.text", "schön")
    writer.add_array("a.numbers", [3, 1, 2])
    writer.add_array("a.flags", [True, False])
    writer.add_array("a.words", ["x", "yy"])
    writer.add_token_list([f"token {number}" for number in range(5000)])
    writer.add_array("tokenizer.ggml.scores", [0.5] * 5000)
    writer.add_tensor("token_embd.weight", np.zeros((7, 64), dtype=np.float32))
    writer.add_tensor("half", np.zeros((3, 5), dtype=np.float16))
    for kind in (
        gguf.GGMLQuantizationType.Q4_K,
        gguf.GGMLQuantizationType.Q8_0,
        gguf.GGMLQuantizationType.MXFP4,
    ):
        block, size = gguf.GGML_QUANT_SIZES[kind]
        rows = np.zeros((2, 512 // block * size), dtype=np.uint8)
        writer.add_tensor(kind.name, rows, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_reads_what_the_package_writes(tmp_path: Path) -> None:
    path = written(tmp_path / "model.gguf")
    header = read_header(Account(path), path.name)
    oracle = gguf.GGUFReader(path)
    for key, field in oracle.fields.items():
        if key.startswith("GGUF."):
            continue
        if key.startswith(("tokenizer.", "a.words")):
            assert key not in header.values
            assert header.lengths[key] == len(field.data)
        else:
            expected = field.contents()
            assert header.values[key] == (tuple(expected) if isinstance(expected, list) else expected), key
    assert [(t.name, t.dtype, t.size_bytes) for t in header.tensors] == [
        (t.name, t.tensor_type.name, t.n_bytes) for t in oracle.tensors
    ]
    assert [t.shape for t in header.tensors] == [tuple(int(n) for n in t.shape) for t in oracle.tensors]


def test_tensor_types_are_the_packages() -> None:
    for kind, sizes in gguf.GGML_QUANT_SIZES.items():
        if kind.name != "Q8_1":  # the package says 40 bytes, ggml-common.h 36; no file holds it
            assert TENSOR_TYPES[kind] == (kind.name, *sizes)


# ── The recorded headers ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", models.NAMES)
def test_a_header_is_read_in_few_blocks_and_no_weights(name: str, tmp_path: Path) -> None:
    path = models.header(name, tmp_path)
    reader = Account(path)
    header = read_header(reader, name)
    assert header.tensors
    size = models.HEADER_SIZES[name]
    assert reader.reads <= 6
    assert reader.furthest <= size + LARGEST_BLOCK_BYTES
    assert reader.bytes_read <= 2 * size + FIRST_BLOCK_BYTES


def test_tensors_fill_the_file(tmp_path: Path) -> None:
    path = models.header("mixtral-8x7b.Q4_K_M", tmp_path)
    header = read_header(Account(path), path.name)
    weights = sum(-(-tensor.size_bytes // 32) * 32 for tensor in header.tensors)
    start = -(-models.HEADER_SIZES["mixtral-8x7b.Q4_K_M"] // 32) * 32
    assert start + weights == path.stat().st_size


# ── Files that lie ─────────────────────────────────────────────────────────────────────────────────────────

GOOD = {"general.architecture": "llama", "llama.block_count": 1, "tokenizer.ggml.tokens": ["a", "b", "c"]}


def test_version_2_is_read() -> None:
    assert header_of(craft.gguf(GOOD, version=2)) == header_of(craft.gguf(GOOD))


def test_a_file_without_the_last_padding_is_whole() -> None:
    raw = craft.gguf(GOOD, [T("a", (3,))])
    assert header_of(raw[: -(32 - 12)]) == header_of(raw)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "only 0 bytes"),
        (b"Hello, this is just a text, renamed.", "begins with b'Hell'"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "begins with b'vers'"),
        (craft.gguf(GOOD, version=0x03000000), "big-endian"),
        (craft.gguf(GOOD, version=1), "version 1"),
        (craft.gguf(GOOD, version=77), "version 77"),
        (craft.gguf(GOOD, tensor_count=1 << 63), "tensors, more than"),
        (craft.gguf(GOOD, key_count=(1 << 64) - 1), "keys, more than"),
        (craft.gguf([*GOOD.items(), *GOOD.items()]), "appears twice"),
        (craft.gguf([(b"\xff\xfe", 1)]), "not UTF-8"),
        (craft.gguf([("", 1)]), "a key of 0 bytes"),
        (craft.gguf([("k" * 2000, 1)]), "a key of 2,000 bytes"),
        (craft.gguf({"a": struct.pack("<I", 99)}), "unknown type 99"),
        (craft.gguf({"a": struct.pack("<IQ", craft.STRING, 1 << 63)}), "a text of"),
        (craft.gguf({"tokenizer.chat_template": struct.pack("<IQ", craft.STRING, 1 << 63)}), "truncated"),
        (craft.gguf({"a": struct.pack("<IIQ", craft.ARRAY, craft.ARRAY, 2)}), "array of the type 9"),
        (craft.gguf({"a": struct.pack("<IIQ", craft.ARRAY, craft.U32, 1 << 62)}), "elements of 'a', more"),
        (craft.gguf({"a": struct.pack("<IIQ", craft.ARRAY, craft.STRING, 1 << 62)}), "elements of 'a', more"),
        (craft.gguf({"a": struct.pack("<IIQQ", craft.ARRAY, craft.STRING, 1, 1 << 63)}), "truncated"),
        (craft.gguf({"general.alignment": 3}), "not a power of two"),
        (craft.gguf({"general.alignment": "32"}), "not a power of two"),
        (craft.gguf(GOOD, [T("a"), T("a")]), "tensor 'a' appears twice"),
        (craft.gguf(GOOD, [T("a"), T("b", offset=0)]), "'b' lies at 0 instead of 128"),
        (craft.gguf(GOOD, [T("a", offset=8)]), "'a' lies at 8"),
        (craft.gguf(GOOD, [T("a", offset=1 << 63)]), "lies at"),
        (craft.gguf(GOOD, [T("a", (0, 4))]), "the shape (0, 4)"),
        (craft.gguf(GOOD, [T("a", (1 << 33, 1 << 33))]), "the shape"),
        (craft.gguf(GOOD, [T("a", (1, 1, 1, 1, 1))]), "5 dimensions"),
        (craft.gguf(GOOD, [T("a", kind=4)]), "unknown type 4"),
        (craft.gguf(GOOD, [T("a", (33,), kind=8)]), "rows of 33 elements"),
        (craft.gguf(GOOD, [T("a"), T("b")], data=130), "126 of its"),
    ],
)
def test_a_damaged_file_is_an_error_that_says_what(raw: bytes, message: str) -> None:
    with pytest.raises(MetadataError) as caught:
        header_of(raw)
    assert message in caught.value.message
    assert "model.gguf" in caught.value.message
    assert caught.value.hint


def test_a_header_cut_anywhere_is_an_error() -> None:
    raw = craft.gguf(GOOD)
    for length in range(len(raw) - 1):
        with pytest.raises(MetadataError, match=r"truncated|more than its|only \d+ bytes"):
            header_of(raw[:length])


def test_a_header_that_does_not_end_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "endless.gguf"
    count = LARGEST_HEADER_BYTES
    path.write_bytes(craft.gguf({"a": struct.pack("<IIQ", craft.ARRAY, craft.STRING, count)}, []))
    with path.open("r+b") as file:
        file.truncate(40 << 30)
    reader = Account(path)
    with pytest.raises(MetadataError, match=f"does not end within {LARGEST_HEADER_BYTES >> 20} MiB"):
        read_header(reader, path.name)
    assert reader.bytes_read <= LARGEST_HEADER_BYTES + LARGEST_BLOCK_BYTES

"""Headers made to be large, deep or slow: time and memory are bounded by the bytes that are read."""

from __future__ import annotations

import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import hostile
from tests.metadata import craft
from tests.properties.test_metadata import CONFIGS

MOST_SECONDS = 1.0
SECONDS_PER_MIB = 0.25
MOST_BYTES = 64 << 20
BYTES_PER_BYTE = 12

CONFIG = CONFIGS[0].read_bytes()
NO_TENSORS = struct.pack("<Q", 2) + b"{}"
Files = dict[str, bytes]


def gguf(*parts: bytes, tensors: int = 0, keys: int = 0, version: int = 3) -> Files:
    return {"model.gguf": b"".join([b"GGUF", struct.pack("<IQQ", version, tensors, keys), *parts])}


def key(name: str, kind: int, value: bytes = b"") -> bytes:
    return craft.text(name) + struct.pack("<I", kind) + value


def array(name: str, kind: int, count: int, values: bytes = b"") -> bytes:
    return key(name, craft.ARRAY, struct.pack("<IQ", kind, count) + values)


def tensor(name: str, *, shape: tuple[int, ...] = (32,), offset: int = 0) -> bytes:
    head = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return craft.text(name) + head + struct.pack("<IQ", 0, offset)


def folder(config: bytes = CONFIG, **others: bytes) -> Files:
    names = {"index": "model.safetensors.index.json", "tokenizer": "tokenizer_config.json"}
    named = {names.get(name, name): raw for name, raw in others.items()}
    return {"config.json": config, "model.safetensors": NO_TENSORS, **named}


def shard(header: bytes, *, length: int | None = None, data: int = 0) -> Files:
    prefix = struct.pack("<Q", len(header) if length is None else length)
    return {"config.json": CONFIG, "model.safetensors": prefix + header + bytes(data)}


def entry(name: str, begin: int, end: int, shape: str = "[8]") -> bytes:
    return b'"%s":{"dtype":"U8","shape":%s,"data_offsets":[%d,%d]}' % (
        name.encode(),
        shape.encode(),
        begin,
        end,
    )


ARCHITECTURE = craft.text("general.architecture") + craft.value("llama")
ENDLESS = (1 << 64) - 1

REFUSED: dict[str, Callable[[], Files]] = {
    "a key of 2^63 bytes": lambda: gguf(struct.pack("<Q", 1 << 63), bytes(64), keys=1),
    "2^64 - 1 tensors": lambda: gguf(bytes(64), tensors=ENDLESS),
    "2^64 - 1 keys": lambda: gguf(bytes(64), keys=ENDLESS),
    "more keys than any model": lambda: gguf(*[key(f"{n:07}", 7, b"\1") for n in range(50_000)], keys=50_000),
    "more tensors than any model": lambda: gguf(
        *[tensor(f"{n:05}", offset=128 * n) for n in range(40_000)], bytes(40_000 * 128), tensors=40_000
    ),
    "long arrays that would be kept": lambda: gguf(
        *[array(f"{n:04}", 4, 1024, b"\xff" * 4096) for n in range(1000)], keys=1001
    ),
    "an endless array": lambda: gguf(array("a", 0, ENDLESS), bytes(64), keys=1),
    "an endless array of texts": lambda: gguf(array("a", 8, 3, b"\xff" * 8), bytes(64), keys=1),
    "as many empty texts as there are bytes": lambda: gguf(
        array("a", 8, 1_000_000, bytes(8 * 1_000_000)), keys=2
    ),
    "an array of arrays": lambda: gguf(array("a", 9, 1, struct.pack("<IQ", 9, 1)), bytes(64), keys=1),
    "a text of 1 GiB": lambda: gguf(key("a", 8, struct.pack("<Q", 1 << 30)), bytes(64), keys=1),
    "a key that is not UTF-8": lambda: gguf(struct.pack("<Q", 2) + b"\xff\xfe", bytes(64), keys=1),
    "a key with NUL": lambda: gguf(key("a\0b", 7, b"\1"), bytes(64), keys=1),
    "a tensor with NUL": lambda: gguf(ARCHITECTURE, tensor("a\0b"), bytes(256), tensors=1, keys=1),
    "a tensor behind the end": lambda: gguf(
        ARCHITECTURE, tensor("a", offset=1 << 62), bytes(256), tensors=1, keys=1
    ),
    "tensors that overlap": lambda: gguf(
        ARCHITECTURE, tensor("a"), tensor("b"), bytes(512), tensors=2, keys=1
    ),
    "a tensor twice": lambda: gguf(
        ARCHITECTURE, tensor("a"), tensor("a", offset=128), bytes(512), tensors=2, keys=1
    ),
    "a tensor of 2^63 elements": lambda: gguf(
        ARCHITECTURE, tensor("a", shape=(1 << 31, 1 << 32)), bytes(64), tensors=1, keys=1
    ),
    "a key twice": lambda: gguf(ARCHITECTURE, ARCHITECTURE, bytes(64), keys=2),
    "a layer far away": lambda: gguf(
        ARCHITECTURE, tensor("blk.999999999.attn_q.weight"), bytes(256), tensors=1, keys=1
    ),
    "billions of layers, and one tensor": lambda: gguf(
        ARCHITECTURE,
        craft.text("llama.block_count") + craft.value(4_000_000_000),
        craft.text("llama.embedding_length") + craft.value(8),
        tensor("token_embd.weight"),
        bytes(256),
        tensors=1,
        keys=3,
    ),
    "big-endian": lambda: gguf(bytes(64), version=3 << 24),
    "version 1": lambda: gguf(bytes(64), version=1),
    "version 99": lambda: gguf(bytes(64), version=99),
    "a config.json of 100 MB": lambda: folder(b'{"a": "' + b"a" * 100_000_000 + b'"}'),
    "a config.json of lists": lambda: folder(b'{"a": [' + b"[]," * 1_300_000 + b"0]}"),
    "a config.json nested deeply": lambda: folder(b'{"a": ' + b"[" * 400_000),
    "an object nested deeply": lambda: folder(b'{"a":' * 400_000),
    "a number of a million digits": lambda: folder(b'{"a": ' + b"9" * 1_000_000 + b"}"),
    "not a number": lambda: folder(b'{"hidden_size": NaN}'),
    "infinity": lambda: folder(b'{"hidden_size": Infinity}'),
    "a text that is not UTF-8": lambda: folder(b'{"model_type": "\xed\xa0\x80"}'),
    "billions of layers": lambda: folder(b'{"model_type": "llama", "num_hidden_layers": 4000000000}'),
    "fewer layers than none": lambda: folder(b'{"model_type": "llama", "num_hidden_layers": -1}'),
    "a flag as a size": lambda: folder(b'{"model_type": "llama", "hidden_size": true}'),
    "a tokenizer of lists": lambda: folder(tokenizer=b'{"a": [' + b"{}," * 5_000_000 + b"0]}"),
    "a header of 2^63 bytes": lambda: shard(b"{}", length=1 << 63),
    "a header of 100 MB": lambda: shard(b'{"a": "' + b"a" * 99_000_000 + b'"}'),
    "a header of lists": lambda: shard(b'{"a": [' + b"[]," * 5_000_000 + b"0]}"),
    "a header of wide texts": lambda: shard(b'{"a": "\xf0\x9f\x98\x80' + b"a" * 8_000_000 + b'"}'),
    "data behind the end": lambda: shard(b"{" + entry("a", 0, 8) + b"}"),
    "data in reverse": lambda: shard(b"{" + entry("a", 8, 0) + b"}", data=8),
    "data that overlaps": lambda: shard(b"{" + entry("a", 0, 8) + b"," + entry("b", 4, 12) + b"}", data=12),
    "a size that is a text": lambda: shard(b"{" + entry("a", 0, 8, '["8"]') + b"}", data=8),
    "a size that is a flag": lambda: shard(b"{" + entry("a", 0, 1, "[true]") + b"}", data=1),
    "a size that is negative": lambda: shard(b"{" + entry("a", 0, 8, "[-8]") + b"}", data=8),
    "an entry twice": lambda: shard(b"{" + entry("a", 0, 8) + b"," + entry("a", 0, 8) + b"}", data=8),
    "a name with NUL": lambda: shard(b"{" + entry("a\\u0000", 0, 8) + b"}", data=8),
    "half of a letter as a name": lambda: shard(b"{" + entry("\\ud800", 0, 8) + b"}", data=8),
    "a shard that is not there": lambda: folder(index=b'{"weight_map": {"a": "b.safetensors"}}'),
    "a shard outside": lambda: folder(index=b'{"weight_map": {"a": "../../etc/passwd"}}'),
    "a shard that is absolute": lambda: folder(index=b'{"weight_map": {"a": "/model.safetensors"}}'),
    "a shard that is a list": lambda: folder(index=b'{"weight_map": {"a": [["model.safetensors"]]}}'),
    "a million shards": lambda: folder(
        index=b'{"weight_map": {' + b",".join(b'"%d":"%d"' % (n, n) for n in range(1_000_000)) + b"}}"
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_bounded_time_and_memory(name: str) -> None:
    files = {path: hostile.Bounded(raw) for path, raw in REFUSED[name]().items()}
    read_bytes = sum(reader.size_bytes for reader in files.values())
    # Processor time, since other programs may run meanwhile.
    start = time.process_time()
    assert hostile.outcome(files) is None
    assert time.process_time() - start < MOST_SECONDS + SECONDS_PER_MIB * read_bytes / (1 << 20)
    tracemalloc.start()
    try:
        assert hostile.outcome(files) is None
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MOST_BYTES + BYTES_PER_BYTE * read_bytes


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_length_is_believed_where_memory_is_short(tmp_path: Path) -> None:
    """In a process that may have 64 MiB more than it has, a file that claims everything is refused."""
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf(array("a", 0, 1 << 62), keys=1)["model.gguf"])
    with path.open("ab") as file:
        file.truncate(1 << 40)  # a hole
    program = (
        "import resource, sys; from pathlib import Path; from aimind.hub.local import FileReader; "
        "from tests import hostile; "
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize(); "
        f"resource.setrlimit(resource.RLIMIT_AS, (used + {MOST_BYTES},) * 2); "
        "assert hostile.outcome({'model.gguf': FileReader(Path(sys.argv[1]))}) is None"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")

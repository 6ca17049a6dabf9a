"""Throws bytes at a reader for a while: `python -m fuzz.readers gguf|safetensors|config [option …]`.

The options are libFuzzer's. `make fuzz` does so for each of them. What is found is written to `crash-…`; the
same command with the name of that file as its last argument shows it again.
"""

from __future__ import annotations

import gzip
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["aimind.metadata"]):
    from aimind.metadata.gguf import Header, read_header
    from tests import hostile, models
    from tests.metadata import craft

CONFIGS = sorted((models.RECORDED.parent / "vllm").glob("*.config.json"))
CONFIG = hostile.Bounded(CONFIGS[0].read_bytes())
NO_TENSORS = hostile.Bounded(struct.pack("<Q", 2) + b"{}")
HOLE_BYTES = 1 << 40  # in place of the weights that a header promises


def gguf(raw: bytes) -> None:
    """A GGUF file: as it is, and in front of enough weights."""
    hostile.outcome({"model.gguf": hostile.Bounded(raw)})
    hostile.outcome({"model.gguf": hostile.Bounded(raw, len(raw) + HOLE_BYTES)})


def safetensors(raw: bytes) -> None:
    """The header of a safetensors file in front of 32 bytes, and the index of shards."""
    model = hostile.Bounded(struct.pack("<Q", len(raw)) + raw, 8 + len(raw) + 32)
    hostile.outcome({"config.json": CONFIG, "model.safetensors": model})
    index = hostile.Bounded(raw)
    hostile.outcome(
        {"config.json": CONFIG, "model.safetensors.index.json": index, "model.safetensors": NO_TENSORS}
    )


def config(raw: bytes) -> None:
    """A config.json, beside safetensors and beside a pickle."""
    text = hostile.Bounded(raw)
    hostile.outcome({"config.json": text, "model.safetensors": NO_TENSORS})
    hostile.outcome({"config.json": text, "pytorch_model.bin": hostile.Bounded(b"", 1 << 30)})


TARGETS: dict[str, Callable[[bytes], None]] = {"gguf": gguf, "safetensors": safetensors, "config": config}


def corpus(reader: str) -> list[bytes]:
    """What to begin with: the recorded models, as small as they can be."""
    if reader == "config":
        return [path.read_bytes() for path in CONFIGS]
    if reader == "safetensors":
        entry = b'"model.layers.0.w":{"dtype":"BF16","shape":[4,4],"data_offsets":[0,32]}'
        return [b"{" + entry + b"}", b'{"weight_map":{"model.layers.0.w":"model.safetensors"}}']
    return [_shrunk(path) for path in sorted(models.RECORDED.glob("*.header.gz"))]


def _shrunk(path: Path) -> bytes:
    """A recorded header with two layers, and without its vocabulary."""
    name = path.name.removesuffix(".header.gz")
    raw = gzip.decompress(path.read_bytes())
    header: Header = read_header(hostile.Bounded(raw, models.SIZES[name]), name)
    architecture = header.values["general.architecture"]
    values = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in header.values.items()
        if not key.startswith("tokenizer.") and value != ()
    }
    values[f"{architecture}.block_count"] = 2
    tensors = [
        craft.T(tensor.name, tensor.shape, 1)
        for tensor in header.tensors
        if not tensor.name.startswith("blk.") or tensor.name.startswith(("blk.0.", "blk.1."))
    ]
    return craft.gguf(values, tensors, data=0)


def main() -> None:
    reader, *options = sys.argv[1:]
    with tempfile.TemporaryDirectory() as name:
        for number, raw in enumerate(corpus(reader)):
            (Path(name) / str(number)).write_bytes(raw)
        replayed = any(not option.startswith("-") for option in options)
        atheris.Setup([sys.argv[0], *options, *([] if replayed else [name])], TARGETS[reader])
        atheris.Fuzz()


if __name__ == "__main__":
    main()

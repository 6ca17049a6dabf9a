"""Repositories of large models for the fake hub: true headers, holes in place of the weights."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from aimind.metadata.config import Config
from aimind.metadata.expected import tensors_of
from aimind.types import Tensor
from tests import models
from tests.fakes.hub import Fault, Hub

LLAMA_8B: Mapping[str, object] = {
    **json.loads((models.RECORDED.parent / "vllm" / "llama-3.1-8b-2L.config.json").read_text()),
    "num_hidden_layers": 32,
}
DEEPSEEK_V3: Mapping[str, object] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "torch_dtype": "bfloat16",
}
FP8_BLOCK = 128
_FILLER_BYTES = 1000


class HubOfHoles(Hub):
    """A hub that may be far away. Its hashes are of names and sizes: those of holes would take too long."""

    latency_seconds = 0.0

    def fault(self, method: str, path: str) -> Fault | None:
        time.sleep(self.latency_seconds)
        return super().fault(method, path)

    def hashes(self, path: Path) -> tuple[str, str]:
        text = f"{path.relative_to(self.folder)} {path.stat().st_size}".encode()
        return hashlib.sha1(text).hexdigest(), hashlib.sha256(text).hexdigest()


def gguf(folder: Path, name: str) -> int:
    """The recorded model in a folder, its header as large as the real one; how many bytes that has.

    The texts of the recorded vocabularies are empty: a few long ones in front of them make up for that.
    """
    header = gzip.decompress((models.RECORDED / f"{name}.header.gz").read_bytes())
    key = b"tokenizer.ggml.filler"
    lacking = models.REAL_HEADER_SIZES[name] - len(header) - 8 - len(key) - 16
    count = lacking // (8 + _FILLER_BYTES)
    filler = struct.pack("<Q", len(key)) + key + struct.pack("<IIQ", 9, 8, count)
    texts = (struct.pack("<Q", _FILLER_BYTES) + bytes(_FILLER_BYTES)) * (count - 1)
    last = _FILLER_BYTES + -(len(filler) + len(texts) + 8 + _FILLER_BYTES) % 32  # the weights stay aligned
    texts += struct.pack("<Q", last) + bytes(last)
    tensors, keys = struct.unpack_from("<QQ", header, 8)
    start = header[:8] + struct.pack("<QQ", tensors, keys + 1)
    folder.mkdir(parents=True)
    with (folder / f"{name}.gguf").open("wb") as file:
        file.write(start + filler + texts + header[24:])
        size = file.tell()
        file.truncate(models.SIZES[name] + size - len(header))
    return size


def shards(folder: Path, config: Mapping[str, object], count: int, *, fp8: bool = False) -> int:
    """The model of a configuration in so many shards of one size; how many bytes their headers have."""
    described = Config(dict(config), "config.json")  # type: ignore[arg-type]  # what json.loads gives
    tensors = [tensor for whole in tensors_of(described) for tensor in _separate(whole, fp8=fp8)]
    most = -(-sum(tensor.size_bytes for tensor in tensors) // count)
    groups: list[list[Tensor]] = [[] for _ in range(count)]
    held = 0
    for tensor in tensors:
        groups[min(held // most, count - 1)].append(tensor)
        held += tensor.size_bytes
    folder.mkdir(parents=True)
    fp8_config = {"quant_method": "fp8", "weight_block_size": [FP8_BLOCK, FP8_BLOCK]}
    text = json.dumps({**config, "quantization_config": fp8_config} if fp8 else config)
    (folder / "config.json").write_text(text)
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 131072}')
    headers = 0
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        name = f"model-{number:05}-of-{count:05}.safetensors"
        weight_map |= dict.fromkeys((tensor.name for tensor in group), name)
        headers += _shard(folder / name, group)
    total = {"total_size": held}
    index = json.dumps({"metadata": total, "weight_map": weight_map}, indent=2)
    (folder / "model.safetensors.index.json").write_text(index)
    return headers


def _shard(path: Path, tensors: Sequence[Tensor]) -> int:
    at = 0
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for tensor in tensors:
        end = at + tensor.size_bytes
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    return 8 + len(text)


def _separate(tensor: Tensor, *, fp8: bool) -> Iterator[Tensor]:
    """Joined experts one by one, as files hold them; matrices in 8 bits with a scale for each block."""
    name, shape = tensor.name, tensor.shape
    if len(shape) == 3:
        parts = ("gate_proj", "up_proj") if "gate_up_proj" in name else ("down_proj",)
        for index in range(shape[0]):
            for part in parts:
                own = name.replace("experts.gate_up_proj", f"experts.{index}.{part}")
                own = own.replace("experts.down_proj", f"experts.{index}.{part}")
                rows = (shape[1] // len(parts), shape[2])
                yield from _separate(Tensor(own, rows, tensor.dtype, 2 * math.prod(rows)), fp8=fp8)
    elif fp8 and len(shape) == 2 and "_proj" in name:
        blocks = tuple(-(-length // FP8_BLOCK) for length in shape)
        yield Tensor(name, shape, "F8_E4M3", math.prod(shape))
        yield Tensor(f"{name}_scale_inv", blocks, "F32", 4 * math.prod(blocks))
    else:
        yield tensor

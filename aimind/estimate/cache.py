"""Keys, values and states of llama.cpp: how many tokens a cache holds, and its bytes.

Sources: src/llama-kv-cache.cpp, src/llama-kv-cache-iswa.cpp and src/llama-memory-recurrent.cpp of llama.cpp
as vendored by llama-cpp-python 0.3.36.
"""

from __future__ import annotations

from aimind.types import Attention, LatentAttention, Layer, Metadata, RecurrentState
from aimind.types.ggml import CACHE_TYPES, TENSOR_TYPES

PADDING = 256
# Bytes and elements of a block of the types that a cache can have.
BLOCKS = {
    name: (TENSOR_TYPES[number].block_bytes, TENSOR_TYPES[number].block_elements)
    for name, number in CACHE_TYPES.items()
}
PLAIN = frozenset({"f32", "f16", "bf16"})
_ROW = 512  # elements to which ggml-cuda pads the last row of quantized tensors


def padded(number: int, to: int) -> int:
    """The next multiple."""
    return number + -number % to


def row_bytes(kind: str, elements: int) -> int:
    """Bytes of one token's row."""
    size, block = BLOCKS[kind]
    return elements * size // block


def tensor_bytes(kind: str, elements: int, cells: int, *, on_device: bool) -> int:
    """Of the keys or values of one layer: a row per token; on a device the last quantized one is padded."""
    size = row_bytes(kind, elements) * cells
    if on_device and kind not in PLAIN and elements % _ROW:
        size += row_bytes(kind, _ROW - elements % _ROW)
    return size


def key_elements(memory: Attention | LatentAttention) -> int:
    """Of one token."""
    if isinstance(memory, LatentAttention):
        return memory.kv_lora_rank + memory.rope_size
    return memory.num_kv_heads * memory.key_size


def value_elements(memory: Attention | LatentAttention) -> int:
    """Of one token; latent attention reads its values out of the keys."""
    return 0 if isinstance(memory, LatentAttention) else memory.num_kv_heads * memory.value_size


def attention(layer: Layer) -> Attention | LatentAttention | None:
    """What attends in a layer."""
    return next((m for m in layer.memory if isinstance(m, Attention | LatentAttention)), None)


def state(layer: Layer) -> RecurrentState | None:
    """What recurs in a layer."""
    return next((m for m in layer.memory if isinstance(m, RecurrentState)), None)


def stores(memory: Attention | LatentAttention | None) -> bool:
    """Whether keys and values of it are kept: not of encoders, nor of layers that read another layer's."""
    if isinstance(memory, Attention):
        return memory.causal and not memory.shared
    return memory is not None


def widest_value(metadata: Metadata) -> int:
    """The most elements that any layer stores of a token's values."""
    return max((value_elements(m) for m in map(attention, metadata.layers) if m is not None), default=0)

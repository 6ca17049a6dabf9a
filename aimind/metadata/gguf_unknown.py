"""What a layer of an unknown architecture remembers at most, from the shapes of its tensors.

llama.cpp's names of tensors (`LLM_TENSOR_NAMES` in src/llama-arch.cpp, as vendored by llama-cpp-python
0.3.36) are shared by all architectures, so that even a new one tells how wide its keys, values and states
are. Windows and caches shared between layers are not believed: they would make the bound smaller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

from aimind.types import Attention, LatentAttention, RecurrentState, Tensor

# The head size that is assumed where nothing tells it: small, since more heads take more memory.
_HEAD_SIZE = 64
# Of experts that a token takes, where nothing tells it: no model is known to take more.
EXPERTS_USED = 16
_STATE_SIZE = 128
# Of tokens that sparse attention chooses, where nothing tells it: DeepSeek V3.2 and GLM 5 take 2048.
_INDEXER_TOP_K = 4096
_CONVOLUTIONS = ("ssm_conv1d", "ssm_conv1d_q", "ssm_conv1d_k", "ssm_conv1d_v", "shortconv.conv")


def attention(
    tensors: Mapping[str, Tensor], told: Attention | LatentAttention | None
) -> Attention | LatentAttention | None:
    """What the shapes say at most of keys and values; `told` by the keys where that is as much."""
    rank = _rows(tensors, "attn_kv_a_norm", axis=0)
    if rank and "attn_k_b.weight" in tensors:
        if isinstance(told, LatentAttention):
            return told
        shape = tensors["attn_k_b.weight"].shape
        heads = shape[2] if len(shape) > 2 else 1
        return LatentAttention(
            num_heads=heads,
            kv_lora_rank=rank,
            rope_size=max(0, _rows(tensors, "attn_kv_a_mqa") - rank),
            key_size=_rows(tensors, "attn_q_b", "attn_q") // heads,
            value_size=rank,
            indexer_size=_rows(tensors, "indexer.attn_k"),
            indexer_top_k=_INDEXER_TOP_K if "indexer.attn_k.weight" in tensors else 0,
        )
    keys, values = _widths(tensors)
    if not keys:
        return None
    if isinstance(told, Attention) and told.num_kv_heads:
        as_told = told.num_kv_heads * told.key_size, told.num_kv_heads * told.value_size
        if as_told[0] >= keys and as_told[1] >= values:
            return replace(told, window=None, shared=False)
    size = _rows(tensors, "attn_k_norm", "attn_q_norm", axis=0)
    size = size if size and keys % size == 0 else _HEAD_SIZE if keys % _HEAD_SIZE == 0 else keys
    kv_heads = keys // size
    queries = _rows(tensors, "attn_q", "attn_q_b") or _rows(tensors, "attn_output", axis=0)
    return Attention(
        num_heads=max(kv_heads, queries // size),
        num_kv_heads=kv_heads,
        key_size=size,
        value_size=-(-values // kv_heads),
    )


def _widths(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """Elements of keys and of values a token."""
    keys = _rows(tensors, "attn_k")
    if keys:
        return keys, _rows(tensors, "attn_v") or keys
    if decompressed := _rows(tensors, "attn_kv_b"):
        return decompressed, decompressed
    fused = 0 if "ssm_out.weight" in tensors else _rows(tensors, "attn_qkv")
    queries = _rows(tensors, "attn_output", axis=0)
    both = fused - queries if queries < fused else fused
    return -(-both // 2), -(-both // 2)


def state(tensors: Mapping[str, Tensor], told: RecurrentState | None) -> RecurrentState | None:
    """A state of fixed size: what the keys say of it, else what the shapes say at most."""
    conv = sum(
        max(tensor.shape[0] - 1, 0) * prod(tensor.shape[1:])
        for name in _CONVOLUTIONS
        if (tensor := tensors.get(f"{name}.weight"))
    )
    ssm = _state_elements(tensors) if conv else 0
    if hidden := _rows(tensors, "time_mix_output", axis=0):  # RWKV
        conv, ssm = 2 * hidden, hidden * _STATE_SIZE
    if told is not None and told.ssm_elements:
        conv, ssm = max(conv, told.conv_elements), told.ssm_elements
    if not (conv or ssm):
        return None
    return RecurrentState(kind=told.kind if told else "mamba2", conv_elements=conv, ssm_elements=ssm)


def _state_elements(tensors: Mapping[str, Tensor]) -> int:
    """Of Mamba 1, Mamba 2, or a delta net."""
    inner = _rows(tensors, "ssm_out", axis=0) or _rows(tensors, "attn_output", axis=0)
    if "shortconv.conv.weight" in tensors or not inner:
        return 0
    norm = tensors.get("ssm_norm.weight")
    if "ssm_x.weight" in tensors and "ssm_a" in tensors:
        return tensors["ssm_a"].shape[0] * inner
    if "ssm_in.weight" in tensors and "ssm_ba.weight" not in tensors:
        groups = norm.shape[1] if norm is not None and len(norm.shape) > 1 else 1
        return max(0, _rows(tensors, "ssm_conv1d") - inner) // 2 // groups * inner
    return max(norm.shape[0] if norm is not None else 0, _STATE_SIZE) * inner


def _rows(tensors: Mapping[str, Tensor], *names: str, axis: int = 1) -> int:
    """The size along an axis of the first of these matrices that is there."""
    for name in names:
        tensor = tensors.get(f"{name}.weight")
        if tensor is not None and len(tensor.shape) > axis:
            return tensor.shape[axis] if axis == 0 else prod(tensor.shape[1:])
    return 0

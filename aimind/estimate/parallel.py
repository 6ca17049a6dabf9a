"""The rules of vLLM 0.32 for tensor and pipeline parallel sizes; each broken rule is a sentence.

vLLM checks most of them only by an assertion while it loads. Marlin's tiles (64 outputs by 128 inputs) are
not among the rules: shapes that do not fill them are padded (`marlin_padded_nk` in
vllm/model_executor/layers/quantization/utils/marlin_utils.py), and experts then take another kernel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from aimind.estimate.shares import VOCABULARY
from aimind.types import Attention, LatentAttention, Layer, Memory, Metadata, RecurrentState

# Scales of experts are made finer until they divide, down to this (moe_wna16.py; refine_fp8_moe_block_shape
# in vllm/model_executor/layers/fused_moe/oracle/fp8.py).
_FINEST_GROUP = 32
_REFINED = ("GPTQ", "AWQ", "FP8")
# Padded to whole groups while they load (vllm/model_executor/layers/quantization/mxfp4.py).
_PADDED = ("MXFP4",)
_PLAIN = frozenset({"F32", "F16", "BF16"})
_OUTPUTS = ("o_proj.", "out_proj.", "attention.dense.", "wo.")


def refusal(metadata: Metadata, *, tensor_parallel: int, pipeline_parallel: int) -> str | None:
    """The rule of vLLM that these sizes break, as a sentence; `None` when it will start."""
    if pipeline_parallel > len(metadata.layers):
        return (
            f"pipeline parallel {pipeline_parallel} needs as many layers, "
            f"and the model has {len(metadata.layers)}"
        )
    broken = next(_broken_rules(metadata, tensor_parallel), None) if tensor_parallel > 1 else None
    return f"tensor parallel {tensor_parallel} cannot divide {broken}" if broken else None


def _broken_rules(metadata: Metadata, ranks: int) -> Iterator[str]:
    memories = list(dict.fromkeys(memory for layer in metadata.layers for memory in layer.memory))
    yield from _broken_by_heads(metadata, memories, ranks)
    vocabulary = -(-metadata.vocab_size // VOCABULARY) * VOCABULARY
    if vocabulary % ranks:
        yield f"a vocabulary of {vocabulary:,} tokens"
    sizes = {size for y in metadata.layers for size in (y.feed_forward_size, y.expert_feed_forward_size)}
    for size in sorted(sizes | {metadata.intermediate_size}):
        if size % ranks:
            yield f"a feed-forward size of {size:,}"
    for memory in memories:
        if isinstance(memory, RecurrentState):
            yield from _broken_by_state(memory, ranks)
    for each in metadata.by_quantization():
        yield from _broken_by_quantization(each, ranks)


def _broken_by_heads(metadata: Metadata, memories: Sequence[Memory], ranks: int) -> Iterator[str]:
    """Heads divide; those of keys and values do, or are copied a whole number of times."""
    attending = [memory for memory in memories if isinstance(memory, Attention | LatentAttention)]
    for heads in sorted({metadata.num_heads, *(memory.num_heads for memory in attending)}):
        if heads % ranks:
            yield f"{heads} attention heads"
    if any(isinstance(memory, LatentAttention) for memory in attending):
        return
    plain = {memory.num_kv_heads for memory in attending if isinstance(memory, Attention)}
    for heads in sorted((plain | {metadata.num_kv_heads}) - {0}):
        if heads % ranks and ranks % heads:
            yield f"{heads} key-value heads, or replicate them evenly"


def _broken_by_state(state: RecurrentState, ranks: int) -> Iterator[str]:
    """Mamba 2 copies a single group to all ranks, and cuts several (mamba_mixer2.py)."""
    name = "Mamba" if state.kind in ("mamba1", "mamba2") else "linear attention"
    if state.num_heads % ranks:
        yield f"{state.num_heads} {name} heads"
    if state.num_groups % ranks and not (state.kind == "mamba2" and state.num_groups == 1):
        yield f"{state.num_groups} {name} groups"
    if state.conv_elements % ranks and state.kind in ("mamba1", "short-conv"):
        yield f"a convolution of {state.conv_elements:,} elements"


def _broken_by_quantization(metadata: Metadata, ranks: int) -> Iterator[str]:
    """A rank's inputs are whole groups of scales; with blocks (FP8), its outputs are whole blocks too."""
    group, name = metadata.group_size or 1, metadata.quantization or ""
    if group == 1 or name in _PADDED:
        return
    what, blocks = f"quantization groups of {group}", name == "FP8"
    for layer in metadata.layers:
        size = layer.expert_feed_forward_size // ranks
        finest = math.gcd(size, group) if name in _REFINED else 0
        if size % group and finest < _FINEST_GROUP:
            yield f"an expert's feed-forward size into {what}: it would be {size:,} per rank"
        size = layer.feed_forward_size // ranks
        if size % group:
            yield f"a feed-forward size into {what}: it would be {size:,} per rank"
        if _has_plain_attention(layer):
            continue
        for memory in layer.memory:
            for part, size in _projections(memory, ranks, blocks=blocks):
                if size % group:
                    yield f"{part} into {what}: they would be {size:,} elements per rank"


def _has_plain_attention(layer: Layer) -> bool:
    """Whether the projection out of the attention is one of those that were not quantized."""
    found = [tensor for tensor in layer.tensors if any(part in tensor.name for part in _OUTPUTS)]
    return bool(found) and all(tensor.dtype in _PLAIN for tensor in found)


def _projections(memory: Memory, ranks: int, *, blocks: bool) -> Iterator[tuple[str, int]]:
    """Elements on one rank of what goes into the output projection, and of what queries and keys give."""
    if isinstance(memory, Attention | LatentAttention):
        yield "the attention outputs", memory.num_heads * memory.value_size // ranks
        if blocks:
            yield "the queries", memory.num_heads * memory.key_size // ranks
    if blocks and isinstance(memory, Attention):
        yield "the keys", max(1, memory.num_kv_heads // ranks) * memory.key_size
        yield "the values", max(1, memory.num_kv_heads // ranks) * memory.value_size

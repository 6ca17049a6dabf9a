"""A bound for what models compute with whose operations are not known."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from aimind.estimate import cache, weights
from aimind.estimate.blocks import Step
from aimind.estimate.graph import F16, F32
from aimind.estimate.schedule import PIPELINE_COPIES
from aimind.estimate.weights import Places
from aimind.types import LatentAttention, Layer

if TYPE_CHECKING:
    from aimind.estimate.ggml import Profile


def compute_bound(model: Profile, step: Step, at: Places, *, largest_cache_bytes: int) -> tuple[int, ...]:
    """More than any order of the operations can need, at each place, RAM last.

    All results of the widest layer at once, beside what stays all the time; on a device also what it copies
    of a layer in RAM, of whose cache `largest_cache_bytes` is the largest.
    """
    metadata, tokens = model.metadata, step.tokens
    layers = [metadata.layers[index] for index in set(model.same)]
    width = max((_result_elements(layer, step) for layer in layers), default=0)
    # With a bias by distance the scores, their softmax, and the bias in two orders.
    bias = _bias_elements(model, step)
    scores = max(_score_elements(layers, step), 4 * bias)
    results = 4 * (tokens * (width + 8 * metadata.hidden_size) + scores)
    results += _indexer_bytes(layers, step)
    logits = 4 * step.outputs * (metadata.vocab_size + 2 * metadata.hidden_size)
    # Two masks, embeddings as they are looked up, scaled and added, positions and where to store.
    masks = 2 * step.cells * (F16 if step.flash else F32) if any(map(cache.attention, layers)) else 0
    embedded = metadata.hidden_size * (1 + metadata.deepstack)
    embedded += sum(t.shape[0] for t in model.weights.inputs if t.name.startswith("per_layer"))
    inputs = tokens * (masks + 8 * F32 * embedded + 64) + _pooled_bytes(model, step)
    results += logits  # holes may keep one from taking the other's place
    # Every layer with an indexer has a mask of its own for the tokens that it chooses.
    opened = max((F32 * step.tokens * _chosen(layer, step) for layer in layers), default=0)
    if not at.host:
        return (inputs + results + opened * len(at.layers),)
    converted = max((_converted_bytes(layer, step) for layer in layers), default=0)
    copied = 0
    if at.host in at.experts:
        sizes = sorted((t.size_bytes for layer in layers for t in layer.tensors), reverse=True)
        copied = sum(sizes[:2]) + 2 * largest_cache_bytes
    copies = PIPELINE_COPIES if at.host > 1 else 1
    device = copies * inputs + results + converted + copied
    host = copies * inputs + (results if at.host in at.experts else 0) + opened * at.layers.count(at.host)
    # Every layer brings its bias from another device, once for each batch under way.
    brought = 4 * bias * copies if at.host > 1 else 0
    totals = []
    for place in range(at.host):
        here = at.layers.count(place)
        # What layers in RAM compute may run on any device.
        masks = opened * (len(at.layers) if at.host in at.layers else here)
        totals.append(device + brought * here + masks)
    return (*totals, host)


def _result_elements(layer: Layer, step: Step) -> int:
    """Of what a layer's matrices make of one token, and what a state does with it."""
    total = 0
    for tensor in layer.tensors:
        if len(tensor.shape) > 1:
            used = layer.num_experts_used if weights.is_expert(tensor) else 0
            total += tensor.shape[1] * used if used else prod(tensor.shape[1:])
    state = cache.state(layer)
    if state is not None:
        recurring = 2 * (state.conv_elements + state.ssm_elements) * step.sequences
        total = 3 * total + -(-recurring // step.tokens)
    return total


def _score_elements(layers: Sequence[Layer], step: Step) -> int:
    """Of attention that is computed without a fused kernel: scores and their softmax."""
    heads = max((m.num_heads for m in map(cache.attention, layers) if m is not None), default=0)
    return 0 if step.flash else 2 * heads * step.cells * step.tokens


def _bias_elements(model: Profile, step: Step) -> int:
    """Of a bias on the scores by distance (T5), which no fused kernel takes; 0 where there is none."""
    tensors = [t for layer in model.metadata.layers for t in layer.tensors] + [*model.metadata.others]
    heads = max((t.shape[0] for t in tensors if "attn_rel_b" in t.name), default=0)
    return heads * (step.cells if model.causal else step.tokens) * step.tokens


def _chosen(layer: Layer, step: Step) -> int:
    """Tokens of the cache that each token attends to at most; 0 without an indexer."""
    memory = cache.attention(layer)
    return min(step.cells, memory.indexer_top_k) if isinstance(memory, LatentAttention) else 0


def _indexer_bytes(layers: Sequence[Layer], step: Step) -> int:
    """What sparse attention computes: scores of all tokens, those chosen twice, three masks, its own rows."""
    chosen = max((_chosen(layer, step) for layer in layers), default=0)
    if not chosen:
        return 0
    return F32 * step.tokens * (4 * step.cells + 3 * chosen)


def _converted_bytes(layer: Layer, step: Step) -> int:
    """16-bit copies of quantized keys and values."""
    memory = cache.attention(layer)
    if memory is None or step.key_block == step.value_block == cache.BLOCKS["f16"]:
        return 0
    values = cache.value_elements(memory) or cache.key_elements(memory)
    return F16 * step.cells * step.streams * (cache.key_elements(memory) + values)


def _pooled_bytes(model: Profile, step: Step) -> int:
    return 4 * step.tokens * (model.metadata.hidden_size + step.sequences)

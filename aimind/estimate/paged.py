"""What vLLM and its like allocate, from the headers and config.json: here the cache in blocks.

Weights (`shares`), blocks and tokens are exact (vLLM 0.32, `benchmarks/estimates.py` and the live tests).
What a GPU needs besides is the rule of each engine (`MemoryRule`), in its launcher's `…_memory.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from aimind.estimate.activations import activation_bytes
from aimind.estimate.cache_types import CacheType, cache_type
from aimind.estimate.parallel import refusal
from aimind.estimate.shares import item_bytes, stages, weights_bytes
from aimind.types import Attention, LatentAttention, Memory, Metadata, RecurrentState

__all__ = [
    "CONTEXT_BYTES",
    "GRAPHS_BYTES",
    "Layout",
    "activation_bytes",
    "in_flight_tokens",
    "item_bytes",
    "layout",
    "ram_block_size",
    "refusal",
    "unmeasured_sources",
    "weights_bytes",
]

# A context with the libraries, and graphs of the default sizes, for engines on which nothing was measured:
# upper figures.
CONTEXT_BYTES = 1 << 30
GRAPHS_BYTES = 512 << 20
# Steps that a convolution of Mamba 2 keeps (of four).
_KEPT_STEPS = 3
# Where latents lie beside states, blocks are a multiple of this (Platform._align_hybrid_block_size).
_LATENT_BLOCK = 128


@dataclass(frozen=True, slots=True)
class _Group:
    """Layers of one kind that share a table of blocks."""

    kind: Literal["full", "window", "state"]
    block_size: int = 0
    window: int = 0
    state_blocks: int = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """How the cache of one rank is cut into blocks.

    Attributes:
        block_size: tokens of one layer in a block; a multiple where layers differ in size.
        block_bytes: over all layers that share a block.
        groups: each needs blocks of its own for a request.
    """

    block_size: int
    block_bytes: int
    groups: tuple[_Group, ...]

    def blocks_needed(self, tokens: int, *, in_flight: int) -> int:
        """Blocks for one request of that length; `in_flight`: tokens that steps under way may still add."""
        total = 0
        for group in self.groups:
            if group.kind == "state":
                total += group.state_blocks
            elif group.kind == "window":
                kept = min(group.window - 1 + in_flight, tokens)
                total += -(-kept // group.block_size) + 1
            else:
                total += -(-tokens // group.block_size)
        return total

    def tokens_held(self, memory_bytes: int, tokens: int, *, in_flight: int) -> int:
        """Tokens over all requests, if each has `tokens`: what vLLM reports as the size of its cache."""
        if not self.block_bytes:
            return 0
        blocks = memory_bytes // self.block_bytes
        return blocks * tokens // max(1, self.blocks_needed(tokens, in_flight=in_flight))

    def longest(self, memory_bytes: int, limit: int, *, in_flight: int) -> int:
        """The longest request up to `limit` for which the memory has blocks; one block is held back."""
        if not self.block_bytes:
            return limit
        spare = memory_bytes // self.block_bytes - 1
        if self.blocks_needed(limit, in_flight=in_flight) <= spare + 1:
            return limit
        low, high = 0, limit // self.block_size
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.blocks_needed(middle * self.block_size, in_flight=in_flight) <= spare
            low, high = (middle, high) if fits else (low, middle - 1)
        return low * self.block_size


@dataclass(frozen=True, slots=True)
class _Page:
    """What one layer keeps in a block: how, of what shape, and how many bytes."""

    stage: int
    group: _Group
    shape: tuple[int, ...]
    size_bytes: int


def layout(
    metadata: Metadata,
    *,
    ranks: tuple[int, int],
    cache_dtype: str,
    dtype: str | None,
    block_size: int,
    prefix_caching: bool = True,
) -> Layout:
    """The cache of the rank with the largest blocks; `ranks` are the tensor and the pipeline parallel size.

    A state needs a page of its own, so blocks grow until an attention page holds one.
    Source: vllm/v1/core/kv_cache_utils.py and vllm/platforms/interface.py, 0.32.
    """
    tensor_parallel, pipeline_parallel = ranks
    item = item_bytes(dtype)
    count = len(metadata.layers)
    hybrid = any(isinstance(memory, RecurrentState) for layer in metadata.layers for memory in layer.memory)
    kept = [
        (stage, memory, cache_type(cache_dtype, layer=index, layers=count, hybrid=hybrid))
        for stage, layers in enumerate(stages(count, pipeline_parallel))
        for index in layers
        for memory in metadata.layers[index].memory
        if not isinstance(memory, Attention) or (memory.causal and not memory.shared)
    ]
    stored = dict.fromkeys((memory, kind) for _, memory, kind in kept)
    memories = dict.fromkeys(memory for _, memory, _ in kept)
    token_bytes = max((_token_bytes(*each, item, tensor_parallel) for each in stored), default=0)
    states = [m for m in memories if isinstance(m, RecurrentState)]
    state_bytes = max((_state_bytes(m, item, tensor_parallel) for m in states), default=0)
    if state_bytes and token_bytes:
        if any(isinstance(memory, LatentAttention) for memory in memories):
            block_size = max(block_size, _LATENT_BLOCK)
        block_size *= max(1, -(-state_bytes // (block_size * token_bytes)))
    pages = []
    for stage, memory, kind in kept:
        if isinstance(memory, RecurrentState):
            group = _Group(
                "state", state_blocks=_state_blocks(memory) if prefix_caching and token_bytes else 1
            )
            pages.append(_Page(stage, group, (), max(state_bytes, block_size * token_bytes)))
            continue
        window = memory.window if isinstance(memory, Attention) else None
        group = _Group("window", block_size, window) if window else _Group("full", block_size)
        size = block_size * _token_bytes(memory, kind, item, tensor_parallel)
        if size:  # of an unknown kind of model perhaps nothing is known to be kept
            pages.append(_Page(stage, group, _shape(memory), size))
    groups = _grouped(pages)
    per_stage = [
        sum(p.size_bytes for p in g if p.stage == s) for g in groups for s in range(pipeline_parallel)
    ]
    return Layout(block_size, max(per_stage, default=0), tuple(group[0].group for group in groups))


def unmeasured_sources() -> dict[str, str]:
    """Component of an estimate -> what its figure is known from, where an engine is planned like vLLM."""
    unsure = "; the rule is vLLM's and was not measured on this backend"
    known_from = {
        "weights_bytes": "each rank holds its share of the tensors in the headers, with a padded vocabulary",
        "kv_cache_bytes": "the remaining memory is divided into whole blocks of vLLM's cache layout",
        "compute_bytes": "the figure is an upper bound of vLLM's profiling run, from its source",
        "graphs_bytes": "the figure is an upper bound for CUDA graphs of the default sizes",
        "overhead_bytes": "the CUDA context and libraries, or Python and the engine in RAM, are estimated",
    }
    return {component: source + unsure for component, source in known_from.items()}


def in_flight_tokens(batched: int, pipeline_parallel: int) -> int:
    """Tokens that steps under way on devices may hold: one step a stage, and the next one being prepared.

    Source: max_concurrent_batches in vllm/config/vllm.py, with asynchronous scheduling, which is the default.
    """
    return batched * (pipeline_parallel + 1)


def ram_block_size(metadata: Metadata, preferred: int) -> int:
    """Tokens per block that the CPU build takes: for latents always 16 (vllm/platforms/cpu.py)."""
    latent = any(isinstance(memory, LatentAttention) for layer in metadata.layers for memory in layer.memory)
    return 16 if latent else preferred


def _grouped(pages: Sequence[_Page]) -> list[list[_Page]]:
    """The layers by the table of blocks that they share.

    Layers of one kind are one group. Layers of several kinds go in groups of g, the smallest kind's count, or
    the largest's where that is less than half as large again; smaller pages hold more tokens, or are padded.
    """
    if len({page.group for page in pages}) <= 1:
        return [list(pages)] if pages else []
    largest = max(page.size_bytes for page in pages)
    kinds: dict[tuple[_Group, tuple[int, ...]], list[_Page]] = {}
    for page in pages:
        ratio = 1 if largest % page.size_bytes else largest // page.size_bytes
        group = dataclasses.replace(page.group, block_size=page.group.block_size * ratio)
        same = dataclasses.replace(page, group=group, size_bytes=largest)
        kinds.setdefault((group, page.shape), []).append(same)
    counts = [len(layers) for layers in kinds.values()]
    size = max(counts) if max(counts) < 1.5 * min(counts) else min(counts)
    result = []
    for layers in kinds.values():
        number = -(-len(layers) // size)
        result += [layers[start::number] for start in range(number)]
    return result


def _shape(memory: Memory) -> tuple[int, ...]:
    """What must be the same for layers to share a page's meaning."""
    if isinstance(memory, Attention):
        return (memory.num_kv_heads, memory.key_size, memory.value_size)
    return ()


def _token_bytes(memory: Memory, kind: CacheType, item: int, ranks: int) -> int:
    if isinstance(memory, LatentAttention):
        return kind.latent_token_bytes(memory.kv_lora_rank + memory.rope_size, item)
    if isinstance(memory, Attention):
        kv_heads = max(1, memory.num_kv_heads // ranks)
        return kv_heads * kind.head_bytes(memory.key_size, memory.value_size, item)
    return 0


def _state_bytes(memory: RecurrentState, item: int, ranks: int) -> int:
    """The convolution in the model's precision, the recurrence in 32 bits; what a rank cannot cut it copies.

    Source: MambaStateShapeCalculator and the models' `get_mamba_state_dtype_from_config`.
    """
    conv = memory.conv_elements
    if memory.kind == "mamba2" and memory.num_groups < ranks:
        conv += (ranks - memory.num_groups) * memory.group_channels * _KEPT_STEPS
    return conv // ranks * item + memory.ssm_elements // ranks * 4


def _state_blocks(memory: RecurrentState) -> int:
    """Blocks a sequence holds with prefix caching: Mamba 2 keeps a checkpoint of the prompt as well."""
    return 3 if memory.kind == "mamba2" else 2

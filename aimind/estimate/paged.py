"""What vLLM and its like allocate, from the headers and config.json: weights per rank, and a cache in blocks.

Weights, blocks and tokens are exact (vLLM 0.32, `benchmarks/estimates.py`). What a GPU needs besides
(activations, CUDA graphs, the context) is read from vLLM's source: approximate until a GPU has confirmed it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from aimind.types import Attention, LatentAttention, Memory, Metadata, RecurrentState, Tensor

# Rows that the vocabulary is padded to (vllm/model_executor/layers/vocab_parallel_embedding.py).
_VOCABULARY = 64
# A CUDA context with NCCL and the libraries, and graphs of the default sizes: approximate, upper figures.
CONTEXT_BYTES = 1 << 30
GRAPHS_BYTES = 512 << 20
# From what each component is known, for the person who asks.
SOURCES: Mapping[str, str] = {
    "weights_bytes": "the tensors in the headers, the vocabulary padded, by the rank's share of each",
    "kv_cache_bytes": "whole blocks by vLLM's layout of the cache, in what the rest leaves",
    "compute_bytes": "the peak of vLLM's profiling run: an upper figure from its source",
    "graphs_bytes": "CUDA graphs of the default sizes: an upper figure",
    "overhead_bytes": "the CUDA context and libraries, or Python and the engine in RAM: by experience",
}
_CACHE_BYTES = {"fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}
_ITEM_BYTES = {
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "half": 2,
    "float": 4,
}
# Weights of 4 and 8 bits that Marlin's kernels multiply: tiles of 64 outputs and 128 inputs.
_MARLIN = ("GPTQ", "AWQ", "W4A16", "W8A16")
_MARLIN_STEP = 128
# What each rank has whole: routers, the compressing half of latent attention, convolutions.
_REPLICATED = ("norm", "mlp.gate.weight", "router", "kv_a_proj", "q_a_proj", "position_embed", "token_type")
_COLUMN_KV = ("k_proj", "v_proj", "key.weight", "value.weight")


@dataclass(frozen=True, slots=True)
class _Group:
    """Layers of one kind that share a table of blocks."""

    kind: Literal["full", "window", "state"]
    window: int = 0
    state_blocks: int = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """How the cache of one rank is cut into blocks.

    Attributes:
        block_size: tokens of one layer in a block.
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
                total += -(-kept // self.block_size) + 1
            else:
                total += -(-tokens // self.block_size)
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


def layout(
    metadata: Metadata,
    *,
    ranks: tuple[int, int],
    cache_dtype: str,
    dtype: str | None,
    block_size: int,
    prefix_caching: bool = True,
) -> Layout:
    """The cache of the rank with most layers; `ranks` are the tensor and the pipeline parallel size.

    Layers of a kind go in groups of g, the smallest kind's count, or the largest's where that is less than
    half as large again; a state needs a page of its own, so blocks grow until an attention page holds one.
    Source: vllm/v1/core/kv_cache_utils.py, 0.32.
    """
    tensor_parallel, pipeline_parallel = ranks
    item = _CACHE_BYTES.get(cache_dtype) or item_bytes(dtype)
    layers = metadata.layers[: -(-len(metadata.layers) // pipeline_parallel)]
    kinds: Counter[_Group] = Counter()
    token_bytes, state_bytes = 0, 0
    for memory in (memory for layer in layers for memory in layer.memory):
        if isinstance(memory, RecurrentState):
            kinds[_Group("state", state_blocks=_state_blocks(memory, prefix_caching=prefix_caching))] += 1
            state_bytes = max(state_bytes, _state_bytes(memory, item, tensor_parallel))
        elif isinstance(memory, LatentAttention) or (memory.causal and not memory.shared):
            window = memory.window if isinstance(memory, Attention) else None
            kinds[_Group("window", window=window) if window else _Group("full")] += 1
            token_bytes = max(token_bytes, _token_bytes(memory, item, tensor_parallel))
    if not kinds:
        return Layout(block_size, 0, ())
    if state_bytes and token_bytes:
        block_size = max(block_size, block_size * -(-state_bytes // (block_size * token_bytes)))
    smallest, largest = min(kinds.values()), max(kinds.values())
    size = largest if largest < 1.5 * smallest else smallest
    page = max(block_size * token_bytes, state_bytes)
    groups = tuple(kind for kind, count in kinds.items() for _ in range(-(-count // size)))
    return Layout(block_size, size * page, groups)


def item_bytes(dtype: str | None) -> int:
    """Bytes per element of what is computed: 16 bit, since vLLM also turns 32-bit weights into that."""
    if dtype in (None, "auto"):
        return 2
    return _ITEM_BYTES.get(dtype or "", 2)


def weights_bytes(
    metadata: Metadata, *, tensor_parallel: int, pipeline_parallel: int, dtype: str | None = None
) -> int:
    """Of the rank that holds most: its share of each layer, and the embeddings."""
    item = item_bytes(dtype)
    layers = metadata.layers[: -(-len(metadata.layers) // pipeline_parallel)]
    tensors = [tensor for layer in layers for tensor in layer.tensors]
    others = metadata.others
    if metadata.tied:
        others = tuple(tensor for tensor in others if "lm_head" not in tensor.name)
    share = sum(_share(metadata, tensor, tensor_parallel, item) for tensor in tensors)
    return share + sum(_share(metadata, tensor, tensor_parallel, item) for tensor in others)


def activation_bytes(metadata: Metadata, *, tensor_parallel: int, tokens: int, sequences: int) -> int:
    """The peak of vLLM's profiling run: a step of `tokens`, then the sampler on a row of logits a sequence.

    Approximate: the widest feed-forward in 16 bit with its inputs, and the sampler's copies of the logits.
    """
    step = tokens * (6 * metadata.intermediate_size // tensor_parallel + 6 * metadata.hidden_size)
    return max(step, 14 * min(sequences, tokens) * metadata.vocab_size)


def refusal(metadata: Metadata, *, tensor_parallel: int, pipeline_parallel: int) -> str | None:
    """The rule of vLLM that these sizes break, as a sentence; `None` when it will start."""
    if pipeline_parallel > len(metadata.layers):
        return f"pipeline parallel {pipeline_parallel}: there are {len(metadata.layers)} layers"
    broken = next(_broken_rules(metadata, tensor_parallel), None) if tensor_parallel > 1 else None
    return f"tensor parallel {tensor_parallel}: {broken}" if broken else None


def _broken_rules(metadata: Metadata, ranks: int) -> Iterator[str]:
    """What does not divide; most of it vLLM only finds out by an assertion while it loads."""
    heads, kv_heads = metadata.num_heads, metadata.num_kv_heads
    if heads % ranks:
        yield f"{heads} heads do not divide"
    if kv_heads and kv_heads % ranks and ranks % kv_heads:
        yield f"{kv_heads} key-value heads do not divide, nor does {ranks} by them"
    vocabulary = -(-metadata.vocab_size // _VOCABULARY) * _VOCABULARY
    if vocabulary % ranks:
        yield f"a vocabulary of {vocabulary} does not divide"
    sizes = {metadata.intermediate_size}
    for layer in metadata.layers:
        sizes |= {layer.feed_forward_size, layer.expert_feed_forward_size}
    for size in sorted(sizes - {0}):
        yield from _broken_by_feed_forward(metadata, size, ranks)
    for state in {m for layer in metadata.layers for m in layer.memory if isinstance(m, RecurrentState)}:
        if state.num_heads % ranks:
            yield f"{state.num_heads} Mamba heads do not divide"
        if state.num_groups > 1 and state.num_groups % ranks:
            yield f"{state.num_groups} Mamba groups do not divide"


def _broken_by_feed_forward(metadata: Metadata, size: int, ranks: int) -> Iterator[str]:
    share, group = size // ranks, metadata.group_size or 1
    if size % ranks:
        yield f"a feed-forward of {size} does not divide"
    elif share % group:
        yield f"a feed-forward of {share} per rank does not divide into quantization groups of {group}"
    elif (metadata.quantization or "").startswith(_MARLIN) and share % _MARLIN_STEP:
        yield f"a feed-forward of {share} per rank is no multiple of Marlin's {_MARLIN_STEP}"


def _token_bytes(memory: Memory, item: int, ranks: int) -> int:
    if isinstance(memory, LatentAttention):
        return (memory.kv_lora_rank + memory.rope_size) * item
    if isinstance(memory, Attention):
        return max(1, memory.num_kv_heads // ranks) * (memory.key_size + memory.value_size) * item
    return 0


def _state_bytes(memory: RecurrentState, item: int, ranks: int) -> int:
    """The convolution in the model's precision, the recurrence in 32 bit: so real runs have it."""
    return (memory.conv_elements * item + memory.ssm_elements * 4) // ranks


def _state_blocks(memory: RecurrentState, *, prefix_caching: bool) -> int:
    if not prefix_caching:
        return 1
    return 2 if memory.kind == "gated-delta-net" else 3


def _share(metadata: Metadata, tensor: Tensor, ranks: int, item: int) -> int:
    """Bytes of one tensor on one rank."""
    size = tensor.size_bytes
    if tensor.dtype in ("F32", "F16", "BF16"):
        # The decay of recurrent layers stays in 32 bit whatever the file has.
        kept = 4 if tensor.name.endswith((".A", ".A_log")) else item
        size = size // _ITEM_BYTES[tensor.dtype] * kept
    embeds = "embed_tokens" in tensor.name or "lm_head" in tensor.name or "word_embeddings" in tensor.name
    if embeds and size and tensor.shape:
        rows = tensor.shape[0]
        size = size // rows * (-(-rows // _VOCABULARY) * _VOCABULARY)
    if ranks == 1 or len(tensor.shape) < 2 or any(part in tensor.name for part in _REPLICATED):
        return size
    if any(part in tensor.name for part in _COLUMN_KV) and metadata.num_kv_heads:
        return size // min(ranks, metadata.num_kv_heads)
    return size // ranks

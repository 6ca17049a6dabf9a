"""What a step of vLLM holds in memory at once, beside weights and cache.

vLLM measures it by a step of the most tokens with made-up inputs, the encoder of a multimodal model before
it, and the sampler after it (`profile_run` and `_dummy_sampler_run` in vllm/v1/worker/gpu/model_runner.py);
all in 16 bits. The peak is the largest of these and of what compiling takes. In the three whole records of
tests/data/gpu_h200.json that is compiling (exact to 0.003 %) and once the V1 sampler (2 % too high, since the
number of multiprocessors is not known). The step itself was the largest in none of them.
"""

from __future__ import annotations

import re

from aimind.types import Attention, LatentAttention, Layer, Memory, Metadata

# The workspace of cuBLAS on a Hopper device (gpu_h200.json: in all three records).
WORKSPACE_BYTES = 32 << 20
# PyTorch's allocator rounds large requests up to this.
_SEGMENT_BYTES = 2 << 20
# Rows of context that latent attention unpacks at once
# (determine_chunked_prefill_workspace_size in vllm/model_executor/layers/attention/mla_attention.py).
_UNPACKED_ROWS = 64 << 10
# Programs that sort logits, one for each multiprocessor, with a row of scratch each (topk_topp_triton.py).
SORTING_ROWS = 160
# Tokens between states that a recurrent layer keeps of a prompt (the chunks of flash linear attention).
_CHUNK = 64
# Patches of the largest image of Qwen2-VL, and patches that give one token of others (Gemma 3: 4096 for 256).
_LARGEST_IMAGE, _PATCHES_PER_TOKEN = 64 << 10, 16
_TOWER_LAYER = re.compile(r"(vision|visual|vit|image|audio|speech|tower).*\.\d+\.")


def activation_bytes(metadata: Metadata, *, tensor_parallel: int, tokens: int, sequences: int) -> int:
    """The peak of a step of `tokens`, of the sampler on a row of logits a sequence, or of the encoder."""
    step = step_bytes(metadata, tensor_parallel=tensor_parallel, tokens=tokens)
    sampler = 2 * tokens * metadata.hidden_size
    if not metadata.pools:
        sampler += sampler_bytes(metadata.vocab_size, min(sequences, tokens))
    return max(step, sampler, encoder_bytes(metadata, tokens, tensor_parallel))


def step_bytes(metadata: Metadata, *, tensor_parallel: int, tokens: int, mixers: bool = True) -> int:
    """The widest layer on a step of `tokens`, with its input and its residual.

    Without `mixers` only feed-forward parts and experts count, as in a graph that leaves attention out.
    """
    layers = {(layer.memory, *_widths(layer)): layer for layer in metadata.layers}.values()
    widest = max(
        (
            _layer_bytes(layer, tokens, metadata.hidden_size, tensor_parallel, mixers=mixers)
            for layer in layers
        ),
        default=0,
    )
    if metadata.quantization:  # the inputs of a matrix in 8 bits beside those in 16
        widest += tokens * max(metadata.hidden_size, metadata.intermediate_size // tensor_parallel)
    return 4 * tokens * metadata.hidden_size + widest


def _widths(layer: Layer) -> tuple[int, ...]:
    return (layer.feed_forward_size, layer.num_experts_used, layer.expert_feed_forward_size)


def compile_bytes(vocabulary: int, hidden: int, tokens: int) -> int:
    """What inductor makes to time kernels: the embedding table once more, and a step's input and output.

    Args:
        vocabulary: rows of the table on one rank, padded as vLLM pads them.
        hidden: elements of a row.
        tokens: of the largest step.
    """
    table = -(-2 * vocabulary * hidden // _SEGMENT_BYTES) * _SEGMENT_BYTES
    return table + 4 * tokens * hidden + 2 * hidden + 4 * tokens


def sampler_bytes(vocabulary: int, rows: int) -> int:
    """Logits in 16 and in 32 bits, probabilities, as many random numbers, and what sorting needs."""
    return vocabulary * (14 * rows + 4 * min(rows, SORTING_ROWS))


def expert_workspace_bytes(metadata: Metadata, *, tensor_parallel: int, tokens: int) -> int:
    """Scratch of the experts' kernels, which stays allocated after the first step.

    Source: workspace_shapes in vllm/model_executor/layers/fused_moe/experts/triton_moe.py.
    """
    sizes = {(each.num_experts_used, each.expert_feed_forward_size) for each in metadata.layers}
    largest = 0
    for used, forward in sizes:
        size = forward // tensor_parallel
        wide, narrow = max(2 * size, metadata.hidden_size), max(size, metadata.hidden_size)
        largest = max(largest, 2 * tokens * used * (wide + narrow))
    return largest


def _layer_bytes(layer: Layer, tokens: int, hidden: int, ranks: int, *, mixers: bool) -> int:
    """The widest part of a layer: its mixer, its feed-forward, or its experts."""
    parts = [_mixer_bytes(memory, tokens, ranks) for memory in layer.memory if mixers]
    dense = 6 * tokens * layer.feed_forward_size // ranks  # gate, up, and their product
    experts = 0
    if layer.num_experts:  # workspace_shapes in vllm/model_executor/layers/fused_moe/experts/triton_moe.py
        size = layer.expert_feed_forward_size // ranks
        rows = 2 * tokens * layer.num_experts_used
        experts = rows * (max(size, hidden) + max(2 * size, hidden)) + 2 * tokens * hidden
    return max([*parts, dense, experts])


def _mixer_bytes(memory: Memory, tokens: int, ranks: int) -> int:
    if isinstance(memory, Attention):
        queries = memory.num_heads * (memory.key_size + memory.value_size)
        return 2 * tokens * (queries + memory.num_kv_heads * (memory.key_size + memory.value_size)) // ranks
    if isinstance(memory, LatentAttention):
        unpacked = memory.key_size - memory.rope_size + memory.value_size
        step = tokens * (3 * memory.key_size + unpacked)
        return 2 * memory.num_heads * (step + _UNPACKED_ROWS * unpacked) // ranks
    # A convolution of four steps keeps three: what goes in and out of it, and the gates.
    channels = memory.conv_elements // 3
    return (8 * tokens * channels + 4 * (tokens // _CHUNK) * memory.ssm_elements) // ranks


def encoder_bytes(metadata: Metadata, tokens: int, ranks: int) -> int:
    """A vision or audio tower on as much as one step may bring it."""
    sides = [
        tensor.shape
        for tensor in metadata.others
        if len(tensor.shape) == 2 and _TOWER_LAYER.search(tensor.name)
    ]
    if not sides:
        return 0
    patches = max(_PATCHES_PER_TOKEN * tokens, _LARGEST_IMAGE if "image" in metadata.modalities else 0)
    hidden, widest = min(min(shape) for shape in sides), max(max(shape) for shape in sides)
    return 2 * patches * (4 * hidden + 3 * widest // ranks)

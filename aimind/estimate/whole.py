"""What a model takes that is whole in one place: weights, a cache for requests, and what it computes with.

All but the weights is approximate: PyTorch and MLX allocate by need and give back what they like. Models of
speech are known by experience alone, as the launcher has it (`Need`).
"""

from __future__ import annotations

from collections.abc import Mapping

from aimind.estimate.activations import activation_bytes
from aimind.estimate.shares import item_bytes
from aimind.types import Attention, Estimate, LatentAttention, Memory, Metadata, Need, WholeMemory

# A CUDA context with cuBLAS and its workspaces.
CONTEXT_BYTES = 1 << 30
# Memory of models without a known figure, as a multiple of the size of their files.
UNKNOWN_FACTOR = 2
_STATE_ITEM = 4
_SOURCES: Mapping[str, str] = {
    "weights_bytes": "the figure comes from the tensors in the headers",
    "kv_cache_bytes": "every request is counted with its whole context, in the model's own data type",
    "state_bytes": "every request has one recurrent state, in 32 bits",
    "compute_bytes": "the figure is an upper bound: one step of a prompt in the widest part of each layer",
    "overhead_bytes": "Python, its libraries and the driver's context on a device are estimated",
}


def estimate(
    metadata: Metadata, memory: WholeMemory, *, on_device: bool, tokens: int, requests: int = 1
) -> Estimate:
    """What is where the model is, for so many requests of `tokens`; its process not counted."""
    weights = metadata.weight_bytes
    if not metadata.layers:
        need = need_of(metadata, memory)
        total = UNKNOWN_FACTOR * weights
        if need is not None:
            total = need.device_bytes if on_device else need.ram_bytes
        found = Estimate(weights_bytes=weights, compute_bytes=max(0, total - weights)).about("weights_bytes")
    else:
        step = min(tokens, memory.step_tokens or tokens)
        item = item_bytes(metadata.dtype)
        computed = activation_bytes(metadata, tensor_parallel=1, tokens=step, sequences=requests)
        kept = [each for layer in metadata.layers for each in layer.memory]
        found = Estimate(
            weights_bytes=weights,
            kv_cache_bytes=requests * sum(_token_bytes(each, item) * _kept(each, tokens) for each in kept),
            state_bytes=requests * sum(map(_state_bytes, kept)),
            compute_bytes=computed * item // 2,
            overhead_bytes=CONTEXT_BYTES if on_device else 0,
        )
    return found.about("kv_cache_bytes", "state_bytes", "compute_bytes", "overhead_bytes")


def sources(metadata: Metadata, memory: WholeMemory) -> Mapping[str, str]:
    """Where the figure of each component comes from."""
    if metadata.layers:
        return _SOURCES
    files = "the figure is the size of the files"
    rest = (
        f"no figure is known for {metadata.architecture}: the plan reserves {UNKNOWN_FACTOR} times the files"
    )
    return {
        **_SOURCES,
        "weights_bytes": files,
        "compute_bytes": memory.needs_source if need_of(metadata, memory) else rest,
    }


def need_of(metadata: Metadata, memory: WholeMemory) -> Need | None:
    """The first need of the model's kind that is for files as large as these."""
    for need in memory.needs:
        if need.architecture == metadata.architecture and metadata.weight_bytes <= need.weights_bytes:
            return need
    return None


def _token_bytes(memory: Memory, item: int) -> int:
    """Of keys and values, a token. Latents are stored unpacked."""
    if isinstance(memory, Attention):
        stored = memory.causal and not memory.shared
        return memory.num_kv_heads * (memory.key_size + memory.value_size) * item if stored else 0
    if isinstance(memory, LatentAttention):
        return memory.num_heads * (memory.key_size + memory.value_size) * item
    return 0


def _kept(memory: Memory, tokens: int) -> int:
    window = memory.window if isinstance(memory, Attention) else None
    return tokens if window is None else min(window, tokens)


def _state_bytes(memory: Memory) -> int:
    if isinstance(memory, Attention | LatentAttention):
        return 0
    return (memory.conv_elements + memory.ssm_elements) * _STATE_ITEM

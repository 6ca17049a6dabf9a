"""What the llama.cpp family allocates, in closed form, from the header alone.

Weights, caches and states are exact. Compute buffers are a closed form of what ggml's allocator arrives at:
the largest of the phases of one step, each the tensors that are alive in it. Checked against llama.cpp's own
no_alloc mode (ggml 0.25.3) by `benchmarks/estimates.py`, which prints how far off each component is.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from aimind.types import (
    Attention,
    Estimate,
    LatentAttention,
    Layer,
    Metadata,
    RecurrentState,
    Tensor,
)

# Bytes per block and elements per block of the types that a KV cache may have (ggml-common.h).
CACHE_TYPES = {
    "f32": (4, 1),
    "f16": (2, 1),
    "bf16": (2, 1),
    "q8_0": (34, 32),
    "q5_1": (24, 32),
    "q5_0": (22, 32),
    "q4_1": (20, 32),
    "q4_0": (18, 32),
    "iq4_nl": (18, 32),
}
# A process's CUDA context with its libraries and pools, by experience 300 to 500 MiB: approximate.
DEVICE_OVERHEAD_BYTES = 500 << 20
_CELLS = 256  # caches come in multiples of this
_DEVICE_ALIGNMENT = 128  # ggml-cuda's buffers
_ROW = 512  # elements to which ggml-cuda pads the last row of quantized tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The flags that move llama.cpp's memory, all of them explicit.

    Attributes:
        n_ctx: tokens that the cache holds over all sequences (`--ctx-size`).
        n_seq: sequences at once (`--parallel`).
        kv_unified: they share the cache's tokens.
        n_batch, n_ubatch: tokens per step, logical and physical.
        type_k, type_v: of keys and values, a name of `CACHE_TYPES`.
        flash_attention: on; the scores of a step are then never stored.
        n_outputs: logits per step at most; `None` for all tokens of a batch.
        swa_full: sliding-window layers remember all tokens.
        gpu_layers: on devices, of the layers and the output head, which is the first to go there.
        experts_on_cpu: the experts of all layers stay in RAM.
    """

    n_ctx: int
    n_seq: int = 1
    kv_unified: bool = True
    n_batch: int = 2048
    n_ubatch: int = 512
    type_k: str = "f16"
    type_v: str = "f16"
    flash_attention: bool = True
    n_outputs: int | None = None
    swa_full: bool = False
    gpu_layers: int = 0
    experts_on_cpu: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes of each kind per device, and in RAM."""

    devices: tuple[Estimate, ...]
    host: Estimate


@dataclass(frozen=True, slots=True)
class _Block:
    """One layer's weights, summed: on a device, in RAM, and the part of both that is its experts."""

    device_bytes: int
    host_bytes: int
    device_expert_bytes: int
    host_expert_bytes: int
    largest_bytes: int


@dataclass(frozen=True, slots=True)
class Profile:
    """A model as the estimate wants it: everything that does not depend on the settings, summed once."""

    metadata: Metadata
    blocks: tuple[_Block, ...]
    head_device_bytes: int
    head_host_bytes: int
    input_bytes: int
    value_width: int
    logits: int
    windows: tuple[int | None, ...]


def profile(metadata: Metadata) -> Profile:
    """The sums that every estimate of this model needs."""
    heads = [t for t in metadata.others if t.name.startswith(("output", "cls"))]
    inputs = [t for t in metadata.others if t not in heads]
    # A tied head is a copy of the embedding on the device, beside the embedding itself in RAM.
    shared = [t for t in inputs if t.name == "token_embd.weight"] if metadata.tied else []
    attentions = [m for layer in metadata.layers for m in layer.memory if isinstance(m, Attention)]
    # An encoder has no head: it gives the hidden states of its tokens.
    causal = not attentions or any(m.causal for m in attentions)
    return Profile(
        metadata=metadata,
        blocks=tuple(_block(layer) for layer in metadata.layers),
        head_device_bytes=sum(map(device_bytes, (*heads, *shared))),
        head_host_bytes=sum(t.size_bytes for t in heads),
        input_bytes=sum(t.size_bytes for t in inputs),
        logits=metadata.vocab_size if causal else 0,
        value_width=max((m.num_kv_heads * m.value_size for m in attentions), default=0),
        windows=tuple({m.window for m in attentions if m.causal and not m.shared}),
    )


def estimate(
    model: Profile,
    settings: Settings,
    layers_per_device: Sequence[int],
    *,
    overhead_bytes: int = DEVICE_OVERHEAD_BYTES,
) -> Usage:
    """What each device and RAM hold.

    Args:
        model: what is loaded.
        settings: with which flags; `gpu_layers` is the sum of `layers_per_device`.
        layers_per_device: consecutive layers of each device, the last of them ending with the output head.
        overhead_bytes: of the driver's context on each device, an approximate figure.
    """
    count = len(model.blocks)
    first = count + 1 - settings.gpu_layers
    ends = [first]
    for layers in layers_per_device:
        ends.append(ends[-1] + layers)
    devices = tuple(
        _device(
            model,
            settings,
            range(start, end),
            several=len(layers_per_device) > 1,
            overhead_bytes=overhead_bytes,
        )
        for start, end in itertools.pairwise(ends)
    )
    return Usage(devices, _host(model, settings, min(first, count), devices=len(devices)))


def device_bytes(tensor: Tensor) -> int:
    """What a CUDA device allocates for a tensor (ggml-cuda.cu, get_alloc_size).

    The last row of a quantized tensor is padded to 512 elements, and all to 128 bytes.
    """
    size, row = tensor.size_bytes, tensor.shape[0]
    if tensor.dtype not in ("F32", "F16", "BF16", "F64", "I32", "I16", "I8", "I64") and row % _ROW:
        elements = 1
        for length in tensor.shape:
            elements *= length
        size += size * (_ROW - row % _ROW) // elements
    return _pad(size, _DEVICE_ALIGNMENT)


def _block(layer: Layer) -> _Block:
    experts = [t for t in layer.tensors if "_exps" in t.name]
    return _Block(
        device_bytes=sum(map(device_bytes, layer.tensors)),
        host_bytes=layer.weight_bytes,
        device_expert_bytes=sum(map(device_bytes, experts)),
        host_expert_bytes=sum(t.size_bytes for t in experts),
        largest_bytes=max((t.size_bytes for t in layer.tensors), default=0),
    )


def _pad(number: int, unit: int) -> int:
    return -(-number // unit) * unit


# ── What is remembered ─────────────────────────────────────────────────────────────────────────────────────


def cells(settings: Settings, window: int | None) -> int:
    """Tokens that a cache holds in each stream: all, or those of a sliding window and one step."""
    whole = _pad(settings.n_ctx if settings.kv_unified else settings.n_ctx // settings.n_seq, _CELLS)
    if window is None or settings.swa_full:
        return whole
    sequences = settings.n_seq if settings.kv_unified else 1
    return _pad(min(whole, window * sequences + settings.n_ubatch), _CELLS)


def _row_bytes(dtype: str, elements: int) -> int:
    size, block = CACHE_TYPES[dtype]
    return elements // block * size


def _kv_bytes(model: Profile, settings: Settings, layer: Layer) -> int:
    """Keys and values of one layer, all streams."""
    streams = 1 if settings.kv_unified else settings.n_seq
    total = 0
    for memory in layer.memory:
        if isinstance(memory, LatentAttention):
            keys = _row_bytes(settings.type_k, memory.kv_lora_rank + memory.rope_size)
            total += keys * cells(settings, None) * streams
        elif isinstance(memory, Attention) and memory.causal and not memory.shared:
            width = memory.num_kv_heads * memory.value_size
            if not settings.flash_attention:
                width = (
                    model.value_width
                )  # stored transposed, so all layers' values are as wide as the widest
            keys = _row_bytes(settings.type_k, memory.num_kv_heads * memory.key_size)
            row = keys + _row_bytes(settings.type_v, width)
            total += row * cells(settings, memory.window) * streams
    return total


def _state_bytes(settings: Settings, layer: Layer) -> int:
    """Recurrent states of one layer, always 32 bit."""
    states = [m for m in layer.memory if isinstance(m, RecurrentState)]
    return 4 * settings.n_seq * sum(m.conv_elements + m.ssm_elements for m in states)


# ── What is computed with ──────────────────────────────────────────────────────────────────────────────────


def _step(settings: Settings) -> int:
    """Tokens of one physical step."""
    return min(settings.n_ctx, settings.n_ubatch)


def _mask_bytes(model: Profile, settings: Settings) -> int:
    """Attention masks: a row of cells for each token of a step, of each kind of cache."""
    each = 2 if settings.flash_attention else 4
    return sum(each * _step(settings) * cells(settings, window) for window in model.windows)


def _input_bytes(model: Profile, settings: Settings) -> int:
    return 4 * _step(settings) * model.metadata.hidden_size + _mask_bytes(model, settings)


def _output_bytes(model: Profile, settings: Settings) -> int:
    """The logits of one step, and the rows that they are computed from."""
    outputs = min(_step(settings), settings.n_outputs or settings.n_batch)
    return 4 * outputs * (model.logits + model.metadata.hidden_size)


def _phase_bytes(model: Profile, settings: Settings, layer: Layer) -> int:
    """The largest phase of one layer: what is alive while it attends, and while it feeds forward."""
    tokens, hidden = _step(settings), model.metadata.hidden_size
    phases = [8 * tokens * hidden + 12 * tokens * layer.feed_forward_size]
    if layer.num_experts_used:
        used = layer.num_experts_used
        phases.append(8 * tokens * hidden + 12 * tokens * used * layer.expert_feed_forward_size)
        phases.append(16 * tokens * hidden + 8 * tokens * used * hidden)
    phases += [_attention_bytes(settings, memory, hidden) for memory in layer.memory]
    return max(phases)


def _attention_bytes(settings: Settings, memory: object, hidden: int) -> int:
    tokens = _step(settings)
    if isinstance(memory, Attention):
        heads, size, width = memory.num_heads, memory.key_size, memory.num_kv_heads * memory.key_size
        window = memory.window
    elif isinstance(memory, LatentAttention):
        heads, size = memory.num_heads, memory.kv_lora_rank + memory.rope_size
        width, window = size, None
    else:
        return 0
    if not settings.flash_attention:
        return 8 * tokens * (hidden + heads * size) + 4 * tokens * cells(settings, window) * heads
    # The CUDA kernel wants keys and values in 16 bit: of a quantized cache it keeps copies.
    copies = sum(2 * cells(settings, window) * width for t in (settings.type_k, settings.type_v) if "q" in t)
    return 4 * tokens * (hidden + 2 * heads * size) + copies


# ── Where it all is ────────────────────────────────────────────────────────────────────────────────────────


def _device(
    model: Profile, settings: Settings, held: range, *, several: bool, overhead_bytes: int
) -> Estimate:
    """A device that holds this range of layers, the last of which is the output head."""
    count = len(model.blocks)
    layers = [i for i in held if i < count]
    weights = sum(model.blocks[i].device_bytes for i in layers)
    if settings.experts_on_cpu:
        weights -= sum(model.blocks[i].device_expert_bytes for i in layers)
    phase = max((_phase_bytes(model, settings, model.metadata.layers[i]) for i in layers), default=0)
    compute = _input_bytes(model, settings) + phase
    pipelined = several and settings.gpu_layers > count
    if count in held:
        weights += model.head_device_bytes
        masks = _mask_bytes(model, settings) if pipelined else 0
        compute = max(compute, _output_bytes(model, settings) + masks)
    if pipelined:
        compute += _pipeline_bytes(model, settings, first=0 in held)
    compute += _left_behind(model, settings)
    return Estimate(
        weights_bytes=weights,
        kv_cache_bytes=sum(_kv_bytes(model, settings, model.metadata.layers[i]) for i in layers),
        state_bytes=sum(_state_bytes(settings, model.metadata.layers[i]) for i in layers),
        compute_bytes=compute,
        overhead_bytes=overhead_bytes,
    )


def _pipeline_bytes(model: Profile, settings: Settings, *, first: bool) -> int:
    """With all layers on several devices these work on four batches at once, with copies of the inputs.

    The first device has copies of the embedded tokens, the others also of what the one before sends.
    """
    received = (16 if first else 32) * _step(settings) * model.metadata.hidden_size
    return 3 * _mask_bytes(model, settings) + received


def _left_behind(model: Profile, settings: Settings) -> int:
    """A device also computes large steps of the layers in RAM: it borrows a tensor or a cache at a time.

    A bound: what is borrowed, the mask, and the rows on their way.
    """
    left = model.blocks[: max(0, len(model.blocks) + 1 - settings.gpu_layers)]
    borrowed = [block.largest_bytes for block in left]
    borrowed += [_kv_bytes(model, settings, layer) for layer in model.metadata.layers[: len(left)]]
    if settings.experts_on_cpu:
        borrowed += [block.largest_bytes for block in model.blocks]
    if not borrowed:
        return 0
    rows = 8 * _step(settings) * model.metadata.hidden_size
    return max(borrowed) + _mask_bytes(model, settings) + rows


def _host(model: Profile, settings: Settings, count: int, *, devices: int) -> Estimate:
    """RAM with the first `count` layers, the embedding, and the head unless a device has it.

    Weights are counted once. Of some types (Q4_K, Q4_0, MXFP4) the CPU makes a second, interleaved copy; the
    file's own pages are then never read again, and the system takes them back when it needs them.
    """
    blocks, layers = model.blocks[:count], model.metadata.layers[:count]
    weights = model.input_bytes + sum(block.host_bytes for block in blocks)
    hidden, step = model.metadata.hidden_size, _step(settings)
    compute = 8 * step * hidden + _mask_bytes(model, settings)
    if devices > 1 and settings.gpu_layers > len(model.blocks):
        compute = 20 * step * hidden + 4 * _mask_bytes(model, settings)  # the copies of a pipeline
    if settings.experts_on_cpu:
        weights += sum(block.host_expert_bytes for block in model.blocks[count:])
    if settings.gpu_layers == 0:
        weights += model.head_host_bytes
        phase = max((_phase_bytes(model, settings, layer) for layer in layers), default=0)
        compute = max(_output_bytes(model, settings), _input_bytes(model, settings) + phase)
    outputs = settings.n_seq if settings.n_outputs is None else settings.n_outputs
    return Estimate(
        weights_bytes=weights,
        kv_cache_bytes=sum(_kv_bytes(model, settings, layer) for layer in layers),
        state_bytes=sum(_state_bytes(settings, layer) for layer in layers),
        compute_bytes=compute + 4 * model.logits * outputs,
    )

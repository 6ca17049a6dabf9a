"""What the llama.cpp family allocates with given flags, from the header alone.

Weights, caches and states follow llama.cpp's own rules (weights.py, cache.py). Compute buffers come from
placing and allocating the model's operations as ggml does (network.py, schedule.py), for llama.cpp as
vendored by llama-cpp-python 0.3.36 with ggml 0.25.3. `benchmarks/estimates.py` prints how far all that is
from what llama.cpp reserves. Nothing here reads a weight or touches a device.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from aimind.errors import MetadataError
from aimind.estimate import cache, families, overhead, weights
from aimind.estimate.blocks import Step, flash_kernel
from aimind.estimate.bound import compute_bound
from aimind.estimate.cache import padded
from aimind.estimate.graph import Node, stored
from aimind.estimate.network import Network, understands
from aimind.estimate.overhead import Matrices, Work
from aimind.estimate.schedule import DEVICE_ALIGNMENT, buffer_sizes
from aimind.estimate.weights import Places
from aimind.types import Attention, Estimate, LatentAttention, Layer, Metadata, Tensor

# Where the figure of each component comes from; shown to the user.
SOURCES: Mapping[str, str] = {
    "weights_bytes": "the tensor sizes come from the header, with the padding of llama.cpp's buffers",
    "repacked_bytes": "llama.cpp copies these tensors into the layout of this CPU's kernels",
    "kv_cache_bytes": "the figure follows llama.cpp's rules for cells, attention windows and cache types",
    "state_bytes": "each slot keeps one state per recurrent layer",
    "checkpoint_bytes": "this is an upper bound: every slot keeps all the checkpoints that it may",
    "prompt_cache_bytes": "--cache-ram sets this limit",
    "compute_bytes": "the figure follows ggml's rules for the placement and allocation of one step",
    "output_bytes": "each slot has one row of logits",
    "overhead_bytes": "the CUDA context, kernels, cuBLAS and the processes were measured once",
    "projector_bytes": "the weights come from the projector's header; the rest is estimated for one image",
}


Compute = Literal["exact", "quick", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The flags that move llama.cpp's memory, all of them explicit.

    Attributes:
        n_ctx: tokens that the cache holds over all sequences (`--ctx-size`).
        n_seq: sequences at once (`--parallel`).
        kv_unified: they share the cache's tokens.
        n_batch, n_ubatch: tokens per step, logical and physical.
        type_k, type_v: of keys and values, a name of `cache.BLOCKS`.
        flash_attention: used wherever the device has a kernel for all layers (`--flash-attn auto`); always
            for quantized values, which llama.cpp reads in no other way, on the CPU if it must.
        n_outputs: logits per step at most: llama-server wants one a sequence; `None` for every token of a
            batch.
        swa_full: sliding-window layers remember all tokens.
        gpu_layers: on devices, of the layers and the output head, which is the first to go there.
        experts_on_cpu: layers, the first ones, whose experts stay in RAM.
        mmap: the file is mapped, so that what is repacked comes on top of it.
        mixed_inputs: a step may hold tokens and embeddings side by side, as llama.cpp allows since late
            2026 (llama-cpp-python 0.3.36 does not yet).
        repack: the CPU copies weights into the order of its kernels (only where no device is used).
    """

    n_ctx: int
    n_seq: int
    kv_unified: bool
    n_batch: int = 2048
    n_ubatch: int = 512
    type_k: str = "f16"
    type_v: str = "f16"
    flash_attention: bool = True
    n_outputs: int | None = None
    swa_full: bool = False
    gpu_layers: int = 0
    experts_on_cpu: int = 0
    mmap: bool = True
    repack: bool = True
    mixed_inputs: bool = True


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes of each kind on every device, and in RAM."""

    devices: tuple[Estimate, ...]
    host: Estimate

    @property
    def ram_bytes(self) -> int:
        """Bytes of RAM that must be free.

        The file's own pages of what the CPU has repacked are not among them: nobody reads these again, and
        the system takes them back when it needs them.
        """
        return self.host.total_bytes - self.host.repacked_bytes


@dataclass(frozen=True, eq=False)
class Profile:
    """A model as the estimate wants it: all that does not depend on the settings, worked out once.

    Attributes:
        weights: summed by layer.
        alike: for each layer, the first one that computes alike; same: the first whose tensors are as
            large, too.
        window: the sliding window, 0 without one.
        causal: there is a cache, and logits.
        cached: every layer has a place in the cache, even without attention, since none recurs.
        understood: the operations of all layers are known; else compute is a bound.
        matrices: what decides which libraries a device needs for them.
    """

    metadata: Metadata
    weights: weights.Weights
    alike: tuple[int, ...]
    same: tuple[int, ...]
    window: int
    causal: bool
    cached: bool
    understood: bool
    matrices: Matrices


# The last model: hints plan one many times, and comparing models by value would take longer.
_latest: list[Profile] = []


def profile(metadata: Metadata) -> Profile:
    """The sums and comparisons that every estimate of this model needs; the last model's are kept."""
    if not _latest or _latest[0].metadata is not metadata:
        _latest[:] = [_profile(metadata)]
    return _latest[0]


def _profile(metadata: Metadata) -> Profile:
    attention = [m for layer in metadata.layers for m in layer.memory if isinstance(m, Attention)]
    kinds = [_kind(layer) for layer in metadata.layers]
    sizes = [
        (kind, *(t.size_bytes for t in layer.tensors))
        for kind, layer in zip(kinds, metadata.layers, strict=True)
    ]
    return Profile(
        metadata=metadata,
        weights=weights.summed(metadata),
        alike=tuple(kinds.index(kind) for kind in kinds),
        same=tuple(sizes.index(size) for size in sizes),
        window=max((m.window or 0 for m in attention), default=0),
        causal=all(m.causal for m in attention),
        cached=bool(attention) and not any(map(cache.state, metadata.layers)),
        understood=metadata.known
        and any(tensor.name == "token_embd.weight" for tensor in metadata.others)
        and all(understands(layer) for layer in metadata.layers),
        matrices=overhead.matrices(metadata),
    )


def estimate(
    model: Profile,
    settings: Settings,
    layers_per_device: Sequence[int],
    *,
    overhead_bytes: int = 0,
    compute: Compute = "exact",
) -> Usage:
    """What each device and RAM hold.

    Args:
        model: what is loaded.
        settings: with which flags; `gpu_layers` is the sum of `layers_per_device`.
        layers_per_device: consecutive layers of each device, the last of them ending with the output
            head; none
            for the CPU alone.
        overhead_bytes: what the process holds on each device beside its buffers (overhead.py).
        compute: `quick` works out the compute buffers with three layers of every row of equal ones: the same
            but for some hybrids and layers in RAM, where it is up to a quarter off; `none` leaves them out.
            They are what takes time here: 10 to 40 ms, a tenth of that, and next to nothing.

    Raises:
        ValueError: the layers do not add up, or the cache has no such type.
    """
    count = len(model.metadata.layers)
    if sum(layers_per_device) != settings.gpu_layers or not 0 <= settings.gpu_layers <= count + 1:
        raise ValueError(
            f"{layers_per_device} are not the {settings.gpu_layers} of {count + 1} layers asked for"
        )
    if not {settings.type_k, settings.type_v} <= cache.BLOCKS.keys():
        raise ValueError(f"no cache has the type {settings.type_k} or {settings.type_v}")
    at = weights.places(count, layers_per_device, experts_on_host=settings.experts_on_cpu)
    step = _step(model, settings, at)
    held, repacked = weights.placed(model.weights, at)
    caches, states = _remembered(model, settings, step, at)
    buffers = _compute(model, settings, step, at, compute)
    approximate = _approximate(model, at)
    places = [
        Estimate(
            weights_bytes=held[place],
            repacked_bytes=repacked if not at.host and settings.repack and settings.mmap else 0,
            kv_cache_bytes=caches[place],
            state_bytes=states[place],
            compute_bytes=buffers[place],
            output_bytes=output_bytes(model, settings) if place == at.host else 0,
            overhead_bytes=overhead_bytes if place < at.host else 0,
            approximate=approximate,
        )
        for place in range(at.host + 1)
    ]
    return Usage(tuple(places[:-1]), places[-1])


def _approximate(model: Profile, at: Places) -> frozenset[str]:
    """What is not known to the byte: bounds for an unknown model, and computing on both sides of a cut."""
    names = {"overhead_bytes"}
    if not model.metadata.known:
        names |= {"kv_cache_bytes", "state_bytes"}
    if not model.understood or (at.host and at.host in at.experts):
        names.add("compute_bytes")
    return frozenset(names)


# ── One step ───────────────────────────────────────────────────────────────────────────────────────────────


def _step(model: Profile, settings: Settings, at: Places) -> Step:
    """The largest step that the server may take (`llama_context::sched_reserve`)."""
    n_seq, unified = settings.n_seq, settings.kv_unified
    context = padded(settings.n_ctx, cache.PADDING)
    cells = context if unified else padded(context // n_seq, cache.PADDING)
    context = cells if unified else cells * n_seq
    batch = min(context, settings.n_batch) if model.causal else settings.n_batch
    ubatch = min(batch, settings.n_ubatch)
    tokens = min(context, ubatch)
    window_cells = padded(min(cells, model.window * (n_seq if unified else 1) + ubatch), cache.PADDING)
    return Step(
        tokens=padded(tokens, n_seq),
        sequences=n_seq,
        outputs=min(tokens, settings.n_outputs or batch),
        streams=1 if unified else n_seq,
        cells=cells,
        window_cells=cells if settings.swa_full else window_cells,
        flash=_uses_flash_attention(model, settings, at),
        key_block=cache.BLOCKS[settings.type_k],
        value_block=cache.BLOCKS[settings.type_v],
        mixed_inputs=settings.mixed_inputs,
    )


def _uses_flash_attention(model: Profile, settings: Settings, at: Places) -> bool:
    """What llama.cpp makes of `--flash-attn auto` on these devices."""
    if not settings.flash_attention or model.metadata.architecture in families.WITHOUT_FLASH_ATTENTION:
        return False
    return settings.type_v not in cache.PLAIN or _has_kernels(model, at)


def work(model: Profile, settings: Settings, layers_per_device: Sequence[int]) -> Work:
    """What one step multiplies on the devices, for overhead.py."""
    at = weights.places(
        len(model.metadata.layers), layers_per_device, experts_on_host=settings.experts_on_cpu
    )
    step = _step(model, settings, at)
    return Work(model.matrices, tokens=step.tokens, cells=step.cells, flash=step.flash)


def _has_kernels(model: Profile, at: Places) -> bool:
    """Whether flash attention runs on the devices of all layers; the CPU can always."""
    found = {model.alike[index] for index, place in enumerate(at.layers) if place < at.host}
    return all(flash_kernel(m) for i in found if (m := cache.attention(model.metadata.layers[i])) is not None)


def output_bytes(model: Profile, settings: Settings) -> int:
    """The buffer in RAM for one output a sequence; it grows if more are asked for."""
    metadata = model.metadata
    return 4 * settings.n_seq * (metadata.vocab_size + (metadata.hidden_size if metadata.pools else 0))


def checkpoint_bytes(model: Profile, settings: Settings) -> int:
    """A bound for one checkpoint (`--ctx-checkpoints`): what of one sequence its cache cannot bring back.

    llama-server copies windows and recurrent states into RAM, so that a conversation can go on from an
    earlier point; a cache of all tokens needs no such copy.
    """
    alone = dataclasses.replace(settings, n_seq=1, n_ctx=settings.n_ctx, kv_unified=True, gpu_layers=0)
    step = _step(model, alone, weights.places(len(model.metadata.layers), ()))
    total = 0
    for layer in model.metadata.layers:
        memory = cache.attention(layer)
        if isinstance(memory, Attention) and memory.window is not None and not settings.swa_full:
            total += _layer_cache(model, alone, step, layer, on_device=False)
        total += _layer_state(alone, layer)
    return total


# ── What is remembered ─────────────────────────────────────────────────────────────────────────────────────


def _remembered(model: Profile, settings: Settings, step: Step, at: Places) -> tuple[list[int], list[int]]:
    """Bytes of keys and values, and of states, at each place."""
    caches, states = [0] * (at.host + 1), [0] * (at.host + 1)
    found: dict[tuple[int, bool], tuple[int, int]] = {}
    for index, place in enumerate(at.layers):
        kind = model.alike[index], place < at.host
        if kind not in found:
            layer = model.metadata.layers[index]
            found[kind] = (
                _layer_cache(model, settings, step, layer, on_device=kind[1]),
                _layer_state(settings, layer),
            )
        caches[place] += found[kind][0]
        states[place] += found[kind][1]
    return caches, states


def _layer_cache(model: Profile, settings: Settings, step: Step, layer: Layer, *, on_device: bool) -> int:
    memory = cache.attention(layer)
    if model.cached and layer.tensors and not layer.memory and not step.flash:  # as wide as the others
        return cache.tensor_bytes(
            settings.type_v,
            cache.widest_value(model.metadata),
            step.cells * step.streams,
            on_device=on_device,
        )
    if memory is None or not cache.stores(memory):
        return 0
    window = memory.window if isinstance(memory, Attention) else None
    cells = (step.cells if window is None else step.window_cells) * step.streams
    values = cache.value_elements(memory)
    if values and not step.flash:  # stored transposed, all layers as wide as the widest
        values = cache.widest_value(model.metadata)
    rows = (settings.type_k, cache.key_elements(memory)), (settings.type_v, values)
    sizes = [
        cache.tensor_bytes(kind, elements, cells, on_device=on_device) for kind, elements in rows if elements
    ]
    if isinstance(memory, LatentAttention) and memory.indexer_size:
        sizes.append(cache.tensor_bytes(settings.type_k, memory.indexer_size, cells, on_device=on_device))
    return sum(padded(size, DEVICE_ALIGNMENT) if on_device else size for size in sizes)


def _layer_state(settings: Settings, layer: Layer) -> int:
    """Of recurrent layers, in 32 bit whatever the cache's type."""
    state = cache.state(layer)
    return 0 if state is None else 4 * settings.n_seq * (state.conv_elements + state.ssm_elements)


# ── What is computed with ──────────────────────────────────────────────────────────────────────────────────


def _kind(layer: Layer) -> tuple[object, ...]:
    """Equal for layers that compute alike."""
    shapes = tuple((tensor.name.split(".", 2)[-1], tensor.shape) for tensor in layer.tensors)
    return shapes, layer.memory, layer.num_experts_used


def _compute(model: Profile, settings: Settings, step: Step, at: Places, compute: Compute) -> tuple[int, ...]:
    """Bytes of the compute buffer at each place."""
    if compute == "none":
        return (0,) * (at.host + 1)
    if not model.understood:
        layers = [model.metadata.layers[index] for index in set(model.same)]
        caches = [_layer_cache(model, settings, step, layer, on_device=True) for layer in layers]
        return compute_bound(model, step, at, largest_cache_bytes=max(caches, default=0))
    kinds = _kinds(model, at)
    job = _Job(
        step=step,
        types=(settings.type_k, settings.type_v),
        layers=_representatives(model, step, at, kinds) if compute == "quick" else kinds,
        head=at.head,
        host=at.host,
        pipeline=_is_pipelined(at),
    )
    return _buffers(model, job)


def _is_pipelined(at: Places) -> bool:
    """With all layers on several devices these work on several batches at once."""
    return at.host > 1 and at.host not in at.experts


# Of each layer: the first one that computes alike, its place, that of its experts.
_Layers = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What the compute buffers of a model depend on."""

    step: Step
    types: tuple[str, str]
    layers: _Layers
    head: int
    host: int
    pipeline: bool


def _kinds(model: Profile, at: Places) -> _Layers:
    """All layers. What is copied from RAM to a device has its size there, so that sizes count for those."""
    return tuple(
        ((model.same if at.host and experts == at.host else model.alike)[index], place, experts)
        for index, (place, experts) in enumerate(zip(at.layers, at.experts, strict=True))
    )


def _representatives(model: Profile, step: Step, at: Places, kinds: _Layers) -> _Layers:
    """Layers that stand for all: memory is reused from layer to layer.

    Of a row of equal ones the first, one between equal neighbours, and the last are kept.
    """
    if _is_pipelined(at) and any(t.name.startswith("per_layer") for t in model.weights.inputs):
        return kinds  # every layer brings an input of its own from another device
    # Large scores of layers in RAM leave holes that matter only some layers later.
    kept = 1 if step.flash or at.host not in at.layers else 3
    framed = [None, *kinds, None]
    seen: Counter[object] = Counter()
    chosen = []
    for index, kind in enumerate(kinds):
        neighbours = (framed[index], kind, framed[index + 2])
        seen[neighbours] += 1
        if seen[neighbours] <= kept:
            chosen.append(kind)
    return tuple(chosen)


@functools.lru_cache(maxsize=512)
def _buffers(model: Profile, job: _Job) -> tuple[int, ...]:
    network = Network(
        model.metadata,
        job.step,
        types=job.types,
        host=job.host,
        weight=_weight,
    )
    layers = [(model.metadata.layers[index], place, experts) for index, place, experts in job.layers]
    try:
        graph = network.build(layers, job.head)
    except (LookupError, ZeroDivisionError) as error:
        raise MetadataError(
            f"the tensors do not match the architecture {model.metadata.architecture}",
            hint="Download the file again, or choose another one: llama.cpp would refuse it too.",
        ) from error
    return buffer_sizes(graph, devices=job.host, pipeline=job.pipeline)


def _weight(tensor: Tensor, place: int) -> Node:
    return stored(tensor.size_bytes, tensor.shape, place, device_bytes=weights.copied_bytes(tensor))

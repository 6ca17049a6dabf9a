"""Placement for the llama.cpp family: whole layers on devices, what is left in RAM.

All layers on one device come before several devices, these before some layers in RAM, and that before all of
them in RAM. On what is chosen the context is then as large as the memory allows, up to the model's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from aimind.errors import DoesNotFitError, UsageError
from aimind.estimate import ggml
from aimind.place.placement import (
    CONTEXT_FLOOR,
    CONTEXT_STEP,
    RAM_CACHE_SHARE,
    RAM_CHECKPOINT_SHARE,
    SPENDABLE,
    Placement,
    check_cache_dtypes,
    context_limit,
    gib,
    names,
    usable_devices,
)
from aimind.types import Device, Estimate, Host, LayeredMemory, Metadata, Reason, Request, Shard


@dataclass(frozen=True, slots=True)
class _Fit:
    """One way that fits: a cache of so many tokens, so many layers on each device, and what is then where."""

    tokens: int
    counts: tuple[int, ...]
    devices: tuple[Device, ...]
    usage: ggml.Usage


class _Search:
    """The model, the machine and the user's fixed points; asks the estimate about ways to place it."""

    def __init__(
        self, metadata: Metadata, host: Host, request: Request, *, memory: LayeredMemory, projector_bytes: int
    ) -> None:
        self.profile = ggml.profile(metadata)
        self.all_layers = len(metadata.layers) + 1
        self.host, self.request, self.memory = host, request, memory
        self.projector_bytes = projector_bytes
        self.encoder = metadata.category in ("embedding", "reranker")
        self.slots = request.max_num_seqs or memory.slots
        self.unified = memory.shared_slots and request.max_num_seqs is None
        if request.kv_unified is not None:
            self.unified = request.kv_unified
        self.owners = 1 if self.unified else self.slots
        limit = context_limit(metadata, request)
        needed = request.max_model_len or min(limit, CONTEXT_FLOOR)
        # The cache's tokens over all requests: what is needed at least, and what is of use at most.
        self.needed = request.kv_cache_tokens or needed * self.owners
        self.limit = request.kv_cache_tokens or limit * (self.owners if self.encoder else self.slots)
        self.longest_request = limit

    def settings(self, tokens: int) -> ggml.Settings:
        """The flags of a server whose cache holds so many tokens."""
        request, memory = self.request, self.memory
        context = min(tokens // self.owners, self.longest_request)
        batch = request.batch_size or (
            max(context, memory.ubatch_size) if self.encoder else memory.batch_size
        )
        ubatch = request.ubatch_size or (batch if self.encoder else memory.ubatch_size)
        keys = request.kv_cache_dtype or "f16"
        outputs = (
            None if self.encoder or memory.outputs_per_slot is None else memory.outputs_per_slot * self.slots
        )
        return ggml.Settings(
            n_ctx=tokens,
            n_seq=self.slots,
            kv_unified=self.unified,
            n_batch=batch,
            n_ubatch=min(ubatch, batch),
            type_k=keys,
            type_v=request.value_cache_dtype or keys,
            flash_attention=memory.flash_attention
            if request.flash_attention is None
            else request.flash_attention,
            n_outputs=outputs,
            swa_full=memory.full_window_cache,
            gpu_layers=0,
        )

    def usage(self, tokens: int, counts: tuple[int, ...]) -> ggml.Usage:
        """What each place holds; the projector is on the first device, or in RAM."""
        settings = dataclasses.replace(self.settings(tokens), gpu_layers=sum(counts))
        usage = ggml.estimate(self.profile, settings, counts)
        if not self.projector_bytes:
            return usage
        if not usage.devices:
            return dataclasses.replace(usage, host=self._with_projector(usage.host))
        return dataclasses.replace(
            usage, devices=(self._with_projector(usage.devices[0]), *usage.devices[1:])
        )

    def fit(self, devices: tuple[Device, ...], layers: int, tokens: int) -> _Fit | None:
        """These many layers on these devices, if memory holds them."""
        counts = self._balanced(devices, layers, tokens)
        usage = self.usage(tokens, counts)
        held = zip(usage.devices, devices, strict=bool(counts))
        if any(estimate.total_bytes > device.free_bytes * SPENDABLE for estimate, device in held):
            return None
        if usage.host.total_bytes - usage.reclaimable_bytes > self.host.ram_free_bytes * SPENDABLE:
            return None
        return _Fit(tokens, counts, devices if counts else (), usage)

    def _balanced(self, devices: tuple[Device, ...], layers: int, tokens: int) -> tuple[int, ...]:
        """Layers per device so that the fullest is as empty as possible."""
        if not devices or not layers:
            return ()
        if self.request.split is not None:
            return _shares(self.request.split, layers, len(devices))
        counts = _shares(tuple(float(max(1, d.free_bytes)) for d in devices), layers, len(devices))

        def fullness(candidate: tuple[int, ...]) -> list[float]:
            usage = self.usage(tokens, candidate)
            return [e.total_bytes / max(1, d.free_bytes) for e, d in zip(usage.devices, devices, strict=True)]

        best = fullness(counts)
        while len(devices) > 1:
            worst, least = best.index(max(best)), best.index(min(best))
            moved = list(counts)
            moved[worst] -= 1
            moved[least] += 1
            candidate = fullness(tuple(moved)) if min(moved) >= 1 else best
            if max(candidate) >= max(best):
                return counts
            counts, best = tuple(moved), candidate
        return counts

    def _with_projector(self, estimate: Estimate) -> Estimate:
        return dataclasses.replace(estimate, projector_bytes=self.projector_bytes, exact=False)


def place_layers(
    metadata: Metadata, host: Host, request: Request, *, memory: LayeredMemory, projector_bytes: int
) -> Placement:
    """The placement; see the module.

    Raises:
        DoesNotFitError: neither devices nor RAM hold the model with the context that is needed.
        UsageError: the request contradicts itself or the model.
        DeviceError: a device is named that cannot be used.
    """
    _check(metadata, request, memory)
    search = _Search(metadata, host, request, memory=memory, projector_bytes=projector_bytes)
    devices = usable_devices(host, request, memory.vendors)
    found, reason = _first(search, devices)
    if found is None:
        raise _does_not_fit(search, devices)
    return _placement(search, _largest(search, found), metadata, reason)


def _first(search: _Search, devices: tuple[Device, ...]) -> tuple[_Fit | None, Reason]:
    """The most preferred place in which the needed context fits."""
    layers, needed = search.request.gpu_layers, search.needed
    wanted = search.all_layers if layers is None else min(layers, search.all_layers)
    sizes = range(1, len(devices) + 1) if search.request.devices is None else (len(devices),)
    for size in sizes if devices and wanted else ():
        found = search.fit(devices[:size], wanted, needed)
        if found is not None:
            return found, _why_devices(search, found, devices, wanted)
    if layers is None and devices:
        some = _most(lambda n: search.fit(devices, n, needed) if n else None, search.all_layers - 1)
        if some is not None:
            count = sum(some.counts)
            return some, Reason(
                "gpu_layers",
                f"{count} of {search.all_layers} layers on {names(devices)}: all of them need more than "
                f"the {gib(sum(d.free_bytes for d in devices))} that are free there",
            )
    if layers:
        return None, Reason("gpu_layers", "")
    why = "no device is used" if not devices else "the devices are too small for even one layer"
    return search.fit((), 0, needed), Reason("gpu_layers", f"all layers in RAM: {why}")


def _most(attempt: Callable[[int], _Fit | None], limit: int) -> _Fit | None:
    """The success with the largest number up to `limit`, where a success means that all below are one too."""
    low, best = 0, None
    high = limit
    while low < high:
        middle = (low + high + 1) // 2
        found = attempt(middle)
        if found is None:
            high = middle - 1
        else:
            low, best = middle, found
    return best


def _largest(search: _Search, found: _Fit) -> _Fit:
    """The same place with the largest cache that it holds: for a longer request, then for more of them."""
    layers = sum(found.counts)
    allowance = (search.host.ram_free_bytes - found.usage.host.weights_bytes) * RAM_CACHE_SHARE

    def attempt(tokens: int) -> _Fit | None:
        fit = search.fit(found.devices, layers, tokens)
        if fit is None:
            return None
        in_ram = fit.usage.host.kv_cache_bytes + fit.usage.host.compute_bytes
        return fit if in_ram <= allowance else None

    whole = attempt(search.limit)
    if whole is not None:
        return whole
    step = CONTEXT_STEP * search.owners
    larger = _most(lambda steps: attempt(steps * step), search.limit // step)
    return larger if larger is not None and larger.tokens > found.tokens else found


def _placement(search: _Search, found: _Fit, metadata: Metadata, reason: Reason) -> Placement:
    flags = search.settings(found.tokens)
    context = min(found.tokens // search.owners, search.longest_request)
    several = len(found.devices) > 1
    checkpoints, host = _checkpoints(search, found, flags)
    settings = dataclasses.replace(
        search.request,
        max_model_len=context,
        max_num_seqs=flags.n_seq,
        kv_cache_tokens=found.tokens,
        kv_unified=flags.kv_unified,
        kv_cache_dtype=flags.type_k,
        value_cache_dtype=flags.type_v,
        batch_size=flags.n_batch,
        ubatch_size=flags.n_ubatch,
        flash_attention=flags.flash_attention,
        gpu_layers=sum(found.counts),
        split_mode="layer" if several else "none",
        split=tuple(float(count) for count in found.counts) if several else None,
        context_checkpoints=checkpoints,
        prompt_cache_mib=search.request.prompt_cache_mib or 0,
        devices=tuple(device.index for device in found.devices),
        embedding=metadata.category == "embedding" or search.request.embedding,
        reranking=metadata.category == "reranker" or search.request.reranking,
    )
    shards = tuple(
        Shard(device, estimate, count)
        for device, estimate, count in zip(found.devices, found.usage.devices, found.counts, strict=True)
    )
    return Placement(
        settings=settings,
        shards=shards,
        host=host,
        kv_cache_tokens=None if search.encoder else found.tokens,
        reasons=(
            reason,
            _why_context(search, found, context),
            _why_parallel(flags, context),
            *_why_checkpoints(checkpoints, host.state_bytes - found.usage.host.state_bytes),
        ),
    )


def _checkpoints(search: _Search, found: _Fit, flags: ggml.Settings) -> tuple[int | None, Estimate]:
    """How many checkpoints a slot may keep, and RAM when all slots have so many; `None` where there are none.

    Unless asked for more, all of them take at most a quarter of what is then left in RAM.
    """
    host = found.usage.host
    each = ggml.checkpoint_bytes(search.profile, flags) * search.slots
    if not each or not search.memory.checkpoints:
        return search.request.context_checkpoints, host
    left = int((search.host.ram_free_bytes - host.total_bytes) * RAM_CHECKPOINT_SHARE)
    count = search.request.context_checkpoints
    if count is None:
        count = max(0, min(search.memory.checkpoints, left // each))
    return count, dataclasses.replace(host, state_bytes=host.state_bytes + count * each, exact=False)


def _check(metadata: Metadata, request: Request, memory: LayeredMemory) -> None:
    check_cache_dtypes(request, memory.cache_dtypes)
    for name, size in (
        ("tensor", request.tensor_parallel_size),
        ("pipeline", request.pipeline_parallel_size),
    ):
        if size not in (None, 1):
            raise UsageError(
                f"{name} parallelism is not a thing of the llama.cpp family",
                hint="it divides layers over devices: name them with --device, or shares with --tensor-split",
            )
    if request.max_num_seqs is not None and request.max_num_seqs < 1:
        raise UsageError(f"{request.max_num_seqs} requests at once is none", hint="--parallel 1")
    if request.gpu_layers is not None and request.gpu_layers < 0:
        raise UsageError(f"{request.gpu_layers} layers cannot be placed", hint="--gpu-layers 0 uses the CPU")
    cells, context = request.kv_cache_tokens, request.max_model_len
    if cells is not None and context is not None and cells < context:
        raise UsageError(
            f"a cache of {cells} tokens cannot hold a request of {context}", hint="leave one of the two out"
        )
    if not metadata.layers:
        raise UsageError("the file holds no layers", hint="is it a projector or an adapter of a model?")


def _shares(shares: tuple[float, ...], layers: int, count: int) -> tuple[int, ...]:
    """Layers per device as llama.cpp deals them out: layer i goes where its share of the way falls.

    Source: llama.cpp, src/llama-model.cpp, load_tensors (build b9500).
    """
    if len(shares) != count or sum(shares) <= 0 or min(shares) < 0:
        raise UsageError(
            f"{len(shares)} shares do not divide layers over {count} devices",
            hint="--tensor-split 3,1 for two",
        )
    ends = [sum(shares[: index + 1]) / sum(shares) for index in range(count)]
    counts = [0] * count
    for layer in range(layers):
        position = layer / layers
        counts[next((i for i, end in enumerate(ends) if end > position), count - 1)] += 1
    return tuple(counts)


def _why_devices(search: _Search, found: _Fit, devices: tuple[Device, ...], wanted: int) -> Reason:
    layers = (
        f"all {wanted} layers" if wanted == search.all_layers else f"{wanted} of {search.all_layers} layers"
    )
    needs = gib(sum(estimate.total_bytes for estimate in found.usage.devices))
    sentence = (
        f"{layers} on {names(found.devices)}: {needs} of {gib(sum(d.free_bytes for d in found.devices))} free"
    )
    if len(found.devices) > 1 and search.request.devices is None:
        sentence += f"; {len(found.devices) - 1} of {len(devices)} would not hold it"
    return Reason("gpu_layers", sentence)


def _why_context(search: _Search, found: _Fit, context: int) -> Reason:
    if search.request.max_model_len or search.request.kv_cache_tokens:
        return Reason("max_model_len", f"{context} tokens: asked for")
    if context == search.longest_request:
        return Reason("max_model_len", f"{context} tokens: the model's own limit")
    where = "what is free" if found.devices else "half of what the weights leave in RAM"
    cache = gib(sum(e.kv_cache_bytes for e in found.usage.devices) + found.usage.host.kv_cache_bytes)
    return Reason("max_model_len", f"{context} tokens: a cache of {cache} is the largest that fits {where}")


def _why_parallel(flags: ggml.Settings, context: int) -> Reason:
    if not flags.kv_unified:
        return Reason("max_num_seqs", f"{flags.n_seq} requests of {context} tokens each at once")
    whole = flags.n_ctx // context
    return Reason(
        "max_num_seqs",
        f"{flags.n_seq} requests share a cache of {flags.n_ctx} tokens, {whole} of {context} tokens at once",
    )


def _why_checkpoints(count: int | None, size_bytes: int) -> tuple[Reason, ...]:
    if count is None:
        return ()
    sentence = f"{count} checkpoints a slot, in time {gib(size_bytes)} of RAM"
    return (Reason("context_checkpoints", sentence),)


def _does_not_fit(search: _Search, devices: tuple[Device, ...]) -> DoesNotFitError:
    needed = search.needed
    usage = search.usage(needed, ())
    free = ", ".join(f"device {d.index} has {gib(d.free_bytes)}" for d in devices) or "no device"
    if search.request.gpu_layers:
        wanted = min(search.request.gpu_layers, search.all_layers)
        return DoesNotFitError(
            f"{wanted} layers with {needed} tokens do not fit the devices: {free} free",
            hint="leave --gpu-layers out to place as many as fit",
        )
    needs = gib(usage.host.total_bytes - usage.reclaimable_bytes)
    return DoesNotFitError(
        f"the model needs {needs} in RAM for {needed} tokens, and "
        f"{gib(search.host.ram_free_bytes)} are free there ({free})",
        hint="a smaller quantization, a shorter --context, or --kv-cache-type q8_0 needs less",
    )

"""Placement for the llama.cpp family: whole layers on devices, what is left in RAM.

All layers on one device come before several devices, these before experts and then whole layers in RAM, and
that before all of them in RAM. On what is chosen the context is then as large as the memory allows, up to the
model's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from aimind.errors import DoesNotFitError, UsageError
from aimind.estimate import ggml, overhead
from aimind.phrases import gib, names
from aimind.place.placement import (
    CHECKPOINT_BYTES,
    CONTEXT_STEP,
    FEWEST_CHECKPOINTS,
    RAM_CACHE_SHARE,
    RAM_CHECKPOINT_SHARE,
    Placement,
)
from aimind.place.search import Fit, Search, most
from aimind.types import Device, Estimate, Host, LayeredMemory, Metadata, Reason, Request, Shard


def place_layers(
    metadata: Metadata, host: Host, request: Request, *, memory: LayeredMemory, projector_bytes: int
) -> Placement:
    """The placement; see the module.

    Raises:
        DoesNotFitError: neither devices nor RAM hold the model with the context that is needed.
        UsageError: the request contradicts itself or the model.
        DeviceError: a device is named that cannot be used.
    """
    _check(metadata, request)
    search = Search(metadata, host, request, memory=memory, projector_bytes=projector_bytes)
    devices = search.devices
    for found, reason in _ways(search, devices):
        settled = _settled(search, found, _largest(search, found))
        if settled is not None:
            return _placement(search, settled, metadata, reason)
    raise _does_not_fit(search, devices)


def _ways(search: Search, devices: tuple[Device, ...]) -> Iterator[tuple[Fit, Reason]]:
    """The places in which the needed context fits, the most preferred first."""
    layers = search.request.gpu_layers
    wanted = search.all_layers if layers is None else min(layers, search.all_layers)
    if devices and wanted:
        yield from _on_devices(search, devices, wanted)
    if search.request.cpu_offload is False:
        return
    if devices and layers is None:
        for tokens in search.needs:
            yield from _on_both(search, devices, tokens)
    if not layers:
        why = "no device is used" if not devices else "the devices are too small for even one layer"
        for tokens in search.needs:
            found = search.fit((), 0, tokens)
            if found is not None:
                yield found, Reason("gpu_layers", f"all layers in RAM: {why}")


def _on_devices(search: Search, devices: tuple[Device, ...], wanted: int) -> Iterator[tuple[Fit, Reason]]:
    """As few devices as hold the layers; with a shorter context than preferred, as many as there are."""
    sizes = _sizes(search, devices)
    preferred, *shorter = search.needs
    for size, tokens in [(size, preferred) for size in sizes] + [
        (size, tokens) for tokens in shorter for size in reversed(sizes)
    ]:
        found = search.fit(devices[:size], wanted, tokens)
        if found is not None:
            yield found, _why_devices(search, found, devices, wanted)


def _sizes(search: Search, devices: tuple[Device, ...], *, named: bool = True) -> Sequence[int]:
    """How many devices are tried: as many as there are shares, or all that are named."""
    if search.request.split is not None:
        return (len(search.request.split),)
    if named and search.request.devices is not None:
        return (len(devices),)
    return range(1, len(devices) + 1)


def _on_both(search: Search, devices: tuple[Device, ...], tokens: int) -> Iterator[tuple[Fit, Reason]]:
    """The experts of as few layers as possible in RAM; where that is not enough, whole layers."""
    groups = [devices[:size] for size in _sizes(search, devices, named=False)]
    found = [fit for used in groups if (fit := _without_experts(search, used, tokens))]
    for fit in sorted(found, key=lambda fit: fit.experts):
        sentence = f"the experts of {fit.experts} layers stay in RAM, all else is on {names(fit.devices)}"
        yield fit, Reason("cpu_moe_layers", f"{sentence}: {_more(fit)}")
    found = [fit for used in groups if (fit := _some_layers(search, used, tokens))]
    for fit in sorted(found, key=lambda fit: -sum(fit.counts)):
        sentence = f"{sum(fit.counts)} of {search.all_layers} layers on {names(fit.devices)}, the others stay"
        yield fit, Reason("gpu_layers", f"{sentence} in RAM: {_more(fit)}")


def _more(found: Fit) -> str:
    free = gib(sum(device.free_bytes for device in found.devices))
    return f"with them it needs more than the {free} free there"


def _without_experts(search: Search, devices: tuple[Device, ...], tokens: int) -> Fit | None:
    """All layers, but the experts of as few of them as possible."""
    layers = search.expert_layers if search.request.cpu_moe_layers is None else 0

    def keeping(count: int) -> Fit | None:
        return search.fit(devices, search.all_layers, tokens, experts=layers - count)

    return (most(keeping, layers - 1) or keeping(0)) if layers else None


def _some_layers(search: Search, devices: tuple[Device, ...], tokens: int) -> Fit | None:
    """As many layers as possible, all experts in RAM."""
    experts = search.expert_layers if search.request.cpu_moe_layers is None else None
    return most(
        lambda layers: search.fit(devices, layers, tokens, experts=experts or None), search.all_layers - 1
    )


def _largest(search: Search, found: Fit) -> Fit:
    """The same place with the largest cache that it holds: for a longer request, then for more of them."""
    layers = sum(found.counts)
    allowance = (search.host.ram_free_bytes - found.usage.host.weights_bytes) * RAM_CACHE_SHARE

    def attempt(tokens: int) -> Fit | None:
        fit = search.fit(found.devices, layers, tokens, experts=found.experts)
        if fit is None:
            return None
        in_ram = fit.usage.host.kv_cache_bytes + fit.usage.host.compute_bytes
        return fit if in_ram <= allowance else None

    whole = attempt(search.limit)
    if whole is not None:
        return whole
    step = CONTEXT_STEP * search.owners
    larger = most(lambda steps: attempt(steps * step), search.limit // step)
    return larger if larger is not None and larger.tokens > found.tokens else found


def _settled(search: Search, smallest: Fit, largest: Fit) -> Fit | None:
    """The largest of both, or of those between, that memory holds with every layer computed."""
    step = CONTEXT_STEP * search.owners

    def attempt(steps: int) -> Fit | None:
        between = search.fit(
            smallest.devices, sum(smallest.counts), smallest.tokens + steps * step, experts=smallest.experts
        )
        return between and search.settled(between)

    found = search.settled(largest)
    if found is not None or largest.tokens == smallest.tokens:
        return found
    return most(attempt, (largest.tokens - smallest.tokens) // step) or search.settled(smallest)


def _placement(search: Search, found: Fit, metadata: Metadata, reason: Reason) -> Placement:
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
        cpu_moe_layers=found.experts or None,
        swa_full=flags.swa_full or None,
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
            *_why_checkpoints(checkpoints, host.checkpoint_bytes),
            *_why_overhead(search, found),
        ),
        sources=ggml.SOURCES,
        measured_as=_measured_as(search, found),
    )


def _checkpoints(search: Search, found: Fit, flags: ggml.Settings) -> tuple[int | None, Estimate]:
    """How many checkpoints a slot may keep, and RAM when all slots have so many; `None` where there are none.

    Unless asked for more, all of them take at most `CHECKPOINT_BYTES`, but for `FEWEST_CHECKPOINTS`, and at
    most a quarter of what is then left in RAM.
    """
    host = found.usage.host
    each = ggml.checkpoint_bytes(search.profile, flags) * search.slots
    if not each or not search.memory.checkpoints:
        return search.request.context_checkpoints, host
    left = int((search.host.ram_free_bytes - host.total_bytes) * RAM_CHECKPOINT_SHARE)
    count = search.request.context_checkpoints
    if count is None:
        usual = max(FEWEST_CHECKPOINTS, CHECKPOINT_BYTES // each)
        count = max(0, min(search.memory.checkpoints, usual, left // each))
    return count, dataclasses.replace(host, checkpoint_bytes=count * each).about("checkpoint_bytes")


def _check(metadata: Metadata, request: Request) -> None:
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


def _why_devices(search: Search, found: Fit, devices: tuple[Device, ...], wanted: int) -> Reason:
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


def _why_context(search: Search, found: Fit, context: int) -> Reason:
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


def _measured_as(search: Search, found: Fit) -> str:
    if not found.devices:
        return ""
    return overhead.kind(found.devices[0], search.work(found))


def _why_overhead(search: Search, found: Fit) -> tuple[Reason, ...]:
    """That measurements of this machine count, where there are some."""
    names_seen = set()
    reasons = []
    for device in found.devices:
        size = overhead.remembered_bytes(device, search.work(found), search.host.measurements)
        if size is not None and device.name not in names_seen:
            names_seen.add(device.name)
            sentence = f"{size >> 20} MiB beside the buffers on {device.name}: measured by earlier runs here"
            reasons.append(Reason("overhead_bytes", sentence))
    return tuple(reasons)


def _does_not_fit(search: Search, devices: tuple[Device, ...]) -> DoesNotFitError:
    needed, layers = search.needs[-1], search.request.gpu_layers
    free = ", ".join(f"device {d.index} has {gib(d.free_bytes)}" for d in devices) or "no device is used"
    wanted = min(layers or 0, search.all_layers)
    hint = "a smaller quantization, a shorter --context, or --kv-cache-type q8_0 needs less"
    if layers:
        return DoesNotFitError(
            f"{wanted} layers with {needed} tokens do not fit the devices: {free} free",
            hint="leave --gpu-layers out to place as many as fit",
        )
    if search.request.cpu_offload is False:
        needs = gib(search.usage(needed, (search.all_layers,)).devices[0].total_bytes)
        return DoesNotFitError(
            f"all layers with {needed} tokens need {needs} on devices ({free} free), and "
            "--no-cpu-offload keeps them out of RAM",
            hint=hint,
        )
    return DoesNotFitError(
        f"the model needs {gib(search.usage(needed, ()).ram_bytes)} in RAM for {needed} tokens, and "
        f"{gib(search.host.ram_free_bytes)} are free there ({free})",
        hint=hint,
    )

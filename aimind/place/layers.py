"""Placement for the llama.cpp family: whole layers on devices, what is left in RAM.

The rule is one fixed order over all plans that there could be, whatever memory is free. The best plan of
those that fit is taken. From the strongest wish to the weakest:

1. a longer context of one request, out of a ladder (`context_ladder`) from 2048 tokens to the model's limit;
2. more on devices: everything, before the experts of as few layers as possible in RAM, before as few whole
   layers as possible in RAM, before all of them in RAM;
3. fewer devices;
4. more requests at once (slots), up to the backend's usual number;
5. more tokens in the cache that they share.

Not every context may be bought at every price, or a model would be in RAM for the sake of tokens that nobody
needs. With a part of the model in RAM the context is at most the model's *cheap* one. Without experts that is
8192 tokens: every token reads every weight, and a layer in RAM costs dearly. With experts, of which a token
reads a few, it is the longest context whose cache and buffers take at most an eighth of the weights' bytes
more than those of 8192 tokens: that moves the experts of about one layer in eight. Beyond 131072 tokens (or a
tenth of the model's limit) no second device is taken, unless the context is cheap. All of that depends on the
model and the request alone, not on the memory.

More free memory only adds to the plans that fit. So it never gives a shorter context nor, at the same
context, less on devices: tests/properties/test_choice.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from aimind.errors import DoesNotFitError, UsageError
from aimind.estimate import ggml, overhead
from aimind.phrases import counted, gib, names
from aimind.place.placement import (
    CHECKPOINT_BYTES,
    CONTEXT_FLOOR,
    CONTEXT_STEP,
    FEWEST_CHECKPOINTS,
    RAM_CHECKPOINT_SHARE,
    Detail,
    Placement,
    context_ladder,
)
from aimind.place.search import Cache, Effort, Fit, Search, Split, largest
from aimind.types import Change, Device, Estimate, Host, LayeredMemory, Metadata, Reason, Request, Shard

# With experts, a context is cheap up to this share of the weights' bytes more than CONTEXT_FLOOR takes.
CHEAP_SHARE = 0.125
# Up to so many tokens, or this share of the model's limit, a context is worth another device.
WORTH_DEVICES = 131072
WORTH_DEVICES_SHARE = 0.1

# Smaller steps are proposed where compute buffers are at least this share of what does not fit.
WORTH_SMALLER_STEPS = 0.1
NO_HINT = "run `aimind plan` to see what fits"

# LLAMA_MAX_SEQ in llama.cpp's src/llama-cparams.h: with more it does not make a context.
MOST_SLOTS = 256

Groups = tuple[tuple[Device, ...], ...]


def place_layers(
    metadata: Metadata,
    host: Host,
    request: Request,
    *,
    memory: LayeredMemory,
    detail: Detail = "all",
) -> Placement:
    """The placement; see the module. `detail`: how much of it is worked out.

    Raises:
        DoesNotFitError: neither devices nor RAM hold the model with the context that is needed.
        UsageError: the request contradicts itself or the model.
        DeviceError: a device is named that cannot be used.
    """
    _check(metadata, request)
    search = Search(metadata, host, request, memory=memory)
    if detail == "bound":
        search.effort = "none"
    devices = search.devices
    found = _choose(search, devices)
    if found is None:
        if detail in ("bound", "fit"):
            search.effort = "none"  # nobody reads the sentence
        raise _does_not_fit(search, devices)
    if detail in ("settings", "all"):
        found = _with_more_tokens(search, _with_more_slots(search, found))
    return _placement(search, found, devices, metadata)


# ── The choice ─────────────────────────────────────────────────────────────────────────────────────────────


def _choose(search: Search, devices: tuple[Device, ...]) -> Fit | None:
    """The longest context that fits and is worth it, with as much as possible on the fewest devices."""
    ladder = context_ladder(search.longest_request)
    if search.asked_context is not None:
        ladder = (search.asked_context,)
    if not devices or not search.splits[0].layers:
        return _in_ram(search, ladder)
    whole = _whole(search, devices, ladder)
    reached = 0 if whole is None else whole.cache.context
    if reached == ladder[-1] or len(search.splits) == 1:
        return whole
    cheap = _cheap_context(search, ladder)
    longer = [context for context in ladder if reached < context <= cheap]
    return _partly(search, devices, longer) or whole


def _in_ram(search: Search, ladder: Sequence[int]) -> Fit | None:
    """The longest context without any device."""
    if search.splits[-1].layers:
        return None
    return largest(
        len(ladder),
        lambda number, effort: search.in_ram(search.cache(ladder[number]), effort),
        effort=search.effort,
    )


def _whole(search: Search, devices: tuple[Device, ...], ladder: Sequence[int]) -> Fit | None:
    """The longest context with everything on devices that shall be there, then the fewest of these."""
    groups = _groups(search, devices, all_named=True)
    worth = max(WORTH_DEVICES, int(search.longest_request * WORTH_DEVICES_SHARE))
    if len(groups) > 1 and ladder[-1] > worth:
        worth = max(worth, _cheap_context(search, ladder))

    def attempt(number: int, effort: Effort) -> Fit | None:
        context = ladder[number]
        allowed = groups if context <= worth or len(ladder) == 1 else groups[:1]
        found = search.on_fewest(search.cache(context), search.splits[0], allowed, effort)
        return found if found is not None and search.ram_holds(found) else None

    return largest(len(ladder), attempt, effort=search.effort)


def _partly(search: Search, devices: tuple[Device, ...], contexts: Sequence[int]) -> Fit | None:
    """The longest of these contexts with a part of the model in RAM, then the smallest such part."""
    groups = _groups(search, devices, all_named=False)
    # The most on devices last, as `largest` wants it.
    splits = [split for split in reversed(search.splits[1:]) if split.layers]

    def attempt(number: int, effort: Effort) -> Fit | None:
        cache = search.cache(contexts[number])
        in_ram = search.in_ram(cache, effort)
        if in_ram is not None and effort != "exact":
            return in_ram  # this context fits; how much of the model goes to devices is asked at the end
        found = largest(
            len(splits),
            lambda number, inner: search.on_fewest(cache, splits[number], groups, inner),
            effort=effort,
        )
        if found is None:
            return in_ram
        return found if search.ram_holds(found) else None

    return largest(len(contexts), attempt, effort=search.effort)


def _cheap_context(search: Search, ladder: Sequence[int]) -> int:
    """The longest context that is worth layers in RAM; see the module."""
    floor = min(search.longest_request, CONTEXT_FLOOR)
    if ladder[-1] <= floor or len(ladder) == 1:
        return ladder[-1]
    if not search.expert_layers:
        return floor
    least = search.on_one_device(search.cache(floor), "quick")
    affordable_bytes = least.total_bytes + int(least.weights_bytes * CHEAP_SHARE)

    def attempt(number: int, effort: Effort) -> int | None:
        context = ladder[number]
        if context <= floor:
            return context
        needed = search.on_one_device(search.cache(context), effort)
        return context if needed.total_bytes <= affordable_bytes else None

    return largest(len(ladder), attempt, effort="quick") or ladder[0]


def _groups(search: Search, devices: tuple[Device, ...], *, all_named: bool) -> Groups:
    """The devices that are tried together, the fewest first: the emptiest ones, or all that are named."""
    if search.request.split is not None:
        return (devices[: len(search.request.split)],)
    if all_named and search.request.devices is not None:
        return (devices,)
    return tuple(devices[:size] for size in range(1, len(devices) + 1))


def _with_more_slots(search: Search, found: Fit) -> Fit:
    """The same context in the same place, for as many requests at once as it holds."""
    fixed_parts = search.request.kv_cache_tokens is not None and not search.unified
    if search.request.max_num_seqs is not None or fixed_parts:
        return found
    for slots in range(search.memory.slots, found.cache.slots, -1):
        more = search.again(found, search.cache(found.cache.context, slots=slots), "exact")
        if more is not None:
            return more
    return found


def _with_more_tokens(search: Search, found: Fit) -> Fit:
    """The same with as many tokens in the shared cache as fit, up to the longest request in every slot."""
    cache = found.cache
    if not search.unified or search.encoder or search.request.kv_cache_tokens is not None:
        return found
    most = search.longest_request * cache.slots
    sizes = [*range(cache.tokens + CONTEXT_STEP, most, CONTEXT_STEP), most]

    def attempt(number: int, effort: Effort) -> Fit | None:
        larger = search.cache(cache.context, slots=cache.slots, tokens=sizes[number])
        return search.again(found, larger, effort)

    return largest(len(sizes), attempt) or found


# ── The plan ───────────────────────────────────────────────────────────────────────────────────────────────


def _placement(search: Search, found: Fit, devices: tuple[Device, ...], metadata: Metadata) -> Placement:
    flags = search.settings(found.cache, found.split)
    several = len(found.devices) > 1
    checkpoints, host = _checkpoints(search, found, flags)
    settings = dataclasses.replace(
        search.request,
        max_model_len=found.cache.context,
        max_num_seqs=flags.n_seq,
        kv_cache_tokens=found.cache.tokens,
        kv_unified=flags.kv_unified,
        kv_cache_dtype=flags.type_k,
        value_cache_dtype=flags.type_v,
        batch_size=flags.n_batch,
        ubatch_size=flags.n_ubatch,
        flash_attention=flags.flash_attention,
        gpu_layers=found.split.layers,
        cpu_moe_layers=found.split.experts or None,
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
        kv_cache_tokens=None if search.encoder else found.cache.tokens,
        reasons=(
            _why_there(search, found, devices),
            _why_context(search, found),
            _why_parallel(flags, found.cache),
            *_why_idle(search, found, devices),
            *_why_checkpoints(checkpoints, host.checkpoint_bytes),
            *_why_overhead(search, found),
        ),
        sources=ggml.SOURCES,
        measured_as=_measured_as(search, found),
        shorter=_shorter(search, found),
    )


def _checkpoints(search: Search, found: Fit, flags: ggml.Settings) -> tuple[int | None, Estimate]:
    """How many checkpoints a slot may keep, and RAM when all slots have so many; `None` where there are none.

    Unless asked for more, all of them take at most `CHECKPOINT_BYTES`, but for `FEWEST_CHECKPOINTS`, and at
    most a quarter of what is then left in RAM.
    """
    host = found.usage.host
    each = ggml.checkpoint_bytes(search.profile, flags) * found.cache.slots
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
                f"llama.cpp does not support {name} parallelism",
                hint="use --device to choose its devices, or --tensor-split to divide its layers among them",
            )
    if request.split_mode not in (None, "layer", "none"):
        raise UsageError(
            f"--split-mode {request.split_mode} is not supported: aimind places whole layers on devices",
            hint="omit --split-mode, or choose devices with --device",
        )
    if request.max_num_seqs is not None and request.max_num_seqs < 1:
        raise UsageError(
            f"--parallel {request.max_num_seqs} allows no request; it must be at least 1",
            hint="use --parallel 1",
        )
    if (request.max_num_seqs or 0) > MOST_SLOTS:
        raise UsageError(
            f"llama.cpp serves at most {MOST_SLOTS} requests at once, not {request.max_num_seqs}",
            hint=f"use --parallel {MOST_SLOTS}",
        )
    if request.gpu_layers is not None and request.gpu_layers < 0:
        raise UsageError(
            f"--gpu-layers {request.gpu_layers} is negative", hint="use --gpu-layers 0 to run on the CPU"
        )
    cells, context = request.kv_cache_tokens, request.max_model_len
    if cells is not None and context is not None and cells < context:
        raise UsageError(
            f"a KV cache of {cells:,} tokens cannot hold a context of {context:,} tokens",
            hint="omit --context or the size of the KV cache",
        )
    if not metadata.layers:
        raise UsageError(
            "the file contains no layers",
            hint="name the model's own file: this one may be a projector or an adapter",
        )


# ── Why ────────────────────────────────────────────────────────────────────────────────────────────────────


def _shorter(search: Search, found: Fit) -> Change | None:
    """A context of 8,192 tokens, where a longer one was chosen for devices."""
    if search.request.max_model_len is not None or search.encoder or found.cache.context <= CONTEXT_FLOOR:
        return None
    return {"max_model_len": CONTEXT_FLOOR}


def _why_there(search: Search, found: Fit, devices: tuple[Device, ...]) -> Reason:
    if not found.devices:
        why = "no device is used" if not devices else "no device has enough free memory for one layer"
        return Reason("gpu_layers", f"all layers are in RAM, because {why}")
    where, free = names(found.devices), gib(sum(device.free_bytes for device in found.devices))
    of_all = f"{found.split.layers} of {search.all_layers} layers"
    if found.split == search.splits[0]:
        layers = f"all {search.all_layers} layers" if found.split.layers == search.all_layers else of_all
        needs = gib(sum(estimate.total_bytes for estimate in found.usage.devices))
        sentence = f"{layers} are on {where} and use {needs} of {free} free"
        if len(found.devices) > 1 and search.request.devices is None:
            sentence += f"; fewer devices do not fit a context of {found.cache.context:,} tokens"
        return Reason("gpu_layers", sentence)
    if found.split.layers == search.all_layers:
        experts = counted(found.split.experts, "layer")
        sentence = f"the experts of {experts} are in RAM, and the rest is on {where}"
        return Reason(
            "cpu_moe_layers", f"{sentence}: {free} free are not enough for the experts of one more layer"
        )
    sentence = f"{of_all} are on {where}, and the others are in RAM"
    return Reason("gpu_layers", f"{sentence}: {free} free are not enough for one more layer")


def _why_context(search: Search, found: Fit) -> Reason:
    context = found.cache.context
    if search.asked_context is not None:
        return Reason("max_model_len", f"{context:,} tokens were requested")
    if context == search.longest_request:
        return Reason("max_model_len", f"{context:,} tokens is the model's maximum context length")
    cache = gib(sum(e.kv_cache_bytes for e in found.usage.devices) + found.usage.host.kv_cache_bytes)
    if found.devices and found.split != search.splits[0]:
        if context == _cheap_context(search, context_ladder(search.longest_request)):
            return Reason(
                "max_model_len",
                f"a context longer than {context:,} tokens would move more layers to RAM",
            )
        return Reason(
            "max_model_len",
            f"{context:,} tokens need a KV cache of {cache}, which leaves enough RAM for the layers there",
        )
    where = "the free memory" if found.devices else "half of the RAM that the weights leave free"
    return Reason(
        "max_model_len",
        f"{context:,} tokens need a KV cache of {cache}; a longer context does not fit {where}",
    )


def _why_parallel(flags: ggml.Settings, cache: Cache) -> Reason:
    if not flags.kv_unified:
        if flags.n_seq == 1:
            return Reason("max_num_seqs", f"1 request runs at a time, with {cache.context:,} tokens")
        return Reason(
            "max_num_seqs", f"{flags.n_seq} requests run at once, with {cache.context:,} tokens each"
        )
    if cache.slots == 1:
        return Reason("max_num_seqs", f"1 request uses the KV cache of {cache.tokens:,} tokens")
    whole = cache.tokens // cache.context
    return Reason(
        "max_num_seqs",
        f"up to {cache.slots} requests share a KV cache of {cache.tokens:,} tokens, "
        f"which holds {whole} of {cache.context:,} tokens",
    )


def _why_idle(search: Search, found: Fit, devices: tuple[Device, ...]) -> tuple[Reason, ...]:
    """What one more device would give, where some stay idle and the context is not the model's limit."""
    count = len(found.devices)
    whole = found.split == search.splits[0]
    full = found.cache.context == search.longest_request or search.asked_context is not None
    if full or not whole or not 0 < count < len(devices):
        return ()
    longer = [c for c in context_ladder(search.longest_request) if c > found.cache.context]

    def attempt(number: int, effort: Effort) -> Fit | None:
        return search.on_fewest(search.cache(longer[number]), found.split, (devices[: count + 1],), effort)

    more = largest(len(longer), attempt)
    if more is None:
        return ()
    sentence = (
        f"{count} of {len(devices)} devices are used; --context {more.cache.context} would use one more"
    )
    return (Reason("devices", sentence),)


def _why_checkpoints(count: int | None, size_bytes: int) -> tuple[Reason, ...]:
    if count is None:
        return ()
    sentence = (
        f"each slot keeps up to {counted(count, 'checkpoint')}, which use up to {gib(size_bytes)} of RAM"
    )
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
            sentence = (
                f"earlier runs on this machine used {size >> 20} MiB beside the buffers on {device.name}"
            )
            reasons.append(Reason("overhead_bytes", sentence))
    return tuple(reasons)


# ── Why not ────────────────────────────────────────────────────────────────────────────────────────────────


def _does_not_fit(search: Search, devices: tuple[Device, ...]) -> DoesNotFitError:
    """What does not fit with the least context that would do, and changes that may help."""
    least = search.asked_context or context_ladder(search.longest_request)[0]
    cache, whole = search.cache(least), search.splits[0]
    if whole.layers and len(search.splits) == 1:
        if not devices:
            asked = (
                "--no-cpu-offload" if search.request.gpu_layers is None else f"--gpu-layers {whole.layers}"
            )
            return DoesNotFitError(f"{asked} needs a GPU, and none is used", hint=NO_HINT)
        needed = search.usage(cache, whole, (whole.layers,)).devices[0]
        free = ", ".join(f"device {device.index} has {gib(device.free_bytes)}" for device in devices)
        layers = "all layers" if whole.layers == search.all_layers else counted(whole.layers, "layer")
        return DoesNotFitError(
            f"{layers} with a context of {least:,} tokens need {_needs(needed)} on devices, and {free} free",
            hint=NO_HINT,
            changes=_smaller_steps(search, needed),
        )
    found = _most_on_devices(search, devices, cache)
    usage = search.usage(cache, Split(0), ()) if found is None else found.usage
    where = "without a device"
    if found is not None and found.split == Split(search.all_layers):
        where = f"with all layers on {names(found.devices)}"
    elif found is not None and found.split.layers == search.all_layers:
        where = f"with the experts of {counted(found.split.experts, 'layer')} in RAM"
    elif found is not None:
        where = f"with {found.split.layers} of {search.all_layers} layers on {names(found.devices)}"
    changes = _smaller_steps(search, usage.host)
    prompts = ""
    if usage.host.prompt_cache_bytes:
        prompts = f" ({gib(usage.host.prompt_cache_bytes)} for the prompt cache)"
        changes = ({"prompt_cache_mib": 0}, *changes)
    return DoesNotFitError(
        f"the model needs {gib(usage.ram_bytes)} of RAM{prompts} for a context of {least:,} tokens {where}, "
        f"and {gib(search.host.ram_free_bytes)} are free",
        hint=NO_HINT,
        changes=changes,
    )


def _most_on_devices(search: Search, devices: tuple[Device, ...], cache: Cache) -> Fit | None:
    """What the devices hold, whatever then is in RAM."""
    groups = _groups(search, devices, all_named=False)
    splits = [split for split in reversed(search.splits) if split.layers]
    return largest(
        len(splits),
        lambda number, effort: search.on_fewest(cache, splits[number], groups, effort),
        effort=search.effort,
    )


def _needs(needed: Estimate) -> str:
    """A total, and the parts of it that a person can change."""
    parts = (
        ("weights", needed.weights_bytes),
        ("KV cache", needed.kv_cache_bytes + needed.state_bytes),
        ("compute buffers", needed.compute_bytes),
    )
    sizes = ", ".join(f"{gib(size)} of {name}" for name, size in parts if size)
    return f"{gib(needed.total_bytes)} ({sizes})"


def _smaller_steps(search: Search, needed: Estimate) -> tuple[Change, ...]:
    """Smaller physical batches, where the compute buffers are a good part of what is needed."""
    ubatch = search.settings(search.cache(search.longest_request), search.splits[0]).n_ubatch
    if search.whole_texts or needed.compute_bytes < needed.total_bytes * WORTH_SMALLER_STEPS:
        return ()
    sizes = [size for size in (512, 256, 128) if size < ubatch]
    return tuple({"ubatch_size": size} for size in sizes)

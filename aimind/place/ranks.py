"""Placement for vLLM and its like: every rank takes a share of its device, and the rest of that is the cache.

The rule, over all cuts that the model and the engine allow:

1. The cut whose ranks hold the longest request, up to the model's own context or the one that was asked for.
   So another device is used as long as it lengthens a request.
2. Of several such cuts one with a roomy cache: at least 32,768 tokens and a tenth of the model's context.
   Where none is roomy, the one that caches most.
3. Of several such cuts the one with the fewest pipeline stages, then the one with the fewest devices.

More free memory never gives a shorter context: each cut holds requests that are at least as long as before,
and the longest of these is chosen. A rule that stops at the first device with a large enough cache breaks
this law, since two devices hold longer requests just before one device is enough. Devices of different kinds
may break it, too: an engine chooses larger steps for a larger device.

The share of a device is never more than is free now: vLLM does not start when a device has less free memory
than its share.
"""

from __future__ import annotations

import dataclasses

from aimind.errors import DeviceError, DoesNotFitError, UsageError
from aimind.phrases import devices_hint
from aimind.place.placement import Placement, usable_devices
from aimind.place.rank_search import ENGINE_RAM_BYTES, Ranks, RankSearch, Tries
from aimind.place.rank_sentences import (
    too_large,
    too_large_for_ram,
    why_context,
    why_cut,
    why_idle,
    why_parallel,
)
from aimind.types import Device, Estimate, Host, Metadata, PagedMemory, Reason, Request, Shard


def place_ranks(
    metadata: Metadata, host: Host, request: Request, *, memory: PagedMemory, version: str = ""
) -> Placement:
    """The placement; see the module. `version`: of the engine, empty for the newest that is known.

    Raises:
        DoesNotFitError: no cut fits the memory that is free.
        UsageError: the request contradicts itself, the model, or a rule of the backend.
        DeviceError: a device is named that cannot be used.
    """
    _check(metadata, request)
    devices = usable_devices(host, request, memory.vendors)
    search = RankSearch(metadata, host, request, memory, version)
    if not devices and not memory.in_ram:
        raise DeviceError("this backend needs a GPU, and none is used", hint=devices_hint(host))
    if not devices and request.cpu_offload is False:
        raise DoesNotFitError(
            "no device is used, and --no-cpu-offload forbids the use of RAM", hint=devices_hint(search.host)
        )
    if not devices and search.copies > 1:
        raise UsageError(
            f"--data-parallel-size {search.copies} needs {search.copies} devices, and none is used",
            hint="omit --data-parallel-size",
        )
    if not devices:
        found = search.in_ram()
        if found is None:
            raise too_large_for_ram(search)
        return _placement(
            search, found, Reason("tensor_parallel_size", "the model is in RAM, because no device is used")
        )
    _check_groups(search, devices)
    _check_utilization(search, devices)
    tries = _try_cuts(search, devices)
    chosen = _choose(search, tries)
    if chosen is not None:
        return _placement(search, chosen, why_cut(search, chosen, tries), why_idle(search, chosen, devices))
    if tries.refused:
        raise too_large(search, tries)
    raise UsageError(
        "; ".join(tries.broken),
        hint="omit --tensor-parallel and --pipeline-parallel-size: aimind chooses sizes that fit",
    )


def _try_cuts(search: RankSearch, devices: tuple[Device, ...]) -> Tries:
    """The cuts in the order of rule 3, until one cannot be surpassed."""
    tries = Tries()
    per_group = len(devices) // search.copies
    for tensor, pipeline in _cuts(search.request, per_group, pipelines=search.memory.pipelines):
        rule = search.broken_rule(per_group, tensor, pipeline)
        if rule is not None:
            tries.broken.append(rule)
            continue
        chosen = devices[: tensor * pipeline * search.copies]
        found = search.on_devices(chosen, tensor, pipeline)
        if found is None:
            tries.refused.append((chosen, tensor, pipeline))
            continue
        tries.fits.append(found)
        if found.context == search.limit and search.is_roomy(found):
            break
    return tries


def _choose(search: RankSearch, tries: Tries) -> Ranks | None:
    """The cut by the rules 1 to 3 of the module."""
    if not tries.fits:
        return None
    longest = max(found.context for found in tries.fits)
    best = [found for found in tries.fits if found.context == longest]
    for found in best:
        if search.is_roomy(found):
            return found
    return max(best, key=search.tokens)


def _check_groups(search: RankSearch, devices: tuple[Device, ...]) -> None:
    """Whether there is a device for each group at least."""
    if search.copies > len(devices):
        raise UsageError(
            f"--data-parallel-size {search.copies} needs at least {search.copies} devices, "
            f"and there are {len(devices)}",
            hint=f"use a --data-parallel-size of {len(devices)} or less",
        )


def _check_utilization(search: RankSearch, devices: tuple[Device, ...]) -> None:
    """Whether vLLM would start with the share that was asked for."""
    share = search.request.gpu_memory_utilization
    if share is None or search.request.force:
        return
    best = max(search.accepted(device) for device in devices)
    if share > best:
        raise DoesNotFitError(
            f"a memory share of {share:g} is more than any device has free: the backend would not start with "
            f"more than {best:g}",
            hint=devices_hint(search.host),
            changes=({"gpu_memory_utilization": best},),
        )


def _cuts(request: Request, count: int, *, pipelines: bool) -> list[tuple[int, int]]:
    """Tensor and pipeline sizes to try: the fewest stages first, then the fewest devices."""
    tensor, pipeline = request.tensor_parallel_size, request.pipeline_parallel_size
    if tensor is not None or pipeline is not None:
        return [(tensor or 1, pipeline or 1)]
    sizes = range(1, count + 1) if request.devices is None else (count,)
    most = count if pipelines else 1
    cuts = [(size // stages, stages) for size in sizes for stages in range(1, most + 1) if size % stages == 0]
    return sorted(cuts, key=lambda cut: (cut[1], cut[0]))


def _placement(search: RankSearch, found: Ranks, reason: Reason, idle: tuple[Reason, ...] = ()) -> Placement:
    metadata = search.metadata
    cached = bool(found.layout.block_bytes)
    tokens = search.tokens(found) if cached else None
    settings = dataclasses.replace(
        search.request,
        max_model_len=found.context,
        max_num_seqs=found.batch.sequences,
        max_num_batched_tokens=found.batch.tokens,
        tensor_parallel_size=found.tensor,
        pipeline_parallel_size=found.pipeline,
        gpu_memory_utilization=found.utilization,
        kv_cache_dtype=search.request.kv_cache_dtype or "auto",
        kv_cache_memory_bytes=search.request.kv_cache_memory_bytes if found.devices else found.cache_bytes,
        block_size=search.request.block_size,
        devices=tuple(device.index for device in found.devices),
    )
    shard = Estimate(
        weights_bytes=found.weights_bytes,
        kv_cache_bytes=found.cache_bytes if cached else 0,
        compute_bytes=found.compute_bytes,
        graphs_bytes=found.graphs_bytes,
        overhead_bytes=found.overhead_bytes,
        approximate=frozenset({"compute_bytes", "graphs_bytes", "overhead_bytes"}),
    )
    if not metadata.known or (found.devices and search.request.kv_cache_memory_bytes is None):
        shard = shard.about("kv_cache_bytes")  # on a device it is what the rest leaves
    if found.devices or not search.memory.rule.measured:
        shard = shard.about("weights_bytes")
    if not search.memory.rule.measured:
        shard = shard.about("kv_cache_bytes")
    in_ram = dataclasses.replace(shard, kv_cache_bytes=shard.kv_cache_bytes * found.tensor)
    engine = Estimate(overhead_bytes=ENGINE_RAM_BYTES * len(found.devices)).about("overhead_bytes")
    host = engine if found.devices else in_ram
    return Placement(
        settings=settings,
        shards=tuple(Shard(device, shard) for device in found.devices),
        host=host,
        kv_cache_tokens=tokens,
        reasons=(reason, *idle, why_context(search, found), *why_parallel(search, found, tokens)),
        sources=search.memory.rule.sources,
        shorter=search.shorter(found),
    )


def _check(metadata: Metadata, request: Request) -> None:
    if request.gpu_layers is not None:
        raise UsageError(
            "this backend cannot keep some layers in RAM and others on devices",
            hint="omit --gpu-layers, which applies to GGUF models only",
        )
    if not metadata.layers:
        raise UsageError("the model has no layers", hint="name a whole model: this may be an adapter")

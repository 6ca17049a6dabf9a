"""Why ranks are placed as they are, and why they do not fit: sentences from the numbers of the search."""

from __future__ import annotations

from aimind.errors import DoesNotFitError
from aimind.estimate import paged
from aimind.phrases import counted, devices_hint, gib, names
from aimind.place.rank_search import ENGINE_RAM_BYTES, Ranks, RankSearch, Tries, cut_sizes
from aimind.types import BatchSizes, Change, Device, Reason

# Tokens of smaller steps that are proposed where a model does not fit.
_STEPS = (8192, 4096, 2048, 1024, 512, 256)


def why_idle(search: RankSearch, chosen: Ranks, devices: tuple[Device, ...]) -> tuple[Reason, ...]:
    """What more of the devices would give that stay idle."""
    idle = len(devices) - len(chosen.devices)
    request = search.request
    if not idle or search.pooling or request.devices is not None or search.copies > 1:
        return ()
    if request.tensor_parallel_size is not None or request.pipeline_parallel_size is not None:
        return ()
    for tensor in range(chosen.tensor + 1, len(devices) + 1):
        if search.broken_rule(len(devices), tensor, 1) is not None:
            continue
        larger = search.on_devices(devices[:tensor], tensor, 1)
        if larger is None:
            continue
        verb = "stays" if idle == 1 else "stay"
        sentence = (
            f"{idle} of {len(devices)} devices {verb} idle; --tensor-parallel {tensor} would use {tensor} "
            f"devices and cache {search.tokens(larger):,} tokens instead of {search.tokens(chosen):,}"
        )
        return (Reason("devices", sentence),)
    return ()


def too_large(search: RankSearch, tries: Tries) -> DoesNotFitError:
    """Why no cut fits, and changes of the request that may help."""
    first_and_last = dict.fromkeys((tries.refused[0], tries.refused[-1]))
    sentences = [_too_small(search, *cut, search.needs[-1]) for cut in first_and_last]
    return DoesNotFitError(
        "; ".join(dict.fromkeys(sentences + tries.broken)),
        hint=devices_hint(search.host),
        changes=_changes(search, tries),
    )


def too_large_for_ram(search: RankSearch) -> DoesNotFitError:
    """What does not fit the RAM, and changes of the request that may help."""
    tensor = search.request.tensor_parallel_size or 1
    weights = search.weights(tensor, 1) * tensor
    batch = search.batch_sizes(())
    compute = paged.activation_bytes(
        search.metadata, tensor_parallel=tensor, tokens=batch.tokens, sequences=batch.sequences
    )
    return DoesNotFitError(
        f"{gib(weights)} of weights, {gib(compute)} for a step of {batch.tokens:,} tokens, "
        f"{gib(ENGINE_RAM_BYTES * tensor)} for the engine and a KV cache of {search.needs[-1]:,} tokens "
        f"do not fit the {gib(search.host.ram_free_bytes)} of RAM that are free",
        hint=devices_hint(search.host),
        changes=_smaller_steps(batch),
    )


def _changes(search: RankSearch, tries: Tries) -> tuple[Change, ...]:
    """Smaller steps where computing takes what the cache needs, and no graphs where these do."""
    devices, tensor, pipeline = tries.refused[-1]
    batch = search.batch_sizes(devices)
    changes = list(_smaller_steps(batch))
    run = search.runs(devices, tensor, pipeline, batch)[0]
    if search.memory.rule.graphs(run):
        changes.append({"enforce_eager": True})
        smallest = {"max_num_batched_tokens": _STEPS[-1], "max_num_seqs": min(batch.sequences, _STEPS[-1])}
        changes.append({"enforce_eager": True, **smallest})
    largest = search.memory.rule.largest_share(run)
    if search.request.gpu_memory_utilization is None and largest > search.memory.utilization:
        changes.append({"gpu_memory_utilization": largest})
    return tuple(changes)


def _smaller_steps(batch: BatchSizes) -> tuple[Change, ...]:
    smaller = [size for size in _STEPS if size < batch.tokens]
    return tuple(
        {"max_num_batched_tokens": size, "max_num_seqs": min(batch.sequences, size)}
        if batch.sequences > size
        else {"max_num_batched_tokens": size}
        for size in smaller
    )


def why_cut(search: RankSearch, found: Ranks, tries: Tries) -> Reason:
    """The devices, and what fewer of them would give."""
    wanted = gib(found.weights_bytes + found.compute_bytes + found.graphs_bytes + found.overhead_bytes)
    sentence = f"{names(found.devices)} uses {wanted} per device plus a KV cache of {gib(found.cache_bytes)}"
    fewest = min(tries.fits, key=lambda each: len(each.devices))
    if len(fewest.devices) < len(found.devices):
        sentence += f"; {cut_sizes(fewest.tensor, fewest.pipeline)} {_would_give(search, fewest, found)}"
    elif len(found.devices) > 1 and search.request.devices is None and tries.refused:
        sentence += (
            f"; fewer devices are not enough: {_too_small(search, *tries.refused[0], search.needs[-1])}"
        )
    elif len(found.devices) > 1 and search.request.devices is None and tries.broken:
        sentence += f"; fewer devices cannot be used: {tries.broken[0]}"
    return Reason("tensor_parallel_size", f"{cut_sizes(found.tensor, found.pipeline)} on {sentence}")


def _would_give(search: RankSearch, fewer: Ranks, found: Ranks) -> str:
    """What a cut on fewer devices would give less of."""
    if fewer.context < found.context:
        return f"would limit the context to {fewer.context:,} tokens instead of {found.context:,}"
    if fewer.pipeline > found.pipeline:
        return "would also fit, but with more pipeline stages"
    wanted = search.roomy_tokens * search.copies
    return f"would cache {search.tokens(fewer):,} tokens, fewer than the {wanted:,} that aimind aims for"


def why_context(search: RankSearch, found: Ranks) -> Reason:
    """Why a request has so many tokens."""
    if search.request.max_model_len:
        return Reason("max_model_len", f"{found.context:,} tokens were requested")
    if found.context == search.limit:
        return Reason("max_model_len", f"{found.context:,} tokens is the model's maximum context length")
    return Reason(
        "max_model_len",
        f"{found.context:,} tokens is the longest request that a KV cache of {gib(found.cache_bytes)} holds",
    )


def why_parallel(search: RankSearch, found: Ranks, tokens: int | None) -> tuple[Reason, ...]:
    """How many requests the cache holds, and the share that leaves it."""
    if tokens is None:
        return (
            Reason(
                "kv_cache_tokens",
                f"{search.metadata.category} models have no KV cache between requests",
            ),
        )
    at_once = tokens // found.context
    requests = counted(at_once, "request")
    sentence = f"the KV cache of {tokens:,} tokens holds {requests} of {found.context:,} tokens at once"
    if found.utilization is None:
        return (Reason("kv_cache_memory_bytes", sentence),)
    share = search.memory.rule.describe_share(found.utilization)
    return (Reason("kv_cache_tokens", sentence), Reason("gpu_memory_utilization", share))


def _too_small(
    search: RankSearch, devices: tuple[Device, ...], tensor: int, pipeline: int, needed: int
) -> str:
    """What does not fit: the weights alone, or with all that a rank holds beside them."""
    fullest = min(devices, key=lambda device: device.free_bytes)
    batch = search.batch_sizes(devices)
    (run,) = search.runs((fullest,), tensor, pipeline, batch)
    rule = search.memory.rule
    weights, compute = rule.weights(run), rule.compute(run)
    graphs, overhead = rule.graphs(run), rule.overhead(run)
    where = f"{names(devices)} ({gib(fullest.free_bytes)} free)"
    start = f"with {cut_sizes(tensor, pipeline)}, {gib(weights)} of weights per rank"
    if weights > run.free_bytes:
        return f"{start} do not fit {where}"
    parts = [start, f"{gib(compute)} for a step of {batch.tokens:,} tokens"]
    if graphs:
        parts.append(f"{gib(graphs)} for CUDA graphs")
    parts.append(f"{gib(overhead)} for the CUDA context and libraries")
    return f"{', '.join(parts)} and a context of {needed:,} tokens do not fit {where}"

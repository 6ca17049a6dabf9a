"""Placement for vLLM and its like: every rank takes a share of its device, and the rest of that is the cache.

The fewest devices of which every rank fits, tensor parallel before pipeline parallel. The share is never more
than is free now: vLLM does not start when a device has less free than what it was told to take.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from aimind.errors import DeviceError, DoesNotFitError, UsageError
from aimind.estimate import paged
from aimind.phrases import gib, names
from aimind.place.placement import (
    RAM_CACHE_SHARE,
    SPENDABLE,
    Placement,
    context_limit,
    contexts_to_try,
    usable_devices,
)
from aimind.types import (
    BatchSizes,
    Device,
    Estimate,
    Host,
    Metadata,
    PagedMemory,
    RankedRun,
    Reason,
    Request,
    Shard,
)

# What Python, PyTorch and vLLM take in RAM beside the model: 2.3 GB were seen with the CPU build 0.32.
ENGINE_RAM_BYTES = 2300 * 10**6
# Unless it is told how large the cache is, the CPU build (0.32) wants 92 % of the RAM, even for a model that
# needs no cache; of this figure it then takes nothing.
UNUSED_CACHE_BYTES = 1 << 20
# Requests at once for which models that take no more than they need have a cache.
FEW_REQUESTS = 4


@dataclass(frozen=True, slots=True)
class _Ranks:
    """One way to cut the model, and what each rank then holds besides its cache.

    Attributes:
        devices: of all groups; empty in RAM.
    """

    tensor: int
    pipeline: int
    devices: tuple[Device, ...]
    utilization: float | None
    weights_bytes: int
    compute_bytes: int
    graphs_bytes: int
    overhead_bytes: int
    cache_bytes: int
    context: int
    batch: BatchSizes
    layout: paged.Layout


class _Search:
    """The model, the machine and the user's fixed points."""

    def __init__(
        self, metadata: Metadata, host: Host, request: Request, memory: PagedMemory, version: str
    ) -> None:
        self.metadata, self.host, self.request, self.memory = metadata, host, request, memory
        self.version = version
        self.pooling = metadata.pools
        self.limit = context_limit(metadata, request)
        self.needs = contexts_to_try(metadata, request, self.limit)
        self.copies = request.data_parallel_size or 1
        self._weights: dict[tuple[int, int], int] = {}

    def batch_sizes(self, devices: tuple[Device, ...]) -> BatchSizes:
        """The limits of a step on these devices: those that are asked for, or the engine's own."""
        sizes = self.memory.rule.batch_sizes(devices, self.request, version=self.version)
        if self.metadata.whole_texts and self.request.max_num_batched_tokens is None:
            return BatchSizes(max(sizes.tokens, self.limit), sizes.sequences)
        return sizes

    def on_devices(self, devices: tuple[Device, ...], tensor: int, pipeline: int) -> _Ranks | None:
        """This cut on these devices, if every rank holds its part and a request of the least length."""
        batch = self.batch_sizes(devices)
        if not self.memory.whole_prompts or self.request.max_num_batched_tokens:
            return self._held(devices, tensor, pipeline, (self.limit, batch))
        length = self.limit
        while length >= self.needs[-1]:
            sizes = BatchSizes(max(batch.tokens, length), batch.sequences)
            found = self._held(devices, tensor, pipeline, (length, sizes))
            if found is not None and found.context == length:
                return found
            length = max(length // 2, self.needs[-1]) if length > self.needs[-1] else 0
        return None

    def _held(
        self, devices: tuple[Device, ...], tensor: int, pipeline: int, sizes: tuple[int, BatchSizes]
    ) -> _Ranks | None:
        """With `sizes`: the longest request that is of use, and the limits of a step."""
        request, rule = self.request, self.memory.rule
        limit, batch = sizes
        runs = self.runs(devices, tensor, pipeline, batch)
        share = request.gpu_memory_utilization
        if share is None:
            share = min([self.memory.utilization, *(rule.largest_share(run) for run in runs)])
        rest = min(rule.available(run, share) for run in runs)
        if request.kv_cache_memory_bytes is not None:
            rest = min(rest, request.kv_cache_memory_bytes)
        layout = self._layout(tensor, pipeline, self.memory.block_size)
        in_flight = paged.in_flight_tokens(batch.tokens, pipeline)
        context = layout.longest(rest, limit, in_flight=in_flight) if rest > 0 else 0
        if context < self.needs[-1]:
            return None
        if self.pooling and request.gpu_memory_utilization is None:
            few = min(rest, self._of_few_requests(layout, context, in_flight=in_flight))
            shares = [rule.share_for(run, few) for run in runs]
            smaller = [share for share in shares if share is not None]
            if smaller:
                rest, share = few, max(smaller)
        largest = max(runs, key=rule.overhead)
        return _Ranks(
            tensor=tensor,
            pipeline=pipeline,
            devices=devices,
            utilization=share,
            weights_bytes=rule.weights(largest),
            compute_bytes=rule.compute(largest),
            graphs_bytes=rule.graphs(largest),
            overhead_bytes=rule.overhead(largest),
            cache_bytes=rest,
            context=context,
            batch=batch,
            layout=layout,
        )

    def runs(
        self, devices: tuple[Device, ...], tensor: int, pipeline: int, batch: BatchSizes
    ) -> list[RankedRun]:
        """What the engine's rule is asked about: the run, on each device that differs from the others."""
        alike = {(device.total_bytes, device.free_bytes, device.capability): device for device in devices}
        return [
            RankedRun(
                metadata=self.metadata,
                version=self.version,
                device=device,
                free_bytes=int(device.free_bytes * SPENDABLE),
                tensor_parallel_size=tensor,
                pipeline_parallel_size=pipeline,
                batch=batch,
                weights_bytes=self.weights(tensor, pipeline),
                dtype=self.request.dtype,
                enforce_eager=bool(self.request.enforce_eager),
            )
            for device in alike.values()
        ]

    def in_ram(self) -> _Ranks | None:
        """The whole model in RAM; each rank of a tensor parallel run is a process with a part of it."""
        tensor = self.request.tensor_parallel_size or 1
        weights = self.weights(tensor, 1) * tensor
        block_size = paged.ram_block_size(self.metadata, self.memory.cpu_block_size)
        layout = self._layout(tensor, 1, block_size)
        batch = self.batch_sizes(())
        compute = paged.activation_bytes(
            self.metadata, tensor_parallel=tensor, tokens=batch.tokens, sequences=batch.sequences
        )
        free = int(self.host.ram_free_bytes * SPENDABLE) - weights - compute - ENGINE_RAM_BYTES * tensor
        most = self.request.kv_cache_memory_bytes or max(0, int(free * RAM_CACHE_SHARE)) // tensor
        if free < 0 or most * tensor > free:
            return None
        context = layout.longest(most, self.limit, in_flight=batch.tokens)
        if context < self.needs[0] and self.request.kv_cache_memory_bytes is None:
            # One request of the length that is needed comes before what others may want of the RAM.
            most = free // tensor
            context = min(self.needs[0], layout.longest(most, self.needs[0], in_flight=batch.tokens))
        if context < self.needs[-1]:
            return None
        return _Ranks(
            tensor=tensor,
            pipeline=1,
            devices=(),
            utilization=None,
            weights_bytes=weights,
            compute_bytes=compute,
            graphs_bytes=0,
            overhead_bytes=ENGINE_RAM_BYTES * tensor,
            cache_bytes=self._enough(layout, context, most, batch.tokens),
            context=context,
            batch=batch,
            layout=layout,
        )

    def _enough(self, layout: paged.Layout, context: int, most: int, batched: int) -> int:
        """In RAM not more than a few full requests: whole blocks, since vLLM rounds down to these."""
        if self.request.kv_cache_memory_bytes is not None:
            return self.request.kv_cache_memory_bytes
        if not layout.block_bytes:
            return UNUSED_CACHE_BYTES
        wanted = self._of_few_requests(layout, context, in_flight=batched)
        return min(wanted, most // layout.block_bytes * layout.block_bytes)

    def _of_few_requests(self, layout: paged.Layout, context: int, *, in_flight: int) -> int:
        requests = self.request.max_num_seqs or FEW_REQUESTS
        return (requests * layout.blocks_needed(context, in_flight=in_flight) + 1) * layout.block_bytes

    def weights(self, tensor: int, pipeline: int) -> int:
        """The tensors of the rank that holds most."""
        if (tensor, pipeline) not in self._weights:
            self._weights[tensor, pipeline] = paged.weights_bytes(
                self.metadata,
                tensor_parallel=tensor,
                pipeline_parallel=pipeline,
                dtype=self.request.dtype,
                expert_groups=self.copies if self.memory.experts_over_groups else 1,
            )
        return self._weights[tensor, pipeline]

    def _layout(self, tensor: int, pipeline: int, block_size: int) -> paged.Layout:
        return paged.layout(
            self.metadata,
            ranks=(tensor, pipeline),
            cache_dtype=self.request.kv_cache_dtype or "auto",
            dtype=self.request.dtype,
            block_size=self.request.block_size or block_size,
        )

    def accepted(self, device: Device) -> float:
        """The largest share that the engine accepts of a device, with the sizes that were asked for."""
        tensor, pipeline = self.request.tensor_parallel_size or 1, self.request.pipeline_parallel_size or 1
        (run,) = self.runs((device,), tensor, pipeline, self.batch_sizes((device,)))
        return self.memory.rule.largest_share(run)


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
    search = _Search(metadata, host, request, memory, version)
    if not devices and not memory.in_ram:
        raise DeviceError("this backend runs on devices alone, and none is used", hint="see `aimind devices`")
    if not devices and request.cpu_offload is False:
        raise DoesNotFitError(
            "no device is used, and --no-cpu-offload keeps the model out of RAM", hint="see `aimind devices`"
        )
    if not devices:
        found = search.in_ram()
        if found is None:
            raise DoesNotFitError(
                f"{gib(metadata.weight_bytes)} of weights and {search.needs[-1]} tokens do not fit "
                f"the {gib(host.ram_free_bytes)} of RAM that are free",
                hint="a shorter --context, or a smaller or quantized model",
            )
        return _placement(search, found, Reason("tensor_parallel_size", "in RAM: no device is used"))
    _check_utilization(search, devices)
    broken: list[str] = []
    tried: list[tuple[tuple[Device, ...], int, int]] = []
    shorter: _Ranks | None = None
    copies = search.copies
    for tensor, pipeline in _cuts(request, len(devices) // copies, pipelines=memory.pipelines):
        rule = _broken_rule(search, len(devices) // copies, tensor, pipeline)
        if rule is not None:
            broken.append(rule)
            continue
        chosen = devices[: tensor * pipeline * copies]
        found = search.on_devices(chosen, tensor, pipeline)
        if found is not None and found.context >= search.needs[0]:
            return _placement(search, found, _why(search, found, tried, broken))
        tried.append((chosen, tensor, pipeline))
        shorter = shorter or found
    if shorter is not None:
        return _placement(search, shorter, _why(search, shorter, tried, broken))
    if tried:
        too_small = [_too_small(search, *cut, search.needs[-1]) for cut in tried]
        raise DoesNotFitError(
            "; ".join(too_small + broken), hint="a shorter --context, a quantized model, or more devices"
        )
    raise UsageError("; ".join(broken), hint="leave the sizes out, and they are chosen so that they fit")


def _check_utilization(search: _Search, devices: tuple[Device, ...]) -> None:
    """Whether vLLM would start with the share that was asked for."""
    share = search.request.gpu_memory_utilization
    if share is None or search.request.force:
        return
    best = max(search.accepted(device) for device in devices)
    if share > best:
        raise DoesNotFitError(
            f"a share of {share:g} is more than is free on any device: the backend would not start",
            hint=f"--gpu-memory-utilization {best:g} is the largest that it takes now",
        )


def _broken_rule(search: _Search, devices: int, tensor: int, pipeline: int) -> str | None:
    """Of `devices`: with data parallelism those of one group."""
    if tensor * pipeline > devices:
        return f"{_cut(tensor, pipeline)} needs {tensor * pipeline} devices, and there is {devices}"
    if search.memory.powers_of_two and tensor & (tensor - 1):
        return f"tensor parallel {tensor}: it is not a power of two"
    return paged.refusal(search.metadata, tensor_parallel=tensor, pipeline_parallel=pipeline)


def _cuts(request: Request, count: int, *, pipelines: bool) -> list[tuple[int, int]]:
    """Tensor and pipeline sizes to try, the fewest devices first."""
    tensor, pipeline = request.tensor_parallel_size, request.pipeline_parallel_size
    if tensor is not None or pipeline is not None:
        return [(tensor or 1, pipeline or 1)]
    sizes = range(1, count + 1) if request.devices is None else (count,)
    most = count if pipelines else 1
    cuts = [(size // stages, stages) for size in sizes for stages in range(1, most + 1) if size % stages == 0]
    return sorted(cuts, key=lambda cut: (cut[0] * cut[1], cut[1]))


def _placement(search: _Search, found: _Ranks, reason: Reason) -> Placement:
    metadata = search.metadata
    cached = bool(found.layout.block_bytes)
    in_flight = found.batch.tokens
    if found.devices:
        in_flight = paged.in_flight_tokens(found.batch.tokens, found.pipeline)
    tokens = None
    if cached:
        each = found.layout.tokens_held(found.cache_bytes, found.context, in_flight=in_flight)
        tokens = each * search.copies
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
        reasons=(reason, _why_context(search, found), *_why_parallel(search, found, tokens)),
        sources=search.memory.rule.sources,
    )


def _check(metadata: Metadata, request: Request) -> None:
    if request.gpu_layers is not None:
        raise UsageError(
            "this backend has no layers in RAM beside those on devices",
            hint="--gpu-layers is for GGUF models",
        )
    if not metadata.layers:
        raise UsageError("the model has no layers", hint="is it an adapter of another model?")


def _why(
    search: _Search, found: _Ranks, tried: list[tuple[tuple[Device, ...], int, int]], broken: list[str]
) -> Reason:
    wanted = gib(found.weights_bytes + found.compute_bytes + found.graphs_bytes + found.overhead_bytes)
    sentence = f"{names(found.devices)}: {wanted} each beside a cache of {gib(found.cache_bytes)}"
    if len(found.devices) > 1 and search.request.devices is None and (tried or broken):
        before = _too_small(search, *tried[0], search.needs[0]) if tried else broken[0]
        sentence += f"; before that: {before}"
    return Reason("tensor_parallel_size", f"{_cut(found.tensor, found.pipeline)} on {sentence}")


def _cut(tensor: int, pipeline: int) -> str:
    """The sizes for a sentence."""
    return f"tensor parallel {tensor}" + (f", pipeline parallel {pipeline}" if pipeline > 1 else "")


def _why_context(search: _Search, found: _Ranks) -> Reason:
    if search.request.max_model_len:
        return Reason("max_model_len", f"{found.context} tokens: asked for")
    if found.context == search.limit:
        return Reason("max_model_len", f"{found.context} tokens: the model's own limit")
    return Reason(
        "max_model_len",
        f"{found.context} tokens: the longest request that a cache of {gib(found.cache_bytes)} holds",
    )


def _why_parallel(search: _Search, found: _Ranks, tokens: int | None) -> tuple[Reason, ...]:
    if tokens is None:
        return (
            Reason(
                "kv_cache_tokens",
                f"models for {search.metadata.category} remember nothing between requests",
            ),
        )
    at_once = tokens // found.context
    sentence = f"the cache of {tokens} tokens holds {at_once} requests of {found.context} tokens at once"
    if found.utilization is None:
        return (Reason("kv_cache_memory_bytes", sentence),)
    share = search.memory.rule.describe_share(found.utilization)
    return (Reason("kv_cache_tokens", sentence), Reason("gpu_memory_utilization", share))


def _too_small(search: _Search, devices: tuple[Device, ...], tensor: int, pipeline: int, needed: int) -> str:
    weights = search.weights(tensor, pipeline)
    each = gib(min(device.free_bytes for device in devices))
    return (
        f"{_cut(tensor, pipeline)}: {gib(weights)} of weights per rank and "
        f"a context of {needed} tokens do not fit {names(devices)} ({each} free)"
    )

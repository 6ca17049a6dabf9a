"""The search over ranks: one way to cut a model on devices, and what each rank then holds."""

from __future__ import annotations

from dataclasses import dataclass, field

from aimind.estimate import paged
from aimind.place.placement import CONTEXT_FLOOR, RAM_CACHE_SHARE, SPENDABLE, context_limit, contexts_to_try
from aimind.types import BatchSizes, Change, Device, Host, Metadata, PagedMemory, RankedRun, Request

# What Python, PyTorch and vLLM take in RAM beside the model: 2.3 GB were seen with the CPU build 0.32.
ENGINE_RAM_BYTES = 2300 * 10**6
# Unless it is told how large the cache is, the CPU build (0.32) wants 92 % of the RAM, even for a model that
# needs no cache; of this figure it then takes nothing.
UNUSED_CACHE_BYTES = 1 << 20
# A cache of fewer tokens, or of less than a tenth of the model's context, is worth another device.
ROOMY_TOKENS = 4 * CONTEXT_FLOOR
# Requests at once for which models that take no more than they need have a cache.
FEW_REQUESTS = 4


@dataclass(frozen=True, slots=True)
class Ranks:
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


class RankSearch:
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

    def on_devices(self, devices: tuple[Device, ...], tensor: int, pipeline: int) -> Ranks | None:
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
    ) -> Ranks | None:
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
        return Ranks(
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

    def shorter(self, found: Ranks) -> Change | None:
        """A context of 8192 tokens and the share that holds a few requests of it, where both are free."""
        request = self.request
        chosen = request.max_model_len is None and request.gpu_memory_utilization is None
        if not chosen or not found.devices or self.pooling or found.context <= CONTEXT_FLOOR:
            return None
        in_flight = paged.in_flight_tokens(found.batch.tokens, found.pipeline)
        few = self._of_few_requests(found.layout, CONTEXT_FLOOR, in_flight=in_flight)
        runs = self.runs(found.devices, found.tensor, found.pipeline, found.batch)
        shares = [self.memory.rule.share_for(run, few) for run in runs]
        known = [share for share in shares if share is not None]
        if not known or few >= found.cache_bytes:
            return None
        return {"max_model_len": CONTEXT_FLOOR, "gpu_memory_utilization": max(known)}

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
                performance_mode=self.request.performance_mode,
            )
            for device in alike.values()
        ]

    def in_ram(self) -> Ranks | None:
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
        return Ranks(
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

    def tokens(self, found: Ranks) -> int:
        """Tokens that the cache holds over all requests and groups."""
        in_flight = found.batch.tokens
        if found.devices:
            in_flight = paged.in_flight_tokens(found.batch.tokens, found.pipeline)
        each = found.layout.tokens_held(found.cache_bytes, found.context, in_flight=in_flight)
        return each * self.copies

    @property
    def roomy_tokens(self) -> int:
        """Fewer tokens of cache are worth another device."""
        return max(ROOMY_TOKENS, (self.metadata.max_model_len or 0) // 10)

    def is_roomy(self, found: Ranks) -> bool:
        """Whether more devices need not be taken for the cache's sake."""
        if self.pooling or self.request.kv_cache_memory_bytes is not None or not found.layout.block_bytes:
            return True
        return self.tokens(found) // self.copies >= self.roomy_tokens

    def broken_rule(self, devices: int, tensor: int, pipeline: int) -> str | None:
        """Why the model cannot be cut so; `devices`: with data parallelism those of one group."""
        if tensor * pipeline > devices:
            needs = f"{cut_sizes(tensor, pipeline)} needs {tensor * pipeline} devices"
            if self.copies > 1:
                return f"{needs} in each of {self.copies} data parallel groups, and each has {devices}"
            return f"{needs}, and there {'are' if devices > 1 else 'is'} {devices}"
        if self.memory.powers_of_two and tensor & (tensor - 1):
            return f"tensor parallel {tensor} is not a power of two"
        return paged.refusal(self.metadata, tensor_parallel=tensor, pipeline_parallel=pipeline)

    def accepted(self, device: Device) -> float:
        """The largest share that the engine accepts of a device, with the sizes that were asked for."""
        tensor, pipeline = self.request.tensor_parallel_size or 1, self.request.pipeline_parallel_size or 1
        (run,) = self.runs((device,), tensor, pipeline, self.batch_sizes((device,)))
        return self.memory.rule.largest_share(run)


@dataclass(slots=True)
class Tries:
    """The cuts that were tried, the fewest stages first, then the fewest devices.

    Attributes:
        fits: cuts whose ranks hold a request of a useful length.
        refused: devices and sizes of the cuts that do not fit.
        broken: why other cuts break a rule, as sentences.
    """

    fits: list[Ranks] = field(default_factory=list)
    refused: list[tuple[tuple[Device, ...], int, int]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def cut_sizes(tensor: int, pipeline: int) -> str:
    """The sizes for a sentence."""
    return f"tensor parallel {tensor}" + (f" and pipeline parallel {pipeline}" if pipeline > 1 else "")

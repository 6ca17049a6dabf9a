"""What fits where, for the llama.cpp family: the questions that a placement asks of the estimate."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

from aimind.errors import UsageError
from aimind.estimate import ggml, overhead
from aimind.estimate.overhead import Work
from aimind.place.placement import SPENDABLE, context_limit, contexts_to_try, usable_devices
from aimind.types import Device, Estimate, Host, LayeredMemory, Metadata, Request


@dataclass(frozen=True, slots=True)
class Fit:
    """One way that fits.

    Attributes:
        tokens: that the cache holds.
        counts: layers on each device, the output head counted as one.
        experts: of so many layers, the first ones, stay in RAM.
        devices: that are used.
        usage: what is then where.
    """

    tokens: int
    counts: tuple[int, ...]
    experts: int
    devices: tuple[Device, ...]
    usage: ggml.Usage


class Search:
    """The model, the machine and the user's fixed points; asks the estimate about ways to place it."""

    def __init__(
        self, metadata: Metadata, host: Host, request: Request, *, memory: LayeredMemory, projector_bytes: int
    ) -> None:
        self.profile = ggml.profile(metadata)
        self.all_layers = len(metadata.layers) + 1
        self.expert_layers = _expert_layers(metadata) if memory.expert_offload else 0
        self.host, self.request, self.memory = host, request, memory
        self.devices = usable_devices(host, request, memory.vendors)
        self.projector_bytes = projector_bytes
        self.encoder = metadata.pools
        # llama.cpp goes on with a text in the next step only where its last token is what counts.
        self.whole_texts = self.encoder and (metadata.whole_texts or request.pooling not in (None, "last"))
        self.slots = request.max_num_seqs or memory.slots
        self.unified = memory.shared_slots and request.max_num_seqs is None
        if request.kv_unified is not None:
            self.unified = request.kv_unified
        self.owners = 1 if self.unified else self.slots
        self.longest_request = context_limit(metadata, request)
        # The cache's tokens over all requests: what is needed, the preferred first; and what is of use.
        fixed = request.kv_cache_tokens
        contexts = contexts_to_try(metadata, request, self.longest_request)
        self.needs = (fixed,) if fixed else tuple(context * self.owners for context in contexts)
        self.limit = fixed or self.longest_request * (self.owners if self.encoder else self.slots)

    def settings(self, tokens: int, *, layers: int = 0, experts: int = 0) -> ggml.Settings:
        """The flags of a server whose cache holds so many tokens, with so many layers on devices."""
        request, memory = self.request, self.memory
        context = min(tokens // self.owners, self.longest_request)
        batch = request.batch_size or (
            max(context, memory.ubatch_size) if self.whole_texts else memory.batch_size
        )
        ubatch = request.ubatch_size or (batch if self.whole_texts else memory.ubatch_size)
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
            mixed_inputs=memory.mixed_inputs,
            swa_full=memory.full_window_cache if request.swa_full is None else request.swa_full,
            gpu_layers=layers,
            experts_on_cpu=experts if layers else 0,
        )

    def usage(
        self, tokens: int, counts: tuple[int, ...], *, experts: int = 0, compute: ggml.Compute = "quick"
    ) -> ggml.Usage:
        """What each place holds; the projector is on the first device, or in RAM."""
        settings = self.settings(tokens, layers=sum(counts), experts=experts)
        usage = ggml.estimate(
            self.profile,
            settings,
            counts,
            overhead_bytes=self._overhead_bytes(settings, counts),
            compute=compute,
        )
        if not self.projector_bytes:
            return usage
        if not usage.devices:
            return dataclasses.replace(usage, host=self._with_projector(usage.host))
        return dataclasses.replace(
            usage, devices=(self._with_projector(usage.devices[0]), *usage.devices[1:])
        )

    def _overhead_bytes(self, settings: ggml.Settings, counts: tuple[int, ...]) -> int:
        """What the process holds on each device beside its buffers; the most of all that may be used."""
        if not counts:
            return 0
        work = ggml.work(self.profile, settings, counts)
        measured = self.host.measurements
        return max((overhead.device_bytes(device, work, measured) for device in self.devices), default=0)

    def work(self, found: Fit) -> Work:
        """What one step multiplies on the devices."""
        settings = self.settings(found.tokens, layers=sum(found.counts), experts=found.experts)
        return ggml.work(self.profile, settings, found.counts)

    def fit(
        self, devices: tuple[Device, ...], layers: int, tokens: int, *, experts: int | None = None
    ) -> Fit | None:
        """These many layers on these devices, if memory holds them; of so many the experts stay in RAM."""
        if experts is None:
            experts = self.request.cpu_moe_layers or 0
        used = devices if layers else ()
        counts = self._dealt(used, layers)
        held = self.usage(tokens, counts, experts=experts, compute="none")
        needs, has = sum(e.total_bytes for e in held.devices), sum(d.free_bytes for d in used)
        if needs > has * SPENDABLE or not self._ram_holds(held):
            return None
        counts = self._balanced(used, counts, tokens, experts)
        usage = self.usage(tokens, counts, experts=experts)
        fits = self._holds(usage, used)
        return Fit(tokens, counts, experts if counts else 0, used, usage) if fits else None

    def settled(self, found: Fit) -> Fit | None:
        """The same with every layer computed, if memory holds that too."""
        usage = self.usage(found.tokens, found.counts, experts=found.experts, compute="exact")
        return dataclasses.replace(found, usage=usage) if self._holds(usage, found.devices) else None

    def _holds(self, usage: ggml.Usage, devices: tuple[Device, ...]) -> bool:
        """Whether every place has so much free."""
        held = zip(usage.devices, devices, strict=True)
        on_devices = all(estimate.total_bytes <= device.free_bytes * SPENDABLE for estimate, device in held)
        return on_devices and self._ram_holds(usage)

    def _ram_holds(self, usage: ggml.Usage) -> bool:
        return usage.ram_bytes <= self.host.ram_free_bytes * SPENDABLE

    def _dealt(self, devices: tuple[Device, ...], layers: int) -> tuple[int, ...]:
        """Layers per device as the user shares them out, or by what is free on each."""
        shares = self.request.split or tuple(float(max(1, device.free_bytes)) for device in devices)
        return _shares(shares, layers, len(devices)) if devices else ()

    def _balanced(
        self, devices: tuple[Device, ...], counts: tuple[int, ...], tokens: int, experts: int
    ) -> tuple[int, ...]:
        """The same layers so that the fullest device is as empty as possible.

        What each computes with is taken to be the same wherever a layer more or less goes.
        """
        if len(devices) < 2 or self.request.split is not None:
            return counts
        compute = [e.compute_bytes for e in self.usage(tokens, counts, experts=experts).devices]

        def fullness(candidate: tuple[int, ...]) -> list[float]:
            held = self.usage(tokens, candidate, experts=experts, compute="none").devices
            return [
                (estimate.total_bytes + scratch) / max(1, device.free_bytes)
                for estimate, scratch, device in zip(held, compute, devices, strict=True)
            ]

        best = fullness(counts)
        while True:
            worst, least = best.index(max(best)), best.index(min(best))
            moved = list(counts)
            moved[worst] -= 1
            moved[least] += 1
            candidate = fullness(tuple(moved)) if min(moved) >= 1 else best
            if max(candidate) >= max(best):
                return counts
            counts, best = tuple(moved), candidate

    def _with_projector(self, estimate: Estimate) -> Estimate:
        return dataclasses.replace(estimate, projector_bytes=self.projector_bytes).about("projector_bytes")


def _expert_layers(metadata: Metadata) -> int:
    """So many layers, from the first, that all with experts are among them; 0 without any."""
    return max((number for number, layer in enumerate(metadata.layers, 1) if layer.num_experts), default=0)


def most(attempt: Callable[[int], Fit | None], limit: int) -> Fit | None:
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


def _shares(shares: tuple[float, ...], layers: int, count: int) -> tuple[int, ...]:
    """Layers per device as llama.cpp deals them out: layer i goes where its share of the way falls.

    Source: llama.cpp, src/llama-model.cpp, load_tensors (build b9500).
    """
    if not (all(map(math.isfinite, shares)) and min(shares) >= 0 and sum(shares) > 0):
        raise UsageError(
            f"--tensor-split {','.join(f'{share:g}' for share in shares)} shares nothing out",
            hint="--tensor-split 3,1 gives the first device three layers of four",
        )
    if len(shares) != count:
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

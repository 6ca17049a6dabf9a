"""What fits where, for the llama.cpp family: the questions that a placement asks of the estimate.

Compute buffers take most of the time of an estimate. So a search first leaves them out, which gives the most
that there could be; then it goes down from there with three layers of every row of equal ones, and then with
every layer (`Effort`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from aimind.estimate import ggml, overhead
from aimind.estimate.overhead import Work
from aimind.estimate.projector import projector_bytes
from aimind.place.dealing import balanced, by_shares, evenly
from aimind.place.placement import CONTEXT_FLOOR, RAM_CACHE_SHARE, SPENDABLE, context_limit, usable_devices
from aimind.types import Device, Estimate, Host, LayeredMemory, Metadata, Request

# How thoroughly compute buffers are worked out, in the order of a search.
Effort = ggml.Compute
EFFORTS: tuple[Effort, ...] = ("none", "quick", "exact")
Found = TypeVar("Found")
# So many times at most, layers are dealt out again since a device needs more to compute with than expected.
_DEALS = 3
_STEP_AFTER_TWO = 4  # the step of a search downwards once two numbers failed


@dataclass(frozen=True, slots=True)
class Split:
    """What is on devices.

    Attributes:
        layers: on devices, the output head counted as one.
        experts: layers, the first ones, whose experts stay in RAM.
    """

    layers: int
    experts: int = 0


@dataclass(frozen=True, slots=True)
class Cache:
    """What the server remembers.

    Attributes:
        context: tokens of one request.
        slots: requests at once.
        tokens: that the cache holds over all requests.
    """

    context: int
    slots: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Fit:
    """One way that fits.

    Attributes:
        cache, split: what is placed.
        counts: layers on each device, the output head counted as one.
        devices: that are used.
        usage: what is then where.
    """

    cache: Cache
    split: Split
    counts: tuple[int, ...]
    devices: tuple[Device, ...]
    usage: ggml.Usage


class Search:
    """The model, the machine and the user's fixed points; asks the estimate about ways to place it.

    Attributes:
        effort: how thorough the last step of a search is.
    """

    effort: Effort = "exact"

    def __init__(self, metadata: Metadata, host: Host, request: Request, *, memory: LayeredMemory) -> None:
        self.profile = ggml.profile(metadata)
        self.host, self.request, self.memory = host, request, memory
        self.devices = usable_devices(host, request, memory.vendors)
        if request.split_mode == "none":
            self.devices = self.devices[:1]
        self.projector_bytes = projector_bytes(metadata.projector, metadata.towers)
        self.encoder = metadata.pools
        # llama.cpp goes on with a text in the next step only where its last token is what counts.
        self.whole_texts = self.encoder and (metadata.whole_texts or request.pooling not in (None, "last"))
        self.unified = memory.shared_slots and request.max_num_seqs is None
        if request.kv_unified is not None:
            self.unified = request.kv_unified
        self.longest_request = context_limit(metadata, request)
        self.all_layers = len(metadata.layers) + 1
        self.expert_layers = _expert_layers(metadata) if memory.expert_offload else 0

    # ── What is asked for ──────────────────────────────────────────────────────────────────────────────────

    @functools.cached_property
    def splits(self) -> tuple[Split, ...]:
        """What the user allows, with ever less on devices; the first one leaves nothing in RAM that need not.

        The experts of ever more layers stay in RAM, then whole layers, then all.
        """
        request = self.request
        experts = request.cpu_moe_layers or 0
        if request.gpu_layers is not None:
            layers = min(request.gpu_layers, self.all_layers)
            return (Split(layers, experts if layers else 0),)
        whole = Split(self.all_layers, experts)
        if request.cpu_offload is False:
            return (whole,)
        found = [whole]
        if request.cpu_moe_layers is None:
            found += [Split(self.all_layers, count) for count in range(1, self.expert_layers + 1)]
            experts = self.expert_layers
        found += [Split(layers, experts) for layers in range(self.all_layers - 1, 0, -1)]
        return (*found, Split(0))

    def cache(self, context: int, *, slots: int | None = None, tokens: int | None = None) -> Cache:
        """The cache for one request of this length, or for as many as there are slots."""
        request = self.request
        if slots is None:
            fixed_parts = request.kv_cache_tokens is not None and not self.unified
            slots = request.max_num_seqs or (self.memory.slots if fixed_parts else 1)
        owners = 1 if self.unified else slots
        if tokens is None:
            tokens = request.kv_cache_tokens or context * owners
        return Cache(min(context, tokens // owners), slots, tokens)

    @property
    def asked_context(self) -> int | None:
        """The only context that is tried: the user's, or what a cache of the user's size holds."""
        request = self.request
        if request.max_model_len is not None:
            return request.max_model_len
        return None if request.kv_cache_tokens is None else self.longest_request

    # ── What it takes ──────────────────────────────────────────────────────────────────────────────────────

    def settings(self, cache: Cache, split: Split) -> ggml.Settings:
        """The flags of a server with this cache, and with so much of the model on devices."""
        request, memory = self.request, self.memory
        batch = request.batch_size or (
            max(cache.context, memory.ubatch_size) if self.whole_texts else memory.batch_size
        )
        ubatch = request.ubatch_size or (batch if self.whole_texts else memory.ubatch_size)
        keys = request.kv_cache_dtype or "f16"
        outputs = None
        if not self.encoder and memory.outputs_per_slot is not None:
            outputs = memory.outputs_per_slot * cache.slots
        flash = memory.flash_attention if request.flash_attention is None else request.flash_attention
        return ggml.Settings(
            n_ctx=cache.tokens,
            n_seq=cache.slots,
            kv_unified=self.unified,
            n_batch=batch,
            n_ubatch=min(ubatch, batch),
            type_k=keys,
            type_v=request.value_cache_dtype or keys,
            flash_attention=flash,
            n_outputs=outputs,
            mixed_inputs=memory.mixed_inputs,
            swa_full=memory.full_window_cache if request.swa_full is None else request.swa_full,
            gpu_layers=split.layers,
            experts_on_cpu=split.experts,
        )

    def usage(
        self, cache: Cache, split: Split, counts: tuple[int, ...], *, compute: ggml.Compute = "quick"
    ) -> ggml.Usage:
        """What each place holds; the projector is on the first device, or in RAM."""
        settings = self.settings(cache, split)
        usage = ggml.estimate(
            self.profile,
            settings,
            counts,
            overhead_bytes=self._overhead_bytes(settings, counts),
            compute=compute,
        )
        process_bytes = overhead.process_bytes(self.memory.process_bytes, self.profile.metadata.vocab_size)
        host = dataclasses.replace(
            usage.host,
            overhead_bytes=process_bytes,
            prompt_cache_bytes=(self.request.prompt_cache_mib or 0) << 20,
        ).about("prompt_cache_bytes")
        usage = dataclasses.replace(usage, host=host)
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
        return ggml.work(self.profile, self.settings(found.cache, found.split), found.counts)

    def on_one_device(self, cache: Cache, effort: Effort) -> Estimate:
        """What the whole model takes on one device, however much that has."""
        whole = self.splits[0]
        return self.usage(cache, whole, (whole.layers,), compute=effort).devices[0]

    # ── Whether it fits ────────────────────────────────────────────────────────────────────────────────────

    def on_fewest(
        self, cache: Cache, split: Split, groups: Iterable[tuple[Device, ...]], effort: Effort
    ) -> Fit | None:
        """On the first of these groups of devices that holds it, whatever RAM holds."""
        held = self._layer_bytes(cache, split)
        for devices in groups:
            if len(devices) > split.layers or sum(held) > sum(map(_spendable, devices)):
                continue
            found = self._on(cache, split, devices, held, effort)
            if found is not None:
                return found
        return None

    def in_ram(self, cache: Cache, effort: Effort) -> Fit | None:
        """Without any device."""
        found = Fit(cache, Split(0), (), (), self.usage(cache, Split(0), (), compute=effort))
        return found if self.ram_holds(found) else None

    def again(self, found: Fit, cache: Cache, effort: Effort) -> Fit | None:
        """The same layers in the same places with another cache."""
        if not found.devices:
            return self.in_ram(cache, effort)
        again = self._held(cache, found.split, found.devices, found.counts, effort)
        return again if again is not None and self.ram_holds(again) else None

    def ram_holds(self, found: Fit) -> bool:
        """Whether RAM holds its part of it.

        Others live there, too: a cache for more than is needed takes at most a share of what the weights
        leave, together with what is computed there.
        """
        host, free_bytes = found.usage.host, self.host.ram_free_bytes
        if found.usage.ram_bytes > free_bytes * SPENDABLE:
            return False
        if found.cache.tokens <= self._needed_tokens(found.cache):
            return True
        return host.kv_cache_bytes + host.compute_bytes <= (free_bytes - host.weights_bytes) * RAM_CACHE_SHARE

    def _needed_tokens(self, cache: Cache) -> int:
        context = self.asked_context or min(self.longest_request, CONTEXT_FLOOR)
        return self.cache(context, slots=cache.slots).tokens

    def _on(
        self,
        cache: Cache,
        split: Split,
        devices: tuple[Device, ...],
        layer_bytes: tuple[int, ...],
        effort: Effort,
    ) -> Fit | None:
        """On just these devices, with the layers dealt out as the user wants, or by what is free."""
        if effort == "none":  # how the layers are dealt out depends on what is computed
            counts = evenly(split.layers, len(devices))
            return Fit(cache, split, counts, devices, self.usage(cache, split, counts, compute=effort))
        if self.request.split is not None:
            counts = by_shares(self.request.split, split.layers, len(devices))
            return self._held(cache, split, devices, counts, effort)
        if len(devices) == 1:
            return self._held(cache, split, devices, (split.layers,), effort)
        besides = [0] * len(devices)
        counts = evenly(split.layers, len(devices))
        for _ in range(_DEALS):
            usage = self.usage(cache, split, counts, compute=effort)
            needed = [e.compute_bytes + e.overhead_bytes + e.projector_bytes for e in usage.devices]
            besides = [max(pair) for pair in zip(besides, needed, strict=True)]
            dealt = balanced(layer_bytes, besides, [_spendable(device) for device in devices])
            if dealt is None:
                return None
            counts = dealt
            found = self._held(cache, split, devices, counts, effort)
            if found is not None:
                return found
        return None

    def _held(
        self, cache: Cache, split: Split, devices: tuple[Device, ...], counts: tuple[int, ...], effort: Effort
    ) -> Fit | None:
        """These layers on these devices, if each device holds its part."""
        usage = self.usage(cache, split, counts, compute=effort)
        held = zip(usage.devices, devices, strict=True)
        fits = all(estimate.total_bytes <= _spendable(device) for estimate, device in held)
        return Fit(cache, split, counts, devices, usage) if fits else None

    def _layer_bytes(self, cache: Cache, split: Split) -> tuple[int, ...]:
        """What each of the layers on devices takes there, without what is computed."""
        alone = ggml.estimate(
            self.profile,
            self.settings(cache, split),
            (1,) * split.layers,
            overhead_bytes=0,
            compute="none",
        )
        return tuple(estimate.total_bytes for estimate in alone.devices)

    def _with_projector(self, estimate: Estimate) -> Estimate:
        return dataclasses.replace(estimate, projector_bytes=self.projector_bytes).about("projector_bytes")


def largest(
    count: int, attempt: Callable[[int, Effort], Found | None], *, effort: Effort = "exact"
) -> Found | None:
    """The success with the largest number below `count`, where a success means that all below are one too.

    Each effort starts from what the one before it found, up to `effort`.
    """
    number, found = _bisected(-1, count, lambda number: attempt(number, "none"))
    for each in EFFORTS[1 : EFFORTS.index(effort) + 1]:
        number, found = _descended(number, lambda number, each=each: attempt(number, each))  # type: ignore[misc]
    return found


def _descended(number: int, attempt: Callable[[int], Found | None]) -> tuple[int, Found | None]:
    """The last success up to `number`, which is near: ever larger steps down, then the numbers between.

    After two failures the lowest number is tried, so that what cannot succeed ends soon.
    """
    end, step = number + 1, 1
    while number >= 0:
        found = attempt(number)
        if found is not None:
            higher, better = _bisected(number, end, attempt)
            return (number, found) if better is None else (higher, better)
        end, number, step = number, number - step, step * 2
        if step == _STEP_AFTER_TWO and end > 0 and attempt(0) is None:
            return -1, None
    return _bisected(-1, end, attempt)


def _bisected(low: int, end: int, attempt: Callable[[int], Found | None]) -> tuple[int, Found | None]:
    """The last success above `low` and below `end`; the very last number is tried first."""
    best = None
    high = end - 1
    middle = high
    while low < high:
        found = attempt(middle)
        if found is None:
            high = middle - 1
        else:
            low, best = middle, found
        middle = (low + high + 1) // 2
    return low, best


def _spendable(device: Device) -> int:
    return int(device.free_bytes * SPENDABLE)


def _expert_layers(metadata: Metadata) -> int:
    """So many layers, from the first, that all with experts are among them; 0 without any."""
    return max((number for number, layer in enumerate(metadata.layers, 1) if layer.num_experts), default=0)

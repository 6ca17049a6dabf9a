"""Placement for backends whose model is whole in one place: on a device, or in RAM.

It is on the emptiest device where that holds a request of 8192 tokens; else where the longer request fits,
on the device if both are as long. In RAM beside devices a request gets at most these 8192 tokens, unless
more are asked for. So more free memory never shortens the context: a model that moves to a device has at
least as long a context there.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from aimind.errors import DoesNotFitError, UsageError
from aimind.estimate import whole
from aimind.phrases import gib
from aimind.place.placement import (
    CONTEXT_FLOOR,
    CONTEXT_STEP,
    RAM_CACHE_SHARE,
    SPENDABLE,
    Placement,
    context_limit,
    contexts_to_try,
    usable_devices,
)
from aimind.types import Device, Estimate, Host, Metadata, Reason, Request, Shard, WholeMemory


@dataclass(frozen=True, slots=True)
class _Fit:
    """Where it is, with which context (0 where the model has none), and what it takes there."""

    device: Device | None
    tokens: int
    estimate: Estimate


class _Search:
    """The model, the machine and the user's fixed points."""

    def __init__(self, metadata: Metadata, host: Host, request: Request, memory: WholeMemory) -> None:
        self.metadata, self.host, self.memory = metadata, host, memory
        self.has_context = bool(metadata.layers)
        self.limit = context_limit(metadata, request) if self.has_context else 0
        self.requests = request.max_num_seqs or memory.slots
        self.needs = contexts_to_try(metadata, request, self.limit) if self.has_context else (0,)

    def needed(self, device: Device | None, tokens: int) -> Estimate:
        """In the place where the model is; in RAM with the process."""
        found = whole.estimate(
            self.metadata,
            self.memory,
            on_device=device is not None,
            tokens=tokens,
            requests=self.requests,
        )
        # A figure for the whole kind has the process in it.
        if device is not None or whole.need_of(self.metadata, self.memory):
            return found
        return dataclasses.replace(found, overhead_bytes=self.memory.process_bytes)

    def longest(self, device: Device | None, limit: int) -> _Fit | None:
        """The place with the longest request that it holds, of at most `limit` tokens."""
        for needed in self.needs:
            found = self._fit(device, needed, max(limit, needed))
            if found is not None:
                return found
        return None

    def _fit(self, device: Device | None, needed: int, limit: int) -> _Fit | None:
        """The place, if it holds the needed tokens; then with as many as are of use and fit."""
        free = (self.host.ram_free_bytes if device is None else device.free_bytes) * SPENDABLE
        if self.needed(device, needed).total_bytes > free:
            return None
        if device is None:  # others live there, too
            least = self.needed(device, 0).total_bytes
            free = min(
                free, max(self.needed(device, needed).total_bytes, least + (free - least) * RAM_CACHE_SHARE)
            )
        low, high = 0, -(-(limit - needed) // CONTEXT_STEP)
        while low < high:
            middle = (low + high + 1) // 2
            tokens = min(limit, needed + middle * CONTEXT_STEP)
            low, high = (
                (middle, high) if self.needed(device, tokens).total_bytes <= free else (low, middle - 1)
            )
        tokens = min(limit, needed + low * CONTEXT_STEP)
        return _Fit(device, tokens, self.needed(device, tokens))


def place_whole(metadata: Metadata, host: Host, request: Request, *, memory: WholeMemory) -> Placement:
    """The placement; see the module.

    Raises:
        DoesNotFitError: neither one device nor RAM holds the model with the context that is needed.
        UsageError: the request asks for what such a backend has not.
        DeviceError: a device is named that cannot be used.
    """
    _check(metadata, request, memory)
    search = _Search(metadata, host, request, memory)
    devices = usable_devices(host, request, memory.vendors)
    found = _place(search, devices, in_ram=request.cpu_offload is not False)
    if found is None:
        raise _does_not_fit(search, devices, request)
    return _placement(search, found, request, devices)


def _place(search: _Search, devices: tuple[Device, ...], *, in_ram: bool) -> _Fit | None:
    """Where the model is by the rule of the module; `None` where no place holds it."""
    enough = min(search.limit, CONTEXT_FLOOR)
    best: _Fit | None = None
    for device in devices:
        found = search.longest(device, search.limit)
        if found is not None and (best is None or found.tokens > best.tokens):
            best = found
    if in_ram and (best is None or best.tokens < enough):
        found = search.longest(None, enough if devices else search.limit)
        if found is not None and (best is None or found.tokens > best.tokens):
            best = found
    return best


def _placement(search: _Search, found: _Fit, request: Request, devices: tuple[Device, ...]) -> Placement:
    memory, metadata = search.memory, search.metadata
    process = Estimate(overhead_bytes=memory.process_bytes).about("overhead_bytes")
    settings = dataclasses.replace(
        request,
        max_model_len=found.tokens or None,
        max_num_seqs=search.requests,
        devices=() if found.device is None else (found.device.index,),
    )
    return Placement(
        settings=settings,
        shards=() if found.device is None else (Shard(found.device, found.estimate),),
        host=found.estimate if found.device is None else process,
        kv_cache_tokens=found.tokens * search.requests or None,
        reasons=(_why_there(search, found, devices), *_why_context(search, found, devices, request)),
        sources=whole.sources(metadata, memory),
    )


def _why_there(search: _Search, found: _Fit, devices: tuple[Device, ...]) -> Reason:
    needs = gib(found.estimate.total_bytes)
    if found.device is not None:
        free = gib(found.device.free_bytes)
        return Reason("devices", f"the whole model is on device {found.device.index}: {needs} of {free} free")
    if not devices:
        return Reason("devices", "the model is in RAM, because no device is used")
    return Reason("devices", f"the model is in RAM: {_too_small(search, devices[0], found.tokens)}")


def _why_context(
    search: _Search, found: _Fit, devices: tuple[Device, ...], request: Request
) -> tuple[Reason, ...]:
    if not search.has_context:
        return ()
    if request.max_model_len:
        return (Reason("max_model_len", f"{found.tokens:,} tokens were requested"),)
    if found.tokens == search.limit:
        return (Reason("max_model_len", f"{found.tokens:,} tokens is the model's maximum context length"),)
    if found.device is None and devices and found.tokens == CONTEXT_FLOOR:
        sentence = f"{found.tokens:,} tokens is the default in RAM on a machine with devices; see --context"
        return (Reason("max_model_len", sentence),)
    sentence = (
        f"{found.tokens:,} tokens is the longest request that fits; the backend does not reject longer ones"
    )
    return (Reason("max_model_len", sentence),)


def _too_small(search: _Search, device: Device, tokens: int) -> str:
    needs = gib(search.needed(device, tokens).total_bytes)
    context = f" for a context of {tokens:,} tokens" if tokens else ""
    return f"it needs {needs}{context}, and device {device.index} has {gib(device.free_bytes)} free"


def _check(metadata: Metadata, request: Request, memory: WholeMemory) -> None:
    """Refuse options that this kind of backend cannot honor."""
    has_context = bool(metadata.layers)
    for asked, sentence in (
        (
            not has_context and request.max_model_len,
            f"--context does not apply to a {metadata.category} model",
        ),
        (request.kv_cache_dtype, "this backend has no option for --kv-cache-type"),
        (
            request.gpu_layers is not None,
            "this backend does not support --gpu-layers: it keeps the whole model on one device or in RAM",
        ),
        ((request.tensor_parallel_size or 1) > 1, "this backend uses only one device"),
        ((request.pipeline_parallel_size or 1) > 1, "this backend uses only one device"),
        (len(request.devices or ()) > 1, "this backend uses only one device"),
        (
            memory.slots == 1 and (request.max_num_seqs or 1) > 1,
            "this backend answers one request at a time and does not support --parallel",
        ),
        (
            request.gpu_memory_utilization,
            "this backend does not support --gpu-memory-utilization: it allocates memory as it needs it",
        ),
    ):
        if asked:
            raise UsageError(sentence, hint="omit the option, or choose another backend with --backend")


def _does_not_fit(search: _Search, devices: tuple[Device, ...], request: Request) -> DoesNotFitError:
    tokens = search.needs[-1]
    sentences = [_too_small(search, device, tokens) for device in devices] or ["no device is used"]
    if request.cpu_offload is False:
        sentences.append("--no-cpu-offload forbids the use of RAM")
    else:
        needs, free = gib(search.needed(None, tokens).total_bytes), gib(search.host.ram_free_bytes)
        sentences.append(f"in RAM it needs {needs}, and {free} are free")
    return DoesNotFitError(
        "; ".join(sentences), hint="choose a smaller or quantized model, or a shorter --context"
    )

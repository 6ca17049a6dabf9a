"""What would make a model fit where it does not. Every remedy was planned before it is named.

A placement proposes changes to the request (`DoesNotFitError.changes`); changes that help any backend and
other hardware are added here. To propose a remedy for a backend, add a mapping to the error's `changes`: it
is planned with the same model, machine and arguments, and if the plan fits it is worded by aimind's own
options, or else by the backend's flags (`-- --ubatch-size 128`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from aimind import plan
from aimind.errors import AimindError, DoesNotFitError
from aimind.launchers.arguments import OPTIONS, render
from aimind.launchers.base import Flag, Launcher
from aimind.phrases import gib
from aimind.place.placement import CONTEXT_MINIMUM, Detail
from aimind.types import Change, Device, Host, Metadata, Model, Plan, Request

# Tried whatever the backend is, after what the placement proposes.
_SMALLER_CACHES: tuple[Change, ...] = ({"kv_cache_dtype": "q8_0"}, {"kv_cache_dtype": "fp8"})
# Fields that, once set, can keep a model from fitting: tried with their defaults, together where they are
# two sides of one decision.
_LIMITING = (
    ("kv_cache_tokens",),
    ("kv_cache_memory_bytes",),
    ("batch_size", "ubatch_size"),
    ("max_num_batched_tokens",),
    ("cpu_offload",),
    ("gpu_layers", "cpu_moe_layers"),
    ("split",),
    ("devices",),
    ("tensor_parallel_size", "pipeline_parallel_size"),
    ("gpu_memory_utilization",),
)
# Memory of devices and of machines as they are sold, in GiB.
_DEVICE_GIB = (8, 12, 16, 24, 32, 48, 64, 80, 96, 141, 192, 288)
_RAM_GIB = (8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
_MORE_DEVICES = (1, 2, 3, 5, 7)
# Memory of the devices that servers have several of, in GiB, and how many.
_SERVER_GIB = (24, 48, 80, 141, 192, 288)
_SERVER_DEVICES = (2, 3, 4, 6, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedies:
    """Ways to make a refused model fit, each one planned.

    Attributes:
        model, metadata, host, launchers: as `plan.make` refused them.
        problem: the refusal; without its `request` there are no remedies.
    """

    model: Model
    metadata: Metadata
    host: Host
    launchers: Sequence[Launcher]
    problem: DoesNotFitError

    def by_request(self) -> Iterator[str]:
        """Options and backend arguments, at most one for a field."""
        request = self.problem.request
        if request is None:
            return
        named: set[str] = set()
        for change in (*self.problem.changes, *_common(request)):
            if not named.isdisjoint(change):
                continue
            changed = _changed(request, change)
            shortest = self._shortest(changed)
            if self._planned(request=shortest, detail="bound") is None:
                continue
            found = self._planned(request=changed if "max_model_len" in change else shortest)
            if found is not None and self._has_words(change, found):
                named.update(change)
                yield self._words(change, found)

    def by_hardware(self) -> Iterator[str]:
        """More devices, a larger one, or else other devices; more RAM: the least of each that fits."""
        request = self.problem.request
        if request is None:
            return
        if self.host.devices and request.devices is None:
            largest = max(self.host.devices, key=lambda device: device.total_bytes)
            found = [*self._more_or_larger(largest)]
            yield from found or self._other_devices(largest)
        sizes = [size for size in _RAM_GIB if size << 30 > self.host.ram_free_bytes]
        size_gib = self._least(sizes, lambda size: _more_ram(self.host, size << 30))
        if size_gib is not None:
            yield f"{size_gib} GiB of free RAM"

    def _more_or_larger(self, largest: Device) -> Iterator[str]:
        """More devices like the largest, or a larger one in its place."""
        count = self._least(_MORE_DEVICES, lambda count: _more_devices(self.host, largest, count))
        if count is not None:
            size = gib(largest.total_bytes)
            yield f"one more device of {size}" if count == 1 else f"{count} more devices of {size}"
        sizes = [size for size in _DEVICE_GIB if size << 30 > largest.total_bytes]
        size_gib = self._least(sizes, lambda size: _one_larger(self.host, largest, size << 30))
        if size_gib is not None:
            yield f"a device of {size_gib} GiB"

    def _other_devices(self, like: Device) -> Iterator[str]:
        """The smallest devices of which a server has enough, in place of those of this machine."""
        most = _SERVER_DEVICES[-1]
        size_gib = self._least(_SERVER_GIB, lambda size: _server(self.host, like, most, size << 30))
        if size_gib is None:
            return
        count = self._least(_SERVER_DEVICES, lambda count: _server(self.host, like, count, size_gib << 30))
        if count is not None:
            yield f"{count} devices of {size_gib} GiB"

    def _least(self, sizes: Sequence[int], host: Callable[[int], Host]) -> int | None:
        """The smallest of these sizes, ascending, with which it fits.

        The search asks for bounds, which are quick and can only be too optimistic; so it goes up from there.
        """
        shortest = self._shortest(self.problem.request or Request())
        low, high = 0, len(sizes)
        while low < high:
            middle = (low + high) // 2
            if self._planned(request=shortest, host=host(sizes[middle]), detail="bound") is None:
                low = middle + 1
            else:
                high = middle
        for size in sizes[low:]:
            if self._planned(request=shortest, host=host(size)) is not None:
                return size
        return None

    def _shortest(self, request: Request) -> Request:
        """The request with the least context that a plan may have: whether that fits is found out faster."""
        limit = self.metadata.max_model_len
        if request.max_model_len is not None or self.metadata.pools or limit is None:
            return request
        return dataclasses.replace(request, max_model_len=min(limit, CONTEXT_MINIMUM))

    def _planned(self, *, request: Request, host: Host | None = None, detail: Detail = "fit") -> Plan | None:
        try:
            return plan.make(
                self.model, self.metadata, host or self.host, request, self.launchers, detail=detail
            )
        except AimindError:  # it does not fit either, or this backend has no such setting
            return None

    def _has_words(self, change: Change, found: Plan) -> bool:
        """Whether aimind or the backend has an option for every field."""
        return all(field in OPTIONS or field in self._flags(found) for field in change)

    def _flags(self, found: Plan) -> Mapping[str, Flag]:
        return next(each.FLAGS for each in self.launchers if each.NAME == found.backend.name)

    def _words(self, change: Change, found: Plan) -> str:
        """The change as it is typed: aimind's options, then the backend's arguments."""
        if change == {"cpu_offload": None}:
            return "RAM for a part of it (omit --no-cpu-offload)"
        if "max_model_len" in change:
            change = {**change, "max_model_len": found.settings.max_model_len}
        flags = self._flags(found)
        values = {field: value for field, value in change.items() if value is not None}
        words = [f"{OPTIONS[field]} {value}" for field, value in values.items() if field in OPTIONS]
        others = {field: value for field, value in values.items() if field not in OPTIONS}
        if others:
            words += ["--", *render(flags, _changed(Request(), others))]
        reset = [
            OPTIONS.get(field) or flags[field].spellings[0]
            for field, value in change.items()
            if value is None and getattr(self.problem.request, field) is not None
        ]
        if reset:
            words += ["without", " and ".join(reset)]
        return " ".join(words)


def _common(request: Request) -> Iterator[Change]:
    """Changes that help whatever the backend is."""
    if request.max_model_len is not None:
        yield {"max_model_len": None}
    if (request.max_num_seqs or 1) > 1:
        yield {"max_num_seqs": 1}
    if request.kv_cache_dtype is None:
        yield from _SMALLER_CACHES
    for fields in _LIMITING:
        if any(getattr(request, field) is not None for field in fields):
            yield dict.fromkeys(fields)


def _changed(request: Request, change: Change) -> Request:
    return dataclasses.replace(request, **change)  # type: ignore[arg-type]


def _more_devices(host: Host, like: Device, count: int) -> Host:
    """The host with empty devices of this kind added."""
    first = max(device.index for device in host.devices) + 1
    empty = dataclasses.replace(like, uuid="", free_bytes=like.total_bytes, tenants=())
    more = tuple(dataclasses.replace(empty, index=first + number) for number in range(count))
    return dataclasses.replace(host, devices=(*host.devices, *more))


def _one_larger(host: Host, replaced: Device, size_bytes: int) -> Host:
    """The host with this device replaced by an empty one that is larger."""
    larger = dataclasses.replace(replaced, total_bytes=size_bytes, free_bytes=size_bytes, tenants=())
    devices = tuple(larger if device is replaced else device for device in host.devices)
    return dataclasses.replace(host, devices=devices)


def _server(host: Host, like: Device, count: int, size_bytes: int) -> Host:
    """The host with so many empty devices of this size, and no others."""
    empty = dataclasses.replace(like, uuid="", total_bytes=size_bytes, free_bytes=size_bytes, tenants=())
    return dataclasses.replace(
        host, devices=tuple(dataclasses.replace(empty, index=index) for index in range(count))
    )


def _more_ram(host: Host, size_bytes: int) -> Host:
    total = max(host.ram_total_bytes, size_bytes)
    return dataclasses.replace(host, ram_free_bytes=size_bytes, ram_total_bytes=total)

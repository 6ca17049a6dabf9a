"""What instances have claimed and do not use yet: free, as the system sees it, and yet promised."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aimind.instances.look import Sight
from aimind.phrases import gib
from aimind.types import Device, Host


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What the processes of an instance hold.

    Attributes:
        ram_bytes: with the pages of files that they have mapped.
        own_ram_bytes: without: those count as free, since the system can take them back.
        devices: likewise, by UUID (or the index, as text); without those whose driver does not tell.
    """

    ram_bytes: int
    own_ram_bytes: int
    devices: Mapping[str, int]


def used(sights: Iterable[Sight], devices: Sequence[Device]) -> dict[str, Used]:
    """The memory that each running instance holds, by name; `devices`: as the driver reports them now."""
    running = [sight for sight in sights if sight.running and sight.state is not None]
    if not running:
        return {}
    children = _children()
    found = {}
    for sight in running:
        tree = _tree(sight.state.pid, children) if sight.state is not None else set()
        on_devices = {device_key(device): size for device in devices if (size := _on_device(tree, device))}
        ram = [_resident_bytes(pid) for pid in tree]
        found[sight.name] = Used(
            ram_bytes=sum(whole for whole, _ in ram),
            own_ram_bytes=sum(own for _, own in ram),
            devices=on_devices,
        )
    return found


def device_key(device: Device) -> str:
    """The key of the device in claims."""
    return device.uuid or str(device.index)


def without_promises(host: Host, sights: Sequence[Sight]) -> Host:
    """The machine with less that is free: without what these instances have claimed and do not use yet.

    What they use of a device the driver says; where it does not tell, or knows processes by other numbers (in
    a container), that is nothing until the instance is ready, and all of its claim from then on. In RAM, what
    is mapped from files stays promised.
    """
    claiming = [sight for sight in sights if sight.running and sight.instance is not None]
    holding = used(claiming, host.devices)
    promised = []
    for sight in claiming:
        host, sentence = _without(host, sight, holding.get(sight.name))
        promised += sentence
    return dataclasses.replace(host, promised=tuple(promised))


def _without(host: Host, sight: Sight, holds: Used | None) -> tuple[Host, list[str]]:
    if sight.instance is None:
        return host, []
    claim = sight.instance.claim
    ready = sight.state is not None and sight.state.ready_since is not None
    ram_bytes = max(0, claim.ram_bytes - (holds.own_ram_bytes if holds else 0))
    places = [f"{gib(ram_bytes)} of RAM"] if ram_bytes else []
    devices = []
    for device in host.devices:
        claimed = claim.devices.get(device_key(device), 0)
        held = holds.devices.get(device_key(device)) if holds else None
        left = (0 if ready else claimed) if held is None else max(0, claimed - held)
        devices.append(dataclasses.replace(device, free_bytes=max(0, device.free_bytes - left)))
        if left:
            places.insert(-1 if ram_bytes else len(places), f"{gib(left)} of device {device.index}")
    free = max(0, host.ram_free_bytes - ram_bytes)
    reduced = dataclasses.replace(host, devices=tuple(devices), ram_free_bytes=free)
    are = "are" if places else ""
    return reduced, [f"{' and '.join(places)} {are} promised to instance {sight.name}"] if places else []


def _on_device(tree: set[int], device: Device) -> int | None:
    """What these processes hold there; `None` where that is not told."""
    sizes = [tenant.used_bytes for tenant in device.tenants if tenant.pid in tree]
    known = [size for size in sizes if size is not None]
    return sum(known) if known and len(known) == len(sizes) else None


def _children() -> dict[int, list[int]]:
    """The children of every process."""
    import psutil

    found: dict[int, list[int]] = {}
    for process in psutil.process_iter(["ppid"]):
        found.setdefault(process.info["ppid"], []).append(process.pid)
    return found


def _tree(root: int, children: Mapping[int, list[int]]) -> set[int]:
    """The process and all its descendants."""
    tree: set[int] = set()
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        if pid not in tree:
            tree.add(pid)
            waiting += children.get(pid, ())
    return tree


def _resident_bytes(pid: int) -> tuple[int, int]:
    """RAM of a process, with and without the pages of mapped files; nothing once it has ended."""
    if sys.platform != "linux":
        import psutil

        try:
            resident = int(psutil.Process(pid).memory_info().rss)
        except psutil.Error:
            return 0, 0
        return resident, resident
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0
    sizes = {
        name: int(value.split()[0]) * 1024  # kB
        for name, _, value in (line.partition(":") for line in text.splitlines())
        if name in ("VmRSS", "RssAnon", "RssShmem")
    }
    return sizes.get("VmRSS", 0), sizes.get("RssAnon", 0) + sizes.get("RssShmem", 0)

"""AMD devices, as the kernel's driver (amdgpu, with its compute part KFD) tells them below `/sys`.

No library of ROCm is needed. `class/kfd/kfd/topology/nodes/N` are the nodes that ROCm counts, in its order:
`properties` has `gfx_target_version` (90402 is gfx942, 0 a CPU), `drm_render_minor` and `unique_id`. The
memory is beside the render device, `class/drm/renderD128/device/mem_info_vram_*`, in bytes
(https://docs.kernel.org/gpu/amdgpu/driver-misc.html); what processes hold of it is in
`class/kfd/kfd/proc/PID/vram_GPU`.

A graphics unit that shares the machine's memory has a small part of it for itself: such are not counted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from aimind.devices import visible
from aimind.errors import DeviceError
from aimind.types import Device, Tenant

VARIABLE, OUTER_VARIABLE = "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"
# Firmware gives 0.5 GiB to a unit that shares the memory, up to 2 where asked; no card has so little.
LEAST_BYTES = 2 * 2**30 + 1
_KFD = "sys/class/kfd/kfd"
_WITHOUT = f"Set {VARIABLE}= (to nothing) to go on without AMD devices."


@dataclass(frozen=True, slots=True)
class _Node:
    """One of KFD's nodes that computes: its place among those, and what its files say."""

    folder: Path
    index: int
    properties: Mapping[str, int]

    @property
    def uuid(self) -> str:
        """The UUID in ROCm's notation; empty for a device without a number of its own."""
        number = self.properties.get("unique_id", 0)
        return f"GPU-{number:016x}" if number else ""

    @property
    def architecture(self) -> str:
        """The name that compilers use: the last two digits are hexadecimal."""
        major, rest = divmod(self.properties["gfx_target_version"], 10000)
        minor, stepping = divmod(rest, 100)
        return f"gfx{major}{minor:x}{stepping:x}"


def probe(env: Mapping[str, str], *, root: Path = Path("/")) -> tuple[Device, ...]:
    """The devices that HIP would show in this environment, in its order.

    `index` is what `HIP_VISIBLE_DEVICES` counts: among those that `ROCR_VISIBLE_DEVICES` leaves.

    Raises:
        DeviceError: this user may not use them, or one does not report its memory.
    """
    if not (root / "dev/kfd").exists() or visible.entries(env.get(VARIABLE)) == ():
        return ()
    seen = _chosen(env.get(OUTER_VARIABLE), tuple(_nodes(root)))
    counted = dict(enumerate(seen))
    named = visible.entries(env.get(VARIABLE))
    order = list(counted) if named is None else [number for number in named if number in counted]
    found = [
        _device(root, counted[place], int(place))
        for place in order
        if _memory(root, counted[place], "total") >= LEAST_BYTES
    ]
    if found and not os.access(root / "dev/kfd", os.R_OK | os.W_OK):
        raise DeviceError(
            "You have no permission to use the AMD devices: /dev/kfd cannot be opened.",
            hint=f"Become a member of the group that owns it (render). {_WITHOUT}",
        )
    return tuple(found)


def rocm(root: Path = Path("/")) -> str | None:
    """The version of ROCm that is installed where its packages put it."""
    try:
        return (root / "opt/rocm/.info/version").read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _nodes(root: Path) -> Iterator[_Node]:
    folders = (root / _KFD / "topology/nodes").glob("[0-9]*")
    index = 0
    for folder in sorted(folders, key=lambda folder: int(folder.name)):
        try:
            text = (folder / "properties").read_text(encoding="utf-8")
        except OSError:  # of devices that a container was not given
            continue
        pairs = (line.split() for line in text.splitlines())
        properties = {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}
        if properties.get("gfx_target_version"):
            yield _Node(folder, index, properties)
            index += 1


def _chosen(asked: str | None, nodes: tuple[_Node, ...]) -> tuple[_Node, ...]:
    """The devices that the outer variable names, up to the first unknown one."""
    named = visible.entries(asked)
    if named is None:
        return nodes
    chosen: list[_Node] = []
    for name in named:
        found = next((node for node in nodes if name in (node.index, node.uuid)), None)
        if found is None:
            break
        chosen.append(found)
    return tuple(chosen)


def _device(root: Path, node: _Node, index: int) -> Device:
    total, used = _memory(root, node, "total"), _memory(root, node, "used")
    return Device(
        index=index,
        uuid=node.uuid,
        vendor="amd",
        name=f"AMD {_name(root, node)}",
        total_bytes=total,
        free_bytes=max(0, total - used),
        capability=node.architecture,
        tenants=tuple(_tenants(root, node)),
    )


def _render(root: Path, node: _Node) -> Path:
    return root / f"sys/class/drm/renderD{node.properties.get('drm_render_minor', 0)}/device"


def _memory(root: Path, node: _Node, kind: str) -> int:
    """Bytes of its own memory: `total` or `used`."""
    file = _render(root, node) / f"mem_info_vram_{kind}"
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DeviceError(
            f"AMD device {node.index} does not report its memory: {file} cannot be read.",
            hint=f"Is the driver amdgpu loaded, and /sys mounted? {_WITHOUT}",
        ) from error


def _name(root: Path, node: _Node) -> str:
    """The product's where the card knows it, else the chip's as the driver names it."""
    for file in (_render(root, node) / "product_name", node.folder / "name"):
        try:
            name = file.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            continue
        if name:
            return name.removeprefix("AMD ")
    return node.architecture


def _tenants(root: Path, node: _Node) -> Iterator[Tenant]:
    """The processes that compute on it, by process id."""
    try:
        gpu = (node.folder / "gpu_id").read_text(encoding="utf-8").strip()
        folders = sorted((root / _KFD / "proc").glob("[0-9]*"), key=lambda folder: int(folder.name))
    except OSError:
        return
    for folder in folders:
        try:
            used = int((folder / f"vram_{gpu}").read_text(encoding="utf-8"))
        except (OSError, ValueError):  # it has ended, or uses another device
            continue
        if used:
            yield Tenant(pid=int(folder.name), name=_process_name(root, folder.name), used_bytes=used)


def _process_name(root: Path, pid: str) -> str:
    try:
        return (root / f"proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "unknown"

"""NVIDIA devices, asked of the driver through its management library (NVML).

No driver at all is no device; a driver that is there and does not answer is an error, never a machine without
a GPU. NVML's reference: https://docs.nvidia.com/deploy/nvml-api/.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from aimind.devices import visible
from aimind.devices.visible import Seat
from aimind.errors import DeviceError
from aimind.types import Device, Tenant

_LIBRARY = "libnvidia-ml.so.1"
_WITHOUT = "Set CUDA_VISIBLE_DEVICES= (to nothing) to go on without NVIDIA devices."
# NVML's return codes (nvml.h), for what a user can do something about.
_NOT_SUPPORTED = 3
_NO_PERMISSION = 4
_NOT_FOUND = 6
_NOT_LOADED = 9
_NO_LIBRARY = 12
_NO_FUNCTION = 13
_MISMATCH = 18
_SILENCE = {
    _NO_PERMISSION: (
        "You have no permission to use the NVIDIA driver.",
        "Check the permissions of /dev/nvidia*.",
    ),
    _NOT_LOADED: (
        "There is an NVIDIA device, but its driver is not loaded.",
        "Load it (modprobe nvidia); a container must be started with its devices (--gpus all).",
    ),
    _MISMATCH: (
        "The loaded NVIDIA driver and its library have different versions.",
        "The driver was updated after the last boot: restart the machine.",
    ),
}


@dataclass(frozen=True, slots=True)
class Found:
    """The visible devices and the driver's version."""

    devices: tuple[Device, ...] = ()
    driver: str | None = None


def probe(cuda_visible_devices: str | None = None, *, root: Path = Path("/")) -> Found:
    """The devices that CUDA would show under this `CUDA_VISIBLE_DEVICES`, in its order.

    Nothing is loaded where no device can be seen, and pynvml (50 ms to import) only where NVML can be loaded.

    Raises:
        DeviceError: the driver or a visible device does not answer.
    """
    if visible.entries(cuda_visible_devices) == () or not _can_load(root):
        return Found()
    import pynvml  # type: ignore[import-untyped]

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if error.value == _NO_LIBRARY or (error.value == _NOT_LOADED and not _hardware(root)):
            return Found()
        raise _silence(error) from error
    try:
        return _ask(pynvml, cuda_visible_devices, root)
    finally:
        pynvml.nvmlShutdown()


def _ask(nvml: ModuleType, cuda_visible_devices: str | None, root: Path) -> Found:
    try:
        driver = str(nvml.nvmlSystemGetDriverVersion())
        seats = [seat for index in range(nvml.nvmlDeviceGetCount()) for seat in _seats(nvml, index)]
    except nvml.NVMLError as error:
        raise _silence(error) from error
    devices = []
    for seat in visible.choose(cuda_visible_devices, seats):
        try:
            devices.append(_device(nvml, seat, root))
        except nvml.NVMLError as error:
            others = ",".join(other.gpu_uuid for other in seats if other.index != seat.index)
            raise DeviceError(
                f"NVIDIA device {seat.index} does not answer: {error}.",
                hint=f"Check it with nvidia-smi, or go on without it: CUDA_VISIBLE_DEVICES={others}",
            ) from error
    return Found(tuple(devices), driver)


def _can_load(root: Path) -> bool:
    if sys.platform == "win32":
        return True
    if sys.platform != "linux":
        return False
    import ctypes

    try:
        ctypes.CDLL(_LIBRARY)
    except OSError as error:
        absent = "No such file or directory" in str(error)
        if absent and not (root / "dev/nvidiactl").exists():
            return False
        raise DeviceError(
            f"The NVIDIA driver's library cannot be loaded: {error}.",
            hint="Install it, or put its folder on LD_LIBRARY_PATH; a container needs "
            f"NVIDIA_DRIVER_CAPABILITIES=compute,utility. {_WITHOUT}",
        ) from error
    return True


def _hardware(root: Path) -> bool:
    """Whether an NVIDIA display or compute device is here: without one a library is only left over."""
    if sys.platform != "linux" or (root / "dev/nvidiactl").exists():
        return True
    return any(
        (device / "vendor").read_text().strip() == "0x10de"
        and (device / "class").read_text().startswith("0x03")
        for device in (root / "sys/bus/pci/devices").glob("*")
    )


def _silence(error: Exception) -> DeviceError:
    message, hint = _SILENCE.get(
        getattr(error, "value", None) or 0,
        (f"The NVIDIA driver does not answer: {error}.", "Check it with nvidia-smi."),
    )
    return DeviceError(message, hint=f"{hint} {_WITHOUT}")


def _seats(nvml: ModuleType, index: int) -> Iterator[Seat]:
    """The GPU, or its MIG instances where it is divided. A GPU that does not answer keeps its number."""
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid = str(nvml.nvmlDeviceGetUUID(handle))
        instances = [str(nvml.nvmlDeviceGetUUID(instance)) for instance in _instances(nvml, handle)]
    except nvml.NVMLError:
        # This is an error only where the device is visible; asking the device then raises it.
        uuid, instances = "", []
    yield from [Seat(index, uuid, mig_uuid) for mig_uuid in instances] or [Seat(index, uuid)]


def _instances(nvml: ModuleType, handle: object) -> Iterator[object]:
    if not _divided(nvml, handle):
        return
    for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
        except nvml.NVMLError as error:
            if error.value != _NOT_FOUND:
                raise


def _divided(nvml: ModuleType, handle: object) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    except nvml.NVMLError as error:
        if error.value in (_NOT_SUPPORTED, _NO_FUNCTION):
            return False
        raise


def _device(nvml: ModuleType, seat: Seat, root: Path) -> Device:
    gpu = nvml.nvmlDeviceGetHandleByIndex(seat.index)
    handle = gpu
    if seat.mig_uuid:
        uuids = {str(nvml.nvmlDeviceGetUUID(instance)): instance for instance in _instances(nvml, gpu)}
        handle = uuids[seat.mig_uuid]
    elif _divided(nvml, gpu):
        raise DeviceError(
            f"NVIDIA device {seat.index} is in MIG mode and has no instance.",
            hint="Create one (nvidia-smi mig -cgi), or leave the device out of CUDA_VISIBLE_DEVICES.",
        )
    name = str(nvml.nvmlDeviceGetName(handle))
    try:
        total_bytes, free_bytes = _memory(nvml, handle)
    except nvml.NVMLError as error:
        if error.value != _NOT_SUPPORTED:
            raise
        raise DeviceError(
            f"NVIDIA device {seat.index} ({name}) does not report its memory: it shares the machine's RAM, "
            "which aimind cannot plan.",
            hint=_WITHOUT,
        ) from error
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(gpu)
    return Device(
        index=seat.index,
        uuid=seat.mig_uuid or seat.gpu_uuid,
        vendor="nvidia",
        name=name,
        total_bytes=total_bytes,
        free_bytes=free_bytes,
        capability=f"{major}.{minor}",
        tenants=_tenants(nvml, handle, root),
    )


def _memory(nvml: ModuleType, handle: object) -> tuple[int, int]:
    """Total and free bytes; what the driver keeps for itself is taken off the total, as CUDA does.

    Drivers before 510 do not tell what they keep: it then counts as used.
    """
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
        return memory.total - memory.reserved, memory.free
    except nvml.NVMLError as error:
        if error.value != _NO_FUNCTION:
            raise
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return memory.total, memory.free


def _tenants(nvml: ModuleType, handle: object, root: Path) -> tuple[Tenant, ...]:
    """Processes on the device, computing or drawing, by process id."""
    used = {
        **_processes(nvml, handle, kind="Graphics"),
        **_processes(nvml, handle, kind="Compute"),
    }
    return tuple(Tenant(pid=pid, name=_name(root, pid), used_bytes=used[pid]) for pid in sorted(used))


def _processes(nvml: ModuleType, handle: object, *, kind: str) -> dict[int, int | None]:
    for version in ("v3", "v2"):
        try:
            processes = getattr(nvml, f"nvmlDeviceGet{kind}RunningProcesses_{version}")(handle)
        except nvml.NVMLError as error:
            if error.value in (_NOT_SUPPORTED, _NO_PERMISSION):
                return {}
            if error.value != _NO_FUNCTION:
                raise
        else:
            return {process.pid: process.usedGpuMemory for process in processes}
    return {}


def _name(root: Path, pid: int) -> str:
    """The process name from /proc; NVML may list processes of another container, which are not there."""
    try:
        return (root / f"proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "unknown"

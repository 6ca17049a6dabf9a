"""On what it is served: devices, memory, and the backends that are there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aimind.types.backend import Backend


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A process that holds memory of a device."""

    pid: int
    name: str
    used_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One accelerator. `index` is the driver's own, whatever is visible; `capability`: `8.9`, `gfx1100`."""

    index: int
    uuid: str
    vendor: Literal["nvidia", "amd", "ascend", "apple"]
    name: str
    total_bytes: int
    free_bytes: int
    capability: str | None = None
    tenants: tuple[Tenant, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What one run of a backend held on a device beside the buffers that its log names.

    Attributes:
        device: the device's name; driver: the version of its driver.
        backend, version: what ran.
        kind: of the model, where that decides: a word of the estimate that uses the measurement.
        ready_bytes: when the backend was ready; most_bytes: at most, as far as it was looked.
    """

    device: str
    driver: str
    backend: str
    version: str
    kind: str
    ready_bytes: int
    most_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """This machine, or one that is imagined (`--hardware`).

    Attributes:
        devices: those that may be used.
        ram_total_bytes, ram_free_bytes: within the cgroup's limit where there is one.
        os: `linux`, `macos` or `windows`; arch: `x86_64` or `arm64`.
        cores: that this process may run on.
        cpu_features: instruction sets of the processor that decide what a backend can compute, by their names
            in Linux's /proc/cpuinfo (`avx2`, `avx512f`, `amx_tile`; `i8mm`).
        backends: that are here or can be installed here, the preferred version of each first.
        driver: the NVIDIA driver's version; rocm: of AMD's ROCm, where it is installed.
        elsewhere: it is another machine (`--hardware`): what is installed here says nothing about it.
        measurements: what earlier runs on this machine held beside their buffers; of another machine none.
        promised: what is free and yet not counted so, since an instance has claimed it, as sentences.
    """

    devices: tuple[Device, ...]
    ram_total_bytes: int
    ram_free_bytes: int
    os: Literal["linux", "macos", "windows"]
    arch: Literal["x86_64", "arm64"]
    cores: int = 1
    cpu_features: frozenset[str] = frozenset()
    backends: tuple[Backend, ...] = ()
    driver: str | None = None
    rocm: str | None = None
    elsewhere: bool = False
    measurements: tuple[Measurement, ...] = ()
    promised: tuple[str, ...] = ()

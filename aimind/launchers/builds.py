"""Which build of a package runs on a machine: by the maker of its devices, and by their driver."""

from __future__ import annotations

import re

from aimind.types import Device, Host

# NVIDIA's CUDA Compatibility guide, "Minor Version Compatibility": the first driver of each family.
DRIVER_OF_CUDA_13 = 580
# The branch that came with CUDA 13.2: an older one cannot translate what its compiler writes (PTX).
DRIVER_OF_CUDA_13_2 = 595


def made_by(host: Host, vendor: str) -> tuple[Device, ...]:
    """The devices of a maker."""
    return tuple(device for device in host.devices if device.vendor == vendor)


def on_cpu(host: Host) -> bool:
    """Whether a build that is for NVIDIA, AMD or no device is the one for none here."""
    return not made_by(host, "nvidia") and not made_by(host, "amd")


def runs_cuda_13(host: Host) -> bool:
    """Whether the NVIDIA driver runs programs made for CUDA 13; an imagined machine has the newest."""
    return (_branch(host.driver) or DRIVER_OF_CUDA_13) >= DRIVER_OF_CUDA_13


def runs_cuda_13_2(host: Host) -> bool:
    """Whether it also translates what CUDA 13.2 has left to be translated, and that is known."""
    return (_branch(host.driver) or 0) >= DRIVER_OF_CUDA_13_2


def older_than(capability: float, host: Host, need: str) -> str | None:
    """Why an NVIDIA device is of a too low compute capability: `need` is the second half of the sentence."""
    for device in made_by(host, "nvidia"):
        if device.capability and float(device.capability) < capability:
            return f"{device.name} has compute capability {device.capability}, and {need}"
    return None


def without_code(host: Host, targets: tuple[str, ...]) -> str | None:
    """Why an AMD device cannot be used by a build that has code for these architectures (`gfx1100`)."""
    for device in made_by(host, "amd"):
        if device.capability not in targets:
            kind = device.capability or "an unknown architecture"
            return f"{device.name} is {kind}, and the build for ROCm supports {', '.join(targets)}"
    return None


def _branch(driver: str | None) -> int | None:
    match = re.match(r"\d+", driver or "")
    return int(match[0]) if match else None

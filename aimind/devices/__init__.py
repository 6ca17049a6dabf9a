"""What this machine has: its devices, memory and cores, as one `Host`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from aimind.devices import cpu, nvidia
from aimind.devices.measurements import read_measurements
from aimind.devices.record import from_json, to_json
from aimind.types import Device, Host

__all__ = ["from_json", "probe", "read_measurements", "to_json"]


def probe(env: Mapping[str, str] | None = None, *, root: Path = Path("/")) -> Host:
    """Ask the drivers and the system; `backends` is left empty for the caller to fill.

    Args:
        env: where `CUDA_VISIBLE_DEVICES` and the like are read; aimind's own by default.
        root: the folder that holds `proc`, `sys`, `dev` and `opt`.

    Raises:
        DeviceError: a driver or the system does not answer, or one of these contradicts itself.
        UnsupportedError: an operating system or processor that aimind does not know.
    """
    env = os.environ if env is None else env
    found = nvidia.probe(env.get("CUDA_VISIBLE_DEVICES"), root=root)
    # A backend is made for one of the two, and both are counted from 0; beside a card of NVIDIA's what AMD
    # has is most often in the processor.
    radeon = () if found.devices else _amd(env, root)
    memory = cpu.memory(root)
    return Host(
        devices=(*found.devices, *radeon, *_ascend(env, root)),
        ram_total_bytes=memory.total_bytes,
        ram_free_bytes=memory.free_bytes,
        os=cpu.operating_system(),
        arch=cpu.architecture(),
        cores=cpu.cores(root),
        cpu_features=cpu.features(root),
        driver=found.driver,
        rocm=_rocm(root) if radeon else None,
    )


def _amd(env: Mapping[str, str], root: Path) -> tuple[Device, ...]:
    if not (root / "dev/kfd").exists():
        return ()
    from aimind.devices import amd

    return amd.probe(env, root=root)


def _rocm(root: Path) -> str | None:
    from aimind.devices import amd

    return amd.rocm(root)


def _ascend(env: Mapping[str, str], root: Path) -> tuple[Device, ...]:
    """The Ascend devices; most machines have none, and need not load what reads their tables."""
    if not any((root / "dev").glob("davinci[0-9]*")) and shutil.which("npu-smi") is None:
        return ()
    from aimind.devices import ascend

    return ascend.probe(env.get(ascend.VARIABLE), root=root)

"""What this machine has: its devices, memory and cores, as one `Host`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from aimind.devices import cpu, nvidia
from aimind.devices.record import from_json, to_json
from aimind.types import Device, Host

__all__ = ["from_json", "probe", "to_json"]


def probe(env: Mapping[str, str] | None = None, *, root: Path = Path("/")) -> Host:
    """Ask the drivers and the system; `backends` is left empty for the caller to fill.

    Args:
        env: where `CUDA_VISIBLE_DEVICES` and `ASCEND_RT_VISIBLE_DEVICES` are read; aimind's own by default.
        root: the folder that holds `proc`, `sys` and `dev`.

    Raises:
        DeviceError: a driver or the system does not answer, or one of these contradicts itself.
        UnsupportedError: an operating system or processor that aimind does not know.
    """
    env = os.environ if env is None else env
    found = nvidia.probe(env.get("CUDA_VISIBLE_DEVICES"), root=root)
    memory = cpu.memory(root)
    return Host(
        devices=(*found.devices, *_ascend(env, root)),
        ram_total_bytes=memory.total_bytes,
        ram_free_bytes=memory.free_bytes,
        os=cpu.operating_system(),
        arch=cpu.architecture(),
        cores=cpu.cores(root),
        driver=found.driver,
    )


def _ascend(env: Mapping[str, str], root: Path) -> tuple[Device, ...]:
    """The Ascend devices; most machines have none, and need not load what reads their tables."""
    if not any((root / "dev").glob("davinci[0-9]*")) and shutil.which("npu-smi") is None:
        return ()
    from aimind.devices import ascend

    return ascend.probe(env.get(ascend.VARIABLE), root=root)

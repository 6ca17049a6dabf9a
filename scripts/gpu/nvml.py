"""The first NVIDIA device, asked of its driver while something runs on it."""

from __future__ import annotations

from typing import NamedTuple

import pynvml  # type: ignore[import-untyped]

_NOT_TOLD = (None, (1 << 64) - 1)


class Use(NamedTuple):
    """Bytes in use: by one process (none where the driver does not tell), and on the whole device."""

    process_bytes: int | None
    device_bytes: int


class FirstDevice:
    """What CUDA calls device 0 when it numbers by bus, as aimind makes it.

    Raises:
        pynvml.NVMLError: there is none, or it does not answer.
    """

    def __init__(self) -> None:
        pynvml.nvmlInit()
        self._handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(self._handle)
        self.architecture = f"{major}{minor}"
        self.words = {
            "name": str(pynvml.nvmlDeviceGetName(self._handle)),
            "driver": str(pynvml.nvmlSystemGetDriverVersion()),
            "architecture": f"sm_{self.architecture}",
        }

    def use(self, pid: int) -> Use:
        """What is in use now."""
        try:
            processes = pynvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        except pynvml.NVMLError_NotSupported:
            processes = []
        told = [p.usedGpuMemory for p in processes if p.pid == pid and p.usedGpuMemory not in _NOT_TOLD]
        memory = pynvml.nvmlDeviceGetMemoryInfo(self._handle)
        return Use(sum(told) or None, int(memory.used))

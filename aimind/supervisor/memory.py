"""Device memory that the last run had: the driver gives it back some time after the processes have ended.

NVIDIA's management library is asked in a child, whose end leaves neither its memory nor a handle of the
driver. Where there is no such library, or it does not answer, nothing is waited for.
"""

from __future__ import annotations

import ctypes
import os
import time

from aimind.supervisor.processes import end, in_child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from aimind.supervisor.spec import Device

PATIENCE_SECONDS = 30.0
FIRST_SECONDS = 5.0  # loading the driver takes two where nothing has it open
POLL_SECONDS = 0.2
GIB = 2**30
FOREVER = float("inf")


class Memory:
    """Waiting before each start until the devices have as much free as is planned.

    Or as much as they had before the first start, if that was less.

    Attributes:
        fd: the descriptor to poll; `None` while nothing is waited for.
        deadline: when `step` is to be called at the latest.
    """

    def __init__(self, devices: Sequence[Device], *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._devices = devices
        self._patience_seconds = patience_seconds
        self._at_first: list[int] | None = None
        self._asked_before = False
        self._free: list[int] = []
        self._told = b""
        self._said = False
        self._child = 0
        self.fd: int | None = None
        self.deadline = FOREVER

    def begin(self, now: float) -> None:
        """Begin to wait, if there is anything to wait for: `fd` tells."""
        if not self._devices:
            return
        uuids = [device["uuid"] for device in self._devices]
        try:
            self._child, self.fd = in_child(lambda fd: _report(uuids, fd))
        except OSError:  # there can be no other process: then the backend will say so
            return
        self._free, self._told, self._said = [], b"", False
        self.deadline = now + (self._patience_seconds if self._asked_before else FIRST_SECONDS)

    def step(self, now: float, *, io: bool) -> str | None:
        """Go on where `fd` has something (`io`) or the deadline has come; a sentence for the user.

        The wait is over when `fd` is `None` afterwards.
        """
        if io and not self._read_child():
            self.close()
            return None
        short = self._short()
        if self._free and not short:
            self.close()
        elif now >= self.deadline:
            self.close()
            if short:
                patience = f"{self._patience_seconds:g} s"
                return f"device memory was not freed within {patience}: {short}; starting anyway"
        elif short and not self._said:
            self._said = True
            return f"waiting for device memory: {short}"
        return None

    def close(self) -> None:
        """Wait no more."""
        if self.fd is not None:
            end(self._child)
            os.close(self.fd)
            self.fd = None
            self._asked_before = True
        self.deadline = FOREVER

    def _read_child(self) -> bool:
        """Read what the child found; whether it goes on."""
        told = os.read(self.fd or 0, 4096)
        *lines, self._told = (self._told + told).split(b"\n")
        if lines:
            self._free = list(map(int, lines[-1].split()))
            if not self._asked_before:
                self._at_first = self._free
        return bool(told)

    def _short(self) -> str:
        """Which devices have less than is wanted, in words."""
        planned = [device["planned_bytes"] for device in self._devices]
        wanted = list(map(min, planned, self._at_first or planned))
        return ", ".join(
            f"{free / GIB:.1f} of {want / GIB:.1f} GiB are free on {device['name']}"
            for device, free, want in zip(self._devices, self._free, wanted, strict=False)
            if free < want
        )


def _report(uuids: Sequence[str], fd: int) -> None:
    """Write the free bytes of the devices again and again, one line each time, until NVML fails."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        handles = [ctypes.c_void_p() for _ in uuids]
        if nvml.nvmlInitWithFlags(0):
            return
        for uuid, handle in zip(uuids, handles, strict=True):  # of a GPU or of a MIG instance
            if nvml.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)):
                return
    except (OSError, AttributeError):  # no library, or one that is too old
        return
    memory = (ctypes.c_ulonglong * 3)()  # nvmlMemory_t: total, free, used
    while True:
        free = []
        for handle in handles:
            if nvml.nvmlDeviceGetMemoryInfo(handle, memory):
                return
            free.append(memory[1])
        os.write(fd, b"%s\n" % " ".join(map(str, free)).encode())
        time.sleep(POLL_SECONDS)

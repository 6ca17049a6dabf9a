"""Whether a backend that loads gets anywhere: lines of its log, and what its processes compute and read."""

from __future__ import annotations

import os
import sys

from aimind.supervisor.processes import descendants, processes

LOOK_SECONDS = 10.0
# Less than this is what a server takes that only waits.
BUSY_SHARE = 0.02
READ_BYTES = 1 << 20


class Progress:
    """Of one run, until it is ready.

    Attributes:
        deadline: when `look` is to be called at the latest.
    """

    def __init__(self, root: int, *, stall_seconds: float, now: float) -> None:
        """Begin. `root`: the process whose descendants count; `stall_seconds`: 0 for never."""
        self._root = root
        self._stall_seconds = stall_seconds
        self._made_at = now
        self._looked_at = now
        self._cpu_seconds, self._read_bytes = 0.0, 0
        self._every = min(LOOK_SECONDS, stall_seconds / 4)
        # Without /proc nothing is known of its processes, and a silent start is no proof of a stall.
        self._watches = stall_seconds > 0 and sys.platform == "linux"
        self.deadline = now + self._every if self._watches else float("inf")

    def made(self, now: float) -> None:
        """It printed something."""
        self._made_at = now

    def end(self) -> None:
        """It is ready, or being stopped: look no more."""
        self.deadline = float("inf")

    def look(self, now: float) -> bool:
        """Look at its processes, when it is time to; whether it has stalled."""
        if now < self.deadline:
            return False
        cpu_seconds, read_bytes = _spent(self._root)
        busy = cpu_seconds - self._cpu_seconds > BUSY_SHARE * (now - self._looked_at)
        if busy or read_bytes - self._read_bytes > READ_BYTES:
            self._made_at = now
        self._looked_at, self._cpu_seconds, self._read_bytes = now, cpu_seconds, read_bytes
        self.deadline = now + self._every
        return now - self._made_at >= self._stall_seconds


def _spent(root: int) -> tuple[float, int]:
    """Processor time in seconds, and bytes read from disks, of all living descendants of a process.

    What has ended is not among them, so that the sums may fall; that is no progress, and no stall either, for
    whoever waited for it goes on.
    """
    known = processes()
    tree = descendants(root, known)
    ticks = sum(known[pid][1] for pid in tree)
    return ticks / os.sysconf("SC_CLK_TCK"), sum(map(_read, tree))


def _read(pid: int) -> int:
    """Bytes that the process had read from disks; 0 when it has ended or is another user's."""
    try:
        with open(f"/proc/{pid}/io", "rb") as file:  # noqa: PTH123 (pathlib costs memory)
            lines = file.read().split()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    return int(lines[lines.index(b"read_bytes:") + 1])

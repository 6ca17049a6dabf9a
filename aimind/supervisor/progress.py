"""Whether a backend that loads gets anywhere: lines of its log, and what its processes compute and read."""

from __future__ import annotations

import os
from contextlib import suppress

from aimind.supervisor.processes import LINUX, descendants, processes

LOOK_SECONDS = 10.0
WEIGHTS_SECONDS = 1.0  # between two looks at how much of the weights is loaded
# Less than this is what a server takes that only waits.
BUSY_SHARE = 0.02
READ_BYTES = 1 << 20


class Progress:
    """The progress of one run until it is ready.

    Attributes:
        stall_seconds: without progress, after which the start is given up; 0 for never.
        percent: of the weights that are loaded; `None` where that is not seen.
    """

    def __init__(self, root: int, *, stall_seconds: float, now: float, weights_bytes: int = 0) -> None:
        """Begin.

        Args:
            root: the process whose descendants count.
            stall_seconds: 0 for never.
            now: by the monotonic clock.
            weights_bytes: of all files that are loaded; 0 where that is not known.
        """
        self._root = root
        self.stall_seconds = stall_seconds
        self._made_at = now
        self._looked_at = now
        self._cpu_seconds, self._read_bytes = 0.0, 0
        self._every = min(LOOK_SECONDS, stall_seconds / 4)
        # Without /proc nothing is known of its processes, and a silent start is no proof of a stall.
        self._watches = stall_seconds > 0 and LINUX
        self._weights_bytes = weights_bytes
        self._loaded_before: tuple[int, int, int] | None = None
        self.percent: int | None = None
        self._weights_at = float("inf")
        self._stall_at = now + self._every if self._watches else float("inf")

    @property
    def deadline(self) -> float:
        """When `look` is to be called at the latest."""
        return min(self._stall_at, self._weights_at)

    @property
    def watches(self) -> bool:
        """A start without progress will be given up."""
        return self._stall_at < float("inf")

    def watch_weights(self, now: float) -> None:
        """Watch the weights being read, for a backend that does not log a percentage."""
        if self._loaded_before is None and self._weights_bytes and LINUX:
            self._loaded_before = _loaded(self._root)
            self._weights_at = now + WEIGHTS_SECONDS

    def made(self, now: float) -> None:
        """Note that the backend printed something."""
        self._made_at = now

    def silent_seconds(self, now: float) -> float:
        """How long ago the last progress was seen."""
        return now - self._made_at

    def end(self) -> None:
        """Stop watching: the backend is ready or being stopped."""
        self._stall_at = self._weights_at = float("inf")

    def look(self, now: float) -> bool:
        """Look at its processes, when it is time to; whether it has stalled."""
        if now >= self._weights_at:
            self._weights_at = now + WEIGHTS_SECONDS
            self._measure_weights()
        if now < self._stall_at:
            return False
        cpu_seconds, read_bytes = _spent(self._root)
        busy = cpu_seconds - self._cpu_seconds > BUSY_SHARE * (now - self._looked_at)
        if busy or read_bytes - self._read_bytes > READ_BYTES:
            self._made_at = now
        self._looked_at, self._cpu_seconds, self._read_bytes = now, cpu_seconds, read_bytes
        self._stall_at = now + self._every
        return now - self._made_at >= self.stall_seconds

    def _measure_weights(self) -> None:
        before = self._loaded_before or (0, 0, 0)
        # Which of them grows depends on how it loads.
        loaded = max(now - then for now, then in zip(_loaded(self._root), before, strict=True))
        percent = min(loaded * 100 // self._weights_bytes, 99)
        if percent > (self.percent or 0):
            self.percent = percent


def _loaded(root: int) -> tuple[int, int, int]:
    """Bytes that the descendants of a process read from disks, read by calls, and have of mapped files."""
    from_disk = by_calls = mapped = 0
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    for pid in descendants(root, processes()):
        from_disk += _counter(pid, b"read_bytes:")
        by_calls += _counter(pid, b"rchar:")
        with (
            suppress(FileNotFoundError, ProcessLookupError),  # it has ended meanwhile
            open(f"/proc/{pid}/statm", "rb") as file,  # noqa: PTH123 (pathlib costs memory)
        ):
            mapped += int(file.read().split()[2]) * page_bytes
    return from_disk, by_calls, mapped


def _spent(root: int) -> tuple[float, int]:
    """Processor time in seconds, and bytes read from disks, of all living descendants of a process.

    What has ended is not among them, so that the sums may fall; that is no progress, and no stall either, for
    whoever waited for it goes on.
    """
    known = processes()
    tree = descendants(root, known)
    ticks = sum(known[pid][1] for pid in tree)
    return ticks / os.sysconf("SC_CLK_TCK"), sum(_counter(pid, b"read_bytes:") for pid in tree)


def _counter(pid: int, name: bytes) -> int:
    """A counter of proc_pid_io(5), in bytes; 0 when the process has ended or is another user's."""
    try:
        with open(f"/proc/{pid}/io", "rb") as file:  # noqa: PTH123 (pathlib costs memory)
            words = file.read().split()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    return int(words[words.index(name) + 1])

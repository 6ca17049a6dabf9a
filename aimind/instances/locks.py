"""Locks between processes (flock): held until the process that took one, and all its heirs, have ended.

Whoever only looks takes the lock with others, for an instant. So a starter that finds it held tries again.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from aimind.instances.records import unreadable, writing

POLL_SECONDS = 0.02


def held(path: Path) -> bool:
    """Whether somebody holds the lock.

    Raises:
        InstanceError: it cannot be looked at.
    """
    import fcntl  # not on Windows, where nothing is served

    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not be waited for
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as problem:
        raise unreadable(path, problem) from problem
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def take(path: Path, *, patience_seconds: float) -> int | None:
    """The descriptor that holds the lock until it and all its copies are closed; `None`: another has it.

    Raises:
        InstanceError: there can be no such file.
    """
    import fcntl

    with writing(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    until = time.monotonic() + patience_seconds
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(fd)
                return None
            time.sleep(POLL_SECONDS)
        else:
            return fd


def opened_by(pid: int, path: Path) -> bool:
    """Whether the process has the lock's file open, as far as it lets us see that. Linux."""
    return bool(_descriptors(pid, path))


def held_by(pid: int, path: Path) -> bool:
    """Whether the process is one of those that hold the lock, and does not only look at it. Linux."""
    for descriptor in _descriptors(pid, path):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            lines = Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text().splitlines()
            if any(line.startswith("lock:") and "WRITE" in line for line in lines):
                return True
    return False


def _descriptors(pid: int, path: Path) -> list[str]:
    found = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        wanted = path.stat()
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(entry.stat(), wanted):
                    found.append(entry.name)
    return found


@contextlib.contextmanager
def alone(path: Path, *, wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock for the block; `wait` is called before waiting for another.

    Raises:
        InstanceError: there can be no such file.
    """
    import fcntl

    with writing(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            wait()
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)

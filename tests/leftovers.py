"""What programs that were started may leave behind: processes, temporary files, shared memory."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.supervisor.harness import wait_for

MARK = "AIMIND_TEST"


@contextmanager
def nothing_left() -> Iterator[Mapping[str, str]]:
    """What is started inside has these variables; in the end nothing of it may be there.

    No process that has them, and no file in the folder that they name for temporary ones.
    """
    mark = uuid.uuid4().hex
    # A short path, as vLLM's sockets want it.
    with tempfile.TemporaryDirectory(prefix="t-") as name:
        folder = Path(name)
        try:
            yield {MARK: mark, "TMPDIR": name}
            wait_for(lambda: not marked(mark), what="the end of all that was started")
            wait_for(lambda: not any(folder.iterdir()), what=f"the end of {list(folder.iterdir())}")
        finally:
            for process in marked(mark):
                process.kill()


def marked(mark: str) -> list[psutil.Process]:
    """The processes that have the mark in their environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it has ended, or is not ours
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def segments() -> set[Path]:
    """Those of shared memory; none where it is in no folder."""
    folder = Path("/dev/shm")
    return set(folder.iterdir()) if folder.exists() else set()


def unused(before: set[Path]) -> set[Path]:
    """Segments that are new, and that no process uses: what does may have nothing to do with the test.

    By their inodes: a semaphore is mapped under another name than the one it then has.
    """
    used = set()
    for each in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):
            lines = [line for line in each.read_text().splitlines() if "/dev/shm/" in line]
            used |= {int(line.split(None, 5)[4]) for line in lines}
    found = set()
    for path in segments() - before:
        with suppress(FileNotFoundError):
            if path.stat().st_ino not in used:
                found.add(path)
    return found

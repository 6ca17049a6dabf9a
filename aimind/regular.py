"""Reading small files in folders that anything may be in: pipes, sockets, folders, files of another user."""

from __future__ import annotations

import os
import stat
from pathlib import Path

LONGEST_BYTES = 1 << 20


class NotRegularError(OSError):
    """A path names a folder, a pipe, a socket or a device."""


def read_regular(path: Path, *, most_bytes: int = LONGEST_BYTES) -> bytes:
    """Read at most so many bytes of a regular file; opening a pipe would wait for a writer.

    Raises:
        NotRegularError: it is another kind of file.
        OSError: it is missing, or may not be read.
    """
    # Windows has no O_NONBLOCK, and no pipes in folders.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotRegularError(None, "it is no regular file", str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(most_bytes)
    finally:
        os.close(descriptor)

"""Reading files in folders that anything may be in: pipes, sockets, folders, files of another user."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

LONGEST_BYTES = 1 << 20


class NotRegularError(OSError):
    """A path names a folder, a pipe, a socket or a device."""


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; a pipe is not waited for.

    Raises:
        NotRegularError: it is another kind of file.
        OSError: it is missing, or may not be read.
    """
    # Windows has no O_NONBLOCK, and no pipes in folders.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotRegularError(None, "it is not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, *, most_bytes: int = LONGEST_BYTES) -> bytes:
    """Read at most so many bytes of a regular file.

    Raises:
        NotRegularError: it is another kind of file.
        OSError: it is missing, or may not be read.
    """
    with open_regular(path) as file:
        return file.read(most_bytes)

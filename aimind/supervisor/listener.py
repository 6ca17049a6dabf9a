"""Finds who listens on a port: a process of the backend's tree, or another.

Linux tells it, to those who may see the process. What cannot be known is no objection.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from contextlib import suppress

from aimind.supervisor.probe import split
from aimind.supervisor.processes import descendants, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

LISTENING = b"0A"  # TCP_LISTEN (linux/net/tcp_states.h), as /proc/net/tcp has it


def port_conflict(url: str) -> str | None:
    """Why nobody else can listen where the URL points to, as a sentence; `None` where one can."""
    try:
        family, address = _resolve(url)
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            # Servers set this too: connections of an earlier server that are still closing do not matter.
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            holder = _holder(_listening(family, address), processes())
            return f"port {address[1]} is in use by {_describe(holder) if holder else 'another process'}"
    return None  # or the backend says better than we could why it cannot


def stranger(url: str, *, root: int) -> str | None:
    """The process that listens where the URL points to, if it is seen to be none below `root`."""
    try:
        inodes = _listening(*_resolve(url))
    except OSError:  # the probe will fail for that, too
        return None
    known = processes()
    if _holder(inodes, descendants(root, known)):
        return None
    holder = _holder(inodes, known)
    return _describe(holder) if holder else None


def _resolve(url: str) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """The address, as the probe finds it.

    Raises:
        OSError: the name is not known.
    """
    host, port, _ = split(url)
    found = socket.getaddrinfo(host.encode(), port, type=socket.SOCK_STREAM)[0]
    return found[0], (str(found[4][0]), port)


def _listening(family: socket.AddressFamily, address: tuple[str, int]) -> set[bytes]:
    """The inodes of the sockets that answer at an address: those bound to it, else those bound to any."""
    packed = socket.inet_pton(family, address[0])
    mapped = bytes(10) + b"\xff\xff" + packed  # RFC 4291: an IPv4 address as one of IPv6
    wanted = [_as_the_kernel_writes(each) for each in (packed, mapped)]
    exact, wild = set(), set()
    for table in ("tcp", "tcp6"):
        for local, inode in _sockets(table, address[1]):
            if local in wanted:
                exact.add(inode)
            elif not local.strip(b"0"):
                wild.add(inode)
        if exact:
            return exact
    return wild


def _sockets(table: str, port: int) -> list[tuple[bytes, bytes]]:
    """Local address and inode of the sockets that listen on a port."""
    found = []
    end = b":%04X" % port
    with (
        suppress(FileNotFoundError),  # not Linux, or no IPv6
        open(f"/proc/self/net/{table}", "rb") as file,  # noqa: PTH123 (pathlib costs memory)
    ):
        for line in file:
            fields = line.split(None, 10)
            if fields[3] == LISTENING and fields[1].endswith(end):
                found.append((fields[1].removesuffix(end), fields[9]))
    return found


def _as_the_kernel_writes(packed: bytes) -> bytes:
    words = [packed[at : at + 4] for at in range(0, len(packed), 4)]
    return b"".join(b"%08X" % int.from_bytes(word, sys.byteorder) for word in words)


def _holder(inodes: set[bytes], pids: Iterable[int]) -> int | None:
    """One of the processes that has one of the sockets open, and lets us see it."""
    wanted = {f"socket:[{inode.decode()}]" for inode in inodes}
    for pid in pids if wanted else ():
        # The process has ended, or belongs to another user.
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            for fd in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 (pathlib costs memory)
                with suppress(FileNotFoundError):
                    if os.readlink(f"/proc/{pid}/fd/{fd}") in wanted:  # noqa: PTH115
                        return pid
    return None


def _describe(pid: int) -> str:
    with (
        suppress(FileNotFoundError, ProcessLookupError),
        open(f"/proc/{pid}/comm", "rb") as file,  # noqa: PTH123 (pathlib costs memory)
    ):
        return f"{file.read().strip().decode(errors='replace')} (pid {pid})"
    return f"process {pid}"

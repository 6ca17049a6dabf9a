"""The processes of this machine, and how to end all that descend from us.

On Linux a subreaper becomes the parent of its descendants' orphans, so that none can escape by leaving the
process group. Elsewhere only the process group is killed.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36
LINUX = sys.platform == "linux"


def become_subreaper() -> None:
    """Make orphaned descendants children of this process; exec keeps it so."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Be killed when the parent is gone."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if LINUX:
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def processes() -> dict[int, tuple[int, int]]:
    """The parent, and the processor time in ticks, of every process of a Linux machine; elsewhere nothing."""
    if not LINUX:
        return {}
    with os.scandir("/proc") as entries:
        pids = [int(entry.name) for entry in entries if entry.name.isdigit()]
    found = {}
    for pid in pids:
        with (
            suppress(FileNotFoundError, ProcessLookupError),  # it has ended meanwhile
            open(f"/proc/{pid}/stat", "rb") as file,  # noqa: PTH123 (pathlib costs memory)
        ):
            fields = file.read().rpartition(b")")[2].split()
            found[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
    return found


def descendants(root: int, known: dict[int, tuple[int, int]]) -> set[int]:
    """Those of the `known` processes that descend from `root`, without itself."""
    tree = {root}
    grown = True
    while grown:
        found = {pid for pid, (parent, _) in known.items() if parent in tree}
        grown = not found <= tree
        tree |= found
    return tree - {root}


def end_descendants(backend: int | None, look: Callable[[set[int]], object]) -> int:
    """Kill the backend's process group and all our descendants, and wait for them.

    The group is killed once, for its number may be given to another when it is gone. Then every round kills
    our children, and theirs become ours, until there are none. `look` is called with the processes that are
    about to be killed, once for each.

    Returns:
        The backend's return code; -9 if its end was seen before.
    """
    returncode = -int(signal.SIGKILL)
    seen = descendants(os.getpid(), processes())
    look(seen)
    if backend is not None:
        kill(-backend)
    while True:
        children = {pid for pid, (parent, _) in processes().items() if parent == os.getpid()}
        if not children <= seen:
            look(children - seen)
            seen |= children
        for child in children:
            kill(child)
        try:
            pid, status = os.waitpid(-1, 0)
        except ChildProcessError:
            return returncode
        if pid == backend:
            returncode = os.waitstatus_to_exitcode(status)


def kill(target: int) -> None:
    """KILL a process, or the process group of a negative number."""
    # It may have ended, or be another user's (a set-user-ID program), which only root could kill.
    with suppress(ProcessLookupError, PermissionError):
        os.kill(target, signal.SIGKILL)


def end(child: int) -> None:
    """KILL a child, and wait for it, unless it hangs in the kernel."""
    kill(child)
    for _ in range(200):
        if os.waitpid(child, os.WNOHANG)[0]:
            return
        time.sleep(0.001)


# ── Work in a child ────────────────────────────────────────────────────────────────────────────────────────


def in_child(work: Callable[[int], None]) -> tuple[int, int]:
    """Begin `work` in a forked child, which is given a descriptor to write what it finds to.

    For what may hang, or takes memory that is not given back. The child has no other descriptor of ours.

    Returns:
        Its process id, and the descriptor to read from.
    """
    reader, writer = os.pipe()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    child = os.fork()
    if child == 0:
        try:
            die_with_parent()
            _forget_signals()
            os.closerange(3, writer)
            os.closerange(writer + 1, 1 << 16)
            work(writer)
        except BrokenPipeError:  # nobody wants to know any more
            pass
        except BaseException:  # noqa: BLE001 (shown; whoever reads sees the end)
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(0)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    os.close(writer)
    return child, reader


def _forget_signals() -> None:
    """Handle no signal, and tell our parent of none; what is ignored stays so."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def answer(work: Callable[[], str], *, patience_seconds: float) -> str | None:
    """What `work` returns, done in a child; `None` when it takes too long, and whole or not at all."""

    def write(fd: int) -> None:
        data = work().encode() + b"\n"
        while data:
            data = data[os.write(fd, data) :]

    child, reader = in_child(write)
    deadline = time.monotonic() + patience_seconds
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    data = b""
    while not data.endswith(b"\n") and poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        chunk = os.read(reader, 1 << 16)
        if not chunk:
            break
        data += chunk
    os.close(reader)
    end(child)
    return data[:-1].decode() if data.endswith(b"\n") else None

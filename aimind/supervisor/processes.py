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
    """The `known` processes that descend from `root`, without `root`."""
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in known.items():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    unseen = [root]
    while unseen:
        below = set(children.get(unseen.pop(), ())) - found
        found |= below
        unseen += below
    return found - {root}


# ── Ending all that descends from us ───────────────────────────────────────────────────────────────────────


def end_descendants(backend: int | None, look: Callable[[set[int]], object]) -> int:
    """Kill all our descendants, and wait for them.

    All of them are stopped before the first is killed: what still runs could start others for ever. As they
    are killed, their children become ours, until there are none.

    Args:
        backend: the leader of the process group in which most of them are.
        look: called with the processes that are about to be killed, once for each, while they are stopped.

    Returns:
        The backend's return code; -9 if its end was seen before.
    """
    returncode = -int(signal.SIGKILL)
    # The number of a group that is gone may be given to another: it is used again only where it was there.
    group = -backend if backend is not None and send(-backend, signal.SIGSTOP) else None
    seen: set[int] = set()
    while True:
        stopped = _stop_descendants()
        if not stopped <= seen:
            look(stopped - seen)
            seen |= stopped
        if group is not None:
            kill(group)
            group = None
        for pid in stopped:
            kill(pid)
        ended = _ended_children()
        if not ended:
            return returncode
        if backend in ended:
            returncode = os.waitstatus_to_exitcode(ended[backend])


def _stop_descendants() -> set[int]:
    """Stop all our descendants, until a look finds no other; what that look has found.

    Each is stopped as soon as it is seen: some live only for as long as it takes them to start the next one.
    """
    known: set[int] = set()
    while True:
        found: set[int] = set()
        unseen = [os.getpid()]
        while unseen:
            for child in _children(unseen.pop()):
                if child not in known and child not in found:
                    send(child, signal.SIGSTOP)
                found.add(child)
                unseen.append(child)
        if found <= known:
            return found
        known |= found


def _children(parent: int) -> list[int]:
    """The children of a process, those that have ended but were not waited for among them.

    The kernel lists them where it has CONFIG_PROC_CHILDREN, as those of all distributions do.
    """
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile, or this is not Linux
        for thread in os.listdir(f"/proc/{parent}/task"):  # noqa: PTH208 (pathlib costs memory)
            with open(f"/proc/{parent}/task/{thread}/children", "rb") as file:  # noqa: PTH123
                found += map(int, file.read().split())
    return found


def _ended_children() -> dict[int, int]:
    """Wait until a child has ended; the statuses of all that have, by process id: none without children."""
    ended: dict[int, int] = {}
    options = 0
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, options))[0]:
            ended[found[0]] = found[1]
            options = os.WNOHANG
    return ended


def send(target: int, number: int) -> bool:
    """Send a signal to a process, or to the process group of a negative number; whether it is there.

    Another user's (a set-user-ID program) cannot be sent any: only root could.
    """
    try:
        os.kill(target, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def kill(target: int) -> None:
    """KILL a process, or the process group of a negative number."""
    send(target, signal.SIGKILL)


def end(child: int) -> None:
    """KILL a child, and wait for it, unless it hangs in the kernel."""
    kill(child)
    with suppress(ChildProcessError):  # it was ended with a tree
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

    Raises:
        OSError: this user has too many processes.
    """
    reader, writer = os.pipe()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        child = os.fork()
    except OSError:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(reader)
        os.close(writer)
        raise
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
    """What `work` returns, done in a child; `None` when it takes too long or there can be no child.

    It is whole or nothing.
    """

    def write(fd: int) -> None:
        data = work().encode() + b"\n"
        while data:
            data = data[os.write(fd, data) :]

    try:
        child, reader = in_child(write)
    except OSError:
        return None
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

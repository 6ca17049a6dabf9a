"""The backend and all its descendants, and the guardian that leaves none of them behind.

    supervisor ── guardian ── backend ── its processes

The guardian is forked from the supervisor for each run of the backend. It does nothing but wait, and it kills
the whole tree when the backend has ended, when it is told to, and when the supervisor is gone, whatever
ended it: the channel between them is then closed. On Linux it is a subreaper, so that orphans of the tree
become its children and none can escape by leaving the process group. The supervisor is one too: should the
guardian be killed, it inherits the tree and kills it. Elsewhere only the process group is killed.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import sys
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import NoReturn

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36
TERMINATE, KILL = b"T", b"K"
STOP_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


class Tree:
    """A running backend, seen from the supervisor.

    Attributes:
        output: descriptor of its stdout and stderr, in one, not blocking.
        channel: to the guardian; closed by it when nothing of the tree is left.
        guardian: its process id, the backend's parent.
        pid: of the backend, once the guardian told it.
    """

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: str | None) -> None:
        """Start it."""
        become_subreaper()
        self.output, output = os.pipe()
        self.channel, channel = socket.socketpair()
        self.pid: int | None = None
        self._told = b""
        # No signal may reach our handlers in the guardian before it has its own.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        self.guardian = os.fork()
        if self.guardian == 0:
            self.channel.close()
            os.close(self.output)
            _guard(channel, output, argv, env, cwd)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        channel.close()
        os.close(output)
        os.set_blocking(self.output, False)

    def terminate(self) -> None:
        """Ask the backend's process group to end."""
        _say(self.channel, TERMINATE)

    def kill(self) -> None:
        """End every process of the tree."""
        _say(self.channel, KILL)

    def listen(self) -> bool:
        """Read what the guardian says; whether it has ended."""
        told = _hear(self.channel)
        self._told += told
        if self.pid is None and b"\n" in self._told:
            self.pid = int(self._told.split()[0])
        return not told

    def close(self) -> int | None:
        """The backend's return code, or `None` when the guardian was killed; then the tree is killed here."""
        self.channel.close()
        os.close(self.output)
        os.waitpid(self.guardian, 0)
        words = self._told.split()
        if len(words) == 2:
            return int(words[1])
        _end_tree(self.pid)
        return None


def become_subreaper() -> None:
    """Make orphaned descendants children of this process."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _guard(
    channel: socket.socket, output: int, argv: Sequence[str], env: Mapping[str, str], cwd: str | None
) -> NoReturn:
    """The guardian's life. It leaves by `os._exit`: nothing of the supervisor's may be cleaned up here."""
    code = 1
    try:
        wakeup = _listen_to_children()
        os.setsid()  # a signal for the supervisor's whole process group leaves the guardian alone
        become_subreaper()
        executed, unexecuted = os.pipe()
        backend = os.fork()
        if backend == 0:
            _become(argv, env, cwd, output)
        os.close(output)
        # Closed by exec: only then does it have the process group that signals are sent to.
        os.close(unexecuted)
        os.read(executed, 1)
        os.close(executed)
        _say(channel, b"%d\n" % backend)
        _say(channel, b"%d" % _watch(backend, channel, wakeup))
        code = 0
    except BaseException:  # noqa: BLE001 (shown; then the supervisor, which sees the end, kills the tree)
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _listen_to_children() -> int:
    """Set the guardian's signals; a descriptor that is readable when a child has ended."""
    for number in (*STOP_SIGNALS, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # they are meant for the supervisor
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    return reader


def _say(channel: socket.socket, words: bytes) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # the other side has ended, which `_hear` tells
        channel.send(words)


def _hear(channel: socket.socket) -> bytes:
    """What the other side said; nothing when it has ended."""
    try:
        return channel.recv(64)
    except ConnectionResetError:  # it was killed before it had read all that we said
        return b""


def _watch(backend: int, channel: socket.socket, wakeup: int) -> int:
    """Wait until the backend has ended, or must; its return code, when nothing of the tree is left."""
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    poll.register(wakeup, select.POLLIN)
    while True:
        ready = [fd for fd, _ in poll.poll()]
        if wakeup in ready:
            os.read(wakeup, 512)
        returncode = _reap(backend)
        if returncode is not None:
            _end_tree(backend)
            return returncode
        if channel.fileno() in ready:
            orders = _hear(channel)
            if not orders or KILL in orders:
                return _end_tree(backend)
            os.killpg(backend, signal.SIGTERM)


def _reap(backend: int) -> int | None:
    """Take the ends of all children that have ended; the backend's return code if it was among them."""
    returncode = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return returncode
        if pid == 0:
            return returncode
        if pid == backend:
            returncode = os.waitstatus_to_exitcode(status)


def _end_tree(backend: int | None) -> int:
    """Kill the backend's process group and all our descendants, and wait for them.

    The group is killed once, for its number may be given to another when it is gone. Then every round kills
    our children, and theirs become ours, until there are none.

    Returns:
        The backend's return code; -9 if its end was seen before.
    """
    returncode = -int(signal.SIGKILL)
    if backend is not None:
        _kill(-backend)
    while True:
        for child in _children():
            _kill(child)
        try:
            pid, status = os.waitpid(-1, 0)
        except ChildProcessError:
            return returncode
        if pid == backend:
            returncode = os.waitstatus_to_exitcode(status)


def _kill(target: int) -> None:
    # It may have ended, or be another user's (a set-user-ID program), which only root could kill.
    with suppress(ProcessLookupError, PermissionError):
        os.kill(target, signal.SIGKILL)


def _children() -> list[int]:
    """The processes whose parent we are; on Linux, where the tree's orphans become ours."""
    if sys.platform != "linux":
        return []
    me = os.getpid()
    return [pid for pid, (parent, _) in processes().items() if parent == me]


def processes() -> dict[int, tuple[int, int]]:
    """The parent, and the processor time in ticks, of every process of a Linux machine."""
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


def _become(argv: Sequence[str], env: Mapping[str, str], cwd: str | None, output: int) -> NoReturn:
    """Turn this child of the guardian into the backend."""
    try:
        os.setsid()  # the terminal's Ctrl-C does not reach it, and its process group is its own
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # should guardian and supervisor be killed at once
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        for number in range(1, signal.NSIG):
            with suppress(OSError, ValueError):  # not all numbers are signals, and two cannot be set
                signal.signal(number, signal.SIG_DFL)
        if cwd is not None:
            os.chdir(cwd)
        os.execvpe(argv[0], list(argv), env)
    except (OSError, ValueError) as error:
        os.write(2, f"aimind: cannot start {argv[0]}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(127)

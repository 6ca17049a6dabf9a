"""The guardian's life: it starts the backend, waits, and leaves nothing of it behind."""

from __future__ import annotations

import math
import os
import select
import signal
import sys
import time
from contextlib import suppress

from aimind.supervisor.leftovers import SHARED_MEMORY, make_folder, remove_folder, watch_segments
from aimind.supervisor.processes import become_subreaper, die_with_parent, end_descendants
from aimind.supervisor.sentinel import ignore_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence
    from typing import NoReturn

    from aimind.supervisor.leftovers import SharedMemory

TERMINATE, KILL = "T", "K"
# What it says in turn, one a line: the backend's process id, or why it cannot be started; each segment that
# the tree has; the return code.
BACKEND, UNSTARTED, SEGMENT, RETURNED = "B", "U", "S", "R"
# Between two looks at shared memory: more and more where nothing new is the tree's, for others may make many.
SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 10.0


class Start:
    """What the guardian is to start, and what it has to remove in the end.

    Attributes:
        argv, env, cwd: of the backend.
        output: descriptor for its stdout and stderr.
        folder: for its temporary files, which the guardian makes; `None` where it gets none of its own.
        shared: what it has of shared memory.
        alive: descriptors that tell the sentinels what there is to remove, and by their end that we are gone.
    """

    def __init__(  # noqa: PLR0913 (a record; dataclasses would cost memory)
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | None,
        output: int,
        folder: str | None,
        shared: SharedMemory,
        alive: Sequence[int],
    ) -> None:
        self.argv = argv
        self.env = env
        self.cwd = cwd
        self.output = output
        self.folder = folder
        self.shared = shared
        self.alive = alive


def guard(start: Start, channel: socket.socket) -> NoReturn:
    """Be the guardian. It leaves by `os._exit`: nothing of the supervisor's may be cleaned up here."""
    code = 1
    try:
        wakeup = _listen_to_children()
        os.setsid()  # a signal for the supervisor's whole process group leaves the guardian alone
        become_subreaper()
        executed, unexecuted = os.pipe()
        if start.folder is not None and make_folder(start.folder):
            start.env = {**start.env, "TMPDIR": start.folder}
        guardian = os.getpid()
        try:
            backend = os.fork()
        except OSError as error:
            send_message(channel, f"{UNSTARTED} {error.strerror}\n")  # the sentinels remove the folder
            os._exit(code)
        if backend == 0:
            _become(start, guardian)
        os.close(start.output)
        # Closed by exec: only then does it have the process group that signals are sent to.
        os.close(unexecuted)
        os.read(executed, 1)
        os.close(executed)
        send_message(channel, f"{BACKEND} {backend}\n")
        returncode = _Watch(start, backend, channel=channel, wakeup=wakeup).run()
        clear(start.folder, start.shared)
        send_message(channel, f"{RETURNED} {returncode}\n")
        code = 0
    except BaseException:  # noqa: BLE001 (shown; then the supervisor, which sees the end, kills the tree)
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def clear(folder: str | None, shared: SharedMemory) -> None:
    """Remove what the tree left, when all of it has ended."""
    shared.remove()
    if folder is not None:
        remove_folder(folder)


def _listen_to_children() -> int:
    """Set the guardian's signals; a descriptor that is readable when a child has ended."""
    ignore_signals()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    return reader


def send_message(channel: socket.socket, words: str) -> None:
    """Tell the other side of the channel."""
    with suppress(BrokenPipeError, ConnectionResetError):  # it has ended, which `read_message` tells
        channel.sendall(os.fsencode(words))


def read_message(channel: socket.socket) -> str:
    """What the other side said; nothing when it has ended."""
    try:
        return os.fsdecode(channel.recv(4096))
    except ConnectionResetError:  # it was killed before it had read all that we said
        return ""


class _Watch:
    """Waiting until the backend has ended, or must."""

    def __init__(self, start: Start, backend: int, *, channel: socket.socket, wakeup: int) -> None:
        self._backend = backend
        self._channel = channel
        self._wakeup = wakeup
        self._shared = start.shared
        self._alive = start.alive
        self._news = watch_segments()
        self._pause_seconds = SHORTEST_PAUSE_SECONDS
        self._looked_at = time.monotonic()
        self._look_at = self._looked_at + self._pause_seconds  # it may have been quicker than we

    def run(self) -> int:
        """Its return code, when nothing of the tree is left."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(self._wakeup, select.POLLIN)
        if self._news is not None:
            poll.register(self._news, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll(self._timeout_ms())]
            if self._wakeup in ready:
                os.read(self._wakeup, 512)
            if self._news in ready:
                os.read(self._news, 1 << 16)
                self._look_at = min(self._look_at, self._looked_at + self._pause_seconds)
            returncode = _reap(self._backend)
            if returncode is not None:
                end_descendants(self._backend, self._look)
                return returncode
            if self._channel.fileno() in ready:
                orders = read_message(self._channel)
                if not orders or KILL in orders:
                    return end_descendants(self._backend, self._look)
                self._terminate()
            elif time.monotonic() >= self._look_at:
                self._look()

    def _timeout_ms(self) -> float | None:
        return None if self._look_at == math.inf else max(0.0, self._look_at - time.monotonic()) * 1000

    def _look(self, pids: set[int] | None = None) -> None:
        """See which segments these processes, by default all, have: for others, should we be killed."""
        found = self._shared.look_below(os.getpid()) if pids is None else self._shared.look(pids)
        self._looked_at = time.monotonic()
        self._pause_seconds = (
            SHORTEST_PAUSE_SECONDS if found else min(2 * self._pause_seconds, LONGEST_PAUSE_SECONDS)
        )
        # Again without being told: where the machine was too busy, or the kernel says nothing of new ones.
        again = found is None or self._news is None or self._shared.unsure
        self._look_at = self._looked_at + self._pause_seconds if again else math.inf
        for name, inode in found or ():
            if "\n" not in name:
                send_message(self._channel, f"{SEGMENT} {inode} {name}\n")
                for sentinel in self._alive:
                    with suppress(BrokenPipeError):  # it was killed
                        os.write(sentinel, os.fsencode(f"{SHARED_MEMORY}/{name}\n"))

    def _terminate(self) -> None:
        self._look()
        os.killpg(self._backend, signal.SIGTERM)  # its end was not seen: the number is still its own


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


def _become(start: Start, guardian: int) -> NoReturn:
    """Turn this child of the guardian into the backend."""
    try:
        os.setsid()  # the terminal's Ctrl-C does not reach it, and its process group is its own
        die_with_parent()  # should all that watch be killed
        if os.getppid() != guardian:  # it was, before we could ask for that
            os._exit(127)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(start.output, 1)
        os.dup2(start.output, 2)
        for number in range(1, signal.NSIG):
            with suppress(OSError, ValueError):  # not all numbers are signals, and two cannot be set
                signal.signal(number, signal.SIG_DFL)
        if start.cwd is not None:
            os.chdir(start.cwd)
        os.execvpe(start.argv[0], list(start.argv), start.env)
    except (OSError, ValueError) as error:
        os.write(2, f"aimind: cannot start {start.argv[0]}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(127)

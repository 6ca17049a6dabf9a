"""The backend and all its descendants, and those who leave none of them behind.

    supervisor ── outer sentinel ── inner sentinel ── guardian ── backend ── its processes

Guardian and sentinels are forked for each run of the backend, and only wait. The guardian kills the whole
tree when the backend has ended, when it is told to, and when the supervisor is gone, whatever ended it: the
channel between them is then closed. Each of the first four is a subreaper, so that orphans of the tree
become children of the next one that lives:

| killed, at once or one by one      | who ends the tree                                               |
|------------------------------------|-----------------------------------------------------------------|
| supervisor                         | the guardian                                                    |
| guardian                           | the sentinels, and the supervisor waits for them and starts the |
|                                    | backend again                                                   |
| one sentinel, or both              | nobody: the others go on                                        |
| supervisor and guardian            | the inner sentinel, while the outer one waits for it            |
| these two and a sentinel           | the other one                                                   |
| guardian and sentinels             | the supervisor                                                  |
| all four                           | the kernel kills the backend, but not what that started: then   |
|                                    | only a service's or a container's end is the end of it all      |

Whoever ends the tree keeps those alive that could go on with it, for it may be killed itself meanwhile.

Only Linux has subreapers: elsewhere there are no sentinels, and the guardian kills the process group.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import time
from contextlib import suppress

from aimind.supervisor.guardian import (
    BACKEND,
    KILL,
    RETURNED,
    TERMINATE,
    UNSTARTED,
    Start,
    clear,
    guard,
    read_message,
    send_message,
)
from aimind.supervisor.leftovers import SharedMemory
from aimind.supervisor.processes import LINUX, become_subreaper, end_descendants, kill
from aimind.supervisor.sentinel import become_sentinel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import NoReturn

STOP_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
# The inner one works for a fraction of a second; the outer one waits for one second before it takes over.
SENTINELS_SECONDS = 5.0


class Tree:
    """A running backend, seen from the supervisor.

    Attributes:
        output: descriptor of its stdout and stderr, in one, not blocking.
        channel: to the guardian; closed by it when nothing of the tree is left.
        guardian: its process id, the backend's parent.
        sentinels: their process ids, the outer one first; none where there are none.
        pid: of the backend, once the guardian told it.
        problem: why it could not be started, as the system says it.
        folder: for its temporary files; `None` where it gets none of its own.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | None,
        folder: str | None = None,
        keep: Sequence[int] = (),
    ) -> None:
        """Start it.

        Args:
            argv: the backend's command.
            env: its environment.
            cwd: its working folder.
            folder: for its temporary files, not there yet, and removed with the tree.
            keep: descriptors of locks that are held for as long as anything of the tree may be alive.

        Raises:
            OSError: this user has too many processes.
        """
        become_subreaper()
        self.pid: int | None = None
        self.problem: str | None = None
        self._told = ""
        self._returncode: int | None = None
        self.folder = folder
        self._shared = SharedMemory()
        self.output, output = os.pipe()
        self.channel, channel = socket.socketpair()
        # Held by the guardian and us alone, since exec closes them: their end tells the sentinels of ours.
        pipes = (os.pipe(), os.pipe()) if LINUX else ()
        self._alive = [writer for _, writer in pipes]
        start = Start(
            argv,
            env=env,
            cwd=cwd,
            output=output,
            folder=folder,
            shared=self._shared,
            alive=self._alive,
        )
        mine = (self.channel.fileno(), self.output)
        # No signal may reach our handlers in a child before it has its own.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            keepers = [reader for reader, _ in pipes]
            *self.sentinels, self.guardian = _fork(start, channel, keepers=keepers, mine=mine, keep=keep)
        except OSError:
            self._close()
            end_descendants(None, lambda _: None)  # what there is of it
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            channel.close()
            os.close(output)
            for reader, _ in pipes:
                os.close(reader)
        os.set_blocking(self.output, False)

    def terminate(self) -> None:
        """Ask the backend's process group to end."""
        send_message(self.channel, TERMINATE)

    def kill(self) -> None:
        """End every process of the tree."""
        send_message(self.channel, KILL)

    def listen(self) -> bool:
        """Read what the guardian says; whether it has ended."""
        told = read_message(self.channel)
        *lines, self._told = (self._told + told).split("\n")
        for line in lines:
            kind, _, words = line.partition(" ")
            if kind == BACKEND:
                self.pid = int(words)
            elif kind == UNSTARTED:
                self.problem = words
            elif kind == RETURNED:
                self._returncode = int(words)
            else:
                inode, _, name = words.partition(" ")
                self._shared.add({(name, int(inode))})
        return not told

    def close(self) -> int | None:
        """The backend's return code, or `None` when the guardian was killed; then the tree is killed here."""
        if self._returncode is None:
            self._close()
            self._wait_for_sentinels()
            end_descendants(self.pid, self._shared.look)  # were both killed, or held up
            clear(self.folder, self._shared)
            return None
        for sentinel in self.sentinels:  # they have nothing to do
            kill(sentinel)
        self._close()
        for pid in (*self.sentinels, self.guardian):
            with suppress(ChildProcessError):  # a sentinel has waited for it
                os.waitpid(pid, 0)
        return self._returncode

    def _close(self) -> None:
        """Close our ends of all that is between us and the others."""
        self.channel.close()
        for fd in (self.output, *self._alive):
            os.close(fd)

    def _wait_for_sentinels(self) -> None:
        """Wait until both have ended, and with them what they end; no longer than they may need."""
        deadline = time.monotonic() + SENTINELS_SECONDS
        for sentinel in self.sentinels:
            with suppress(ChildProcessError):  # the outer one has waited for it
                while not os.waitpid(sentinel, os.WNOHANG)[0] and time.monotonic() < deadline:
                    time.sleep(0.002)


def _fork(
    start: Start, channel: socket.socket, *, keepers: Sequence[int], mine: Sequence[int], keep: Sequence[int]
) -> Sequence[int]:
    """Fork the sentinels, each from the one before, and from the last the guardian; their process ids."""
    told, tell = os.pipe()
    try:
        first = os.fork()
    except OSError:
        os.close(told)
        os.close(tell)
        raise
    if first == 0:
        try:
            _descend(start, channel, keepers=keepers, close=(*mine, *keepers, told), keep=keep, tell=tell)
        finally:
            os._exit(127)  # without a shell the guardian goes on as a child of the supervisor
    os.close(tell)
    numbers = os.read(told, 64)
    os.close(told)
    if not numbers:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return [int(number) for number in numbers.split()]


def _descend(
    start: Start,
    channel: socket.socket,
    *,
    keepers: Sequence[int],
    close: Sequence[int],
    keep: Sequence[int],
    tell: int,
) -> NoReturn:
    """Become the outer sentinel in a child of the supervisor, and in its children what is below it.

    The guardian closes what is in `close`; the sentinels keep what is in `keep`. All process ids are written
    to `tell` once all are there.
    """
    pids: list[int] = []
    for keeper in keepers:
        become_subreaper()
        pids.append(os.getpid())
        below = os.fork()
        if below:
            last = keeper == keepers[-1]
            if last:
                os.write(tell, " ".join(map(str, [*pids, below])).encode())
            before = start.shared.before
            inner = None if last else below
            become_sentinel(keeper, inner=inner, folder=start.folder, before=before, keep=keep)
    if not keepers:
        os.write(tell, b"%d" % os.getpid())
    for fd in (*close, tell):
        os.close(fd)
    guard(start, channel)

"""The backend and all its descendants, and those who leave none of them behind.

    supervisor ── sentinel ── guardian ── backend ── its processes

Guardian and sentinel are forked for each run of the backend, and only wait. The guardian kills the whole
tree when the backend has ended, when it is told to, and when the supervisor is gone, whatever ended it: the
channel between them is then closed. Each of the first three is a subreaper, so that orphans of the tree
become children of the next one that lives:

| killed at once               | who ends the tree                                               |
|------------------------------|-----------------------------------------------------------------|
| supervisor, or with sentinel | the guardian                                                    |
| guardian, or with sentinel   | the supervisor, which then starts the backend again             |
| sentinel                     | nobody: the others go on                                        |
| supervisor and guardian      | the sentinel                                                    |
| all three                    | the kernel kills the backend, but not what that started: then   |
|                              | only a service's or a container's end is the end of it all      |

Only Linux has subreapers: elsewhere there is no sentinel, and the guardian kills the process group.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
from contextlib import suppress

from aimind.supervisor.guardian import (
    BACKEND,
    KILL,
    RETURNED,
    TERMINATE,
    Start,
    clear,
    guard,
    hear,
    say,
)
from aimind.supervisor.leftovers import SharedMemory
from aimind.supervisor.processes import LINUX, become_subreaper, end_descendants, kill
from aimind.supervisor.sentinel import become_sentinel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STOP_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


class Tree:
    """A running backend, seen from the supervisor.

    Attributes:
        output: descriptor of its stdout and stderr, in one, not blocking.
        channel: to the guardian; closed by it when nothing of the tree is left.
        guardian: its process id, the backend's parent.
        sentinel: its process id; `None` where there is none.
        pid: of the backend, once the guardian told it.
        folder: for its temporary files; `None` where it has none of its own.
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
            folder: for its temporary files, removed with the tree.
            keep: descriptors of locks that are held for as long as anything of the tree may be alive.

        Raises:
            OSError: this user has too many processes.
        """
        become_subreaper()
        self.pid: int | None = None
        self._told = ""
        self._returncode: int | None = None
        self.folder = folder
        self._shared = SharedMemory()
        self.output, output = os.pipe()
        self.channel, channel = socket.socketpair()
        # Held by the guardian and us alone, since exec closes it: its end tells the sentinel of ours.
        keepers, self._alive = os.pipe()
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
            self.sentinel, self.guardian = _fork(start, channel, keepers=keepers, mine=mine, keep=keep)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            channel.close()
            os.close(output)
            os.close(keepers)
        os.set_blocking(self.output, False)

    def terminate(self) -> None:
        """Ask the backend's process group to end."""
        say(self.channel, TERMINATE)

    def kill(self) -> None:
        """End every process of the tree."""
        say(self.channel, KILL)

    def listen(self) -> bool:
        """Read what the guardian says; whether it has ended."""
        told = hear(self.channel)
        *lines, self._told = (self._told + told).split("\n")
        for line in lines:
            kind, _, words = line.partition(" ")
            if kind == BACKEND:
                self.pid = int(words)
            elif kind == RETURNED:
                self._returncode = int(words)
            else:
                inode, _, name = words.partition(" ")
                self._shared.add({(name, int(inode))})
        return not told

    def close(self) -> int | None:
        """The backend's return code, or `None` when the guardian was killed; then the tree is killed here."""
        self.channel.close()
        os.close(self.output)
        if self.sentinel is not None:
            kill(self.sentinel)  # it has nothing to do; what became its own becomes ours
            os.waitpid(self.sentinel, 0)
        os.close(self._alive)
        with suppress(ChildProcessError):  # the sentinel has waited for it
            os.waitpid(self.guardian, 0)
        if self._returncode is None:
            end_descendants(self.pid, self._shared.look)
            clear(self.folder, self._shared)
        return self._returncode


def _fork(
    start: Start, channel: socket.socket, *, keepers: int, mine: Sequence[int], keep: Sequence[int]
) -> tuple[int | None, int]:
    """Fork the sentinel, and from it the guardian; their process ids."""
    told, tell = os.pipe()
    first = os.fork()
    if first == 0:
        try:
            become_subreaper()
            if not LINUX or (guardian := os.fork()) == 0:
                for fd in (*mine, keepers, told, tell):
                    os.close(fd)
                guard(start, channel)
            os.write(tell, b"%d" % guardian)
            become_sentinel(keepers, folder=start.folder, before=start.shared.before, keep=keep)
        finally:
            os._exit(127)  # without a shell the guardian goes on as a child of the supervisor
    os.close(tell)
    number = os.read(told, 16)
    os.close(told)
    if not LINUX:
        return None, first
    if not number:
        os.waitpid(first, 0)
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return first, int(number)

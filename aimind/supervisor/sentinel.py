"""The sentinel: a shell that ends the tree where supervisor and guardian were killed at once.

It is the guardian's parent, and a subreaper: what the guardian leaves becomes its own. It is a shell since
that takes a tenth of a Python's memory, and since what is killed by its name ("python", or this project's)
does not include it.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import NoReturn

# What a service manager or a closing terminal sends to every process of a group is meant for the supervisor.
IGNORED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
# The kernel lists children where it has CONFIG_PROC_CHILDREN, as those of all distributions do.
SCRIPT = """: ends what a killed server has left
while IFS= read -r path; do set -- "$@" "$path"; done
while children=; read -r children </proc/$$/task/$$/children; [ "$children" ]; do
    kill -9 $children
    sleep 0.05 || sleep 1 || break
done 2>/dev/null
[ $# = 0 ] || rm -f -- "$@"
[ -z "$FOLDER" ] || rm -rf -- "$FOLDER"
"""


def ignore_signals() -> None:
    """Be deaf to what is meant for the supervisor."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)


def become_sentinel(keepers: int, *, folder: str | None, keep: Iterable[int]) -> NoReturn:
    """Turn this process into the sentinel.

    Args:
        keepers: a pipe to read from: paths of files to be removed in the end, one a line; where it ends,
            supervisor and guardian are gone.
        folder: to be removed in the end.
        keep: descriptors of locks that are held until then.

    Raises:
        OSError: there is no shell.
    """
    ignore_signals()
    os.setsid()
    os.chdir("/")
    os.dup2(keepers, 0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    for fd in keep:
        os.set_inheritable(fd, True)  # noqa: FBT003 (it takes no keyword)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    path = f"/usr/bin:/bin:{os.environ.get('PATH', '')}"
    # The folder's name is not among the arguments, for it has the project's name.
    os.execve("/bin/sh", ["sh", "-c", SCRIPT], {"PATH": path, "FOLDER": folder or ""})

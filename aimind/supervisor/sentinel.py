"""The sentinels: two shells that end the tree where supervisor and guardian are gone.

One is the child of the other, and the guardian's parent. Both are subreapers: what the guardian leaves
becomes the inner one's, and what that leaves the outer one's. They are shells since those take a tenth of a
Python's memory, and since what is killed by its name ("python", or this project's) does not include them.
"""

from __future__ import annotations

import os
import signal

from aimind.supervisor.leftovers import device

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
# The inner one goes first, for it is nearer; the outer one goes on where that was killed, or hangs.
#
# The kernel lists children where it has CONFIG_PROC_CHILDREN, as those of all distributions do. All is
# stopped before anything is killed, until a look finds nothing new: what runs could start others. What lives
# for less time than a look takes becomes our own child, and at these the shell alone looks quickly. The
# guardian cannot have told of a segment that is new: each round looks at the whole tree, and then kills
# it. What hangs in the kernel holds it up for a second; without `sed` it removes what it was told. A
# semaphore is mapped under another name than the one it then has, so that inodes are compared.
SCRIPT = """: ends what a killed server has left
while IFS= read -r path; do set -- "$@" "$path"; done
exec 2>/dev/null
look() { children=; read -r children </proc/$$/task/$$/children; }
pause() { sleep 0.02 || sleep 1; }
rounds=0
while look; [ "$INNER" ] && [ $rounds -lt 50 ]; do
    case " $children " in *" $INNER "*) pause || break ;; *) break ;; esac
    rounds=$((rounds + 1))
done
while look; [ "$children" ]; do
    stopped=
    while
        for _ in 1 2 3 4 5 6 7 8 9 10; do kill -STOP $children; look; done
        tree= level=$children
        while [ "$level" ]; do
            kill -STOP $level
            tree="$tree $level"
            level=$(cat $(printf '/proc/%s/task/*/children ' $level))
        done
        [ "$tree" != "$stopped" ]
    do
        stopped=$tree
        look
    done
    maps=$(printf '/proc/%s/maps ' $tree)
    found="$found "$(timeout -s KILL 1 sed -n "s|^.* $DEVICE \\([0-9]*\\) .*|\\1|p" $maps)
    kill -9 $tree
    pause || break
done
found=" $(echo $found) "
entries=$(stat -c '%i %n' /dev/shm/*)
set -f
IFS='
'
for entry in $entries; do
    inode=${entry%% *} path=${entry#* }
    case $BEFORE in '' | *" $inode "*) continue ;; esac
    case $found in *" $inode "*) [ ! -O "$path" ] || set -- "$@" "$path" ;; esac
done
[ $# = 0 ] || rm -f -- "$@"
[ -z "$FOLDER" ] || rm -rf -- "$FOLDER"
"""
# The kernel takes 128 KiB for one variable (MAX_ARG_STRLEN).
LONGEST_VARIABLE = 100_000


def ignore_signals() -> None:
    """Be deaf to what is meant for the supervisor."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)


def become_sentinel(
    keepers: int, *, inner: int | None, folder: str | None, before: Iterable[int], keep: Iterable[int]
) -> NoReturn:
    """Turn this process into a sentinel.

    Args:
        keepers: a pipe to read from: paths of files to be removed in the end, one a line; where it ends,
            supervisor and guardian are gone.
        inner: the process id of the inner sentinel, for the outer one.
        folder: to be removed in the end.
        before: inodes of the shared memory that is not the tree's, though it may have it mapped.
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
    inodes = f" {' '.join(map(str, before))} "
    env = {
        "PATH": path,
        "INNER": str(inner or ""),
        "FOLDER": folder or "",  # not among the arguments, for it has the project's name
        "DEVICE": device(),
        # Where these are too many it cannot tell them apart, and removes what it was told.
        "BEFORE": inodes if len(inodes) < LONGEST_VARIABLE else "",
    }
    os.execve("/bin/sh", ["sh", "-c", SCRIPT], env)

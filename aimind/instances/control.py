"""Telling instances to stop or to restart, and waiting until they have."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from aimind.errors import InstanceError
from aimind.instances import locks, look, records
from aimind.instances.claims import LOCK_PATIENCE_SECONDS, claims
from aimind.instances.look import Sight

POLL_SECONDS = 0.05
# For a supervisor to take over from `aimind serve`, or for the others to end the tree once it is killed.
HANDOVER_SECONDS = 5.0
# For those that watch to end the tree, which takes less than two seconds.
WATCHERS_SECONDS = 3.0
# Beyond the supervisor's own patience of twice `stop_seconds`.
EXTRA_SECONDS = 5.0


def send(name: str, number: signal.Signals) -> bool:
    """Send a signal to the process that holds the instance's lock; whether there was one.

    Where that process is gone and something of the instance still runs, TERM and KILL end this instead.

    Raises:
        InstanceError: its files do not say which process that is, or it is gone.
    """
    until = time.monotonic() + HANDOVER_SECONDS
    while True:
        sight = look.look(name)
        if not sight.running:
            return False
        lock = sight.folder / records.LOCK
        # Where the state is damaged, the lock itself tells who holds it.
        pid = sight.state.pid if sight.state is not None else _first_holder(lock)
        if pid is None and sight.problem is not None:
            raise sight.problem
        if pid is not None and _send(pid, number, lock):
            return True
        if time.monotonic() >= until:
            break
        time.sleep(POLL_SECONDS)  # it has just ended, or handed over to another
    if number not in (signal.SIGTERM, signal.SIGKILL):
        raise InstanceError(
            f"the supervisor of instance {name} has ended, but some of its processes are still running",
            hint=f"`aimind stop {name}` ends them",
        )
    end_holders(name)
    return True


def _send(pid: int, number: signal.Signals, lock: Path) -> bool:
    """Send it if the process has the lock's file open: its number may belong to another by now."""
    if sys.platform != "linux":
        if not locks.held(lock):
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            return True
        return False
    try:
        process = os.pidfd_open(pid)  # from here on the same process, whatever happens to its number
    except ProcessLookupError:
        return False
    try:
        if not locks.opened_by(pid, lock):
            return False
        signal.pidfd_send_signal(process, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(process)
    return True


def _holders(lock: Path) -> dict[int, int]:
    """The processes that hold the lock, and the parent of each; not those that only look at it."""
    import psutil

    if sys.platform != "linux":
        return {}
    return {
        process.pid: process.info["ppid"]
        for process in psutil.process_iter(["ppid"])
        if locks.held_by(process.pid, lock)
    }


def _first_holder(lock: Path) -> int | None:
    """The supervisor: of the holders the one that no other of them has started."""
    holders = _holders(lock)
    return next((pid for pid, parent in holders.items() if parent not in holders), None)


def end_holders(name: str) -> None:
    """End what is left of an instance whose supervisor is gone.

    Those that watch do that themselves unless they are stopped: then they go on. The innermost of those that
    do not end is killed, and the others see to what it leaves behind.
    """
    lock = records.instances_folder() / name / records.LOCK
    for pid in _holders(lock):
        _send(pid, signal.SIGCONT, lock)
    while not wait_until_ended(name, patience_seconds=WATCHERS_SECONDS):
        holders = _holders(lock)
        innermost = next((pid for pid in holders if pid not in holders.values()), None)
        if innermost is None:
            return
        _send(innermost, signal.SIGKILL, lock)


def wait_until_ended(name: str, *, patience_seconds: float) -> bool:
    """Wait until nothing of it runs; whether that came to pass."""
    lock = records.instances_folder() / name / records.LOCK
    until = time.monotonic() + patience_seconds
    while locks.held(lock):
        if time.monotonic() >= until:
            return False
        time.sleep(POLL_SECONDS)
    return True


def finish_stop(name: str) -> bool:
    """Wait until an instance that was told to stop has ended; whether it had to be killed.

    Raises:
        InstanceError: it cannot even be killed.
    """
    sight = look.look(name)
    stop_seconds = sight.instance.stop_seconds if sight.instance is not None else 0.0
    if wait_until_ended(name, patience_seconds=2 * stop_seconds + EXTRA_SECONDS):
        return False
    send(name, signal.SIGKILL)
    if not wait_until_ended(name, patience_seconds=WATCHERS_SECONDS):
        end_holders(name)
    if not wait_until_ended(name, patience_seconds=0):
        raise InstanceError(
            f"instance {name} was killed, but some of its processes are still running",
            hint="a process that waits for a device or a disk ends when that responds",
        )
    return True


def follow_start(name: str, is_new: Callable[[Sight], bool], *, changed: Callable[[Sight], None]) -> Sight:
    """Wait until the instance is ready or has ended, and tell each state on the way.

    `is_new` says whether a state is of the start that is waited for, not of what ran before.
    """
    told: tuple[str, str | None] | None = None
    while True:
        sight = look.look(name)
        if not sight.running:
            return sight
        if sight.state is not None and is_new(sight):
            now = sight.state.state, sight.state.phase
            if now != told:
                told = now
                changed(sight)
            if sight.state.state == "ready":
                return sight
        time.sleep(POLL_SECONDS)


def remove(name: str) -> None:
    """Remove all that is kept of an instance.

    Raises:
        InstanceError: it runs, or cannot be removed.
    """
    folder = look.look(name).folder
    with claims(wait=lambda: None):  # no starter may come to wait for a lock that is removed
        lock = locks.take(folder / records.LOCK, patience_seconds=LOCK_PATIENCE_SECONDS)
        if lock is None:
            raise InstanceError(f"instance {name} is running", hint=f"`aimind stop {name}` first, or --force")
        try:
            records.remove_folder(folder)
        finally:
            os.close(lock)

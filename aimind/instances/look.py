"""What instances there are, and how they are: read from their files, without waiting for anything."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from aimind.errors import InstanceError
from aimind.instances import locks, names, records
from aimind.types import ENDED, Instance, State, StateName

Record = TypeVar("Record", Instance, State)
# So many of those that have ended does `ps` show. Each start and each `ps` removes what a killed run of these
# has left, so that nothing is left of older ones.
MOST_RECENT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """An instance as it is found.

    Attributes:
        name: of its folder.
        running: its lock is held.
        instance, state: what its files say; `None` where they are damaged.
        problem: why they are.
        orphaned: its supervisor is gone, and something of it still runs.
    """

    name: str
    running: bool
    instance: Instance | None = None
    state: State | None = None
    problem: InstanceError | None = None
    orphaned: bool = False

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return records.instances_folder() / self.name

    @property
    def status(self) -> StateName | Literal["killed", "orphaned", "damaged"]:
        """Its state, or what its files do not say themselves."""
        if self.instance is None or self.state is None:
            return "damaged"
        if self.orphaned:
            return "orphaned"
        return self.state.state if self.running or self.state.state in ENDED else "killed"

    @property
    def has_ended(self) -> bool:
        """Whether nothing of the instance runs, and its records are readable."""
        return self.status in (*ENDED, "killed") and not self.running


@dataclass(frozen=True, slots=True)
class Listing:
    """The names of all instances.

    Attributes:
        running: those whose locks are held, in order.
        ended: the others, those that ended last first, with when that was in seconds since 1970: when their
            states were last written.
    """

    running: tuple[str, ...]
    ended: tuple[tuple[float, str], ...]

    def look(self, most_ended: int | None = None) -> tuple[Sight, ...]:
        """The running instances and the most recently ended ones, by name; only their records are read."""
        chosen = [*self.running, *(name for _, name in self.ended[:most_ended])]
        found = [sight for name in chosen if (sight := _look(name)) is not None]
        return tuple(sorted(found, key=lambda sight: (not sight.running, sight.name)))


def listing() -> Listing:
    """All instances, by their locks alone: no record is read."""
    running: list[str] = []
    ended: list[tuple[float, str]] = []
    for name in all_names():
        folder = records.instances_folder() / name
        if _is_running(folder):
            running.append(name)
        else:
            ended.append((_written(folder), name))
    return Listing(tuple(running), tuple(sorted(ended, reverse=True)))


def everything() -> tuple[Sight, ...]:
    """All instances, those that run first, by name."""
    return listing().look()


def living() -> tuple[Sight, ...]:
    """The running instances."""
    return tuple(sight for sight in listing().look(most_ended=0) if sight.running)


def _is_running(folder: Path) -> bool:
    try:
        return locks.held(folder / records.LOCK)
    except InstanceError:
        return False


def _written(folder: Path) -> float:
    """When its state was last written; now where that cannot be seen, so that it counts as new."""
    try:
        return (folder / records.STATE).lstat().st_mtime
    except OSError:
        return time.time()


def all_names() -> tuple[str, ...]:
    """The names of all instances, sorted."""
    if sys.platform == "win32":  # nothing is served there
        return ()
    records.check_to_look()
    folder = records.instances_folder()
    try:
        found = [each.name for each in folder.iterdir() if names.good(each.name)]
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as problem:
        raise records.unreadable(folder, problem) from problem
    return tuple(sorted(found))


def look(name: str) -> Sight:
    """The instance of this name.

    Raises:
        InstanceError: there is none.
    """
    records.check_to_look()
    if names.good(name) and (sight := _look(name)) is not None:
        return sight
    raise InstanceError(f"there is no instance {name}", hint="`aimind ps -a` lists all instances")


def _look(name: str) -> Sight | None:
    """The instance; `None` before its first claim is written, and once it is removed.

    The lock is looked at first: what a state says after that is the last that it said.
    """
    folder = records.instances_folder() / name
    try:
        running = locks.held(folder / records.LOCK)
    except InstanceError as problem:
        return Sight(name=name, running=False, problem=problem)
    instance = _or_problem(records.read_instance, folder)
    state = _or_problem(records.read_state, folder)
    if instance is None:
        return None
    if state is None:
        state = records.damaged(folder / records.STATE, "it is missing")
    problems = [each for each in (instance, state) if isinstance(each, InstanceError)]
    return Sight(
        name=name,
        running=running,
        instance=None if isinstance(instance, InstanceError) else instance,
        state=None if isinstance(state, InstanceError) else state,
        problem=problems[0] if problems else None,
        orphaned=running and isinstance(state, State) and _is_gone(state, folder),
    )


def _is_gone(state: State, folder: Path) -> bool:
    """Whether the process that wrote the state has ended; while it prepares, another may take over."""
    process = Path(f"/proc/{state.pid}")
    if state.state == "preparing" or state.state in ENDED or sys.platform != "linux":
        return False
    if process.exists() and not os.access(process / "fd", os.R_OK):  # another user's
        return False
    return not locks.opened_by(state.pid, folder / records.LOCK)


def _or_problem(read: Callable[[Path], Record], folder: Path) -> Record | InstanceError | None:
    """The record, or what is wrong with it; nothing where there is none."""
    try:
        return read(folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except InstanceError as problem:
        return problem

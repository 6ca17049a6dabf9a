"""What instances there are, and how they are: read from their files, without waiting for anything."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from aimind.errors import InstanceError
from aimind.instances import locks, names, records
from aimind.types import ENDED, Instance, State, StateName

Record = TypeVar("Record", Instance, State)


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


def everything() -> tuple[Sight, ...]:
    """All instances, those that run first, by name."""
    found = [sight for name in all_names() if (sight := _look(name)) is not None]
    return tuple(sorted(found, key=lambda sight: (not sight.running, sight.name)))


def living() -> tuple[Sight, ...]:
    """Those that run."""
    return tuple(sight for sight in everything() if sight.running)


def all_names() -> tuple[str, ...]:
    """Of all instances, in order."""
    if sys.platform == "win32":  # nothing is served there
        return ()
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
    if names.good(name) and (sight := _look(name)) is not None:
        return sight
    raise InstanceError(f"there is no instance {name}", hint="`aimind ps` shows those that are here")


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
        state = records.damaged(folder / records.STATE, "it is not there")
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

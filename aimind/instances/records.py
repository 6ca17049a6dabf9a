"""The files of an instance: `instance.json` and `state.json`, each whole or not at all.

They lie below the state folder, `AIMIND_STATE_DIR` or where the platform keeps such things:

    claims.lock             held while a plan is made and its claim is written
    instances/NAME/lock     held for as long as anything of the instance runs
    instances/NAME/instance.json, state.json, logs/
    instances/NAME/files/   what the command brings along, where it does
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar, get_args

from aimind.errors import InstanceError
from aimind.ownership import risk
from aimind.regular import NotRegularError, read_regular
from aimind.types import Claim, Instance, State, StateName

INSTANCE, STATE, LOCK, LOGS = "instance.json", "state.json", "lock", "logs"


def state_folder() -> Path:
    """The user's state folder of aimind, there or not."""
    if chosen := os.environ.get("AIMIND_STATE_DIR"):
        return Path(chosen).absolute()
    from platformdirs import user_state_path

    return user_state_path("aimind")


def instances_folder() -> Path:
    """The folder of all instances, there or not."""
    return state_folder() / "instances"


def scratch(name: str) -> str:
    """The folder of an instance for files that its command brings along."""
    return str(instances_folder() / name / "files")


@contextlib.contextmanager
def writing(what: Path) -> Iterator[None]:
    """Turn what the system says against writing below the state folder into an error.

    Raises:
        InstanceError: it cannot be written.
    """
    try:
        yield
    except OSError as problem:
        raise InstanceError(
            f"{what} cannot be written: {problem.strerror}",
            hint="aimind keeps its instances there: make room or grant access, or set AIMIND_STATE_DIR "
            "to another folder",
        ) from problem


def make_folder(folder: Path) -> None:
    """Make the folder and those above it, for this user alone.

    Raises:
        InstanceError: it cannot be made.
    """
    with writing(folder):
        for each in reversed([folder, *folder.parents]):
            if not each.is_dir():
                each.mkdir(mode=0o700, exist_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove an instance's folder. The caller holds its lock, and nobody can make a claim.

    Raises:
        InstanceError: it cannot be removed.
    """
    import shutil

    removed = folder.with_name(f".{folder.name}.removed")  # no instance's name: it is gone at once
    with writing(folder):
        if removed.is_symlink() or (removed.exists() and not removed.is_dir()):
            removed.unlink()
        elif removed.exists():
            shutil.rmtree(removed)
        folder.rename(removed)
        shutil.rmtree(removed)


def check_own(folder: Path) -> None:
    """Find out that nobody else can change what is kept in the folder: instances are started by it.

    Raises:
        InstanceError: somebody can.
    """
    found = risk(folder)
    if found is not None:
        raise InstanceError(
            f"{found.sentence}: other users could change what aimind starts",
            hint=f"`{found.command}`, or set AIMIND_STATE_DIR to another folder",
        )


def check_to_look() -> None:
    """The same for whoever only looks at instances, or ends them; root may look at those of others.

    Raises:
        InstanceError: others could make us believe and signal what they want.
    """
    if os.name != "nt" and os.geteuid() != 0:
        check_own(state_folder())
        check_own(instances_folder())


def write(path: Path, record: Instance | State) -> None:
    """Put the record in the place of the old one, which is there until then.

    Raises:
        InstanceError: it cannot be written; the old one is still there.
    """
    text = json.dumps(dataclasses.asdict(record), ensure_ascii=False, indent=1)
    unfinished = path.with_name(f"{path.name}.new")  # one writer: the holder of the instance's lock
    with writing(path):
        unfinished.unlink(missing_ok=True)  # it may be a pipe, which would be waited for
        try:
            fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise


def read_instance(folder: Path) -> Instance:
    """What `instance.json` says.

    Raises:
        FileNotFoundError: there is none.
        InstanceError: it is damaged, or cannot be read.
    """
    path = folder / INSTANCE
    values = _values(path)
    claim = values.get("claim")
    if not isinstance(claim, dict):
        raise damaged(path, "it has no claim")
    return _checked(Instance, {**values, "claim": _checked(Claim, claim, path)}, path)


def read_state(folder: Path) -> State:
    """Read `state.json`.

    Raises:
        FileNotFoundError: there is none.
        InstanceError: it is damaged, or cannot be read.
    """
    path = folder / STATE
    return _checked(State, _values(path), path)


def _values(path: Path) -> dict[str, object]:
    """The JSON object in the file."""
    try:
        data = read_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except NotRegularError as problem:
        raise damaged(path, "it is not a file") from problem
    except OSError as problem:
        raise unreadable(path, problem) from problem
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as problem:
        raise damaged(path, "it is not a JSON document") from problem
    if not isinstance(values, dict):
        raise damaged(path, "it is not a JSON object")
    return values


def unreadable(path: Path, problem: OSError) -> InstanceError:
    """The error for a record that the system does not let aimind read."""
    return InstanceError(
        f"{path} cannot be read: {problem.strerror}", hint="set AIMIND_STATE_DIR to another folder"
    )


def damaged(path: Path, why: str) -> InstanceError:
    """The error for a record that is not valid."""
    name = path.parent.name
    return InstanceError(f"{path} is damaged: {why}", hint=f"`aimind remove {name}` removes it")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_bytes_by_name(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_whole, value.values()))


# Checks by the annotations of the records.
_KINDS: Mapping[str, Callable[[object], bool]] = {
    "str": lambda value: isinstance(value, str),
    "str | None": lambda value: value is None or isinstance(value, str),
    "bool": lambda value: isinstance(value, bool),
    "int": _is_whole,
    "int | None": lambda value: value is None or _is_whole(value),
    "float": _is_number,
    "float | None": lambda value: value is None or _is_number(value),
    "Mapping[str, int]": _is_bytes_by_name,
    "tuple[str, ...]": lambda value: isinstance(value, list) and all(isinstance(v, str) for v in value),
    "StateName": lambda value: value in get_args(StateName),
    "Claim": lambda value: isinstance(value, Claim),
}

Kind = TypeVar("Kind", Instance, State, Claim)


def _checked(kind: type[Kind], values: Mapping[str, object], path: Path) -> Kind:
    """The record with these values; what it does not know, a newer aimind may have written."""
    found: dict[str, object] = {}
    for field in dataclasses.fields(kind):
        if field.name not in values:
            if field.default is dataclasses.MISSING:
                raise damaged(path, f"it has no {field.name}")
            continue
        value = values[field.name]
        if not _KINDS[str(field.type)](value):
            raise damaged(path, f"{field.name} is not of type {field.type}")
        found[field.name] = tuple(value) if isinstance(value, list) else value
    return kind(**found)  # type: ignore[arg-type]

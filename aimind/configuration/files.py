"""Which files hold the user's configuration, and whether they can be trusted."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from aimind.errors import UsageError

if TYPE_CHECKING:
    from aimind.configuration.values import Text

NAME = "aimind.toml"
VARIABLE = "AIMIND_CONFIG"  # names a file instead of that in the user's folder
LONGEST_BYTES = 1 << 16


def user_file() -> Path:
    """The user's own, there or not."""
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen).absolute()
    from platformdirs import user_config_path

    return user_config_path("aimind") / NAME


def are_there() -> bool:
    """Whether there is any file to be read, or should be."""
    return bool(os.environ.get(VARIABLE)) or any(os.path.lexists(each) for each in (user_file(), NAME))


def read() -> tuple[Text, ...]:
    """The files that there are, the weakest first.

    Raises:
        UsageError: the user's own cannot be read, or `AIMIND_CONFIG` names none.
    """
    from aimind.configuration.values import Text

    own, here = user_file(), Path(NAME)
    found = []
    try:
        found.append(Text(str(own), own.parent, _read(own)))
    except (FileNotFoundError, NotADirectoryError):
        if os.environ.get(VARIABLE):
            raise UsageError(
                f"{own}, which {VARIABLE} names, does not exist", hint=f"create it, or unset {VARIABLE}"
            ) from None
    except (OSError, ValueError) as problem:
        raise UsageError(
            f"{own} cannot be read: {_why(problem)}", hint="check its permissions and its encoding"
        ) from None
    same = False
    with contextlib.suppress(OSError):
        same = own.samefile(here)
    if not same and os.path.lexists(here):
        found.append(_here(here))
    return tuple(found)


def read_file(path: Path) -> Text:
    """The file that the user names to allow it.

    Raises:
        UsageError: it cannot be read, or others can write it.
    """
    from aimind.configuration.values import Text

    try:
        return Text(str(path), path.absolute().parent, _read(path, only_trusted=True), here=True)
    except (OSError, ValueError) as problem:
        raise UsageError(
            f"{path} cannot be read: {_why(problem)}", hint="name a file that you can read"
        ) from None


def _here(path: Path) -> Text:
    """Read the file in the current folder, which may come from anybody."""
    from aimind.configuration.values import Text

    shown, folder = f"./{path}", Path.cwd()
    try:
        return Text(shown, folder, _read(path, only_trusted=True), here=True)
    except (OSError, ValueError) as problem:
        return Text(shown, folder, here=True, problem=_why(problem))


def _why(problem: OSError | ValueError) -> str:
    return problem.strerror or "" if isinstance(problem, OSError) else str(problem)


def _read(path: Path, *, only_trusted: bool = False) -> str:
    """Read the file.

    Raises:
        OSError: the system does not let it be read.
        ValueError: it is no such file, or not to be trusted, as a sentence.
    """
    # O_NONBLOCK: opening a pipe must not wait for its other end.
    with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a file")
        if only_trusted:
            _check_owner(path.lstat())
            _check_owner(status)
            if status.st_mode & stat.S_IWOTH:
                raise ValueError("every user can write to it: chmod o-w aimind.toml")
        content = file.read(LONGEST_BYTES + 1)
    if len(content) > LONGEST_BYTES:
        raise ValueError(f"it is longer than {LONGEST_BYTES >> 10} KiB")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None


def _check_owner(status: os.stat_result) -> None:
    """Refuse a file that another user owns, for the current folder may be world-writable."""
    if sys.platform == "win32":
        return
    trusted = {os.geteuid(), 0}
    if os.geteuid() == 0:  # by sudo in a folder of the user's own, as git does
        with contextlib.suppress(ValueError):
            trusted.add(int(os.environ.get("SUDO_UID", "")))
    if status.st_uid not in trusted:
        raise ValueError(f"it belongs to another user ({status.st_uid}), so it is not trusted")

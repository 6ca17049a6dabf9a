"""What every source of models shares: reports of progress, and names that are safe to use as paths."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Protocol

from aimind import redaction
from aimind.errors import HubError
from aimind.types import File

LONGEST_PATH = 1024
LONGEST_NAME_BYTES = 255  # of one file or folder, on every usual file system
_TRUE = {"1", "ON", "YES", "TRUE"}


class Progress(Protocol):
    """Receives the progress of a download. `advance` and `wait` are called from several threads at once."""

    def start(self, sizes: Mapping[str, int]) -> None:
        """Begin the download of these files; the values are sizes in bytes."""

    def advance(self, path: str, count_bytes: int) -> None:
        """Count bytes of the file; negative where its download began again."""

    def wait(self, path: str) -> None:
        """Report that another program is downloading this file, and that aimind waits for it."""

    def finish(self) -> None:
        """Report the end of the download, successful or not. Called once after every `start`."""


def is_offline() -> bool:
    """Whether the user wants no hub (`--offline`, `HF_HUB_OFFLINE`, `TRANSFORMERS_OFFLINE`)."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in _TRUE


def go_offline() -> None:
    """Use no network from now on."""
    os.environ["HF_HUB_OFFLINE"] = "1"


def checked_token(token: str, *, where: str, login: str) -> str:
    """The token, once it is known that a header can hold it; it is removed from all messages from now on.

    `where`: the variable or the file that it is from; `login`: how to get another.

    Raises:
        HubError: it has a space, a line break or a character that is not ASCII.
    """
    redaction.remember(token)
    for position, character in enumerate(token, start=1):
        if not "!" <= character <= "~" or character == ";":
            raise HubError(
                f"the token in {where} cannot be sent: character {position} of {len(token)} is "
                f"{_described(character)}, and a token contains only ASCII letters, digits and punctuation",
                hint=f"Copy the token again, without spaces and quotes around it; or {login}.",
            )
    return token


def _described(character: str) -> str:
    """What kind of character it is, without showing it."""
    if character in "\r\n":
        return "a line break"
    if character.isspace():
        return "a space"
    if character == ";":
        return "a semicolon"
    return "a control character" if ord(character) < 128 and not character.isprintable() else "not ASCII"


def checked_path(path: object, *, of: str) -> str:
    """The path of a file inside a repository, once it is known to stay inside it.

    Raises:
        HubError: absolute, leading outside, or with characters or lengths that no repository needs.
    """
    if (
        not isinstance(path, str)
        or not 0 < len(path) <= LONGEST_PATH
        or not path.isprintable()
        or "\\" in path
        or path[1:2] == ":"
        or any(not _is_name(name) for name in path.split("/"))
    ):
        raise _unsafe(of, f"a file with an unsafe name: {_shown(path)}")
    return path


def checked_files(files: Iterable[File], *, of: str) -> tuple[File, ...]:
    """The files, once it is known that all of them can lie in one folder.

    Raises:
        HubError: two have one name, or one is a folder of another.
    """
    by_path: dict[str, File] = {}
    for file in files:
        if file.path in by_path:
            raise _unsafe(of, f"a file twice: {_shown(file.path)}")
        by_path[file.path] = file
    for path in by_path:
        for parent in PurePosixPath(path).parents:
            if str(parent) in by_path:
                raise _unsafe(of, f"a file that is also a folder: {_shown(str(parent))}")
    return tuple(by_path.values())


def same_on_this_disk(files: Iterable[File]) -> tuple[str, str] | None:
    """Two names that a file system takes for one, where it does not tell capitals from small letters."""
    seen: dict[str, str] = {}
    for file in files:
        other = seen.setdefault(file.path.casefold(), file.path)
        if other != file.path:
            return other, file.path
    return None


def _is_name(name: str) -> bool:
    return name not in {"", ".", ".."} and len(name.encode(errors="replace")) <= LONGEST_NAME_BYTES


def _shown(path: object) -> str:
    shown = repr(path)
    return shown if len(shown) <= 120 else shown[:120] + "…"


def _unsafe(of: str, what: str) -> HubError:
    return HubError(f"{of} lists {what}", hint="Do not use this repository, or report it to the hub.")

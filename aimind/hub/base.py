"""What every source of models shares: the progress that is told, and names that are safe to use as paths."""

from __future__ import annotations

from typing import Protocol

from aimind.errors import HubError

LONGEST_PATH = 1024
LONGEST_NAME_BYTES = 255  # of one file or folder, on every usual file system


class Progress(Protocol):
    """Is told how a download goes on. `advance` is called from several threads at once."""

    def start(self, total_bytes: int, files: int) -> None:
        """Something must be downloaded: so many bytes, in so many files."""

    def advance(self, path: str, count_bytes: int) -> None:
        """So many more bytes of the file are here; fewer than none where it had to begin again."""

    def finish(self) -> None:
        """The download ended, well or not. Called once after every `start`."""


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
        shown = repr(path)
        shown = shown if len(shown) <= 120 else shown[:120] + "…"
        raise HubError(
            f"{of} lists a file with an unsafe name: {shown}",
            hint="Do not use this repository, or tell the hub about it.",
        )
    return path


def _is_name(name: str) -> bool:
    return name not in {"", ".", ".."} and len(name.encode(errors="replace")) <= LONGEST_NAME_BYTES

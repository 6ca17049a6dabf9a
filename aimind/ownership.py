"""Whether other users could change or read what is kept here: programs are started by it."""

from __future__ import annotations

import os
import shlex
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

_ROOT = 0


@dataclass(frozen=True, slots=True)
class Risk:
    """Why a folder is not safe, as a sentence, and the command that mends it."""

    sentence: str
    command: str


def risk(folder: Path) -> Risk | None:
    """Whether others could change what is in the folder; `None` where they cannot, or there is none.

    Root's folders are safe for everybody: root can change anything anyway.
    """
    if sys.platform == "win32":
        return None
    try:
        found = folder.stat()
    except OSError:  # whoever uses it finds out
        return None
    shown = shlex.quote(str(folder))
    if found.st_uid not in (os.geteuid(), _ROOT):
        return Risk(f"{folder} belongs to another user ({found.st_uid})", f"chown -R $(id -un) {shown}")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        who = "everybody" if found.st_mode & stat.S_IWOTH else "its group"
        return Risk(f"{folder} can be written by {who}", f"chmod -R go-w {shown}")
    return None


def is_closed(folder: Path) -> bool:
    """Whether nobody else reaches what is below the folder."""
    return folder.stat().st_mode & (stat.S_IXGRP | stat.S_IXOTH) == 0


def readable_by_others(file: Path) -> str | None:
    """A warning where others can read a file that holds a secret."""
    if sys.platform == "win32":
        return None
    try:
        mode = file.stat().st_mode
    except OSError:  # whoever reads it finds out
        return None
    if not stat.S_ISREG(mode) or not mode & (stat.S_IRGRP | stat.S_IROTH):
        return None
    return f"{file} holds a secret, and other users can read it: chmod go-r {shlex.quote(str(file))}"

"""Values of the configuration, and where each was set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Setting:
    """A value as the option takes it (a flag is true or false), and where it was set: `./aimind.toml:3`."""

    value: object
    where: str


@dataclass(frozen=True, slots=True)
class Text:
    """A file that there is.

    Attributes:
        path: as it is shown: that in the current folder is `./aimind.toml`.
        folder: that relative paths in it start from.
        text: what it says; empty where it is not heard.
        here: it is that of the current folder.
        problem: why it is not heard, as a sentence.
    """

    path: str
    folder: Path
    text: str = ""
    here: bool = False
    problem: str | None = None

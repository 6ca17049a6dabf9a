"""A value, and where it was said."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Said:
    """A value as the option takes it (a flag is true or false), and where it was said: `./aimind.toml:3`."""

    value: object
    where: str

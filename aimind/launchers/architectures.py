"""The architectures that a version of a backend can load.

An installed backend is asked (`Registry`, `aimind.environments.models`). Of the versions that aimind
installs, the folder `known` has tables: `python -m scripts.architectures` reads them from the real packages.
"""

from __future__ import annotations

import functools
import os

from aimind.types import Backend

_FOLDER = os.path.join(os.path.dirname(__file__), "known")  # noqa: PTH118, PTH120 - pathlib is slow to import


def known(backend: Backend, table: str) -> frozenset[str] | None:
    """The architectures of a backend: as it was asked, or else of a table; `None` where neither is there."""
    return shipped(table) if backend.architectures is None else backend.architectures


@functools.cache
def shipped(table: str) -> frozenset[str] | None:
    """The architectures of a table (`vllm-0.32.0`) and of those that it includes; `None` if there is none."""
    try:
        with open(os.path.join(_FOLDER, f"{table}.txt"), encoding="utf-8") as file:  # noqa: PTH118, PTH123
            lines = file.read().splitlines()
    except FileNotFoundError:
        return None
    names: set[str] = set()
    for line in lines:
        if line.startswith("+"):
            names |= shipped(line[1:]) or frozenset()
        elif not line.startswith("#"):
            names.update(line.split())
    return frozenset(names)

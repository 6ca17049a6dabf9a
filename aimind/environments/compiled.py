"""The code that backends compile for models: in their environments, so that it goes when they go.

A mark for each configuration is written when a start with it was ready (aimind/supervisor/loop.py), never
earlier: a start that was ended while it compiled leaves none.
"""

from __future__ import annotations

import os
from pathlib import Path

from aimind.types import Backend, CompileCache

_MARK = "aimind-"


def cache(backend: Backend, below: str) -> CompileCache | None:
    """Where an environment's backend keeps its code; `None` where nothing can be written.

    Args:
        backend: of an environment, there or not.
        below: the folder in the cache without which no code is left: it holds the marks, too.
    """
    environment = Path(backend.executable).parent.parent
    if backend.installed and not os.access(environment, os.W_OK):
        return None
    folder = environment / "compiled"
    try:
        names = [path.name for path in (folder / below).iterdir()]
    except OSError:
        names = []
    keys = frozenset(name.removeprefix(_MARK) for name in names if name.startswith(_MARK))
    return CompileCache(folder=str(folder), marks=str(folder / below / _MARK), keys=keys)

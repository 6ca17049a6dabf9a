"""The operations that a compiled library of an installed backend has: read once, then remembered.

Loading vLLM's to ask PyTorch takes seconds and could end the process; the text with which an operation is
registered, `name(Tensor input, …`, stands in the file.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from aimind.environments.flags import remember
from aimind.regular import read_regular
from aimind.types import Backend

_CHUNK_BYTES = 16 << 20


def operations(backend: Backend, file: str, names: tuple[str, ...]) -> frozenset[str] | None:
    """The names that the library registers; `None` where there is no such file.

    Args:
        backend: in an environment of its own.
        file: the library, below the site-packages.
        names: of operations, without their namespace.
    """
    environment = Path(backend.executable).parent.parent
    library = next(environment.glob(f"lib/python3*/site-packages/{file}"), None)
    if library is None:
        return None
    memory = environment / f"operations-{library.name}.json"
    status = library.stat()
    stamp = [backend.version, list(names), status.st_mtime_ns, status.st_size]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # it only saves a third of a second
        remembered = json.loads(read_regular(memory))
        if remembered["of"] == stamp:
            return frozenset(map(str, remembered["operations"]))
    try:
        found = _registered(library, names)
    except OSError:
        return None
    remember(memory, {"of": stamp, "operations": sorted(found)})
    return found


def _registered(library: Path, names: tuple[str, ...]) -> frozenset[str]:
    schemas = {name: f"{name}(".encode() for name in names}
    overlap = max(map(len, schemas.values()), default=0)
    found: set[str] = set()
    end = b""
    with library.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            chunk = end + chunk
            found |= {name for name, schema in schemas.items() if name not in found and schema in chunk}
            end = chunk[-overlap:]
    return frozenset(found)

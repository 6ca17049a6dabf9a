"""Backends that the user has installed: programs on PATH, and which version they are."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

from aimind.environments.folders import data_folder, make_folder
from aimind.regular import read_regular
from aimind.types import Backend, Program


def find(backend: str, program: Program, *, patience_seconds: float = 10.0) -> tuple[Backend, ...]:
    """The first of the program's names that is on PATH: what it says of itself, or why it cannot be used.

    It is run to learn its version and whether it sees devices, which is then remembered until the file
    changes. A problem is not.
    """
    on_path = [found for name in program.names if (found := shutil.which(name))]
    if not on_path:
        return ()
    path = Path(on_path[0]).absolute()
    status = path.stat()
    # What a build sees depends on what it may see.
    visible = [os.environ.get(name, "all") for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")]
    key = f"{path} {status.st_mtime_ns} {status.st_size} {' '.join(visible)}"
    known = _remembered()
    if key not in known:
        from aimind.environments.ask import ask  # only what starts a program needs what is imported there

        answer = ask(path, program, patience_seconds=patience_seconds)
        if isinstance(answer, str):
            return (Backend(name=backend, version="unknown", executable=str(path), problem=answer),)
        known[key] = answer
        stale = [other for other in known if other.startswith(f"{path} ") and other != key]
        _remember({other: said for other, said in known.items() if other not in stale})
    said = known[key]
    return (
        Backend(
            name=backend,
            version=said["version"],
            executable=str(path),
            sees_devices=said["devices"] != "none",
        ),
    )


def _remembered() -> dict[str, dict[str, str]]:
    """Path, modification time, size and visible devices of programs -> what they said."""
    try:
        known = json.loads(read_regular(data_folder() / "programs.json"))
        return {key: {"version": said["version"], "devices": said["devices"]} for key, said in known.items()}
    except (OSError, ValueError, AttributeError, KeyError, TypeError):  # it only saves a moment
        return {}


def _remember(programs: dict[str, dict[str, str]]) -> None:
    import tempfile

    with contextlib.suppress(OSError):  # a folder that cannot be written costs a moment each time
        make_folder(data_folder())
        with tempfile.NamedTemporaryFile("w", dir=data_folder(), delete=False) as file:
            json.dump(programs, file, indent=2)
        Path(file.name).replace(data_folder() / "programs.json")

"""Backends that the user has installed: programs on PATH, and which version they are."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from aimind.environments.folders import data_folder
from aimind.types import Installed, Program


def find(backend: str, program: Program, *, patience_seconds: float = 10.0) -> tuple[Installed, ...]:
    """The first of the program's names that is on PATH: its version, or the problem why it cannot be used.

    It is run to learn the version, which is then remembered until the file changes. A problem is not.
    """
    on_path = [found for name in program.names if (found := shutil.which(name))]
    if not on_path:
        return ()
    path = Path(on_path[0]).absolute()
    status = path.stat()
    key = f"{path} {status.st_mtime_ns} {status.st_size}"
    known = _remembered()
    if key in known:
        return (Installed(backend=backend, version=known[key], executable=str(path)),)
    try:
        version = _version(path, program, patience_seconds)
    except (OSError, subprocess.SubprocessError) as error:
        return (
            Installed(
                backend=backend, version="unknown", executable=str(path), problem=_problem(path, error)
            ),
        )
    _remember({k: v for k, v in known.items() if not k.startswith(f"{path} ")} | {key: version})
    return (Installed(backend=backend, version=version, executable=str(path)),)


def _version(path: Path, program: Program, patience_seconds: float) -> str:
    done = subprocess.run(
        [path, *program.version_args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=patience_seconds,
        check=True,
    )
    match = re.search(program.version_pattern, done.stdout.decode(errors="replace"))
    return match.group(1) if match else "unknown"


def _problem(path: Path, error: Exception) -> str:
    match error:
        case subprocess.TimeoutExpired():
            return f"{path} does not say its version within {error.timeout:g} seconds"
        case subprocess.CalledProcessError():
            said = (error.stdout or b"").decode(errors="replace").strip().splitlines()
            ending = (
                f"exit code {error.returncode}" if error.returncode > 0 else f"signal {-error.returncode}"
            )
            return f"{path} cannot be run: {said[-1] if said else ending}"
        case OSError():
            return f"{path} cannot be run: {error.strerror}"
        case _:
            return f"{path} cannot be run: {error}"


def _remembered() -> dict[str, str]:
    """Path, modification time and size of programs -> their version."""
    try:
        return dict(json.loads((data_folder() / "programs.json").read_bytes()))
    except (OSError, ValueError):  # it only saves a moment
        return {}


def _remember(versions: dict[str, str]) -> None:
    with contextlib.suppress(OSError):  # a folder that cannot be written costs a moment each time
        data_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=data_folder(), delete=False) as file:
            json.dump(versions, file, indent=2)
        Path(file.name).replace(data_folder() / "programs.json")

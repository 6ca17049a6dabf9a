"""Backends that the user has installed: programs on PATH, and which version they are."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from aimind.environments.folders import data_folder
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
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    key = f"{path} {status.st_mtime_ns} {status.st_size} {visible}"
    known = _remembered()
    if key not in known:
        try:
            known[key] = _ask(path, program, patience_seconds)
        except (OSError, subprocess.SubprocessError) as error:
            problem = _problem(path, error)
            return (Backend(name=backend, version="unknown", executable=str(path), problem=problem),)
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


def _ask(path: Path, program: Program, patience_seconds: float) -> dict[str, str]:
    """What is remembered of a program: its version, and whether it names devices (`some`, `none`)."""
    match = re.search(program.version_pattern, _output(path, program.version_args, patience_seconds))
    devices = "some"
    if program.devices_args:
        named = _output(path, program.devices_args, patience_seconds)
        devices = "some" if re.search(program.devices_pattern, named, re.MULTILINE) else "none"
    return {"version": match.group(1) if match else "unknown", "devices": devices}


def _output(path: Path, arguments: tuple[str, ...], patience_seconds: float) -> str:
    done = subprocess.run(
        [path, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=patience_seconds,
        check=True,
    )
    return done.stdout.decode(errors="replace")


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


def _remembered() -> dict[str, dict[str, str]]:
    """Path, modification time, size and visible devices of programs -> what they said."""
    try:
        known = json.loads((data_folder() / "programs.json").read_bytes())
        return {key: {"version": said["version"], "devices": said["devices"]} for key, said in known.items()}
    except (OSError, ValueError, AttributeError, KeyError, TypeError):  # it only saves a moment
        return {}


def _remember(programs: dict[str, dict[str, str]]) -> None:
    with contextlib.suppress(OSError):  # a folder that cannot be written costs a moment each time
        data_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=data_folder(), delete=False) as file:
            json.dump(programs, file, indent=2)
        Path(file.name).replace(data_folder() / "programs.json")

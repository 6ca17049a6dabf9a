"""Runs a program to learn its version and devices."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from aimind.types import Program, public


def ask(path: Path, program: Program, *, patience_seconds: float) -> dict[str, str] | str:
    """Its version, and whether it names devices (`some`, `none`); or why it cannot be used, as a sentence."""
    try:
        return _answers(path, program, patience_seconds)
    except (OSError, subprocess.SubprocessError) as error:
        return _problem(path, error)


def _answers(path: Path, program: Program, patience_seconds: float) -> dict[str, str]:
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
        env=public(os.environ),
    )
    return done.stdout.decode(errors="replace")


def _problem(path: Path, error: Exception) -> str:
    match error:
        case subprocess.TimeoutExpired():
            return f"{path} did not report its version within {error.timeout:g} seconds"
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

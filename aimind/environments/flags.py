"""The flags of an installed backend, by its own help: asked for once, then remembered."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

from aimind.environments.folders import data_folder, make_folder
from aimind.regular import read_regular
from aimind.types import Backend, Help, Package, Program, public

# Importing vLLM takes eight seconds, from a cold disk a minute; llama-server answers in a tenth.
PATIENCE_SECONDS = 180.0
QUICK_PATIENCE_SECONDS = 10.0
# An option's line is indented by two at most (argparse, click), its description by more.
_OPTION = re.compile(r" {0,2}(-.*)")
_FLAG = re.compile(r"(?<![\w-])--?[A-Za-z][\w.-]*")
_COLUMN = re.compile(r"\s{2,}")


def remembered(backend: Backend, source: Package | Program, how: Help) -> frozenset[str] | None:
    """The remembered flags; `None` if the backend was not asked, or has changed since."""
    try:
        said = json.loads(read_regular(_memory(backend, source)))
        return frozenset(map(str, said["flags"])) if said["of"] == _stamp(backend, how) else None
    except (OSError, ValueError, KeyError, TypeError):  # it only saves some seconds
        return None


def ask(
    backend: Backend, source: Package | Program, how: Help, *, patience_seconds: float | None = None
) -> frozenset[str] | None:
    """Ask the backend for its flags and remember them; `None` if it does not list them."""
    patience_seconds = patience_seconds or (QUICK_PATIENCE_SECONDS if how.quick else PATIENCE_SECONDS)
    try:
        done = subprocess.run(
            [backend.executable, *how.args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=patience_seconds,
            check=True,
            cwd=os.path.abspath(os.sep),  # noqa: PTH100 - else Python would take modules from where we are
            env=_environment(),
        )
    except (OSError, subprocess.SubprocessError):
        return None
    flags = parse(done.stdout.decode(errors="replace"))
    if not flags:
        return None
    remember(_memory(backend, source), {"of": _stamp(backend, how), "flags": sorted(flags)})
    return flags


def parse(text: str) -> frozenset[str]:
    """The flags of a help as argparse, click and llama.cpp print it: columns, the flags in the first ones."""
    found: set[str] = set()
    for line in text.splitlines():
        option = _OPTION.fullmatch(line)
        # llama.cpp: `-t,    --threads N      number of threads`
        for column in _COLUMN.split(re.sub(r",\s+", ", ", option[1])) if option else ():
            if not column.startswith("-"):
                break
            found |= set(_FLAG.findall(column))
    return frozenset(found)


def _environment() -> dict[str, str]:
    """The environment for a program that only prints its help."""
    kept = {name: value for name, value in public(os.environ).items() if not name.startswith("PYTHON")}
    return {**kept, "COLUMNS": "200", "HF_HUB_OFFLINE": "1"}


def _memory(backend: Backend, source: Package | Program) -> Path:
    """The file that remembers: in the environment, or for a program of the user's in the data folder."""
    if isinstance(source, Package):
        return Path(backend.executable).parent.parent / "flags.json"
    return data_folder() / f"flags-{backend.name}.json"


def _stamp(backend: Backend, how: Help) -> list[list[str | int]]:
    """What was asked, with the time and size of what is a file: another one may have other flags."""
    return [[backend.version], *map(_dated, (backend.executable, *how.args))]


def _dated(word: str) -> list[str | int]:
    try:
        status = os.stat(word)  # noqa: PTH116 - most are no paths
    except OSError:
        return [word]
    return [word, status.st_mtime_ns, status.st_size]


def remember(path: Path, said: dict[str, object]) -> None:
    """Store the flags, if the folder can be written."""
    with contextlib.suppress(OSError):  # a folder that cannot be written costs some seconds each time
        make_folder(path.parent)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            json.dump(said, file)
        Path(file.name).replace(path)

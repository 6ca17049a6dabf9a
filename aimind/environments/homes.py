"""Backends that the user has installed in folders of their own, one version beside the other."""

from __future__ import annotations

import glob
import json
import os
import re
from pathlib import Path

from aimind.types import Backend, Home, Program, numbers


def find(backend: str, program: Program, home: Home) -> tuple[Backend, ...]:
    """The one in the folder that the variable names, or else in the usual one; then other versions beside it.

    Only files are read: nothing is run.
    """
    preferred = Path(os.environ.get(home.variable) or home.folder).absolute()
    found: dict[Path, Backend] = {}
    for folder in (preferred, *_versions(preferred, home)):
        place = folder.resolve()  # `latest` is a link to one of the others
        if place not in found and os.access(folder / home.program, os.X_OK):
            found[place] = _backend(backend, program, home, folder)
    return tuple(found.values())


def _versions(folder: Path, home: Home) -> list[Path]:
    """The folders of all versions, the newest first."""
    found = glob.glob(_inside(folder, home.versions))  # noqa: PTH207 - an absolute pattern
    return sorted(map(Path, found), key=lambda path: numbers(str(path)), reverse=True)


def _backend(name: str, program: Program, home: Home, folder: Path) -> Backend:
    version, configuration, problem = "unknown", None, None
    try:
        said = re.search(program.version_pattern, Path(_inside(folder, home.version_file)).read_text("utf-8"))
        version = said.group(1) if said else "unknown"
        configuration = Path(_inside(folder, home.configuration)).read_text("utf-8")
        if not isinstance(json.loads(configuration), dict):
            problem = f"{_inside(folder, home.configuration)} does not contain a JSON object"
    except (OSError, ValueError) as error:
        problem = f"the configuration in {folder} cannot be read: {error}"
    scripts = (_inside(folder, script) for script in home.scripts)
    return Backend(
        name=name,
        version=version,
        executable=_inside(folder, home.program),
        problem=problem,
        configuration=configuration,
        scripts=tuple(script for script in scripts if Path(script).is_file()),
    )


def _inside(folder: Path, path: str) -> str:
    """The path from the folder, as it is written: `latest/..` is the folder that `latest` lies in."""
    return os.path.normpath(folder / path)

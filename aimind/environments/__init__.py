"""The backends on this machine: programs on PATH, and those that aimind installs.

The latter lie below the user's data folder, one environment per backend and version, made by uv. Each is
complete or absent: its marker is written last and removed first, and a folder without one is rubbish.
"""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from aimind.environments import cuda, folders, homes, programs
from aimind.environments.folders import calibration_file
from aimind.types import Backend, Package, Program, numbers

if TYPE_CHECKING:
    from aimind.environments.damage import Difference

__all__ = ["calibration_file", "chosen", "executable", "find", "find_damage", "folder", "scratch", "unusable"]

# Names distributions that are used in place of the usual ones, separated by commas or spaces.
DISTRIBUTIONS = "AIMIND_DISTRIBUTIONS"


def chosen(source: Package | Program) -> Package | Program:
    """What is installed of a backend: another distribution than the usual one if the user has named it."""
    if isinstance(source, Program):
        return source
    named = re.split(r"[,\s]+", os.environ.get(DISTRIBUTIONS, ""))
    usual = dataclasses.replace(source, instead=())
    for each in source.instead:
        if each.distribution in named:
            return dataclasses.replace(each, instead=(usual,))
    return source


def find(backend: str, source: Package | Program) -> tuple[Backend, ...]:
    """What of a backend is here, the preferred version first: of a package the one it names, then the newest.

    Environments of another variant do not count. Costs a few file reads; a program is started only when its
    file has changed since the last time.
    """
    if isinstance(source, Program):
        if source.home is not None:
            return homes.find(backend, source, source.home)
        return programs.find(backend, source)
    found = [
        dataclasses.replace(
            installed,
            only=build.only,
            origin=each.source(build).origin,
            missing=cuda.missing(build, each.folder),
        )
        for build in source.builds
        for each in folders.environments(backend)
        if each.variant == build.variant and (installed := each.read())
    ]
    return tuple(
        sorted(
            found,
            key=lambda installed: (installed.version == source.version, numbers(installed.version)),
            reverse=True,
        )
    )


def unusable(backend: str, package: Package) -> tuple[Backend, ...]:
    """Environments that cannot be used, with the reason: builds for other machines, and incomplete ones."""
    found = []
    for each in folders.environments(backend):
        installed = each.read()
        if installed is None:
            problem = each.python_problem() if each.finished else "its installation did not finish"
            problem = f"{problem}: `aimind backends install {backend}=={each.version}` reinstalls it"
            if each.changing:
                problem = "it is being installed or removed"
            size_bytes = folders.disk_used(each.folder)
            installed = Backend(
                name=backend, version=each.version, executable=str(each.python), size_bytes=size_bytes
            )
        elif each.variant not in {build.variant for build in package.builds}:
            problem = f"its build, {each.variant or 'the usual one'}, is not the one for this machine"
        else:
            continue
        found.append(dataclasses.replace(installed, problem=problem))
    return tuple(sorted(found, key=lambda each: numbers(each.version), reverse=True))


def find_damage(backend: Backend, package: Package) -> Difference | None:
    """The worst difference between what is in a backend's environment and what was installed there.

    It reads the records of the wheels and compares sizes: half a second for vLLM's 35,000 files.
    """
    from aimind.environments import damage

    environment = folders.Environment(backend.name, Path(backend.executable).parents[1])
    builds = (build for build in package.builds if build.variant == environment.variant)
    return damage.find_damage(backend, environment.source(next(builds, package)))


def executable(backend: str, package: Package, version: str) -> str:
    """The Python of an environment, whether that is there or not.

    Raises:
        UsageError: the version could not be one.
    """
    return str(folders.environment(backend, package, version).python)


def folder(backend: Backend) -> Path | None:
    """The folder of a backend's environment, there or not; `None` for a program that the user installed."""
    environment = Path(backend.executable).parent.parent
    return environment if environment.is_relative_to(folders.data_folder() / "environments") else None


def scratch(backend: str, port: int) -> str:
    """The folder for what a command brings along; a port is only ever served by one."""
    return str(folders.data_folder() / "runs" / f"{backend}-{port}")

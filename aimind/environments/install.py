"""Making and removing environments."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from aimind.environments import folders, requirements, uv
from aimind.environments.damage import distributions, find_damage
from aimind.environments.folders import Environment
from aimind.errors import InstallError
from aimind.phrases import gib
from aimind.types import Backend, Package

Progress = uv.Progress
# A version of the backend -> the names of what uses it.
Users = Callable[[str], tuple[str, ...]]

# The package is not imported: vLLM's import takes ten seconds, and may need a driver that is missing.
_CHECK = """
import importlib.metadata, importlib.util, platform, sys
there = importlib.util.find_spec(sys.argv[2])
print(platform.python_version(), importlib.metadata.version(sys.argv[1]) if there else "")
"""


def ensure(
    backend: str,
    package: Package,
    *,
    version: str | None = None,
    python: str | None = None,
    renew: bool = False,
    progress: Progress,
) -> Backend:
    """The environment of a version of a package, its own by default; made now if it is not complete yet.

    Made by one process at a time: others wait for it. Until the last step it does not count, so whatever ends
    the process leaves nothing that is taken for an environment.

    Args:
        backend: of which it is.
        package: where it comes from.
        version: of the backend.
        python: of the environment, as uv names it (`3.12`, or a path); by default what the last
            installation of this version had, what the package is built for, or the one that runs this.
        renew: make it anew although it is complete; where that fails the old one remains.
        progress: is told what happens, in lines.

    Raises:
        UsageError: what is asked for is no version.
        InstallError: it cannot be made: the network, no such version, no build for this platform, a disk; or
            it is there with another Python, or from another distribution.
    """
    wanted = folders.environment(backend, package, version)
    if python is not None and os.sep in python:
        python = str(Path(python).absolute())
    if not renew and (installed := _there(wanted, package, python)):
        return installed
    waiting = f"waiting for another process that is installing or removing {wanted.name}"
    try:
        with wanted.locked(lambda: progress(waiting)) as lock:
            if not renew and (installed := _there(wanted, package, python)):
                return installed
            python = python or _remembered_python(wanted)
            size = f", about {gib(package.size_bytes)} on disk" if package.size_bytes else ""
            origin = f", {package.origin}" if package.origin else ""
            progress(f"installing {wanted.name}{origin}{size}")
            if renew and wanted.folder.exists():
                with wanted.put_aside():
                    return _make(wanted, package, python, progress, lock)
            wanted.clear()
            wanted.clear_aside()
            try:
                return _make(wanted, package, python, progress, lock)
            except BaseException:
                wanted.clear()
                raise
    except InstallError as error:
        others = [
            f"`aimind backends install {backend} --distribution {each.distribution}` installs {each.origin}"
            for each in package.instead
        ]
        raise type(error)(error.message, hint="; ".join([error.hint, *others])) from error
    except OSError as error:
        raise InstallError(
            f"{wanted.name} could not be installed in {wanted.folder}: {error.strerror}",
            hint="set AIMIND_DATA_DIR to another folder",
        ) from error


def renew_damaged(
    backend: str,
    package: Package,
    *,
    version: str | None = None,
    users: Users = lambda _: (),
    progress: Progress,
) -> None:
    """Make the installed builds of a version anew that are not as they were installed: every file is read.

    Each is made from the same distribution and with the same Python as before.

    Args:
        backend: see `ensure`.
        package: see `ensure`.
        version: see `ensure`.
        progress: see `ensure`.
        users: what uses a version of it now, by name.

    Raises:
        UsageError: the version cannot be one.
        InstallError: one is used, or cannot be made; it then remains as it is.
    """
    for build in package.builds:
        environment = folders.environment(backend, build, version)
        installed = environment.read()
        if installed is None:
            continue
        source = environment.source(build)
        found = find_damage(installed, source, contents=True)
        if found is None:
            continue
        progress(f"{environment.name} is damaged: {found.sentence}")
        if names := users(environment.version):
            raise InstallError(
                f"{environment.name} is damaged, and in use by {', '.join(names)}",
                hint=f"run `aimind stop {' '.join(names)}`",
            )
        python = _remembered_python(environment)
        ensure(backend, source, version=version, python=python, renew=True, progress=progress)


def _remembered_python(environment: Environment) -> str | None:
    """The Python that the user asked for when it was installed, unless that is a path and missing now."""
    asked = environment.asked_python()
    if asked is not None and os.sep in asked and not Path(asked).exists():
        return None
    return asked


def remove(backend: str, version: str | None = None, *, users: Users = lambda _: ()) -> tuple[str, ...]:
    """Remove a backend's environments, or those of one version, and what is left of killed installations.

    Args:
        backend: whose they are.
        version: of the backend; all by default.
        users: what uses a version of it now, by name.

    Returns:
        What was removed, as a person calls it.

    Raises:
        InstallError: there is none, one is just being installed, or one is used; then none is removed.
    """
    chosen = [each for each in folders.environments(backend) if version in (None, each.version)]
    if not chosen:
        raise InstallError(
            f"{backend}{f' {version}' if version else ''} is not installed by aimind",
            hint="`aimind backends` lists the installed ones",
        )
    with contextlib.ExitStack() as locks:
        for each in chosen:
            locks.enter_context(each.locked(functools.partial(_busy, each.name)))
        for each in chosen:
            if names := users(each.version):
                raise InstallError(
                    f"{each.name} is in use by {', '.join(names)}",
                    hint=f"run `aimind stop {' '.join(names)}`",
                )
        for each in chosen:
            each.clear()
            each.clear_aside()
    return tuple(each.name for each in chosen)


def _busy(name: str) -> NoReturn:
    raise InstallError(f"{name} is being installed or removed", hint="try again when that is done")


def _there(wanted: Environment, package: Package, python: str | None) -> Backend | None:
    """The environment, if it is complete, and what was asked for.

    Raises:
        InstallError: it has another Python than was asked for, or is from another distribution.
    """
    facts, installed = wanted.facts(), wanted.read()
    if facts is None or installed is None:
        return None
    again = f"`aimind backends remove {wanted.backend}=={wanted.version}` first"
    known = (package.distribution, *(each.distribution for each in package.instead))
    found = facts.get("distribution", package.distribution)
    if found not in known:
        raise InstallError(
            f"{wanted.name} is installed from {found}, not from {package.distribution}",
            hint=again,
        )
    if python not in (None, facts.get("asked_python")) and not _is_version(str(python), installed.python):
        raise InstallError(f"{wanted.name} is installed with Python {installed.python}", hint=again)
    return installed


def _is_version(asked: str, found: str) -> bool:
    """Whether `3.12` is `3.12.1`."""
    return f"{found}.".startswith(f"{asked}.")


def _make(
    wanted: Environment, package: Package, python: str | None, progress: Progress, lock: int
) -> Backend:
    run = functools.partial(
        uv.run,
        folder=wanted.folder.parent,
        what=wanted.name,
        install=f"aimind backends install {wanted.backend}=={wanted.version}",
        progress=progress,
        lock=lock,
    )
    run(("venv", "--python", python or package.python or sys.executable, "--no-project", str(wanted.folder)))
    _install(wanted, package, progress, run)
    needed = requirements.fixes(package, wanted.version)
    packages = tuple(wanted.folder.glob("lib/python*/site-packages"))
    for pattern in (pattern for fix in needed for pattern in fix.removed):
        # Unlinked, never changed: uv's cache and other environments share the files.
        for file in (file for folder in packages for file in folder.glob(pattern)):
            file.unlink()
    wanted.mark(
        {
            "backend": wanted.backend,
            "distribution": package.distribution,
            "version": wanted.version,
            "variant": wanted.variant,
            "python": _check(wanted, package),
            **({"asked_python": python} if python else {}),
            "distributions": [name for folder in packages for name in distributions(folder)],
            "installed": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )
    installed = wanted.read()
    if installed is None:
        raise InstallError(f"{wanted.name} was removed during its installation", hint="install it again")
    return installed


def _install(wanted: Environment, package: Package, progress: Progress, run: Callable[..., None]) -> None:
    """Fill the environment; where the index tells no dates, with the newest that there is."""
    asked = requirements.arguments(package, wanted.version, wanted.folder)
    dated = requirements.as_of(package, wanted.version)
    # Compiled once, here: else each process of each start compiles what it imports, and where the user has
    # set PYTHONDONTWRITEBYTECODE, as containers do, nothing of that is kept. uv compiles before it ends,
    # whatever that variable is, and an environment does not count before that.
    command = ("pip", "install", "--compile-bytecode", "--python", str(wanted.python), *asked)
    try:
        run((*command, *dated))
    except uv.NoDatesError as error:
        if not dated:
            raise
        progress(
            f"{wanted.name}: {error.message}; installing the newest dependencies instead of those of "
            f"{package.resolved}"
        )
        run(command)


def _check(wanted: Environment, package: Package) -> str:
    """See that the environment has what it was made for; the version of its Python."""
    done = subprocess.run(
        [wanted.python, "-I", "-c", _CHECK, package.distribution, package.import_name],
        capture_output=True,
        text=True,
        check=False,
    )
    python, _, version = done.stdout.strip().partition(" ")
    if done.returncode != 0 or not _same(version, wanted.version):
        said = done.stderr.strip().splitlines() or [f"version {version}" if version else "it is missing"]
        raise InstallError(
            f"{wanted.name} was installed but {package.import_name} cannot be found: {said[-1]}",
            hint="aimind's recipe for this version is wrong: use the default version, and please report it",
        )
    return python


def _same(found: str, asked: str) -> bool:
    """Versions are the same with and without zeros at the end, and a local part that was not asked for."""
    if "+" not in asked:
        found = found.partition("+")[0]
    return re.sub(r"(\.0)+$", "", found) == re.sub(r"(\.0)+$", "", asked)

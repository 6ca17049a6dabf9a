"""Making and removing environments."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NoReturn

from aimind.environments import folders, uv
from aimind.environments.folders import Environment
from aimind.errors import InstallError
from aimind.types import Backend, Package

Progress = Callable[[str], None]

# Not an import: vLLM's takes ten seconds, and may want a driver that is not there yet.
_CHECK = """
import importlib.metadata, importlib.util, sys
print(importlib.metadata.version(sys.argv[1]) if importlib.util.find_spec(sys.argv[2]) else "")
"""


def ensure(backend: str, package: Package, *, version: str | None = None, progress: Progress) -> Backend:
    """The environment of a version of a package, its own by default; made now if it is not complete yet.

    Made by one process at a time: others wait for it. Until the last step it does not count, so whatever ends
    the process leaves nothing that is taken for an environment. It has the Python that runs this.

    Raises:
        InstallError: it cannot be made: the network, no such version, no build for this platform, a disk.
    """
    wanted = folders.environment(backend, package, version)
    if installed := wanted.read():
        return installed
    waiting = f"waiting for another process, which is installing or removing {wanted.name}"
    try:
        with wanted.locked(lambda: progress(waiting)) as lock:
            if installed := wanted.read():
                return installed
            wanted.clear()
            progress(f"installing {wanted.name}")
            try:
                return _make(wanted, package, progress, lock)
            except BaseException:
                wanted.clear()
                raise
    except OSError as error:
        raise InstallError(
            f"{wanted.name} could not be installed in {wanted.folder}: {error.strerror}",
            hint="AIMIND_DATA_DIR names another folder for what aimind installs",
        ) from error


def remove(backend: str, version: str | None = None) -> tuple[str, ...]:
    """Remove a backend's environments, or those of one version, and what is left of killed installations.

    Returns:
        What was removed, as a person calls it.

    Raises:
        InstallError: there is none, or one is just being installed.
    """
    chosen = [each for each in folders.environments(backend) if version in (None, each.version)]
    if not chosen:
        raise InstallError(
            f"{backend}{f' {version}' if version else ''} is not installed by aimind",
            hint="`aimind backends` shows what is",
        )
    for each in chosen:
        with each.locked(functools.partial(_busy, each.name)):
            each.clear()
    return tuple(each.name for each in chosen)


def _busy(name: str) -> NoReturn:
    raise InstallError(f"{name} is just being installed or removed", hint="try again when that has ended")


def _make(wanted: Environment, package: Package, progress: Progress, lock: int) -> Backend:
    def run(*arguments: str) -> None:
        uv.run(arguments, folder=wanted.folder.parent, what=wanted.name, progress=progress, lock=lock)

    run("venv", "--python", sys.executable, "--no-project", str(wanted.folder))
    run("pip", "install", "--python", str(wanted.python), *_requirements(wanted, package))
    for pattern in package.removed:
        # Unlinked, never changed: uv's cache and other environments share the files.
        for file in wanted.folder.glob(f"lib/python*/site-packages/{pattern}"):
            file.unlink()
    _check(wanted, package)
    wanted.mark(
        {
            "backend": wanted.backend,
            "distribution": package.distribution,
            "version": wanted.version,
            "variant": wanted.variant,
            "python": ".".join(map(str, sys.version_info[:3])),
            "installed": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )
    installed = wanted.read()
    if installed is None:
        raise InstallError(f"{wanted.name} vanished while it was installed", hint="install it again")
    return installed


def _requirements(wanted: Environment, package: Package) -> list[str]:
    """What uv is asked for. The files that it reads stay in the environment, for whoever wonders."""
    arguments = [f"{package.distribution}=={wanted.version}", *package.requirements]
    for flag, name, lines in (
        ("--overrides", "overrides.txt", package.overrides),
        ("--build-constraints", "build-constraints.txt", package.build_constraints),
    ):
        if lines:
            file = wanted.folder / name
            file.write_text("\n".join(lines) + "\n", encoding="utf-8")
            arguments += (flag, str(file))
    if package.index:
        arguments += ("--index", package.index)
    return arguments + _torch(package.torch)


def _torch(build: str | None) -> list[str]:
    """Where PyTorch comes from: its own index, or the folders of wheels that this machine has for its CPU."""
    if build is None:
        return []
    links = os.environ.get("PIP_FIND_LINKS", "").split()
    if build == "cpu" and (links or os.environ.get("UV_FIND_LINKS")):
        # The best version wherever it is, or the registry's build for CUDA would win by being there.
        return [f"--find-links={link}" for link in links] + ["--index-strategy", "unsafe-best-match"]
    return ["--torch-backend", build]


def _check(wanted: Environment, package: Package) -> None:
    """See that the environment has what it was made for."""
    done = subprocess.run(
        [wanted.python, "-I", "-c", _CHECK, package.distribution, package.import_name],
        capture_output=True,
        text=True,
        check=False,
    )
    version = done.stdout.strip()
    if done.returncode != 0 or not _same(version, wanted.version):
        said = done.stderr.strip().splitlines() or [f"version {version}" if version else "it is not there"]
        raise InstallError(
            f"{wanted.name} was installed but {package.import_name} cannot be found: {said[-1]}",
            hint="this is wrong in aimind's recipe for that version: try the default version, and report it",
        )


def _same(found: str, asked: str) -> bool:
    """Versions are the same with and without zeros at the end, and a local part that was not asked for."""
    if "+" not in asked:
        found = found.partition("+")[0]
    return re.sub(r"(\.0)+$", "", found) == re.sub(r"(\.0)+$", "", asked)

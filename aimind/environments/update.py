"""Bringing what is installed to the version that this aimind is made for."""

from __future__ import annotations

from collections.abc import Iterator

from aimind.environments import folders, install
from aimind.environments.folders import Environment
from aimind.types import Backend, Package


def update(backend: str, package: Package, *, progress: install.Progress) -> tuple[Backend, ...]:
    """The environments of the package's version, of each build that is installed in some version.

    What is not here yet is made, from the same distribution and with the same Python as the newest that is.
    Nothing is removed.

    Raises:
        InstallError: it cannot be made.
    """
    return tuple(_updated(backend, package, progress))


def _updated(backend: str, package: Package, progress: install.Progress) -> Iterator[Backend]:
    for build in package.builds:
        here = [each for each in folders.environments(backend) if each.variant == build.variant]
        complete = [(each, facts) for each in here if (facts := each.facts()) is not None]
        if not complete:
            continue
        target = next((each for each, _ in complete if each.version == build.version), None)
        if target is not None and (installed := target.read()) is not None:
            yield installed
            continue
        newest, facts = max(complete, key=lambda found: _installed(found[0], found[1]))
        same = (each for each in (build, *build.instead) if each.distribution == facts.get("distribution"))
        yield install.ensure(backend, next(same, build), python=newest.asked_python(), progress=progress)


def _installed(environment: Environment, facts: dict[str, object]) -> tuple[str, str]:
    """When it was made."""
    return str(facts.get("installed", "")), environment.version

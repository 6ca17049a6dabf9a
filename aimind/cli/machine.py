"""`aimind devices` and `aimind backends`: what this machine has."""

from __future__ import annotations

import click

from aimind import show, steps
from aimind.cli.group import cli
from aimind.errors import UnsupportedError, UsageError
from aimind.types import Package, Request


@cli.command("devices")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document, which --hardware takes.")
def devices_command(*, as_json: bool) -> None:
    """Show the accelerators and the memory of this machine, what is free, and who uses the rest."""
    from aimind import devices

    host = devices.probe()
    if as_json:
        show.data(devices.to_json(host))
    else:
        show.devices(host)


@cli.group("backends", invoke_without_command=True)
@click.pass_context
def backends_command(context: click.Context) -> None:
    """Show the backends: what is installed, what can be, and why not. Install and remove them."""
    if context.invoked_subcommand is not None:
        return
    from aimind import devices
    from aimind.launchers import LAUNCHERS

    host = steps.with_backends(devices.probe(), Request())
    show.backends(LAUNCHERS, host)


@backends_command.command("install")
@click.argument("backend", metavar="NAME[==VERSION]")
def install_command(backend: str) -> None:
    """Install a backend into an environment of its own."""
    from aimind import devices
    from aimind.environments import install

    name, version = _named(backend)
    source = steps.source(name, devices.probe())
    if not isinstance(source, Package):
        raise UnsupportedError(f"aimind does not install {name}", hint=source.remedy)
    done = install.ensure(name, source, version=version, progress=show.note)
    show.note(f"{done.name} {done.version} is installed")


@backends_command.command("remove")
@click.argument("backend", metavar="NAME[==VERSION]")
def remove_command(backend: str) -> None:
    """Remove an installed backend, or one version of it."""
    from aimind import devices
    from aimind.environments import install

    name, version = _named(backend)
    steps.source(name, devices.probe())
    install.remove(name, version)
    show.note(f"{backend} is removed")


def _named(text: str) -> tuple[str, str | None]:
    name, equals, version = text.partition("==")
    if equals and not version:
        raise UsageError(f"{text} names no version", hint="NAME==VERSION, or NAME alone")
    return name, version or None

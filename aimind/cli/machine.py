"""`aimind devices`: what this machine has."""

from __future__ import annotations

import click

from aimind import show
from aimind.cli.group import cli


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

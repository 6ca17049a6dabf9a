"""`aimind devices`: what this machine has."""

from __future__ import annotations

from typing import Annotated

import typer

from aimind import show
from aimind.cli.app import Command
from aimind.cli.declare import OUTPUT, option

app = typer.Typer(add_completion=False)


@app.command("devices", cls=Command)
def devices_command(
    *,
    as_json: Annotated[
        bool,
        option("--json", panel=OUTPUT, help="Print one JSON document, which `aimind plan --hardware` reads."),
    ] = False,
) -> None:
    """Show the accelerators and the memory of this machine.

    The output also has what is free, and which programs use the rest.
    """
    from aimind import devices

    host = devices.probe()
    if as_json:
        show.data(devices.to_json(host))
    else:
        show.devices(host)

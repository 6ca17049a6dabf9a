"""`aimind help` and `aimind version`."""

from __future__ import annotations

from typing import Annotated

import typer

from aimind import __version__, show
from aimind.cli.app import Command, call, find_command
from aimind.cli.declare import argument
from aimind.cli.options import Json

app = typer.Typer(add_completion=False)


@app.command("help", cls=Command)
def help_command(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None, argument("COMMAND", "The command, such as serve or backends install.")
    ] = None,
) -> None:
    """Show the help of a command."""
    if names:
        call(find_command(names[0]), [*names[1:], "--help"], ())
    elif ctx.parent is not None:
        ctx.parent.get_help()


@app.command("version", cls=Command)
def version_command(*, as_json: Json = False) -> None:
    """Show the version of aimind."""
    if as_json:
        show.data({"version": __version__})
    else:
        typer.echo(f"aimind {__version__}")

"""`aimind config`: what is configured, and where; and which files may configure everything."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperOption

from aimind import show
from aimind.cli.app import Command, Group
from aimind.cli.configured import all_keys, backend_names, configured
from aimind.cli.declare import argument
from aimind.cli.options import Json
from aimind.configuration.files import NAME
from aimind.errors import UsageError
from aimind.types import API_KEY_VARIABLE

app = typer.Typer(name="config", cls=Group, add_completion=False, invoke_without_command=True)
ConfigurationFile = Annotated[Path, argument("PATH", f"The file, or its directory (default: ./{NAME}).")]


@app.callback()
def config_command(ctx: typer.Context, *, as_json: Json = False) -> None:
    """Show the configuration, and where each value comes from.

    Values are read from these places; a later one overrides an earlier one:
      aimind.toml in your configuration folder, or the file that AIMIND_CONFIG names
      aimind.toml in the current folder
      environment variables, such as AIMIND_CONTEXT for --context
      options
    """
    if ctx.invoked_subcommand is None:
        _show(as_json=as_json)
    elif as_json:
        raise UsageError("--json is an option of `aimind config` itself", hint="leave it out")


def _show(*, as_json: bool) -> None:
    from aimind.configuration import allowed
    from aimind.configuration.files import user_file
    from aimind.configuration.keys import SHOWN

    found = configured()
    defaults = {name: option.default for name, option in all_keys().items() if _has_default(option)}
    others = {name: os.environ[name] for name in SHOWN if os.environ.get(name)}
    if os.environ.get(API_KEY_VARIABLE):
        others[API_KEY_VARIABLE] = "(set)"
    document = show.configuration_document(
        found, user_file(), defaults=defaults, others=others, trusted=allowed.paths()
    )
    if as_json:
        show.data(document)
    else:
        show.configuration(document)
    for refused in found.untrusted:
        problem = refused.error()
        show.warn(f"{problem.message}: {problem.hint}")
    for warning in found.warnings:
        show.warn(warning)
    for note in found.notes:
        show.note(f"note: {note}")


@app.command("trust", cls=Command)
def trust_command(path: ConfigurationFile = Path(NAME)) -> None:
    """Allow a configuration file to set whatever it sets, until it changes.

    Without this, a file in the current folder
    cannot set environment variables, arguments and versions of backends, files, addresses, the hub, or
    trust-remote-code: these are an error.
    """
    from aimind.configuration import allowed, files, whole

    file = files.read_file(_file(path))
    settings = whole.restricted(file, all_keys(), backend_names())
    allowed.allow(file)
    show.trusted(file.path, settings)


@app.command("untrust", cls=Command)
def untrust_command(path: ConfigurationFile = Path(NAME)) -> None:
    """Take back what `aimind config trust` has allowed."""
    from aimind.configuration import allowed

    file = _file(path)
    if not allowed.forbid(file):
        raise UsageError(f"{file} is not among the trusted files", hint="`aimind config` lists them")
    show.note(f"{file} is not trusted any more")


def _file(path: Path) -> Path:
    return path / NAME if path.is_dir() else path


def _has_default(option: TyperOption) -> bool:
    return isinstance(option.default, str | int | float) and not option.is_flag

"""`aimind config`: what is configured, and where."""

from __future__ import annotations

import os
from pathlib import Path

import click

from aimind import show
from aimind.cli.configured import all_keys, backend_names, configured
from aimind.cli.group import cli
from aimind.configuration.files import NAME
from aimind.errors import UsageError
from aimind.types import API_KEY_VARIABLE


@cli.group("config", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="As one JSON document: docs/configuration.md.")
@click.pass_context
def config_command(context: click.Context, *, as_json: bool) -> None:
    """Show every value that is configured, and where it comes from.

    \b
    aimind.toml in your configuration folder, or the file that AIMIND_CONFIG names,
    aimind.toml in the current folder,
    variables (AIMIND_CONTEXT for --context),
    options: what comes later wins.
    """
    if context.invoked_subcommand is None:
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


@config_command.command("trust")
@click.argument("path", required=False, default=NAME, metavar="[PATH]", type=click.Path(path_type=Path))
def trust_command(*, path: Path) -> None:
    """Allow a configuration file to set whatever it sets, until it changes.

    PATH is the file, or its folder (default: ./aimind.toml). Without this, a file in the current folder
    cannot set environment variables, arguments and versions of backends, files, addresses, the hub, or
    trust-remote-code: these are an error.
    """
    from aimind.configuration import allowed, files, whole

    file = files.read_file(_file(path))
    settings = whole.restricted(file, all_keys(), backend_names())
    allowed.allow(file)
    show.trusted(file.path, settings)


@config_command.command("untrust")
@click.argument("path", required=False, default=NAME, metavar="[PATH]", type=click.Path(path_type=Path))
def untrust_command(*, path: Path) -> None:
    """Take back what `aimind config trust` has allowed.

    PATH is the file, or its folder (default: ./aimind.toml).
    """
    from aimind.configuration import allowed

    file = _file(path)
    if not allowed.forbid(file):
        raise UsageError(f"{file} is not among the trusted files", hint="`aimind config` lists them")
    show.note(f"{file} is not trusted any more")


def _file(path: Path) -> Path:
    return path / NAME if path.is_dir() else path


def _has_default(option: click.Option) -> bool:
    return isinstance(option.default, str | int | float) and not option.is_flag

"""`aimind config`: what is configured, and where."""

from __future__ import annotations

import os

import click

from aimind import show
from aimind.cli.configured import all_keys, configured
from aimind.cli.group import cli
from aimind.types import API_KEY_VARIABLE


@cli.command("config")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document: docs/configuration.md.")
def config_command(*, as_json: bool) -> None:
    """Show every value that is configured, and where it comes from.

    \b
    aimind.toml in your configuration folder, or the file that AIMIND_CONFIG names,
    aimind.toml in the current folder,
    variables (AIMIND_CONTEXT for --context),
    options: what comes later wins.
    """
    from aimind.configuration.files import user_file
    from aimind.configuration.keys import SHOWN

    found = configured()
    defaults = {name: option.default for name, option in all_keys().items() if _has_default(option)}
    others = {name: os.environ[name] for name in SHOWN if os.environ.get(name)}
    if os.environ.get(API_KEY_VARIABLE):
        others[API_KEY_VARIABLE] = "(set)"
    document = show.configuration_document(found, user_file(), defaults=defaults, others=others)
    if as_json:
        show.data(document)
    else:
        show.configuration(document)
    for warning in found.warnings:
        show.warn(warning)
    for note in found.notes:
        show.note(f"note: {note}")


def _has_default(option: click.Option) -> bool:
    return isinstance(option.default, str | int | float) and not option.is_flag

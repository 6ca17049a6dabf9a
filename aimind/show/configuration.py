"""Prints what is configured, and where each value was set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from aimind.phrases import visible
from aimind.show.columns import Column, print_table

if TYPE_CHECKING:
    from aimind.configuration.values import Setting, Text
    from aimind.configuration.whole import Configuration

_DEFAULT = "default"


def configuration_document(
    found: Configuration,
    own: Path,
    *,
    defaults: Mapping[str, object],
    others: Mapping[str, str],
    trusted: Sequence[str],
) -> dict[str, Any]:
    """All of it (docs/configuration.md).

    `others`: variables that are no options, as they may be shown; `trusted`: files that the user has allowed.
    """
    options = {name: {"value": value, "from": _DEFAULT} for name, value in defaults.items()}
    options |= _values({**found.options, **found.variables})
    backends: dict[str, dict[str, object]] = {}
    for name in sorted({*found.versions, *found.args, *found.envs}):
        of: dict[str, Any] = backends.setdefault(name, {})
        of |= _values({"version": found.versions[name]}) if name in found.versions else {}
        of |= _values({"args": found.args[name]}) if name in found.args else {}
        of |= {"env": _values(found.envs[name])} if found.envs.get(name) else {}
    return {
        "user_file": str(own),
        "files": [
            {"path": file.path, "problem": file.problem, "needs_trust": _left_out(found, file)}
            for file in found.files
        ],
        "trusted_files": list(trusted),
        "options": dict(sorted(options.items())),
        "env": _values(found.env),
        "backends": backends,
        "models": {name: _values(options) for name, options in found.models.items()},
        "variables": dict(others),
    }


def _left_out(found: Configuration, file: Text) -> list[str]:
    """The settings of the file that are not used, since the user has not allowed it."""
    return [name for untrusted in found.untrusted if untrusted.file == file for name in untrusted.settings]


def trusted(path: str, settings: Mapping[str, Setting]) -> None:
    """Everything that a file may set now that it is trusted, and needed trust."""
    typer.echo(f"{visible(path)} is trusted until it changes.")
    if not settings:
        typer.echo("It sets nothing that needs trust.")
        return
    typer.echo("It sets:")
    for name, setting in settings.items():
        typer.echo(f"  {visible(name)} = {visible(_text(setting.value))}")


def _values(values: Mapping[str, Setting]) -> dict[str, dict[str, object]]:
    return {name: {"value": setting.value, "from": setting.where} for name, setting in values.items()}


def configuration(document: Mapping[str, Any]) -> None:
    """Print the same for a person."""
    there = {each["path"]: each for each in document["files"]}
    paths = dict.fromkeys([document["user_file"], *there])
    files = [[path, _state(there.get(path))] for path in paths]
    files += [[path, "trusted"] for path in document["trusted_files"]]
    print_table((Column("FILE"), Column("STATE")), files)
    typer.echo()
    values = [[name, _text(value), where] for name, value, where in _rows(document)]
    print_table((Column("KEY"), Column("VALUE"), Column("FROM")), values)


def _state(file: Mapping[str, Any] | None) -> str:
    """Whether a file is used, in a few words."""
    if file is None:
        return "missing"
    if file["problem"]:
        return "ignored"
    return "partly read: it is not trusted" if file["needs_trust"] else "read"


def _rows(document: Mapping[str, Any]) -> Iterator[tuple[str, object, str]]:
    for name, setting in document["options"].items():
        yield name, setting["value"], setting["from"]
    for name, setting in document["env"].items():
        yield f"env.{name}", setting["value"], setting["from"]
    for model, options in document["models"].items():
        for name, setting in options.items():
            yield f'models."{model}".{name}', setting["value"], setting["from"]
    for backend, of in document["backends"].items():
        for name in ("version", "args"):
            if name in of:
                yield f"backends.{backend}.{name}", of[name]["value"], of[name]["from"]
        for name, setting in of.get("env", {}).items():
            yield f"backends.{backend}.env.{name}", setting["value"], setting["from"]
    for name, value in document["variables"].items():
        yield name, value, "variable"


def _text(value: object) -> str:
    """The value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return str(value)

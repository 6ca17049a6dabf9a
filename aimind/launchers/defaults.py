"""The settings for one backend, from the sources below, in order of precedence.

1. The command line: options, and arguments after `--`, which must not conflict.
2. Environment variables, and the section of the configuration for the model.
3. The backend's arguments in the configuration.
4. The general section of the configuration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from aimind.errors import UsageError
from aimind.launchers.arguments import absorb, plain, render
from aimind.launchers.base import DEVICE_VARIABLES, Launcher
from aimind.launchers.flags import flag_name
from aimind.types import Preset, Reason, Request

_NOTHING = Request()
# Two settings for one quantity: setting either overrides both.
_LENGTHS = frozenset({"max_model_len", "kv_cache_tokens"})


@dataclass(frozen=True, slots=True)
class Resolved:
    """The settings for one backend.

    Attributes:
        request: the request with all arguments read into its fields; the others are in `extra`.
        args: the arguments of the configuration that are not overridden.
        overridden: fields whose default is overridden by arguments.
        reasons: an explanation of the settings that come from the configuration.
    """

    request: Request
    args: tuple[str, ...]
    overridden: frozenset[str]
    reasons: tuple[Reason, ...]


def resolve(launcher: Launcher, request: Request) -> Resolved:
    """Resolve the request for this backend.

    Raises:
        UsageError: an argument or a variable is reserved for aimind, an argument has a bad value or conflicts
            with the command line.
    """
    defaults = request.defaults
    untyped = {field: getattr(_NOTHING, field) for field in defaults.fields}
    typed = absorb(launcher, dataclasses.replace(request, **untyped))
    preset = defaults.of(launcher.NAME)
    theirs = _preset(launcher, preset)
    from_arguments: dict[str, object] = {}
    retained: dict[str, object] = {}
    for group in _groups({*defaults.fields, *launcher.FLAGS}):
        if any(getattr(typed, field) is not None for field in group):
            continue
        by_preset = {field: value for field in group if (value := getattr(theirs, field)) is not None}
        if by_preset and not group & (set(defaults.fields) - defaults.general):
            from_arguments |= by_preset
        else:
            retained |= {field: getattr(request, field) for field in group.intersection(defaults.fields)}
    _check_variables(preset.env, f"{preset.where}: ")
    _check_variables(request.env)
    rest = _without(theirs.extra, typed.extra)
    rendered = render(launcher.FLAGS, dataclasses.replace(_NOTHING, **from_arguments))  # type: ignore[arg-type]
    args = (*rendered, *rest)
    return Resolved(
        request=dataclasses.replace(
            typed,
            extra=(*rest, *typed.extra),
            env={**preset.env, **typed.env},
            **from_arguments,  # type: ignore[arg-type]
            **retained,  # type: ignore[arg-type]
        ),
        args=args,
        overridden=frozenset(defaults.fields) - set(retained),
        reasons=(Reason("arguments", f"{preset.where} sets {' '.join(args)}"),) if args else (),
    )


def _groups(fields: set[str]) -> list[frozenset[str]]:
    """Group the fields that are overridden together."""
    return [_LENGTHS, *(frozenset({field}) for field in fields - _LENGTHS)]


def _preset(launcher: Launcher, preset: Preset) -> Request:
    """Read the backend's arguments in the configuration."""
    try:
        return absorb(launcher, Request(extra=preset.args))
    except UsageError as problem:
        raise UsageError(f"{preset.where}: {problem.message}", hint=problem.hint) from problem


def _check_variables(env: Mapping[str, str], where: str = "") -> None:
    """Refuse the variables that aimind sets itself."""
    for name in sorted(DEVICE_VARIABLES & set(env)):
        raise UsageError(
            f"{where}{name} cannot be set for the backend: aimind sets it to the devices of the plan",
            hint="choose devices with --device, or set the variable for aimind itself",
        )


def _without(args: tuple[str, ...], typed: tuple[str, ...]) -> tuple[str, ...]:
    """Drop the flags, and their values, that are also typed."""
    names = {plain(name) for word in typed if (name := flag_name(word)) is not None}
    arguments: list[str] = []
    dropping = False
    for word in args:
        name = flag_name(word)
        if name is not None:
            dropping = plain(name) in names
        if not dropping:
            arguments.append(word)
    return tuple(arguments)

"""What is asked of one backend, from the strongest voice to the weakest.

1. What is typed: options, and arguments after `--`, which must not contradict each other.
2. Variables, and what the configuration says of the model.
3. The arguments that the configuration has for the backend.
4. What the configuration says of everything.
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
# Two ways to say one thing: who says one of them has said the other, too.
_LENGTHS = frozenset({"max_model_len", "kv_cache_tokens"})


@dataclass(frozen=True, slots=True)
class Taken:
    """What is asked of one backend.

    Attributes:
        request: with all arguments taken into its fields; what is left of them is `extra`.
        args: the arguments of the configuration, as far as they hold.
        beaten: fields with a default that arguments come before.
        reasons: what of it nobody typed.
    """

    request: Request
    args: tuple[str, ...]
    beaten: frozenset[str]
    reasons: tuple[Reason, ...]


def take(launcher: Launcher, request: Request) -> Taken:
    """The request as this backend gets it.

    Raises:
        UsageError: an argument or a variable is aimind's own business, an argument has a bad value, or
            contradicts what is typed.
    """
    defaults = request.defaults
    untyped = {field: getattr(_NOTHING, field) for field in defaults.fields}
    typed = absorb(launcher, dataclasses.replace(request, **untyped))
    preset = defaults.of(launcher.NAME)
    theirs = _preset(launcher, preset)
    said: dict[str, object] = {}  # by arguments of the configuration
    kept: dict[str, object] = {}
    for group in _groups({*defaults.fields, *launcher.FLAGS}):
        if any(getattr(typed, field) is not None for field in group):
            continue
        by_preset = {field: value for field in group if (value := getattr(theirs, field)) is not None}
        if by_preset and not group & (set(defaults.fields) - defaults.general):
            said |= by_preset
        else:
            kept |= {field: getattr(request, field) for field in group.intersection(defaults.fields)}
    _check_variables(preset.env, f"{preset.where}: ")
    _check_variables(request.env)
    rest = _without(theirs.extra, typed.extra)
    rendered = render(launcher.FLAGS, dataclasses.replace(_NOTHING, **said))  # type: ignore[arg-type]
    args = (*rendered, *rest)
    return Taken(
        request=dataclasses.replace(
            typed,
            extra=(*rest, *typed.extra),
            env={**preset.env, **typed.env},
            **said,  # type: ignore[arg-type]
            **kept,  # type: ignore[arg-type]
        ),
        args=args,
        beaten=frozenset(defaults.fields) - set(kept),
        reasons=(Reason("arguments", f"{' '.join(args)}: by {preset.where}"),) if args else (),
    )


def _groups(fields: set[str]) -> list[frozenset[str]]:
    """The fields, each alone but for those that are decided together."""
    return [_LENGTHS, *(frozenset({field}) for field in fields - _LENGTHS)]


def _preset(launcher: Launcher, preset: Preset) -> Request:
    """What the configuration's arguments ask for."""
    try:
        return absorb(launcher, Request(extra=preset.args))
    except UsageError as problem:
        raise UsageError(f"{preset.where}: {problem.message}", hint=problem.hint) from problem


def _check_variables(env: Mapping[str, str], where: str = "") -> None:
    """Refuse what is for aimind to set."""
    for name in sorted(DEVICE_VARIABLES & set(env)):
        raise UsageError(
            f"{where}{name} cannot be given to the backend: aimind sets it to the devices of the plan",
            hint="choose them with --device, or start aimind itself with the variable: it heeds it",
        )


def _without(args: tuple[str, ...], typed: tuple[str, ...]) -> tuple[str, ...]:
    """The arguments less the flags, with their values, that are typed, too."""
    names = {plain(name) for word in typed if (name := flag_name(word)) is not None}
    kept: list[str] = []
    dropping = False
    for word in args:
        name = flag_name(word)
        if name is not None:
            dropping = plain(name) in names
        if not dropping:
            kept.append(word)
    return tuple(kept)

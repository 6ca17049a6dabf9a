"""Options by variables of the environment."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator

import click

from aimind.configuration.keys import OTHERS, PREFIX, Keys, flag, variable
from aimind.configuration.values import Said
from aimind.errors import UsageError
from aimind.launchers.base import nearest


def read(keys: Keys) -> dict[str, Said]:
    """What the variables say of which key; an empty one says nothing.

    Raises:
        UsageError: the option does not take such a value.
    """
    found = {}
    for name, option in keys.items():
        text = os.environ.get(variable(name))
        if not text:
            continue
        try:
            value = (click.BOOL if option.is_flag else option.type).convert(text, None, None)
        except click.UsageError as problem:
            hint = f"true or false, as with {flag(name)}" if option.is_flag else f"as {flag(name)} takes it"
            raise UsageError(f"{variable(name)}: {problem.message}", hint=hint) from problem
        found[name] = Said(bool(value) if option.is_flag else text, variable(name))
    return found


def unknown(keys: Collection[str]) -> Iterator[str]:
    """What is to be said of variables that look like ours, and mean nothing."""
    known = [*map(variable, keys), *OTHERS]
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known:
            near = nearest(name.removeprefix(PREFIX), [each.removeprefix(PREFIX) for each in known])
            yield f"{name} means nothing to aimind" + (f": did you mean {PREFIX}{near}?" if near else "")

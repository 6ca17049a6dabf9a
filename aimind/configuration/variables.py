"""Options by variables of the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator

from aimind.configuration.keys import OTHERS, PREFIX, Keys, flag, variable
from aimind.configuration.values import Setting
from aimind.errors import UsageError
from aimind.launchers.base import nearest
from aimind.parameters import convert

_ADDRESS = re.compile(r"(tcp|udp|sctp)://")
_SERVICE_VARIABLE = re.compile(
    r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT_\d+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?$"
)


def read(keys: Keys) -> dict[str, Setting]:
    """What the variables say of which key; an empty one says nothing.

    Raises:
        UsageError: the option does not take such a value.
    """
    found = {}
    for name, option in keys.items():
        text = os.environ.get(variable(name))
        if not text or _is_of_kubernetes(variable(name), text):
            continue
        try:
            value = convert(option, text)
        except ValueError as problem:
            hint = f"{flag(name)}: {option.help}"
            if option.is_flag:
                hint = f"set it to true or false; it stands for {flag(name)}"
            raise UsageError(f"{variable(name)}: {problem}", hint=hint) from problem
        found[name] = Setting(bool(value) if option.is_flag else text, variable(name))
    return found


def unknown(keys: Collection[str]) -> Iterator[str]:
    """What is to be said of variables that look like ours, and mean nothing."""
    known = [*map(variable, keys), *OTHERS]
    for name, value in sorted(os.environ.items()):
        if name.startswith(PREFIX) and name not in known and not _is_of_kubernetes(name, value):
            near = nearest(name.removeprefix(PREFIX), [each.removeprefix(PREFIX) for each in known])
            yield f"{name} is not a variable of aimind" + (f": did you mean {PREFIX}{near}?" if near else "")


def of_kubernetes() -> Iterator[str]:
    """What is to be said of variables that Kubernetes sets for a service called `aimind`."""
    names = [name for name, value in sorted(os.environ.items()) if _is_of_kubernetes(name, value)]
    if names:
        yield (
            f"{', '.join(names)}: ignored, since Kubernetes sets them for a service called aimind "
            "(`enableServiceLinks: false` in the pod keeps them away)"
        )


def _is_of_kubernetes(name: str, value: str) -> bool:
    """Whether it is one of the variables that each pod gets for each service.

    The names of a service `aimind` or `aimind-web` end in `_SERVICE_HOST`, `_SERVICE_PORT` and, as those of
    Docker's links, in `_PORT` with an address, and `_PORT_80_TCP` with `_PROTO`, `_PORT` and `_ADDR`
    (`FromServices` and `makeLinkVariables` in pkg/kubelet/envvars/envvars.go of Kubernetes).
    """
    if not name.startswith(PREFIX):
        return False
    if name.endswith("_PORT") and _ADDRESS.match(value):
        return True
    return _SERVICE_VARIABLE.search(name) is not None

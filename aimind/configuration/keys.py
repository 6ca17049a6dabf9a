"""The keys of the configuration, which are options of `serve` by other names.

`--kv-cache-type` is `kv_cache_type` in a file, and `AIMIND_KV_CACHE_TYPE` as a variable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from typer.core import TyperOption

from aimind.configuration.files import VARIABLE
from aimind.types import API_KEY_VARIABLE

PREFIX = "AIMIND_"
# Variables that are no options.
SHOWN = ("AIMIND_DATA_DIR", "AIMIND_STATE_DIR", "AIMIND_DISTRIBUTIONS")
OTHERS = (API_KEY_VARIABLE, VARIABLE, *SHOWN)
# Options of `serve` about one start, or what nobody should say once and for all; `env` is a table.
NO_KEYS = frozenset(
    "detach dry_run env force frozen json name no_config no_supervise revision with_key".split(),
)

Keys = Mapping[str, TyperOption]


def key(option: TyperOption) -> str:
    """What the option is called here: its longest name."""
    return max(option.opts, key=len).lstrip("-").replace("-", "_")


def keys(parameters: Iterable[object]) -> dict[str, TyperOption]:
    """The options among the parameters that can be configured, by their keys."""
    options = {key(each): each for each in parameters if isinstance(each, TyperOption)}
    return {name: each for name, each in options.items() if name not in NO_KEYS}


def variable(name: str) -> str:
    """The variable of a key."""
    return PREFIX + name.upper()


def flag(name: str) -> str:
    """The option of a key."""
    return "--" + name.replace("_", "-")

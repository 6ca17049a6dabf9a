"""The values of a backend's flags, against those that its version takes.

The tables in `known` come from the parsers of installed backends (`scripts/vllm_values.py`). A version
without a table is not checked: its own parser reports what it does not take, once it has started.
"""

from __future__ import annotations

import functools
import json
import operator
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from aimind.errors import UsageError
from aimind.launchers.arguments import plain
from aimind.launchers.base import Launcher, TellsFlags
from aimind.types import Backend, Request, numbers

_FOLDER = os.path.join(os.path.dirname(__file__), "known")  # noqa: PTH118, PTH120 - pathlib is slow to import
_FORCE = "use --force to pass it anyway"
_UNITS = "kKmMgGtT"
_BOUNDS: Mapping[str, Callable[[float, float], bool]] = {
    "at_least": operator.ge,
    "more_than": operator.gt,
    "at_most": operator.le,
    "less_than": operator.lt,
}
_KINDS = {"int": "a whole number", "tokens": "a whole number", "float": "a number", "json": "JSON"}
Row = Mapping[str, Any]


def check_values(launcher: Launcher, request: Request, backend: Backend) -> tuple[str, ...]:
    """Check the values of the backend's flags.

    Returns:
        Warnings about values that the backend rejects, as sentences, where `--force` is set.

    Raises:
        UsageError: the backend rejects a value.
    """
    if not isinstance(launcher, TellsFlags) or not launcher.HELP.values:
        return ()
    major_and_minor = ".".join(map(str, numbers(backend.version)[:2]))
    table = _table(f"{launcher.HELP.values}-{major_and_minor}-values.json")
    warnings = []
    for name, text in _given(launcher, request, table):
        wanted = _wanted(table[plain(name)], text)
        if wanted is None:
            continue
        sentence = f"{backend.name} {backend.version} does not accept {name} {text}"
        if not request.force:
            raise UsageError(sentence, hint=f"use {wanted}; {_FORCE}")
        warnings.append(f"{sentence}; it is passed because of --force")
    return tuple(warnings)


@functools.cache
def _table(file_name: str) -> Mapping[str, Row]:
    """Flag -> the values that it accepts; empty if there is no table for this version."""
    try:
        with open(os.path.join(_FOLDER, file_name), encoding="utf-8") as file:  # noqa: PTH118, PTH123
            found: dict[str, Row] = json.load(file)
    except FileNotFoundError:
        return {}
    return found


def _given(launcher: Launcher, request: Request, table: Mapping[str, Row]) -> Iterator[tuple[str, str]]:
    """Yield flags of the table and the values that options and arguments set."""
    for field, flag in launcher.FLAGS.items():
        value = getattr(request, field)
        name = flag.spellings[0]
        if name in table and isinstance(value, str | int | float) and not isinstance(value, bool):
            yield name, str(value)
    words = iter(request.extra)
    for word in words:
        name, equals, attached = word.partition("=")
        if plain(name) in table:
            text = attached if equals else next(words, None)
            if text is not None:
                yield name, text


def _wanted(row: Row, text: str) -> str | None:
    """The values that a flag accepts, as a noun phrase, if it rejects this text."""
    if "choices" in row:
        choices = row["choices"]
        spelled = text.lower().replace("-", "_") if row.get("folded") else text
        return None if spelled in choices else _listed(choices)
    if text in ("", "None"):
        return None  # vLLM's optional values
    kind = row["kind"]
    try:
        if kind == "json":
            json.loads(text)
            return None
        value = _number(kind, text)
    except ValueError:
        return _KINDS[kind]
    bounds = [name for name in _BOUNDS if name in row]
    if all(_BOUNDS[name](value, row[name]) for name in bounds):
        return None
    wanted = " and ".join(f"{name.replace('_', ' ')} {row[name]:g}" for name in bounds)
    return f"{_KINDS[kind]}, {wanted}"


def _number(kind: str, text: str) -> float:
    if kind == "tokens":
        return float(text.rstrip(_UNITS))
    return int(text) if kind == "int" else float(text)


def _listed(choices: list[str]) -> str:
    return choices[0] if len(choices) == 1 else f"{', '.join(choices[:-1])} or {choices[-1]}"

"""On which line of a TOML document a key is; the standard library's reader does not say."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator

Path = tuple[str, ...]


def lines(text: str) -> dict[Path, int]:
    """Each key and each table, by its whole path -> its line, the first one being 1.

    The text is a good document. A statement is as many lines as can be read by themselves: `[table]`, or a
    key with its value. Keys within a value are on the line that the statement begins on.
    """
    found: dict[Path, int] = {}
    table: Path = ()
    statement: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):
        statement.append(line)
        try:
            read = tomllib.loads("\n".join(statement) + "\n")
        except tomllib.TOMLDecodeError:
            continue  # it goes on
        begin, is_table = number - len(statement) + 1, statement[0].lstrip().startswith("[")
        statement = []
        paths = list(_paths(read))
        if is_table and paths:
            table = paths[-1]
        for path in paths:
            found.setdefault(path if is_table else table + path, begin)
    return found


def _paths(value: object) -> Iterator[Path]:
    """The paths of all keys within, the outer ones first."""
    if isinstance(value, list) and value:
        yield from _paths(value[-1])  # [[tables]]
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (key,)
            yield from ((key, *path) for path in _paths(inner))

"""A lock: one plan, written down so that exactly it can be served again (docs/lock.md)."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_type_hints

from aimind.errors import UnsupportedError, UsageError
from aimind.launchers.arguments import plain
from aimind.launchers.base import Launcher
from aimind.launchers.flags import flag_name
from aimind.types import Plan, Request

FORMAT = 1
# Fields that are not settings of the lock: recorded elsewhere in it, or never recorded.
_APART = frozenset({"api_key", "backend", "backend_version", "defaults", "env"})
# A field whose value follows from that of another one -> that.
_FOLLOWS = {"kv_cache_tokens": "max_num_seqs"}
_NOTHING = Request()
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_STRICT = {"extra": "forbid"}


class LockError(UnsupportedError):
    """What is here is not what the lock says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedFile:
    """A file of the model."""

    path: str
    size_bytes: int
    sha256: str
    __pydantic_config__: ClassVar[Any] = _STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedFlag:
    """An argument of the backend with its value, and why it is so."""

    flag: str
    value: str = ""
    why: str
    __pydantic_config__: ClassVar[Any] = _STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """What is served, to the byte and to the flag.

    Attributes:
        lock: the number of this format.
        model: the reference; commit: of the hub, `None` for what is on this
            machine, or where ModelScope does not tell it.
        backend, backend_version: with what.
        has_key: clients must send a key; which, it does not say.
        settings: fields of the request with every decision made, those that are not empty.
        env: for the backend; env_names: of variables that hold secrets and must be set.
        files: all that are needed.
        flags: of the backend's command. Folders of this machine have names in braces there.
    """

    lock: int = FORMAT
    model: str
    commit: str | None = None
    backend: str
    backend_version: str
    has_key: bool = False
    env_names: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[LockedFile, ...]
    flags: tuple[LockedFlag, ...]
    __pydantic_config__: ClassVar[Any] = _STRICT

    def request(self, api_key: str | None, env: Mapping[str, str]) -> Request:
        """The request with every decision made.

        Raises:
            UsageError: the settings are none that this aimind knows.
        """
        from pydantic import TypeAdapter, ValidationError

        kinds = get_type_hints(Request)
        found = {}
        for name, value in self.settings.items():
            if name in _APART or name not in kinds:
                raise _damaged(f"settings.{name}: there is no such setting")
            try:
                found[name] = TypeAdapter(kinds[name]).validate_python(value)
            except ValidationError as problem:
                raise _damaged(_first(problem, "settings", name)) from problem
        return Request(
            backend=self.backend,
            backend_version=self.backend_version,
            api_key=api_key,
            env={**self.env, **env},
            **found,
        )


def settings(request: Request) -> dict[str, Any]:
    """The settings of a plan, as they are written down."""
    values = {each.name: getattr(request, each.name) for each in dataclasses.fields(request)}
    return {
        name: value
        for name, value in values.items()
        if name not in _APART and value != getattr(_NOTHING, name)
    }


def flags(
    launcher: Launcher, plan: Plan, argv: Sequence[str], *, asked: Request, places: Mapping[str, str]
) -> tuple[LockedFlag, ...]:
    """The arguments of the plan's command, its program left out, each with the reason.

    `asked`: what was asked of this backend; `places`: folder -> the name that it has in a lock.
    """
    reasons: dict[str | None, str] = {}
    for reason in plan.reasons:
        reasons.setdefault(reason.field, reason.sentence)
    fields = {
        plain(each): name for name, flag in launcher.FLAGS.items() for each in (*flag.spellings, *flag.off)
    }
    extra = {plain(name) for word in plan.settings.extra if (name := flag_name(word)) is not None}

    def why(flag: str) -> str:
        name = fields.get(plain(flag))
        for field_ in (name, _FOLLOWS.get(name or "")):
            if field_ in reasons:
                return reasons[field_]
        if plain(flag) in extra or (name is not None and getattr(asked, name) is not None):
            return "asked for"
        return "the default" if name is not None else "as aimind always starts it"

    return tuple(
        LockedFlag(flag=flag, value=_placed(value, places), why=why(flag)) for flag, value in _pairs(argv[1:])
    )


def _pairs(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Flags with their values; what stands before the first one has an empty flag."""
    flag, values = "", list[str]()
    for word in argv:
        name = flag_name(word)
        if name is None:
            values.append(word)
            continue
        if flag or values:
            yield flag, " ".join(values)
        flag, equals, value = word.partition("=")
        values = [value] if equals else []
    if flag or values:
        yield flag, " ".join(values)


def _placed(value: str, places: Mapping[str, str]) -> str:
    for folder in sorted(places, key=len, reverse=True):
        value = value.replace(folder, f"{{{places[folder]}}}")
    return value


def check(lock: Lock, found: Lock) -> None:
    """Find out that what would be served is what is locked.

    Raises:
        LockError: it differs; each difference is named.
    """
    differences = list(_differences(lock, found))
    if differences:
        raise LockError(
            f"the plan differs from the lock: {'; '.join(differences)}",
            hint="`aimind lock` writes a new lock for this machine",
        )


def _differences(lock: Lock, found: Lock) -> Iterator[str]:
    for name in ("model", "commit", "backend", "backend_version", "has_key"):
        yield from _difference(name, getattr(lock, name), getattr(found, name))
    for kind in ("settings", "env"):
        locked, here = getattr(lock, kind), getattr(found, kind)
        for name in sorted({*locked, *here}):
            yield from _difference(f"{kind}.{name}", _plain(locked.get(name)), _plain(here.get(name)))
    pairs = [[(each.flag, each.value) for each in of.flags] for of in (lock, found)]
    if pairs[0] != pairs[1]:
        locked, here = (dict(of) for of in pairs)
        told = [
            line
            for flag in dict.fromkeys([*locked, *here])
            for line in _difference(flag or "the command", locked.get(flag), here.get(flag))
        ]
        yield from told or ["the flags are in a different order"]


def _difference(name: str, locked: object, here: object) -> Iterator[str]:
    if locked != here:
        yield f"{name} is {_locked_text(locked)} in the lock and {_locked_text(here)} here"


def _locked_text(value: object) -> str:
    return "not set" if value is None else repr(value)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


# ── The file ───────────────────────────────────────────────────────────────────────────────────────────────


def text(lock: Lock, *, made_by: str) -> str:
    """The lock as TOML."""
    lines = [
        "# `aimind serve --frozen` serves exactly this. Made by:",
        f"# {made_by}" if made_by.isprintable() else "# aimind lock",
        *_toml({name: value for name, value in dataclasses.asdict(lock).items() if value is not None}, ()),
    ]
    return "".join(f"{line}\n" for line in lines)


def _toml(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """Values first, then tables, then lists of tables."""
    later: list[tuple[str, str, Mapping[str, Any]]] = []
    for name, value in table.items():
        if isinstance(value, Mapping):
            later += [("[{}]", name, value)] if value else []
        elif isinstance(value, tuple) and value and isinstance(value[0], Mapping):
            later += [("[[{}]]", name, each) for each in value]
        else:
            yield f"{_key(name)} = {_value(value)}"
    for form, name, inner in later:
        yield ""
        yield form.format(".".join(map(_key, (*path, name))))
        yield from _toml(inner, (*path, name))


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _value(name)


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    # A string of JSON is one of TOML but for DEL, which that wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def read(content: bytes) -> Lock:
    """The lock that is written there.

    Raises:
        UsageError: it is none, or of a newer aimind.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        data = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as problem:
        raise _damaged(str(problem)) from problem
    if data.get("lock") != FORMAT:
        raise UsageError(
            f"this file is not a lock of format {FORMAT}",
            hint="a newer aimind may read it; `aimind lock` writes a lock",
        )
    try:
        return TypeAdapter(Lock).validate_python(data)
    except ValidationError as problem:
        raise _damaged(_first(problem)) from problem


def _first(problem: Any, *outer: str) -> str:
    first = problem.errors()[0]
    return f"{'.'.join(map(str, (*outer, *first['loc'])))}: {first['msg']}"


def _damaged(why: str) -> UsageError:
    return UsageError(f"the lock is damaged: {why}", hint="write it again with `aimind lock`")

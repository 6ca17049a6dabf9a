"""What a file of the configuration may say, by pydantic, which takes a while to import."""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    ValidationInfo,
    create_model,
)
from typer.core import TyperOption

from aimind.configuration.keys import Keys, flag, variable
from aimind.configuration.lines import lines
from aimind.configuration.values import Setting, Text
from aimind.errors import UsageError
from aimind.launchers.base import nearest
from aimind.launchers.flags import whole_path
from aimind.options import is_secret
from aimind.parameters import convert

_PAGE = "docs/configuration.md lists all keys, `aimind config` shows the current values"
_AT_LINE = re.compile(r" \(at line (\d+), column \d+\)")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """What one file says.

    Attributes:
        options: by key.
        models: options by the model that they are for.
        env: for every backend.
        versions, args, envs: by backend.
    """

    options: Mapping[str, Setting]
    models: Mapping[str, Mapping[str, Setting]]
    env: Mapping[str, Setting]
    versions: Mapping[str, Setting]
    args: Mapping[str, Setting]
    envs: Mapping[str, Mapping[str, Setting]]


def _text(value: object) -> str:
    """Text, or a number as text."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("it should be text or a number")  # noqa: TRY004 - pydantic's way
    if "\0" in str(value):
        raise ValueError("it contains a NUL character")
    return str(value)


def _word(value: object, info: ValidationInfo) -> str:
    return whole_path(_text(value), _folder(info))


def _variable(name: str) -> str:
    if not name or "=" in name or "\0" in name:
        raise ValueError("this cannot be the name of a variable")
    if is_secret(name):
        raise ValueError("a secret must not be in the configuration; export it, and the backend inherits it")
    return name


def _folder(info: ValidationInfo) -> Path:
    return Path(info.context["folder"]) if info.context else Path()


Environment = dict[Annotated[str, AfterValidator(_variable)], Annotated[str, BeforeValidator(_text)]]


class Backend(BaseModel):
    """`[backends.NAME]`."""

    model_config = ConfigDict(extra="forbid")
    version: Annotated[StrictStr, Field(min_length=1)] | None = None
    args: list[Annotated[str, BeforeValidator(_word)]] | None = None
    env: Environment = Field(default_factory=dict)


def model(keys: Keys, backends: tuple[str, ...]) -> type[BaseModel]:
    """What a file is checked against."""
    forbid = ConfigDict(extra="forbid")
    fields: dict[str, Any] = {name: (_kind(option) | None, None) for name, option in keys.items()}
    options = create_model("Options", __config__=forbid, **fields)
    tables: dict[str, Any] = {
        "env": (Environment, Field(default_factory=dict)),
        "backends": (dict[Literal[backends], Backend], Field(default_factory=dict)),  # type: ignore[valid-type]
        "models": (dict[str, options], Field(default_factory=dict)),  # type: ignore[valid-type]
    }
    return create_model("Configuration", __base__=options, **tables)


def _kind(option: TyperOption) -> Any:
    """The type of an option's values."""
    kind: Any = option.type_descriptor.annotation
    info = option.type_descriptor.parameter_info
    if option.is_flag:
        return StrictBool
    if kind is float:
        return Annotated[float, Field(strict=True), AfterValidator(lambda value: convert(option, value))]
    if kind is int and info.parser is None:
        return Annotated[StrictInt, Field(ge=info.min, le=info.max)]
    if get_origin(kind) is Literal:
        return kind
    if kind is str:
        return Annotated[StrictStr, Field(min_length=1)]

    def converted(value: object, info: ValidationInfo) -> str:
        """The value as it would be typed; a path is relative to the file's folder."""
        text = ",".join(map(_text, value)) if isinstance(value, list) else _text(value)
        if kind is Path:
            text = os.path.join(_folder(info), os.path.expanduser(text))  # noqa: PTH111, PTH118 - text
        convert(option, text)
        return text

    return Annotated[str, BeforeValidator(converted)]


def read(file: Text, keys: Keys, backends: tuple[str, ...]) -> Section:
    """What the file says.

    Raises:
        UsageError: it is no TOML, or has a key that there is not, or a value that a key cannot have.
    """
    try:
        data = tomllib.loads(file.text)
    except tomllib.TOMLDecodeError as problem:
        at = _AT_LINE.search(str(problem))
        number = at[1] if at else len(file.text.splitlines())  # "at end of document"
        message = _AT_LINE.sub("", str(problem))
        raise UsageError(f"{file.path}:{number}: {message}", hint="the file must be valid TOML") from None
    except RecursionError:
        raise UsageError(f"{file.path} is nested too deeply", hint=_PAGE) from None
    form = model(keys, backends)
    try:
        found = form.model_validate(data, context={"folder": str(file.folder)})
    except ValidationError as problem:
        _Problem(file, keys, backends).raise_first(problem)
    at_line = lines(file.text)

    def setting(value: object, *path: str) -> Setting:
        return Setting(value, f"{file.path}:{at_line[path]}")

    def options(of: BaseModel, *path: str) -> dict[str, Setting]:
        names = sorted(of.model_fields_set.intersection(keys))
        return {name: setting(getattr(of, name), *path, name) for name in names}

    whole: Any = found
    sections: dict[str, Backend] = whole.backends
    return Section(
        options=options(found),
        models={name: options(of, "models", name) for name, of in whole.models.items()},
        env={name: setting(value, "env", name) for name, value in whole.env.items()},
        versions={
            name: setting(of.version, "backends", name, "version")
            for name, of in sections.items()
            if of.version
        },
        args={
            name: setting(tuple(of.args), "backends", name, "args")
            for name, of in sections.items()
            if of.args is not None
        },
        envs={
            name: {each: setting(value, "backends", name, "env", each) for each, value in of.env.items()}
            for name, of in sections.items()
        },
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Problem:
    """Builds the error for an invalid file."""

    file: Text
    keys: Keys
    backends: tuple[str, ...]

    def raise_first(self, found: ValidationError) -> NoReturn:
        """Raise the error for the first problem in the file."""
        at_line = lines(self.file.text)

        def line(path: tuple[str, ...]) -> int:
            return next((at_line[path[:end]] for end in range(len(path), 0, -1) if path[:end] in at_line), 1)

        problems = [(tuple(map(str, each["loc"])), each) for each in found.errors()]
        path, first = min(problems, key=lambda each: line(each[0]))
        where = f"{self.file.path}:{line(path)}"
        if first["type"] == "extra_forbidden":
            raise self._unknown(where, path)
        if path[-1] == "[key]" and path[0] == "backends" and len(path) == 3:
            near = nearest(path[1], list(self.backends))
            hint = f"did you mean {near}?" if near else f"there are {', '.join(self.backends)}"
            raise UsageError(f"{where}: no backend is called {path[1]!r}", hint=hint)
        path = path[:-1] if path[-1] == "[key]" else path
        cause = first.get("ctx", {}).get("error")
        message = str(cause) if cause is not None else first["msg"].replace("Input should", "it should")
        raise UsageError(f"{where}: {'.'.join(path)}: {message}", hint=self._hint(path))

    def _unknown(self, where: str, path: tuple[str, ...]) -> UsageError:
        """There is no such key."""
        name, outer = path[-1], path[:-1]
        if is_secret(name):
            return UsageError(
                f"{where}: {name}: a secret must not be in the configuration",
                hint="use api_key_file or hf_token_file, with a file that only you can read",
            )
        known = {"backends": list(Backend.model_fields), "models": list(self.keys)}.get(
            outer[0] if outer else "", [*self.keys, "env", "backends", "models"]
        )
        near = nearest(name.replace("-", "_"), known)
        inside = f" in [{'.'.join(outer)}]" if outer else ""
        if near is None and name in self.keys:
            return UsageError(
                f"{where}: there is no key {name!r}{inside}", hint=f"{name} stands before all tables"
            )
        return UsageError(
            f"{where}: there is no key {name!r}{inside}", hint=f"did you mean {near}?" if near else _PAGE
        )

    def _hint(self, path: tuple[str, ...]) -> str:
        option = self.keys.get(path[-1])
        if option is not None and path[0] not in ("env", "backends"):
            return f"as {flag(path[-1])} and {variable(path[-1])} take it: {option.help}"
        return _PAGE

"""How the text of an option becomes a value.

typer converts values with pydantic, whose import takes longer than a whole plan. `use_light_conversion` has a
command convert its values by the functions here instead; the configuration uses the same functions.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import typer
from typer.core import TyperArgument, TyperOption

from aimind.errors import UsageError

ColorChoice = Literal["auto", "always", "never"]
Parameter = TyperOption | TyperArgument
_TRUE, _FALSE = ("true", "yes", "on", "1", "t", "y"), ("false", "no", "off", "0", "f", "n")


class TokenCounts(tuple[int, ...]):
    """Several context lengths in tokens; 0 stands for the model's own limit."""

    __slots__ = ()


class DeviceIndices(tuple[int, ...]):
    """Devices by the driver's index; none means the CPU."""

    __slots__ = ()


class Variable(NamedTuple):
    """An environment variable for the backend."""

    name: str
    content: str


# ── Parsers of single options ──────────────────────────────────────────────────────────────────────────────
# Each also accepts a value that has its type already, such as a default.


def parse_tokens(value: object) -> int:
    """A number of tokens: `8192`, `8k`; or `max`, the model's own limit, as 0.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, int):
        return value
    if value == "max":
        return 0
    from aimind.launchers.arguments import tokens

    try:
        number = tokens(str(value))
    except ValueError:
        raise ValueError(f"{value!r} is not a number of tokens such as 8192, 8k or max") from None
    if number == 0:
        raise ValueError("a context needs at least one token")
    return number


def parse_token_counts(value: object) -> TokenCounts:
    """Numbers of tokens, separated by commas.

    Raises:
        ValueError: one of them is none.
    """
    if isinstance(value, TokenCounts):
        return value
    return TokenCounts(parse_tokens(part) for part in str(value).split(","))


def parse_devices(value: object) -> DeviceIndices:
    """Devices: `0`, `0,1`; or `none`, the CPU.

    Raises:
        ValueError: that is no list of devices, or one is named twice.
    """
    if isinstance(value, DeviceIndices):
        return value
    if value in ("none", "cpu"):
        return DeviceIndices()
    try:
        indices = DeviceIndices(int(part) for part in str(value).split(","))
    except ValueError:
        raise ValueError(f"{value!r} is not a list of devices such as 0, 0,1 or none") from None
    if len(set(indices)) != len(indices):
        raise ValueError(f"{value!r} names a device twice")
    return indices


def parse_variable(value: object) -> Variable:
    """An environment variable: `NAME=VALUE`, or `NAME` with the value that it has in this environment.

    Raises:
        ValueError: it has no name or no value.
        UsageError: a secret would be visible in the list of processes.
    """
    if isinstance(value, Variable):
        return value
    from aimind.options import is_secret

    name, equals, content = str(value).partition("=")
    if not name:
        raise ValueError("the variable has no name: write NAME=VALUE, or NAME to pass the value it has now")
    if not equals:
        if name not in os.environ:
            raise ValueError(f"{name} is not set in this environment; {name}=VALUE sets it")
        return Variable(name, os.environ[name])
    if is_secret(name):
        raise UsageError(
            f"everybody on this machine can read {name} in the list of processes",
            hint=f"export {name}, then --env {name}",
        )
    return Variable(name, content)


def parse_share(value: object) -> float:
    """A share of the whole: more than 0, at most 1.

    Raises:
        ValueError: it is none.
    """
    share = _number(value, float)
    if not 0 < share <= 1:
        raise ValueError(f"{share:g} is not more than 0 and at most 1")
    return share


def parse_duration(value: object) -> float:
    """A number of seconds that is not 0.

    Raises:
        ValueError: it is none.
    """
    seconds = _number(value, float)
    if not seconds > 0:
        raise ValueError(f"{seconds:g} is not more than 0")
    return seconds


# ── All kinds ──────────────────────────────────────────────────────────────────────────────────────────────


def convert(parameter: Parameter, value: object) -> Any:
    """The value of a parameter, of the type that its annotation names.

    Raises:
        ValueError: the parameter does not accept that value; the message is a sentence about the value.
        UsageError: the value is refused with a hint of its own.
    """
    kind: Any = parameter.type_descriptor.annotation
    if _origin(kind) is list:
        parts = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        return [_convert_one(parameter, get_args(kind)[0], part) for part in parts]
    return _convert_one(parameter, kind, value)


def _convert_one(parameter: Parameter, kind: Any, value: object) -> object:
    info = parameter.type_descriptor.parameter_info
    if info.parser is not None:
        return info.parser(value)  # type: ignore[arg-type] # ours accept any object
    if _origin(kind) is Literal:
        return _choice(value, get_args(kind))
    if kind is bool:
        return _boolean(value)
    if kind in (int, float):
        return _ranged(_number(value, kind), info.min, info.max)
    if kind is Path:
        return _path(Path(str(value)), must_exist=info.exists, may_be_directory=info.dir_okay)
    if kind is str:
        return str(value)
    raise TypeError(f"no conversion to {kind}")


def _origin(kind: Any) -> Any:
    return get_origin(kind)


def _choice(value: object, choices: tuple[str, ...]) -> object:
    if value not in choices:
        raise ValueError(f"{value!r} is not one of {', '.join(choices)}")
    return value


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(f"{value!r} is neither true nor false")


def _number(value: object, kind: type[int] | type[float]) -> float:
    try:
        number = float(str(value)) if kind is float else int(str(value))
    except (TypeError, ValueError):
        raise ValueError(f"{value!r} is not a {'whole ' if kind is int else ''}number") from None
    if number != number:  # noqa: PLR0124 - only NaN differs from itself
        raise ValueError(f"{value!r} is not a number")
    return number


def _ranged(number: float, least: float | None, most: float | None) -> float:
    if least is not None and number < least:
        limit = f"less than {least:g}"
    elif most is not None and number > most:
        limit = f"more than {most:g}"
    else:
        return number
    raise ValueError(f"{number:g} is {limit}")


def _path(path: Path, *, must_exist: bool, may_be_directory: bool) -> Path:
    if path.is_dir() and not may_be_directory:
        raise ValueError(f"{path} is a directory, not a file")
    if must_exist and not path.exists():
        raise ValueError(f"the file {path} does not exist")
    if must_exist and not os.access(path, os.R_OK):
        raise ValueError(f"the file {path} is not readable")
    return path


@dataclass(frozen=True, slots=True)
class _LightConversion:
    """What typer asks for the value of one parameter."""

    parameter: Parameter

    def coerce(self, value: object, param: Parameter, ctx: typer.Context) -> object:
        """The value, as typer's own conversion would return it."""
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        try:
            return convert(self.parameter, value)
        except ValueError as problem:
            raise typer.BadParameter(str(problem), ctx=ctx, param=param) from problem


def use_light_conversion(parameters: Sequence[Any]) -> None:
    """Have typer convert the values of these parameters without pydantic.

    Should a later typer look elsewhere for its conversion, values are converted by pydantic again: slower,
    and with other words in errors.
    """
    for parameter in parameters:
        parameter._runtime_param = _LightConversion(parameter)


# ── Names ──────────────────────────────────────────────────────────────────────────────────────────────────


def long_name(parameter: Any) -> str:
    """The longest spelling of a parameter: `--context`."""
    spelling: str = max(parameter.opts, key=len)
    return spelling

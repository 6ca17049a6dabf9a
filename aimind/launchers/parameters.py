"""Parameters that a backend does not take as arguments: a table says what each may be and where it goes.

Some are fields of the request, so that they are planned with; the others stay as the user gave them until the
command is made. Both are checked before anything is estimated, and again once every setting is decided.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from aimind.errors import UsageError
from aimind.launchers.base import Flag, Kind, nearest
from aimind.types import Request

Given = Mapping[str, object]  # a parameter's first name -> its value
_KINDS: Mapping[str, Kind] = {"int": "int", "float": "float", "word": "text", "switch": "switch"}


@dataclass(kw_only=True, eq=False, repr=False)  # the rest would take a millisecond of each start
class Parameter:
    """One row of the table. A bound is a number, or the name of the parameter that it is the value of.

    Attributes:
        names: its spellings, the full one first; off: those that say no.
        kind: `int`, `float`, `word`, `switch` or `json` (an object).
        words: the only values, if it has such.
        least, above, most, below: bounds, with and without the bound itself.
        power_of_two: as it says.
        none: the value that stands for nothing said.
        default: in the newest version; older: version -> before it.
        needs: the parameter without which it has no effect; requires: those that it has none without.
        field: of the request; path: in the configuration, with dots; variable: of the environment.
        since: the first version that has it.
    """

    names: list[str]
    kind: str
    off: list[str] = dataclasses.field(default_factory=list)
    words: list[object] = dataclasses.field(default_factory=list)
    least: float | None = None
    above: float | None = None
    most: float | str | None = None
    below: str | None = None
    power_of_two: bool = False
    none: int | None = None
    default: object = None
    older: Mapping[str, object] = dataclasses.field(default_factory=dict)
    needs: str | None = None
    requires: list[str] = dataclasses.field(default_factory=list)
    field: str | None = None
    path: str | None = None
    variable: str | None = None
    since: str | None = None

    @property
    def name(self) -> str:
        """The full spelling."""
        return self.names[0]


class Table:
    """The parameters of a backend, and pairs of groups of which only one can be used.

    Attributes:
        backend: as a person calls it.
        parameters: in order; by_name: by their full spellings.
        exclusive: nothing of the first group goes with anything of the second.
    """

    def __init__(self, backend: str, text: str) -> None:
        """From the JSON of a data file."""
        document = json.loads(text)
        self.backend = backend
        self.parameters = tuple(Parameter(**row) for row in document["parameters"])
        self.by_name = {parameter.name: parameter for parameter in self.parameters}
        self.exclusive: list[tuple[list[str], list[str]]] = document["exclusive"]

    def flags(self) -> dict[str, Flag]:
        """Those that are fields of the request."""
        return {
            each.field: Flag(
                spellings=tuple(each.names),
                kind="tokens" if each.field == "max_model_len" else _KINDS[each.kind],
                off=tuple(each.off),
                words=((str(each.none), None),) if each.none is not None else (),
            )
            for each in self.parameters
            if each.field
        }

    def given(self, request: Request) -> dict[str, object]:
        """Read the parameters from the fields and arguments of the request.

        Raises:
            UsageError: an argument is not a parameter, or its value has the wrong type.
        """
        fields = {each.name: getattr(request, each.field) for each in self.parameters if each.field}
        values = {name: value for name, value in fields.items() if value is not None}
        rest = iter(request.extra)
        for token in rest:
            name, equals, text = token.partition("=")
            parameter = self._spelled(name)
            if parameter.kind == "switch":
                if equals:
                    raise UsageError(f"{name} does not take a value", hint=f"use {name} alone")
                values[parameter.name] = name not in parameter.off
            else:
                values[parameter.name] = _value(parameter, text if equals else next(rest, None))
        return {name: value for name, value in values.items() if value != self.by_name[name].none}

    def check(self, given: Given, version: str, *, force: bool = False) -> None:
        """Check the parameters that are decided; unless forced, also whether this version has them.

        Raises:
            UsageError: a parameter or its value is not supported.
        """
        for name, value in given.items():
            parameter = self.by_name[name]
            takes = " and ".join(self._rules(parameter, given, version))
            if not self._holds(parameter, value, given, version):
                raise UsageError(
                    f"{name} {value} is not valid; it must be {takes}", hint=self._without(parameter, version)
                )
            if parameter.since and not force and is_older(version, parameter.since):
                raise UsageError(
                    f"{name} needs {self.backend} {parameter.since} or later, and {version} is installed",
                    hint="omit it, or use --force to pass it anyway",
                )
            if parameter.needs and value is not False and not given.get(parameter.needs):
                raise UsageError(
                    f"{name} has no effect without {parameter.needs}", hint="use both or neither"
                )
            for other in parameter.requires if value else ():
                if other not in given:
                    raise UsageError(f"{name} needs {other}", hint=f"add {other} MILLISECONDS")
        for group, others in self.exclusive:
            for first, second in itertools.product(group, others):
                if first != second and in_use(given, first) and in_use(given, second):
                    sentence = f"{first} and {second} exclude each other in {self.backend}"
                    raise UsageError(sentence, hint="omit one of them")

    def value(self, name: str, given: Given, version: str) -> object:
        """The value of a parameter, or this version's default; `None` if the plan has yet to decide it."""
        parameter = self.by_name[name]
        if name in given or parameter.field:
            return given.get(name)
        default = next(
            (old for until, old in parameter.older.items() if is_older(version, until)), parameter.default
        )
        is_name = isinstance(default, str) and default in self.by_name
        return self.value(str(default), given, version) if is_name else default

    def fill(self, configuration: dict[str, object], given: Given, version: str) -> None:
        """Write what is given to its place, where there is that section; with a switch what goes with it."""
        for parameter in self.parameters:
            goes_along = parameter.needs is not None and given.get(parameter.needs) is True
            section = (parameter.path or "").partition(".")[0]
            if parameter.path and section in configuration and (parameter.name in given or goes_along):
                put(configuration, parameter.path, self.value(parameter.name, given, version))

    def variables(self, given: Given) -> dict[str, str]:
        """The parameters that are set through environment variables."""
        found: dict[str, str] = {}
        for each in self.parameters:
            if each.variable and each.name in given:
                value = given[each.name]
                text = str(value).upper() if each.kind == "word" else str(value)
                found[each.variable] = "1" if value is True else text
        return found

    def _spelled(self, name: str) -> Parameter:
        for parameter in self.parameters:
            if name in (*parameter.names, *parameter.off):
                return parameter
        near = nearest(name, [spelling for each in self.parameters for spelling in (*each.names, *each.off)])
        raise UsageError(
            f"{self.backend} does not have a parameter {name}",
            hint=f"did you mean {near}?" if near else "omit it",
        )

    def _holds(self, parameter: Parameter, value: object, given: Given, version: str) -> bool:
        if parameter.words:
            return value in parameter.words
        if isinstance(value, bool) or not isinstance(value, int | float):
            return True
        most, below = (
            self._bound(parameter.most, given, version),
            self._bound(parameter.below, given, version),
        )
        return (
            math.isfinite(value)
            and (parameter.least is None or value >= parameter.least)
            and (parameter.above is None or value > parameter.above)
            and (most is None or value <= most)
            and (below is None or value < max(below, (parameter.least or 0) + 1))
            and (not parameter.power_of_two or not int(value) & (int(value) - 1))
        )

    def _bound(self, bound: float | str | None, given: Given, version: str) -> float | None:
        if not isinstance(bound, str):
            return bound
        value = self.value(bound, given, version)
        return value if isinstance(value, int | float) else None

    def _rules(self, parameter: Parameter, given: Given, version: str) -> Iterator[str]:
        """Describe the values that a parameter accepts."""
        if parameter.words:
            yield f"one of {', '.join(map(str, parameter.words))}"
        for word, bound in (
            ("at least", parameter.least),
            ("more than", parameter.above),
            ("at most", parameter.most),
            ("less than", parameter.below),
        ):
            if bound is not None:
                number = self._bound(bound, given, version)
                also = f" ({number:g})" if isinstance(bound, str) and number is not None else ""
                yield f"{word} {bound}{also}"
        if parameter.power_of_two:
            yield "a power of two" + (f", or {parameter.none}" if parameter.none is not None else "")

    def _without(self, parameter: Parameter, version: str) -> str:
        default = self.value(parameter.name, {}, version)
        return "omit it to use the default" + (f", {default}" if default is not None else "")


def in_use(given: Given, name: str) -> bool:
    """Whether a parameter does anything: a size of 1 and a switch that is off do not."""
    value = given.get(name)
    return value is True or value not in (None, False, 1)


def put(configuration: dict[str, object], path: str, value: object) -> None:
    """Set a place in a document; what is missing on the way is made, a list for a number."""
    where: object = configuration
    steps = path.split(".")
    for step, following in zip(steps, [*steps[1:], ""], strict=True):
        made: object = value if not following else [] if following.isdigit() else {}
        if isinstance(where, list):
            where.extend([made] * (int(step) + 1 - len(where)))
            if not following:
                where[int(step)] = value
            where = where[int(step)]
        elif isinstance(where, dict):
            if not following or not isinstance(where.get(step), type(made)):
                where[step] = made
            where = where[step]


def is_older(version: str, than: str) -> bool:
    """Whether a version comes before another: test builds (T) before candidates (RC) before releases.

    One that is not understood counts as new.
    """
    first, second = _order(version), _order(than)
    return first is not None and second is not None and first < second


def _order(version: str) -> tuple[int, int, int, int] | None:
    match = re.match(r"(\d+)\.(\d+)(?:\.(RC|T)?(\d+))?", version, re.IGNORECASE)
    if match is None:
        return None
    stage = {"t": 0, "rc": 1}.get((match[3] or "").lower(), 2)
    return int(match[1]), int(match[2]), stage, int(match[4] or 0)


def _value(parameter: Parameter, text: str | None) -> object:
    if text is None:
        raise UsageError(f"{parameter.name} needs a value", hint=f"use {parameter.name} VALUE")
    try:
        match parameter.kind:
            case "int":
                return int(text)
            case "float":
                return float(text)
            case "json":
                return dict(json.loads(text))
            case _:
                return text
    except (TypeError, ValueError):
        wanted = {"json": "a JSON object", "int": "a whole number"}.get(parameter.kind, "a number")
        raise UsageError(
            f"{parameter.name} does not accept {text}; it must be {wanted}",
            hint=f"use {parameter.name} VALUE",
        ) from None

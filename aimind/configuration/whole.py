"""All files and variables of the configuration, put together."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from aimind.configuration import files, variables
from aimind.configuration.keys import Keys
from aimind.configuration.values import Setting, Text
from aimind.errors import BadReferenceError
from aimind.types import Preset

if TYPE_CHECKING:
    from aimind.configuration.allowed import Untrusted
    from aimind.configuration.schema import Section


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """All that is configured, the files put together.

    Attributes:
        files: that there are, the weakest first.
        options: of files, by key; models: the same for single models; variables: of the environment.
        env: for all backends; versions, args, envs: for one, by its name.
        untrusted: files whose settings are left out as far as they need the user's trust.
        warnings: what the user should know, as sentences; notes: what is no mistake of anybody's.
    """

    files: tuple[Text, ...] = ()
    options: Mapping[str, Setting] = field(default_factory=dict)
    models: Mapping[str, Mapping[str, Setting]] = field(default_factory=dict)
    variables: Mapping[str, Setting] = field(default_factory=dict)
    env: Mapping[str, Setting] = field(default_factory=dict)
    versions: Mapping[str, Setting] = field(default_factory=dict)
    args: Mapping[str, Setting] = field(default_factory=dict)
    envs: Mapping[str, Mapping[str, Setting]] = field(default_factory=dict)
    untrusted: tuple[Untrusted, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def check_trust(self, *keys: str) -> None:
        """Find out that no setting is left out for want of trust; of these keys alone where any are named.

        Raises:
            UsageError: a setting is left out.
        """
        for found in self.untrusted:
            if not keys or not found.settings.keys().isdisjoint(keys):
                raise found.error()

    def special(self, model: str | None) -> dict[str, Setting]:
        """The values, by key, that override a backend's own arguments: the model's and the variables'."""
        found = [setting for name, setting in self.models.items() if model is not None and _same(name, model)]
        return _merged([*found, self.variables])

    def presets(self, backends: tuple[str, ...]) -> dict[str, Preset]:
        """What is configured of each of these backends."""
        return {
            name: Preset(
                version=str(setting.value) if (setting := self.versions.get(name)) else None,
                args=tuple(map(str, args.value)) if (args := self.args.get(name)) else (),  # type: ignore[call-overload]
                where=args.where if args else "",
                env={
                    each: str(setting.value)
                    for each, setting in _merged([self.env, self.envs.get(name, {})]).items()
                },
            )
            for name in backends
        }


def load(keys: Keys, backends: tuple[str, ...]) -> Configuration:
    """What is configured, of these options and backends.

    Settings that need trust are left out where the user has not allowed their file: see `check_trust`.

    Raises:
        UsageError: a file or a variable says what cannot be, or the list of trusted files cannot be read.
        InstanceError: others can change the list of trusted files.
    """
    found = files.read()
    sections: list[Section] = []
    untrusted: list[Untrusted] = []
    for file in found:
        if file.problem is not None:
            continue
        section, refused = _section(file, keys, backends)
        sections.append(section)
        if refused is not None:
            untrusted.append(refused)
    named = {name for each in sections for name in each.envs}
    return Configuration(
        files=found,
        options=_merged(each.options for each in sections),
        models={
            name: _merged(each.models.get(name, {}) for each in sections)
            for name in dict.fromkeys(itertools.chain.from_iterable(each.models for each in sections))
        },
        variables=variables.read(keys),
        env=_merged(each.env for each in sections),
        versions=_merged(each.versions for each in sections),
        args=_merged(each.args for each in sections),
        envs={name: _merged(each.envs.get(name, {}) for each in sections) for name in named},
        untrusted=tuple(untrusted),
        warnings=(
            *(f"{each.path} is ignored: {each.problem}" for each in found if each.problem),
            *variables.unknown(keys),
        ),
        notes=tuple(variables.of_kubernetes()),
    )


def restricted(file: Text, keys: Keys, backends: tuple[str, ...]) -> Mapping[str, Setting]:
    """The settings of the file that need trust, by the path of their key.

    Raises:
        UsageError: the file says what cannot be.
    """
    from aimind.configuration import allowed, schema

    return allowed.restricted(schema.read(file, keys, backends))


def _section(file: Text, keys: Keys, backends: tuple[str, ...]) -> tuple[Section, Untrusted | None]:
    """The settings of the file that may be used, and those that the user would have to allow first."""
    from aimind.configuration import allowed, schema

    section = schema.read(file, keys, backends)
    if not file.here:
        return section, None
    restricted = allowed.restricted(section)
    if not restricted or allowed.is_allowed(file):
        return section, None
    return allowed.harmless(section), allowed.Untrusted(file, restricted)


def _merged(parts: Iterable[Mapping[str, Setting]]) -> dict[str, Setting]:
    """All of them; of what several say, the last."""
    return {name: setting for part in parts for name, setting in part.items()}


def _same(name: str, model: str) -> bool:
    """Whether the model that was typed is the section's, of whatever revision and quantization."""
    from aimind import reference

    if name == model:
        return True
    try:
        asked, meant = reference.parse(model), reference.parse(name)
    except BadReferenceError:
        return False  # what was typed wrongly is reported later
    if meant.revision or meant.quantization or meant.file or asked.source != meant.source:
        return False
    if asked.source != "local":
        return asked.name == meant.name
    return Path(asked.name).expanduser().absolute() == Path(meant.name).expanduser().absolute()

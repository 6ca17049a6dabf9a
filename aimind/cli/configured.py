"""Commands whose options can be configured: by files and variables (`aimind.configuration`)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperOption

from aimind import show
from aimind.cli.app import Command, load, takes_backend_arguments
from aimind.cli.habits import check_options
from aimind.errors import BadReferenceError
from aimind.options import request_field
from aimind.reference import HUB_VARIABLE
from aimind.types import API_KEY_VARIABLE, TOKEN_VARIABLES, Defaults, Plan, Preset, Request

if TYPE_CHECKING:
    from aimind.configuration.keys import Keys
    from aimind.configuration.values import Setting
    from aimind.configuration.whole import Configuration

NO_CONFIG = "--no-config"
FROZEN = "--frozen"  # the lock has all settings
# Variables that come before what a file says.
_SECRETS = {"api_key_file": (API_KEY_VARIABLE,), "hf_token_file": TOKEN_VARIABLES}
_APPLIED = "aimind.applied"
ARGV = "aimind.argv"  # in the context: the arguments as they were typed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Applied:
    """What is configured for one command: options by key, those of all models apart; of backends by name.

    `configuration`: what it was read from, where anything is configured.
    """

    general: Mapping[str, Setting] = field(default_factory=dict)
    special: Mapping[str, Setting] = field(default_factory=dict)
    presets: Mapping[str, Preset] = field(default_factory=dict)
    configuration: Configuration | None = None

    @property
    def settings(self) -> dict[str, Setting]:
        return {**self.general, **self.special}


class Configured(Command):
    """A command that keeps what was typed, and whose options default to the values that are configured."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Set the defaults, and parse."""
        from aimind.configuration.keys import key

        ctx.meta[ARGV] = tuple(args)
        if not ctx.resilient_parsing and takes_backend_arguments(self):
            check_options(self, args, ctx.obj or ())
        applied = _Applied()
        silent = {NO_CONFIG, FROZEN, *ctx.help_option_names}
        if NO_CONFIG in args:
            os.environ.pop(HUB_VARIABLE, None)
        if not ctx.resilient_parsing and silent.isdisjoint(word.partition("=")[0] for word in args):
            applied = self._applied(ctx, args)
        ctx.meta[_APPLIED] = applied
        ctx.default_map = {
            each.name: setting.value
            for each in self.params
            if isinstance(each, TyperOption)
            and (setting := applied.settings.get(key(each))) is not None
            and setting.value is not False
        }
        try:
            return super().parse_args(ctx, args)
        finally:
            if applied.configuration is not None:
                _report(applied.configuration)  # once --quiet was seen

    def _applied(self, ctx: Any, args: list[str]) -> _Applied:
        if not _is_configured():
            return _Applied()
        configuration = configured()
        configuration.check_trust()
        model = None
        if configuration.models or "quant" in {*configuration.options, *configuration.variables}:
            typed = typed_values(self, ctx, args)
            model = str(typed["model"]) if "model" in typed else None
        general, special = dict(configuration.options), configuration.special(model)
        if model is not None and _names_file(model):
            for options in (general, special):
                options.pop("quant", None)
        for name, secrets in _SECRETS.items():
            if any(map(os.environ.get, secrets)):
                general.pop(name, None)
        return _Applied(
            general=general,
            special=special,
            presets=configuration.presets(backend_names()),
            configuration=configuration,
        )


def _report(configuration: Configuration) -> None:
    """What the user should know of the files and variables that were read, and of those that were not."""
    for warning in configuration.warnings:
        show.warn(warning)
    for note in configuration.notes:
        show.note(f"note: {note}")
    for each in configuration.files:
        if each.here and each.problem is None:
            show.note(f"note: {each.path} is read (`aimind config` shows its settings)")


def _names_file(model: str) -> bool:
    """Whether the text says itself which file or quantization it means."""
    from aimind import reference

    try:
        parsed = reference.parse(model)
    except BadReferenceError:
        return False  # it is reported later
    return bool(parsed.quantization or parsed.file or parsed.name.endswith(".gguf"))


def backend_names() -> tuple[str, ...]:
    """The names of all backends."""
    from aimind.launchers import LAUNCHERS

    return tuple(launcher.NAME for launcher in LAUNCHERS)


def all_keys() -> Keys:
    """The keys that can be configured: the options of `serve`."""
    from aimind.configuration.keys import keys

    return keys(load("serve").params)


def configured() -> Configuration:
    """What is configured here and now.

    Raises:
        UsageError: it says what cannot be.
    """
    from aimind.configuration.whole import load

    return load(all_keys(), backend_names())


def _is_configured() -> bool:
    from aimind.configuration import files
    from aimind.configuration.keys import OTHERS, PREFIX

    return files.are_there() or any(name.startswith(PREFIX) and name not in OTHERS for name in os.environ)


def use_configured_hub() -> None:
    """Use the configured hub, and no network if so configured; for commands without these options.

    Raises:
        UsageError: the configuration says what cannot be.
    """
    from aimind import hub

    if not _is_configured():
        return
    found = configured()
    found.check_trust("hub")
    settings = {**found.options, **found.variables}
    if "hub" in settings:
        os.environ[HUB_VARIABLE] = str(settings["hub"].value)
    if "offline" in settings and settings["offline"].value:
        hub.go_offline()


def typed_values(command: Any, context: Any, args: Sequence[str]) -> dict[str, object]:
    """The arguments and options that were typed, by name and as text; a flag is true."""
    values, _, _ = command.make_parser(context).parse_args(list(args))
    return {name: value for name, value in values.items() if value is not None}


def defaults(context: typer.Context) -> Defaults:
    """What nobody typed, for the request."""
    from aimind.configuration.keys import key

    applied: _Applied = context.meta[_APPLIED]
    fields: dict[str, str] = {}
    general: set[str] = set()
    for option, setting in configured_options(context):
        found = request_field(option.name)
        if found is not None:
            fields[found] = setting.where
            general |= set() if key(option) in applied.special else {found}
    return Defaults(fields=fields, general=frozenset(general), backends=applied.presets)


def configured_options(context: typer.Context) -> Iterator[tuple[TyperOption, Setting]]:
    """The options that have a value which is configured."""
    from aimind.configuration.keys import key

    applied: _Applied = context.meta[_APPLIED]
    for option in context.command.params:
        if isinstance(option, TyperOption) and source(context, option.name) == "DEFAULT_MAP":
            yield option, applied.settings[key(option)]


def source(context: typer.Context, name: str) -> str:
    """Where the value of a parameter comes from: COMMANDLINE, DEFAULT_MAP (the configuration) or DEFAULT."""
    found = context.get_parameter_source(name)
    return found.name if found is not None else "DEFAULT"


@dataclass(frozen=True, slots=True)
class ResolvedDefaults:
    """What is configured and holds for a plan, as options that hold whatever is configured later.

    Attributes:
        options: by name, and `env` the variables for the backend as `--env` takes them.
        backend_argv: for the backend.
    """

    options: Mapping[str, object]
    backend_argv: tuple[str, ...]


def resolve_defaults(context: typer.Context, request: Request, plan: Plan) -> ResolvedDefaults:
    """What is configured and holds for the plan, which was made of the request."""
    from aimind.launchers import LAUNCHERS
    from aimind.launchers.defaults import resolve
    from aimind.select import find_launcher

    launcher = find_launcher(plan.backend.name, LAUNCHERS)
    resolved, preset = resolve(launcher, request), request.defaults.of(launcher.NAME)
    options: dict[str, object] = {
        option.name: setting.value
        for option, setting in configured_options(context)
        if request_field(option.name) not in resolved.overridden
    }
    if request.backend is None and (resolved.args or preset.version):
        options["backend"] = launcher.NAME
    if request.backend_version is None and preset.version:
        options["backend_version"] = preset.version
    options["env"] = [f"{name}={value}" for name, value in preset.env.items() if name not in request.env]
    return ResolvedDefaults(options, resolved.args)


def words(params: Sequence[object], values: Mapping[str, object]) -> Iterator[str]:
    """Options with these values, by name, as they are typed; in the order that the command has them."""
    for option in params:
        if not isinstance(option, TyperOption) or option.name not in values:
            continue
        value = values[option.name]
        for each in value if isinstance(value, list) else [value]:
            yield option.opts[-1]
            if not option.is_flag:
                yield str(each)

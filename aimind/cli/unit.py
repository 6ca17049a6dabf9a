"""`aimind unit`: a systemd unit that serves a model."""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aimind import show, steps
from aimind.cli.app import load
from aimind.cli.asking import ask
from aimind.cli.configured import (
    ARGV,
    NO_CONFIG,
    Configured,
    ResolvedDefaults,
    configured_options,
    defaults,
    resolve_defaults,
    typed_values,
    words,
)
from aimind.cli.declare import OUTPUT, RUNNING, option
from aimind.cli.options import Context, Model, RequestOptions, RunOptions, with_options
from aimind.errors import UsageError
from aimind.launchers.flags import whole_path
from aimind.options import API_KEY_CREDENTIAL, TOKEN_CREDENTIAL, is_secret
from aimind.types import API_KEY_VARIABLE, TOKEN_VARIABLES, Package, Plan

if TYPE_CHECKING:
    from aimind.options import Wanted
    from aimind.units import Credential, Unit

app = typer.Typer(add_completion=False)
# The unit states these otherwise than the command line; `name` comes from the plan.
_DECIDED = frozenset({"name", "port", "device", "backend", "api_key_file", "hf_token_file", "no_config"})
# Variables that locate things, which the service manager does not set.
_KEPT = (
    "AIMIND_HUB",
    "AIMIND_DISTRIBUTIONS",
    "HF_ENDPOINT",
    "MODELSCOPE_ENDPOINT",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "SSL_CERT_FILE",
)
_KEPT_AT_HOME = (
    "AIMIND_STATE_DIR",
    "AIMIND_DATA_DIR",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_TOKEN_PATH",
    "MODELSCOPE_CACHE",
    "MODELSCOPE_HOME",
)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What was asked for.

    Attributes:
        typed: all that was typed after `aimind unit`.
        given: the options as they were typed, by name, or as they are configured.
        run: how the instance runs.
        backend_argv: what stands after `--`, with whole paths.
        wanted: the model, and how to serve it.
        user: a unit of the user's own; hardened, run_as: as the options say.
    """

    typed: tuple[str, ...]
    given: Mapping[str, object]
    run: RunOptions
    backend_argv: tuple[str, ...]
    wanted: Wanted
    user: bool
    hardened: bool
    run_as: str | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Decided:
    """The plan, and what follows from it.

    Attributes:
        plan: itself.
        package: its backend lives in an environment that aimind makes.
        brings: a start may have to download something.
        files: what the service reads: aimind, a local model, the backend's program, files named to it.
    """

    plan: Plan
    package: bool
    brings: bool
    files: tuple[Path, ...]


@app.command("unit", cls=Configured)
@with_options
def unit_command(  # noqa: PLR0913 - one per option
    ctx: typer.Context,
    model: Model,
    *,
    context: Context = None,
    options: RequestOptions,
    run: RunOptions,
    user: Annotated[
        bool,
        option(
            "--user",
            panel=RUNNING,
            help="Make a unit for your user manager (default: for the system manager).",
        ),
    ] = False,
    hardened: Annotated[
        bool,
        option("--hardened", panel=RUNNING, help="Deny the service every permission that it does not need."),
    ] = False,
    run_as: Annotated[
        str | None,
        option(
            "--run-as",
            panel=RUNNING,
            metavar="USER",
            help="User that runs the service (default: you, or with --hardened a user of its own).",
        ),
    ] = None,
    install: Annotated[
        bool,
        option(
            "--install",
            panel=OUTPUT,
            help="Write the unit to systemd's directory and enable it (default: print it).",
        ),
    ] = False,
) -> None:
    """Print or install a systemd unit that serves a model.

    Examples:
      aimind unit demo
      sudo aimind unit unsloth/Qwen3-0.6B-GGUF:Q4_K_M --hardened --install
      aimind unit ./model.gguf --user --install -- --threads 4
    """
    from aimind import units

    given = typed_values(ctx.command, ctx, ctx.meta[ARGV])
    here = Path.cwd()
    asked = _Asked(
        typed=ctx.meta[ARGV] + (("--", *ctx.obj) if ctx.obj else ()),
        given={**{each.name: said.value for each, said in configured_options(ctx)}, **given},
        run=run,
        backend_argv=tuple(whole_path(word, here) for word in ctx.obj),
        wanted=ask(model, options, context=context, backend_argv=ctx.obj, defaults=defaults(ctx)),
        user=user,
        hardened=hardened,
        run_as=run_as,
    )
    _check(asked)
    plan, package = _plan(asked)
    asked = _with_defaults(asked, given, resolve_defaults(ctx, asked.wanted.request, plan))
    decided = _decide(asked, plan, package=package)
    unit = _unit(asked, decided)
    text = units.text(unit)
    for line in _notes(asked, decided, unit):
        show.note(f"note: {line}")
    if install:
        _install(unit, text)
    else:
        typer.echo(text, nl=False)


def _check(asked: _Asked) -> None:
    import pwd

    if asked.wanted.request.api_key and "api_key_file" not in asked.given:
        raise UsageError(
            f"{API_KEY_VARIABLE} is set, but every user can read a unit, so it must not contain the key",
            hint="write the key into a file that only you can read (chmod 600), and use "
            f"--api-key-file; or unset {API_KEY_VARIABLE}",
        )
    if asked.run_as is None:
        return
    if asked.user:
        raise UsageError("a unit of your user manager runs as you", hint="leave out --user or --run-as")
    try:
        pwd.getpwnam(asked.run_as)
    except KeyError:
        raise UsageError(
            f"there is no user {asked.run_as!r} on this machine",
            hint="create one with `useradd --system NAME`",
        ) from None


def _install(unit: Unit, text: str) -> None:
    from aimind import systemd, units

    user = unit.manager == "user"
    path = (systemd.user_folder() if user else systemd.SYSTEM_FOLDER) / unit.file
    systemd.install(path, text, marker=units.MARKER, user=user)
    show.note(f"{path} is written and enabled")
    start = f"systemctl {'--user ' if user else ''}start {unit.file}"
    show.note(f"start it now: {start}; its output: journalctl {'--user ' if user else ''}-u {unit.file}")


# ── From the plan to the unit ──────────────────────────────────────────────────────────────────────────────


def _plan(asked: _Asked) -> tuple[Plan, bool]:
    """The plan, made as `serve` makes it; whether its backend lives in an environment that aimind makes."""
    from aimind import devices, instances

    request = asked.wanted.request
    offer = steps.offer(asked.wanted)
    host = steps.equipped(instances.without_promises(devices.probe(), instances.living()), request)
    plan = steps.require_plan(steps.answer(steps.ask(offer, asked.wanted, host)))
    return plan, isinstance(steps.source(plan.backend.name, host), Package)


def _with_defaults(asked: _Asked, typed: Mapping[str, object], found: ResolvedDefaults) -> _Asked:
    """What is configured, as if it had been typed."""
    given: dict[str, object] = {**found.options, **typed}
    of_typed, of_files = typed.get("env"), found.options["env"]
    given["env"] = [*_listed(of_files), *_listed(of_typed)]
    return dataclasses.replace(asked, given=given, backend_argv=(*found.backend_argv, *asked.backend_argv))


def _listed(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []


def _decide(asked: _Asked, plan: Plan, *, package: bool) -> _Decided:
    """What follows from the plan."""
    return _Decided(
        plan=plan,
        package=package,
        brings=plan.model.root is None or (package and not asked.run.no_install),
        files=tuple(_files(asked, plan, package=package)),
    )


def _files(asked: _Asked, plan: Plan, *, package: bool) -> Iterator[Path]:
    from aimind import systemd

    yield systemd.program()
    yield from systemd.own_folders()
    if plan.model.root is not None:
        root = Path(plan.model.root)
        files = [root / file.path for file in plan.model.files]
        yield from files if plan.metadata.format == "gguf" else (root, *files)
    if not package:
        program = Path(plan.backend.executable)
        for each in (program, program.resolve()):  # its libraries lie beside it, or in ../lib
            yield each.parent.parent if each.parent.name == "bin" else each.parent
    words = (plan.settings.projector or "", *(word.rpartition("=")[2] for word in asked.backend_argv))
    yield from (Path(word) for word in words if word.startswith("/") and Path(word).exists())


def _unit(asked: _Asked, decided: _Decided) -> Unit:
    """The unit, with everything said that the boot must not decide otherwise."""
    from aimind import instances, systemd, units
    from aimind.instances import names

    plan, settings = decided.plan, decided.plan.settings
    name = names.check(asked.run.name) if asked.run.name else next(names.proposals(steps.served_name(plan)))
    port = settings.port or instances.choose(settings.address or "", 0)
    devices = ",".join(str(shard.device.index) for shard in plan.shards) or "none"
    said = (
        NO_CONFIG,
        "--backend",
        plan.backend.name,
        "--device",
        devices,
        "--port",
        str(port),
        "--name",
        name,
    )
    secrets = tuple(_credentials(asked))
    at_home = [word for each in secrets for word in (each.option, each.path)] if asked.user else ()
    local = settings.address in _LOOPBACK and not decided.brings
    return units.Unit(
        name=name,
        made_by=("aimind", "unit", *asked.typed),
        program=str(systemd.program()),
        arguments=(_model(asked.wanted), *_arguments(asked), *said, *at_home),
        backend_argv=asked.backend_argv,
        environment=_environment(asked, decided),
        credentials=() if asked.user else secrets,
        manager="user" if asked.user else "system",
        user=asked.run_as or (None if asked.hardened or asked.user else _me()),
        hardened=asked.hardened,
        device_nodes=systemd.device_nodes([shard.device for shard in plan.shards]),
        visible=tuple(map(str, systemd.outermost_hidden(decided.files))),
        loopback_only=local,
        several_processes=settings.tensor_parallel_size is not None,
        locks_memory=any("mlock" in word for word in settings.extra),
        stall_seconds=asked.run.stall_timeout,
        stop_seconds=steps.command(plan).stop_seconds,
        probe_seconds=asked.run.probe_interval,
    )


def _model(wanted_: Wanted) -> str:
    """The model as it was typed; one on this machine by its whole path."""
    from aimind import reference

    parsed = reference.parse(wanted_.text)
    if parsed.source != "local":
        return wanted_.text
    path = Path(parsed.name).expanduser().absolute()
    return reference.unparse(dataclasses.replace(parsed, name=str(path)))


def _arguments(asked: _Asked) -> Iterator[str]:
    """The options of `serve` as they were typed, less those that are decided now."""
    lasting = {name: value for name, value in asked.given.items() if name not in _DECIDED}
    return words(load("serve").params, lasting)


def _credentials(asked: _Asked) -> Iterator[Credential]:
    from aimind.units import Credential

    for field, name in (("api_key_file", API_KEY_CREDENTIAL), ("hf_token_file", TOKEN_CREDENTIAL)):
        if field in asked.given:
            option = f"--{field.replace('_', '-')}"
            yield Credential(option=option, name=name, path=str(Path(str(asked.given[field])).absolute()))


def _environment(asked: _Asked, decided: _Decided) -> dict[str, str]:
    """What was found by the environment must be found again, and what was asked by `--env NAME`."""
    from aimind import systemd

    found = {name: os.environ[name] for name in _KEPT if os.environ.get(name)}
    for name in _KEPT_AT_HOME if asked.user else ():
        if path := os.environ.get(name):
            found[name] = str(Path(os.path.expandvars(path)).expanduser().absolute())
    folder = str(Path(decided.plan.backend.executable).parent)
    if not decided.package and folder not in systemd.PATH:
        found["PATH"] = ":".join((folder, *systemd.PATH))
    for name in _listed(asked.given["env"]):
        if "=" in name:
            continue
        if is_secret(name):
            raise UsageError(
                f"every user can read a unit, so it must not contain the value of {name}",
                hint="leave it out: the backend gets the unit's environment, and `systemctl edit` adds "
                "EnvironmentFile= with a file that others cannot read",
            )
        found[name] = os.environ[name]
    return found


def _me() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


# ── What the user should know ──────────────────────────────────────────────────────────────────────────────


def _notes(asked: _Asked, decided: _Decided, unit: Unit) -> Iterator[str]:
    if unit.user == "root" and asked.run_as is None:
        yield "it runs as root; --hardened gives it a user of its own, --run-as another one"
    if unit.manager == "system" and decided.brings:
        where = f"/var/lib/{unit.folder} and /var/cache/{unit.folder}"
        yield f"its first start downloads what is missing into {where}"
    if unit.manager == "user":
        yield "it runs while you are logged in; `loginctl enable-linger` keeps it running after that"
    if unit.manager == "user" and unit.hardened:
        yield "only a unit of the system manager can also be denied folders and devices"
    yield from _about_secrets(asked, decided, unit)
    for path in _closed(decided, unit):
        yield (
            f"it runs as a user of its own, who cannot read {path}: move aimind or the model to where "
            "everybody can read, or name another user with --run-as"
        )


def _about_secrets(asked: _Asked, decided: _Decided, unit: Unit) -> Iterator[str]:
    from aimind import hub

    if decided.plan.model.root is None and "hf_token_file" not in asked.given:
        if any(map(os.environ.get, TOKEN_VARIABLES)):
            yield (
                "HF_TOKEN is not passed to it: write the token into a file that only you can read, and use "
                "--hf-token-file"
            )
        elif unit.manager == "system" and hub.token_file().exists():
            yield f"it has no token for Hugging Face; to pass yours, use --hf-token-file {hub.token_file()}"
    for each in _credentials(asked):
        if Path(each.path).stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
            yield f"others can read {each.path}: chmod 600 {each.path}"


def _closed(decided: _Decided, unit: Unit) -> Iterator[Path]:
    """What a user that is made for the unit cannot read."""
    from aimind import systemd

    if unit.user is not None or unit.manager == "user":
        return
    bound = tuple(map(Path, unit.visible))
    yield from dict.fromkeys(filter(None, (systemd.closed(each, bound) for each in decided.files)))

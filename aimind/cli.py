"""The command line: options become a `Request`, and each command is its steps, one a line; nothing else."""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import NoReturn

import click

from aimind import __version__, show
from aimind.errors import AimindError, BadReferenceError, UnsupportedError, UsageError
from aimind.options import request as read_request
from aimind.options import request_options
from aimind.types import API_KEY_VARIABLE, Backend, Command, Host, Model, Package, Plan, Program, Request


def main() -> NoReturn:
    """Run the command line and exit; the only place that does."""
    argv, backend_argv = _split(sys.argv[1:])
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"]  # it may stand anywhere
    try:
        cli.main(args=argv, prog_name="aimind", standalone_mode=False, obj=backend_argv)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as problem:
        hint = problem.ctx.command_path if isinstance(problem, click.UsageError) and problem.ctx else "aimind"
        show.error(UsageError(problem.format_message(), hint=f"see `{hint} --help`"))
        sys.exit(2)
    except AimindError as problem:
        if debug:
            _traceback()
        show.error(problem)
        sys.exit(problem.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader has had enough; what is still buffered must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as bug:  # noqa: BLE001 - the last resort: a bug is reported, and never hides its traceback
        if debug:
            _traceback()
        show.bug(bug)
        sys.exit(70)
    sys.exit(0)


def _split(argv: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """What is for aimind, and what stands after `--` for the backend."""
    if "--" not in argv:
        return argv, ()
    at = argv.index("--")
    return argv[:at], tuple(argv[at + 1 :])


def _traceback() -> None:
    import traceback

    traceback.print_exc()


# ── The steps that commands share ──────────────────────────────────────────────────────────────────────────


def _plan(text: str, request: Request, host: Host, *, revision: str | None) -> Plan:
    """From the text to the plan: nothing is downloaded but headers, nothing installed."""
    from aimind import files, hub, metadata, plan, reference
    from aimind.launchers import LAUNCHERS

    try:
        parsed = reference.parse(text, revision=revision)
    except BadReferenceError as problem:
        if text and os.path.exists(text):  # noqa: PTH110 - any text, also what no path can be made of
            raise BadReferenceError(problem.message, hint=f"a path begins with ./: ./{text}") from problem
        raise
    twin = hub.local_twin(parsed)
    if twin is not None:
        show.note(f"note: {text} is taken from Hugging Face; the folder here is ./{twin}")
    model = files.choose(hub.resolve(parsed))
    read = metadata.read(model, lambda file: hub.open_file(model, file))
    if request.max_model_len == 0:
        request = dataclasses.replace(request, max_model_len=read.max_model_len)
    decided = plan.make(model, read, _with_backends(host, request), request, LAUNCHERS)
    for warning in plan.warnings(decided):
        show.note(f"warning: {warning}")
    return decided


def _allowed(host: Host, request: Request) -> Host:
    """The machine as the request wants it seen: without devices other builds of the backends are right."""
    return dataclasses.replace(host, devices=()) if request.devices == () else host


def _with_backends(host: Host, request: Request) -> Host:
    """The machine with the backends that are here, and those that can be installed."""
    from aimind import environments
    from aimind.launchers import LAUNCHERS

    found: list[Backend] = []
    for launcher in LAUNCHERS:
        if request.backend not in (None, launcher.NAME):
            continue
        source = launcher.source(host)
        here = environments.find(launcher.NAME, source)
        found += here
        version = request.backend_version or (source.version if isinstance(source, Package) else None)
        if isinstance(source, Package) and version and version not in {i.version for i in here}:
            executable = environments.executable(launcher.NAME, source, version)
            found.append(Backend(name=launcher.NAME, version=version, executable=executable, installed=False))
    return dataclasses.replace(host, backends=tuple(found))


def _command(decided: Plan, weights: str) -> Command:
    from aimind.launchers import LAUNCHERS
    from aimind.select import named

    command = named(decided.backend.name, LAUNCHERS).command(decided, weights)
    # The backend has the key under its own name.
    return dataclasses.replace(command, unset_env=(*command.unset_env, API_KEY_VARIABLE))


def _location(model: Model) -> str:
    from aimind import hub

    return str(hub.location(model))


def _install(decided: Plan, host: Host, *, allowed: bool) -> None:
    """Bring the plan's backend, if it is not here."""
    from aimind import environments
    from aimind.errors import InstallError

    backend = decided.backend
    if backend.installed:
        return
    if not allowed:
        raise InstallError(
            f"{backend.name} {backend.version} is not installed",
            hint=f"`aimind backends install {backend.name}=={backend.version}`, or leave --no-install out",
        )
    source = _source(backend.name, host)
    if isinstance(source, Package):
        environments.ensure(backend.name, source, version=backend.version, progress=show.note)


# ── Commands ───────────────────────────────────────────────────────────────────────────────────────────────


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, prog_name="aimind", message="%(prog)s %(version)s")
def cli(*, debug: bool) -> None:
    """Serve AI models on this machine, and know beforehand what that takes.

    MODEL is owner/name (Hugging Face), hf:… or ms:…, a path (./model.gguf, ~/models/x), or demo; behind it
    @REVISION and :QUANTIZATION. What stands after -- goes to the backend.
    """


@cli.command("serve")
@click.argument("model")
@request_options
@click.option("--dry-run", is_flag=True, help="Print the command as a line for a shell, and stop.")
@click.option("--no-install", is_flag=True, help="Fail where the backend is not installed yet.")
@click.option("--no-supervise", is_flag=True, help="Become the backend: for containers, other supervisors.")
@click.pass_obj
def serve_command(
    backend_argv: tuple[str, ...],
    /,
    model: str,
    *,
    dry_run: bool,
    no_install: bool,
    no_supervise: bool,
    revision: str | None,
    **options: object,
) -> None:
    """Serve MODEL until it is told to stop: plan, download, start, watch, restart.

    \b
    aimind serve demo
    aimind serve Qwen/Qwen2-0.5B-Instruct --context 8k
    aimind serve unsloth/Qwen3-0.6B-GGUF:Q4_K_M --port 0
    aimind serve ./model.gguf -- --threads 4
    """
    from aimind import devices, hub, instances, supervise

    if sys.platform == "win32" and not dry_run:
        raise UnsupportedError(
            "aimind cannot serve on Windows yet; planning works there", hint="use `aimind plan`, or WSL 2"
        )
    request = read_request(options, backend_argv)
    host = _allowed(devices.probe(), request)
    decided = _plan(model, request, host, revision=revision)
    settings = decided.settings
    if not dry_run or settings.port == 0:
        port = instances.claim_port(settings.address or "", settings.port or 0)
        decided = dataclasses.replace(decided, settings=dataclasses.replace(settings, port=port))
    command = _command(decided, _location(decided.model))
    if dry_run:
        click.echo(show.command_line(command))
        return
    show.plan(decided, command, err=True)
    _install(decided, host, allowed=not no_install)
    hub.fetch(decided.model, show.Progress())
    if no_supervise:
        supervise.replace(command)
    supervise.supervise(command, announce=show.announcement(decided, command))


@cli.command("plan")
@click.argument("model")
@request_options
@click.option("--hardware", metavar="SPEC", help="Of another machine: 24G, 2x24G, 8xH100-80G, or a file.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@click.pass_obj
def plan_command(
    backend_argv: tuple[str, ...],
    /,
    model: str,
    *,
    hardware: str | None,
    as_json: bool,
    revision: str | None,
    **options: object,
) -> None:
    """Say how MODEL would be served: backend, devices, bytes, command, and why. Nothing is downloaded.

    \b
    aimind plan Qwen/Qwen2-0.5B-Instruct
    aimind plan ./model.gguf --hardware 2x24G --json
    """
    from aimind import devices
    from aimind.devices import hardware as imagined

    request = read_request(options, backend_argv)
    host = _allowed(imagined.parse(hardware) if hardware else devices.probe(), request)
    decided = _plan(model, request, host, revision=revision)
    command = _command(decided, _location(decided.model))
    if as_json:
        from aimind.document import document

        show.data(document(decided, command))
    else:
        show.plan(decided, command)


@cli.command("devices")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document, which --hardware takes.")
def devices_command(*, as_json: bool) -> None:
    """Show the accelerators and the memory of this machine, what is free, and who uses the rest."""
    from aimind import devices

    host = devices.probe()
    if as_json:
        show.data(devices.to_json(host))
    else:
        show.devices(host)


@cli.group("backends", invoke_without_command=True)
@click.pass_context
def backends_command(context: click.Context) -> None:
    """Show the backends: what is installed, what can be, and why not. Install and remove them."""
    if context.invoked_subcommand is not None:
        return
    from aimind import devices
    from aimind.launchers import LAUNCHERS

    host = _with_backends(devices.probe(), Request())
    show.backends(LAUNCHERS, host)


@backends_command.command("install")
@click.argument("backend", metavar="NAME[==VERSION]")
def install_command(backend: str) -> None:
    """Install a backend into an environment of its own."""
    from aimind import devices, environments

    name, version = _named(backend)
    source = _source(name, devices.probe())
    if not isinstance(source, Package):
        raise UnsupportedError(f"aimind does not install {name}", hint=source.remedy)
    done = environments.ensure(name, source, version=version, progress=show.note)
    show.note(f"{done.name} {done.version} is installed")


@backends_command.command("remove")
@click.argument("backend", metavar="NAME[==VERSION]")
def remove_command(backend: str) -> None:
    """Remove an installed backend, or one version of it."""
    from aimind import devices, environments

    name, version = _named(backend)
    _source(name, devices.probe())
    environments.remove(name, version)
    show.note(f"{backend} is removed")


def _named(text: str) -> tuple[str, str | None]:
    name, equals, version = text.partition("==")
    if equals and not version:
        raise UsageError(f"{text} names no version", hint="NAME==VERSION, or NAME alone")
    return name, version or None


def _source(name: str, host: Host) -> Package | Program:
    from aimind.launchers import LAUNCHERS
    from aimind.select import named

    return named(name, LAUNCHERS).source(host)

"""The command line: options become a `Request`, and each command is its steps, one a line; nothing else."""

from __future__ import annotations

import dataclasses
import gc
import os
import sys
from typing import NoReturn

import click

from aimind import __version__, show, steps
from aimind.errors import AimindError, UnsupportedError, UsageError
from aimind.options import Several, Tokens, request_options, wanted
from aimind.types import Package, Plan, Request


def main() -> NoReturn:
    """Run the command line and exit; the only place that does."""
    gc.set_threshold(100_000)  # a command is short: looking for garbage would take a thirtieth of its time
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
@click.option("--context", type=Tokens(), help="Tokens per request: 8192, 8k, max.")
@click.option("--dry-run", is_flag=True, help="Print the command as a line for a shell, and stop.")
@click.option("--no-install", is_flag=True, help="Fail where the backend is not installed yet.")
@click.option("--no-supervise", is_flag=True, help="Become the backend: for containers, other supervisors.")
@click.option(
    "--restart",
    type=click.Choice(["always", "on-failure", "never"]),
    default="always",
    help="After which ends the backend is started again; always unless said otherwise.",
)
@click.option("--max-restarts", type=click.IntRange(0), metavar="N", help="In a row, then give up.")
@click.option(
    "--stall-timeout",
    type=click.FloatRange(0),
    default=300.0,
    metavar="SECONDS",
    help="Loading may take hours, but no longer than this without any progress; 0 for ever.",
)
@click.option(
    "--ready-probe",
    type=click.Choice(["request", "health"]),
    default="request",
    help="Ready is when a tiny request is answered, or the health URL alone.",
)
@click.pass_obj
def serve_command(  # noqa: PLR0913 - one per option
    backend_argv: tuple[str, ...],
    /,
    model: str,
    *,
    dry_run: bool,
    no_install: bool,
    no_supervise: bool,
    restart: str,
    max_restarts: int | None,
    stall_timeout: float,
    ready_probe: str,
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
    asked = wanted(model, options, backend_argv)
    offer = steps.offer(asked)
    host = steps.equipped(devices.probe(), asked.request)
    decided = steps.decided(steps.answer(steps.ask(offer, asked, host)))
    settings = decided.settings
    if not dry_run or settings.port == 0:
        port = instances.claim_port(settings.address or "", settings.port or 0)
        decided = dataclasses.replace(decided, settings=dataclasses.replace(settings, port=port))
    command = steps.command(decided, ready_probe=ready_probe)
    if dry_run:
        click.echo(show.command_line(command))
        return
    show.plan(decided, command, err=True)
    steps.install(decided, host, allowed=not no_install)
    hub.fetch(decided.model, show.Progress())
    if no_supervise:
        supervise.replace(command)
    supervise.supervise(
        command,
        announce=show.announcement(decided, command),
        restart=restart,
        max_restarts=max_restarts,
        stall_seconds=stall_timeout,
    )


@cli.command("plan")
@click.argument("model")
@request_options
@click.option("--context", "contexts", type=Several(), help="Tokens per request; 8k,32k,max: a table.")
@click.option(
    "--hardware",
    metavar="SPEC",
    multiple=True,
    help="Of another machine: 24G, 2x24G, 8xH100-80G, or a file; again: a table.",
)
@click.option("--files", "with_files", is_flag=True, help="Show all quantizations, and whether they fit.")
@click.option("--exact", is_flag=True, help="Ask the installed llama.cpp, too, and show both.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@click.pass_obj
def plan_command(  # noqa: PLR0913 - one per option
    backend_argv: tuple[str, ...],
    /,
    model: str,
    *,
    contexts: tuple[int, ...] | None,
    hardware: tuple[str, ...],
    with_files: bool,
    exact: bool,
    as_json: bool,
    **options: object,
) -> None:
    """Say how MODEL would be served: backend, devices, bytes, command, and why. Nothing is downloaded.

    \b
    aimind plan Qwen/Qwen2-0.5B-Instruct
    aimind plan ./model.gguf --hardware 24G --hardware 2x24G --context 8k,32k
    aimind plan unsloth/Qwen3-0.6B-GGUF --files
    """
    from aimind import alternatives

    if exact and hardware:
        raise UsageError("--exact asks a llama.cpp about this machine", hint="leave --hardware out")
    asked = wanted(model, {**options, "context": None}, backend_argv)
    machines = steps.machines(hardware, asked)
    offer = steps.offer(asked)
    questions = [
        (machine, steps.ask(offer, asked, host, context=context))
        for machine, host in machines.items()
        for context in contexts or (None,)
    ]
    if len(questions) > 1:
        if with_files or exact:
            raise UsageError("--files and --exact are about one plan", hint="one --hardware, one --context")
        answers = [(machine, each.request.max_model_len, steps.answer(each)) for machine, each in questions]
        if as_json:
            from aimind.document import comparison

            show.data(comparison(answers))
        else:
            show.comparison(answers)
        return
    question = questions[0][1]
    answer = steps.answer(question)
    found = answer if isinstance(answer, Plan) else None
    options_here = alternatives.survey(question, found) if with_files else ()
    if with_files and not as_json:
        show.candidates(options_here, found)
    decided = steps.decided(answer)
    command = steps.command(decided)
    sizes = steps.exact_sizes(decided, command) if exact else ()
    if as_json:
        from aimind.document import document

        show.data(document(decided, command, options=options_here, asked=sizes))
        return
    if not with_files:
        show.plan(decided, command)
    if sizes:
        show.exact(decided, sizes)


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

    host = steps.with_backends(devices.probe(), Request())
    show.backends(LAUNCHERS, host)


@backends_command.command("install")
@click.argument("backend", metavar="NAME[==VERSION]")
def install_command(backend: str) -> None:
    """Install a backend into an environment of its own."""
    from aimind import devices
    from aimind.environments import install

    name, version = _named(backend)
    source = steps.source(name, devices.probe())
    if not isinstance(source, Package):
        raise UnsupportedError(f"aimind does not install {name}", hint=source.remedy)
    done = install.ensure(name, source, version=version, progress=show.note)
    show.note(f"{done.name} {done.version} is installed")


@backends_command.command("remove")
@click.argument("backend", metavar="NAME[==VERSION]")
def remove_command(backend: str) -> None:
    """Remove an installed backend, or one version of it."""
    from aimind import devices
    from aimind.environments import install

    name, version = _named(backend)
    steps.source(name, devices.probe())
    install.remove(name, version)
    show.note(f"{backend} is removed")


def _named(text: str) -> tuple[str, str | None]:
    name, equals, version = text.partition("==")
    if equals and not version:
        raise UsageError(f"{text} names no version", hint="NAME==VERSION, or NAME alone")
    return name, version or None

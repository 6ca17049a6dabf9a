"""`aimind serve`: from a model's name to a running server."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from aimind import show, steps
from aimind.cli import waiting
from aimind.cli.asking import ask
from aimind.cli.configured import ARGV, FROZEN, Configured, defaults, resolve_defaults, typed_values, words
from aimind.cli.declare import MODEL, OUTPUT, RUNNING, option
from aimind.cli.options import TALK_FIELDS, Context, OptionalModel, RequestOptions, RunOptions, with_options
from aimind.errors import AimindError, InstanceError, UnsupportedError, UsageError
from aimind.redaction import quoted
from aimind.types import API_KEY_VARIABLE, Claim, Command, Host, Instance, Plan, Request, Source, StateName

if TYPE_CHECKING:
    import subprocess

    from aimind.alternatives import Offer
    from aimind.cli.frozen import Frozen
    from aimind.instances import Held, Sight
    from aimind.options import Wanted
    from aimind.supervise import Rules

app = typer.Typer(add_completion=False)
# Options about one start alone: `aimind start` does not repeat them.
_ABOUT_THIS_START = (
    frozenset({"name", "detach", "verbose", "quiet", "color", "as_json", "with_key", "no_config"})
    | TALK_FIELDS
)


@app.command("serve", cls=Configured)
@with_options
def serve_command(  # noqa: PLR0913 - one per option
    ctx: typer.Context,
    model: OptionalModel = None,
    *,
    context: Context = None,
    frozen: Annotated[
        Path | None,
        option(
            FROZEN,
            panel=MODEL,
            metavar="LOCK",
            exists=True,
            dir_okay=False,
            help="Serve exactly what this file of `aimind lock` records (default: no lock).",
        ),
    ] = None,
    asked: RequestOptions,
    run: RunOptions,
    detach: Annotated[
        bool,
        option(
            "-d",
            "--detach",
            panel=RUNNING,
            help="Return when the server is ready, and keep it running (default: stay until Ctrl-C).",
        ),
    ] = False,
    with_key: Annotated[bool, option("--with-key", panel=RUNNING, help="", hidden=True)] = False,
    dry_run: Annotated[
        bool,
        option("--dry-run", panel=RUNNING, help="Print the backend's command line, and start nothing."),
    ] = False,
    no_supervise: Annotated[
        bool,
        option(
            "--no-supervise",
            panel=RUNNING,
            help="Become the backend, without a supervisor: for containers and other supervisors.",
        ),
    ] = False,
    verbose: Annotated[
        bool,
        option("-v", "--verbose", panel=OUTPUT, help="Show the whole plan and the backend's log too."),
    ] = False,
    as_json: Annotated[
        bool,
        option("--json", panel=OUTPUT, help="With --detach, print the instance as one JSON document."),
    ] = False,
) -> None:
    """Serve a model until it is stopped.

    aimind chooses the backend, downloads what is missing, starts the server and restarts it if it fails.

    Examples:
      aimind serve demo
      aimind serve Qwen/Qwen2-0.5B-Instruct --context 8k
      aimind serve unsloth/Qwen3-0.6B-GGUF:Q4_K_M --port 0
      aimind serve --detach --name chat ./model.gguf -- --threads 4
    """
    from aimind.supervise import Rules

    if sys.platform == "win32" and not dry_run:
        raise UnsupportedError(
            "aimind cannot serve on Windows yet; planning works there", hint="use `aimind plan`, or WSL 2"
        )
    if no_supervise and (run.name is not None or detach):
        raise UsageError("--detach and --name need the supervisor", hint="leave --no-supervise out")
    if as_json and not detach:
        raise UsageError("--json needs --detach", hint="`aimind status NAME --json` shows an instance")
    if model is None and frozen is None:
        raise UsageError(
            "the model is missing", hint="`aimind serve demo` serves a small model that comes with aimind"
        )
    if model is not None and frozen is not None:
        raise UsageError("the model is already set by the lock", hint="leave MODEL or --frozen out")
    lock = None
    if frozen is not None:
        from aimind.cli.frozen import read

        lock = read(ctx, frozen, asked)
        wanted = lock.asked
    else:
        wanted = ask(str(model), asked, context=context, backend_argv=ctx.obj, defaults=defaults(ctx))
    if with_key and wanted.request.api_key is None:
        raise InstanceError(
            f"instance {run.name} was started with an API key, but no key is set now",
            hint=f"export {API_KEY_VARIABLE}, then start it again",
        )
    start = Start(
        asked=wanted,
        lock=lock,
        again=functools.partial(same_again, ctx, wanted.request),
        name=run.name,
        ready_probe=run.ready_probe,
        may_install=not (run.no_install or wanted.offline),
        verbose=verbose,
    )
    if dry_run or no_supervise:
        _without_instance(start, dry_run=dry_run)
        return
    rules = Rules(
        restart=run.restart,
        max_restarts=run.max_restarts,
        stall_seconds=run.stall_timeout,
        probe_seconds=run.probe_interval,
    )
    started = start_instance(start, rules, detach=detach)
    if as_json:
        show.data(show.instance_document(started.sight, None))
    else:
        started.show()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What is to be started.

    Attributes:
        asked: the model, and how to serve it.
        lock: what it must be exactly.
        again: of a plan, the words that start it again.
        name: of the instance, where one is wanted; suffix: of a name that is derived from the model's.
        ready_probe: `request` or `health`.
        may_install: a backend that is not here may be brought.
        verbose: show the whole plan and the backend's log, too.
    """

    asked: Wanted
    lock: Frozen | None
    again: Callable[[Plan], tuple[str, ...]]
    name: str | None
    ready_probe: str
    may_install: bool
    verbose: bool
    suffix: str = ""

    def offer(self) -> Offer:
        """The files that could be served."""
        return self.lock.offer if self.lock else steps.offer(self.asked)

    def require_plan(self, found: Plan | AimindError) -> Plan:
        """The plan, if there is one, and no other one is locked."""
        plan = steps.require_plan(found)
        if self.lock:
            self.lock.check(plan)
        return plan


@dataclasses.dataclass(frozen=True, slots=True)
class Started:
    """An instance that is ready.

    Attributes:
        sight: the instance.
        announcement: the lines that say so where there is no terminal.
        seconds: how long its start took.
    """

    sight: Sight
    _: dataclasses.KW_ONLY
    announcement: str
    seconds: float

    def show(self) -> None:
        """Show that it is ready, and where."""
        instance = self.sight.instance
        if instance is not None:
            show.ready(instance, seconds=self.seconds, announcement=self.announcement)


def same_again(ctx: typer.Context, request: Request, plan: Plan) -> tuple[str, ...]:
    """The arguments with which `aimind start` serves the same again, whatever is configured by then."""
    configured = resolve_defaults(ctx, request, plan)
    typed = typed_values(ctx.command, ctx, ctx.meta[ARGV])
    model = typed.pop("model", None)
    lasting = {name: value for name, value in typed.items() if name not in _ABOUT_THIS_START}
    # In the order of the command's options, so that a repeated start has the same arguments again.
    values: dict[str, list[object]] = {}
    for options in (lasting, configured.options):
        for name, value in options.items():
            values.setdefault(name, []).extend(value if isinstance(value, list) else [value])
    repeated = (*(() if model is None else (str(model),)), *words(ctx.command.params, values))
    backend_argv = (*configured.backend_argv, *ctx.obj)
    return (*repeated, "--", *backend_argv) if backend_argv else repeated


# ── Without an instance ────────────────────────────────────────────────────────────────────────────────────


def _without_instance(start: Start, *, dry_run: bool) -> None:
    """Print the command, or become it; nothing is claimed, and the claims of others count."""
    from aimind import hub, instances, supervise

    asked = start.asked
    offer = start.offer()
    living = instances.living()
    host = steps.this_machine(asked.request, living)
    plan = start.require_plan(steps.answer(steps.ask(offer, asked, host)))
    if not dry_run or plan.settings.port == 0:
        claimed = instances.claimed_by(living)
        plan = _on_port(plan, lambda address, port: instances.choose(address, port, claimed))
    command = steps.command(plan, ready_probe=start.ready_probe)
    if dry_run:
        typer.echo(show.command_line(command))
        steps.note_unchecked(plan)
        if command.files:
            paths = ", ".join(file.path for file in command.files)
            show.note(f"note: the command reads files that `aimind serve` writes first: {paths}")
        return
    show.start(plan, name=steps.served_name(plan))
    if not start.may_install:
        steps.check_installed(plan)
    steps.check_damage(plan, host)
    steps.install(plan, host)
    steps.check_arguments(plan, host)
    hub.fetch(plan.model, show.Progress())
    supervise.replace(command)


def _on_port(plan: Plan, choose: Callable[[str, int], int]) -> Plan:
    settings = plan.settings
    port = choose(settings.address or "", settings.port or 0)
    return dataclasses.replace(plan, settings=dataclasses.replace(settings, port=port))


# ── As an instance ─────────────────────────────────────────────────────────────────────────────────────────


def start_instance(start: Start, rules: Rules, *, detach: bool, lifeline: int | None = None) -> Started:
    """Claim what it needs, bring what is missing, and hand over to the supervisor.

    Returns when the instance is ready, and never unless `detach`.

    Args:
        start: what is started.
        rules: how it is kept running.
        detach: the supervisor becomes a process of its own.
        lifeline: the reading end of a pipe: the instance ends when nobody holds the writing end any more.
    """
    import signal

    from aimind import devices, instances, supervise

    signal.signal(signal.SIGUSR1, lambda *_: None)  # there is nothing to restart yet
    if start.name is not None:
        instances.check_free(start.name)
    with show.Step(f"looking up {start.asked.text}", is_noted=False):
        offer = start.offer()
    host = steps.equipped(devices.probe(), start.asked.request)
    try:
        plan, command, held = steps.without_reading(offer, lambda known: _claim(start, known, host))
    except AimindError as problem:  # reported once no process waits for this one
        steps.point_to_gguf(problem, steps.ask(offer, start.asked, host))
        raise
    signal.signal(signal.SIGTERM, _leave)
    announce = show.announcement(plan, command)
    with _noted(held):
        if start.verbose:
            show.plan(plan, why=True, err=True)
        else:
            show.start(plan, name=held.name)
        _prepare(plan, host, held)
        kept = supervise.Kept(held.folder, held.lock)
        how = supervise.How(
            rules,
            kept,
            plan.shards,
            steps.calibration(plan),
            compiled_mark=steps.compiled_mark(plan),
            weights_bytes=sum(file.size_bytes for file in plan.model.files),
            screen=None if start.verbose else show.screen(plan, name=held.name),
            quiet=show.is_quiet(),
            lifeline=lifeline,
        )
        if not detach:
            supervise.supervise(command, announce=announce, how=how)
        process = supervise.detach(command, announce=announce, how=how)
    held.release()
    began = time.monotonic()
    sight = _wait(held.name, process)
    return Started(sight, announcement=announce, seconds=time.monotonic() - began)


def _claim(start: Start, offer: Offer, host: Host) -> tuple[Plan, Command, Held]:
    """Decide, and write down what that needs, while nobody else can."""
    from aimind import devices, instances

    request = start.asked.request
    with instances.claims(
        wait=lambda: show.note("waiting for another aimind process that is starting")
    ) as claims:
        now = dataclasses.replace(devices.probe(), backends=host.backends, measurements=host.measurements)
        free = claims.free(steps.allowed(now, request))
        plan = start.require_plan(steps.answer(steps.ask(offer, start.asked, free)))
        if not start.may_install:
            steps.check_installed(plan)
        plan = _on_port(plan, claims.port)
        name = claims.name(start.name, steps.served_name(plan) + start.suffix)
        command = steps.command(plan, ready_probe=start.ready_probe, scratch=instances.scratch(name))
        instance = _instance(start, plan, command, name=name)
        return plan, command, claims.write(instance)


def _instance(start: Start, plan: Plan, command: Command, *, name: str) -> Instance:
    from aimind.instances import device_key
    from aimind.launchers.hello import example

    settings = plan.settings
    claim = Claim(
        address=settings.address or "",
        port=settings.port or 0,
        devices={device_key(shard.device): shard.estimate.total_bytes for shard in plan.shards},
        ram_bytes=plan.host.total_bytes - plan.host.repacked_bytes,
    )
    return Instance(
        name=name,
        argv=start.again(plan),
        cwd=os.getcwd(),  # noqa: PTH109 - text
        created=time.time(),
        model=_with_hub(start.asked.text, plan.model.reference.source),
        served_name=steps.served_name(plan),
        backend=plan.backend.name,
        backend_version=plan.backend.version,
        url=command.url,
        has_key=settings.api_key is not None,
        stop_seconds=command.stop_seconds,
        claim=claim,
        example=example(plan, command.url),
        named=start.name is not None,
    )


def _with_hub(text: str, source: Source) -> str:
    """The model as it was typed, meaning the same whatever hub is the usual one later."""
    return f"ms:{text}" if source == "modelscope" and not text.startswith("ms:") else text


def _prepare(plan: Plan, host: Host, held: Held) -> None:
    """Bring what is missing: the backend, the files."""
    from aimind import hub, systemd

    systemd.extend_start()
    steps.check_damage(plan, host)
    if not plan.backend.installed:
        held.set_state("preparing", phase=f"installing {plan.backend.name} {plan.backend.version}")
        steps.install(plan, host)
    steps.check_arguments(plan, host)
    if plan.model.root is None:
        held.set_state("preparing", phase="downloading")
        hub.fetch(plan.model, show.Progress())
        held.set_state("preparing")


@contextlib.contextmanager
def _noted(held: Held) -> Iterator[None]:
    """Should it end here, before there is a supervisor, leave word why."""
    try:
        yield
    except AimindError as problem:
        _last_word(held, "failed", problem.message, hint=problem.hint, exit_code=problem.exit_code)
        raise
    except KeyboardInterrupt:
        _last_word(held, "stopped", "it was stopped before the backend started", exit_code=130)
        raise
    except SystemExit as end:
        _last_word(held, "stopped", "it was stopped before the backend started", exit_code=int(end.code or 0))
        raise
    except BaseException as bug:
        _last_word(held, "failed", f"a bug in aimind: {type(bug).__name__}: {quoted(bug)}", exit_code=70)
        raise


def _last_word(held: Held, state: StateName, reason: str, *, exit_code: int, hint: str | None = None) -> None:
    with contextlib.suppress(InstanceError):  # a full disk: what went wrong is being said already
        held.set_state(state, reason=reason, hint=hint, exit_code=exit_code)


def _leave(number: int, _: object) -> NoReturn:
    """Leave by the way of an exception, so that all is tidied up."""
    raise SystemExit(128 + number)


def _wait(name: str, process: subprocess.Popen[bytes]) -> Sight:
    """The instance when it is ready; who does not want to wait, does not want it."""
    from aimind import instances

    try:
        return waiting.until_ready(
            name, lambda sight: sight.state is not None and sight.state.pid == process.pid
        )
    except (KeyboardInterrupt, SystemExit):
        process.terminate()
        with show.Step(f"stopping instance {name}") as step:
            instances.finish_stop(name)
        step.complete(f"instance {name} is stopped")
        raise

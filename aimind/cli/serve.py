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
from typing import TYPE_CHECKING, NoReturn

import click

from aimind import show, steps
from aimind.cli import waiting
from aimind.cli.configured import ARGV, FROZEN, NO_CONFIG, Configured, defaults, settled
from aimind.cli.group import cli, complete_model, quiet_option
from aimind.errors import AimindError, InstanceError, UnsupportedError, UsageError
from aimind.options import Tokens, request_options, wanted
from aimind.redaction import quoted
from aimind.types import API_KEY_VARIABLE, Claim, Command, Host, Instance, Plan, Request, Source, StateName

if TYPE_CHECKING:
    import subprocess

    from aimind.alternatives import Offer
    from aimind.cli.frozen import Frozen
    from aimind.instances import Held, Sight
    from aimind.options import Wanted
    from aimind.supervise import Rules


@cli.command("serve", cls=Configured)
@click.argument("model", required=False, shell_complete=complete_model)
@request_options
@click.option("--context", type=Tokens(), help="Tokens per request: 8192, 8k, max.")
@click.option(
    FROZEN,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="LOCK",
    help="Serve what is locked in this file, and nothing else: `aimind lock`.",
)
@quiet_option
@click.option("-v", "--verbose", is_flag=True, help="Show the whole plan and the backend's log, too.")
@click.option("--name", metavar="NAME", help="Of the instance; made of the model's name unless said.")
@click.option("-d", "--detach", is_flag=True, help="Come back when it is ready; see `aimind ps`.")
@click.option("--json", "as_json", is_flag=True, help="With --detach: the instance as one JSON document.")
@click.option("--with-key", is_flag=True, hidden=True)  # of `aimind start`: there was a key before
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
@click.option(
    "--probe-interval",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    metavar="SECONDS",
    help="Between two looks whether it still answers.",
)
@click.pass_context
def serve_command(  # noqa: PLR0913 - one per option
    context: click.Context,
    /,
    model: str | None,
    *,
    frozen: Path | None,
    verbose: bool,
    name: str | None,
    detach: bool,
    as_json: bool,
    with_key: bool,
    dry_run: bool,
    no_install: bool,
    no_supervise: bool,
    restart: str,
    max_restarts: int | None,
    stall_timeout: float,
    ready_probe: str,
    probe_interval: float,
    **options: object,
) -> None:
    """Serve MODEL until it is told to stop: plan, download, start, watch, restart.

    \b
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
    if no_supervise and (name is not None or detach):
        raise UsageError("without a supervisor there is no instance", hint="leave --no-supervise out")
    if as_json and not detach:
        raise UsageError("--json is for --detach", hint="`aimind status NAME --json` shows an instance")
    if (model is None) is (frozen is None):
        raise click.UsageError("either MODEL or --frozen says what is served", context)
    lock = None
    if frozen is not None:
        from aimind.cli.frozen import read

        lock = read(context, frozen, options)
    asked = lock.asked if lock else wanted(str(model), options, context.obj, defaults(context))
    if with_key and asked.request.api_key is None:
        raise InstanceError(
            f"instance {name} was started with an API key, and now there is none",
            hint=f"export {API_KEY_VARIABLE}, and start it again",
        )
    start = _Start(
        asked=asked,
        lock=lock,
        again=functools.partial(_again, context, asked.request),
        name=name,
        ready_probe=ready_probe,
        may_install=not (no_install or asked.offline),
        verbose=verbose,
    )
    if dry_run or no_supervise:
        _without_instance(start, dry_run=dry_run)
        return
    rules = Rules(
        restart=restart,
        max_restarts=max_restarts,
        stall_seconds=stall_timeout,
        probe_seconds=probe_interval,
    )
    _as_instance(start, rules, detach=detach, as_json=as_json)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """What is to be started.

    Attributes:
        asked: the model, and how to serve it.
        lock: what it must be exactly.
        again: of a plan, the words that start it again.
        name: of the instance, where one is wanted.
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

    def offer(self) -> Offer:
        """The files that could be served."""
        return self.lock.offer if self.lock else steps.offer(self.asked)

    def decided(self, found: Plan | AimindError) -> Plan:
        """The plan, if there is one, and no other one is locked."""
        plan = steps.decided(found)
        if self.lock:
            self.lock.check(plan)
        return plan


def _again(context: click.Context, request: Request, plan: Plan) -> tuple[str, ...]:
    """What `aimind start` shall say, so that it means the same: what was typed, and what is configured."""
    words: tuple[str, ...] = context.meta[ARGV]
    found = settled(context, request, plan)
    typed = (*_lasting(words), *found.words(context.command.params))
    backend_argv = (*found.backend_argv, *context.obj)
    return (*typed, "--", *backend_argv) if backend_argv else typed


def _lasting(words: tuple[str, ...]) -> tuple[str, ...]:
    """What was typed, but for how this instance is called and waited for."""
    named = {at + 1 for at, word in enumerate(words) if word == "--name"}
    return tuple(
        word
        for at, word in enumerate(words)
        if at not in named
        and word not in ("-d", "--detach", "-v", "--verbose", "--json", "--name", "--with-key", NO_CONFIG)
        and not word.startswith("--name=")
    )


# ── Without an instance ────────────────────────────────────────────────────────────────────────────────────


def _without_instance(start: _Start, *, dry_run: bool) -> None:
    """Print the command, or become it; nothing is claimed, and the claims of others count."""
    from aimind import hub, instances, supervise

    asked = start.asked
    offer = start.offer()
    living = instances.living()
    host = steps.this_machine(asked.request, living)
    plan = start.decided(steps.answer(steps.ask(offer, asked, host)))
    if not dry_run or plan.settings.port == 0:
        claimed = instances.claimed_by(living)
        plan = _on_port(plan, lambda address, port: instances.choose(address, port, claimed))
    command = steps.command(plan, ready_probe=start.ready_probe)
    if dry_run:
        click.echo(show.command_line(command))
        steps.note_unchecked(plan)
        if command.files:
            paths = ", ".join(file.path for file in command.files)
            show.note(f"note: the command reads what `aimind serve` writes before it: {paths}")
        return
    show.plan(plan, command, err=True)
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


def _as_instance(start: _Start, rules: Rules, *, detach: bool, as_json: bool) -> None:
    """Claim what it needs, bring what is missing, and hand over to the supervisor."""
    import signal

    from aimind import devices, instances, supervise

    signal.signal(signal.SIGUSR1, lambda *_: None)  # there is nothing to restart yet
    if start.name is not None:
        instances.check_free(start.name)
    offer = start.offer()
    host = steps.equipped(devices.probe(), start.asked.request)
    try:
        plan, command, held = steps.without_reading(offer, lambda known: _claim(start, known, host))
    except AimindError as problem:  # told when nobody waits for us any more
        steps.point_to_gguf(problem, steps.ask(offer, start.asked, host))
        raise
    signal.signal(signal.SIGTERM, _leave)
    announce = show.announcement(plan, command)
    with _noted(held):
        if start.verbose:
            show.plan(plan, command, err=True)
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
            screen=None if start.verbose else show.screen(held.name),
            quiet=show.is_quiet(),
        )
        if not detach:
            supervise.supervise(command, announce=announce, how=how)
        process = supervise.detach(command, announce=announce, how=how)
    held.release()
    began = time.monotonic()
    sight = _wait(held.name, process)
    if as_json:
        show.data(show.instance_document(sight, None))
    else:
        show.ready(held.name, command.url, seconds=time.monotonic() - began, announcement=announce)


def _claim(start: _Start, offer: Offer, host: Host) -> tuple[Plan, Command, Held]:
    """Decide, and write down what that needs, while nobody else can."""
    from aimind import devices, instances

    request = start.asked.request
    with instances.claims(wait=lambda: show.note("waiting for another aimind, which is starting")) as claims:
        now = dataclasses.replace(devices.probe(), backends=host.backends, measurements=host.measurements)
        free = claims.free(steps.allowed(now, request))
        plan = start.decided(steps.answer(steps.ask(offer, start.asked, free)))
        if not start.may_install:
            steps.check_installed(plan)
        plan = _on_port(plan, claims.port)
        name = claims.name(start.name, steps.called(plan))
        command = steps.command(plan, ready_probe=start.ready_probe, scratch=instances.scratch(name))
        instance = _instance(start, plan, command, name=name)
        return plan, command, claims.write(instance)


def _instance(start: _Start, plan: Plan, command: Command, *, name: str) -> Instance:
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
        model=_named(start.asked.text, plan.model.reference.source),
        served_name=steps.called(plan),
        backend=plan.backend.name,
        backend_version=plan.backend.version,
        url=command.url,
        has_key=settings.api_key is not None,
        stop_seconds=command.stop_seconds,
        claim=claim,
        example=example(plan, command.url),
        named=start.name is not None,
    )


def _named(text: str, source: Source) -> str:
    """The model as it was typed, meaning the same whatever hub is the usual one later."""
    return f"ms:{text}" if source == "modelscope" and not text.startswith("ms:") else text


def _prepare(plan: Plan, host: Host, held: Held) -> None:
    """Bring what is missing: the backend, the files."""
    from aimind import hub, systemd

    systemd.extend_start()
    steps.check_damage(plan, host)
    if not plan.backend.installed:
        held.say("preparing", phase=f"installing {plan.backend.name} {plan.backend.version}")
        steps.install(plan, host)
    steps.check_arguments(plan, host)
    if plan.model.root is None:
        held.say("preparing", phase="downloading")
        hub.fetch(plan.model, show.Progress())
        held.say("preparing")


@contextlib.contextmanager
def _noted(held: Held) -> Iterator[None]:
    """Should it end here, before there is a supervisor, leave word why."""
    try:
        yield
    except AimindError as problem:
        _last_word(held, "failed", problem.message, hint=problem.hint, exit_code=problem.exit_code)
        raise
    except KeyboardInterrupt:
        _last_word(held, "stopped", "it was stopped before there was a backend", exit_code=130)
        raise
    except SystemExit as end:
        _last_word(held, "stopped", "it was stopped before there was a backend", exit_code=int(end.code or 0))
        raise
    except BaseException as bug:
        _last_word(held, "failed", f"a bug in aimind: {type(bug).__name__}: {quoted(bug)}", exit_code=70)
        raise


def _last_word(held: Held, state: StateName, reason: str, *, exit_code: int, hint: str | None = None) -> None:
    with contextlib.suppress(InstanceError):  # a full disk: what went wrong is being said already
        held.say(state, reason=reason, hint=hint, exit_code=exit_code)


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
        show.note(f"stopping instance {name}")
        process.terminate()
        instances.finish_stop(name)
        show.note(f"instance {name} is stopped")
        raise

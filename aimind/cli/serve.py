"""`aimind serve`: from a model's name to a running server."""

from __future__ import annotations

import dataclasses
import sys

import click

from aimind import show, steps
from aimind.cli.group import cli
from aimind.errors import UnsupportedError
from aimind.options import Tokens, request_options, wanted


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

"""What is served here, and what can be done with it: `ps`, `status`, `logs`, `stop`, `restart` and so on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from aimind import show
from aimind.cli import waiting
from aimind.cli.configured import NO_CONFIG, Configured
from aimind.cli.group import cli, complete_model, split
from aimind.errors import AimindError, InstanceError, UsageError
from aimind.options import hub_option

if TYPE_CHECKING:
    from aimind.instances import Sight, Used
    from aimind.types import Device

# A driver that does not answer must not keep `ps` from answering.
DRIVER_PATIENCE_SECONDS = 2.0


def _complete(_context: click.Context, _option: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from aimind import instances

    try:
        return [CompletionItem(name) for name in instances.all_names() if name.startswith(incomplete)]
    except AimindError:
        return []  # there is nowhere to say why


def _complete_both(context: click.Context, option: click.Parameter, incomplete: str) -> list[CompletionItem]:
    models = [each for each in complete_model(context, option, incomplete) if each.value != "demo"]
    return _complete(context, option, incomplete) + models


NAME = click.argument("name", shell_complete=_complete)
NAMES = click.argument("names", metavar="NAME…", nargs=-1, shell_complete=_complete)
JSON = click.option("--json", "as_json", is_flag=True, help="As one JSON document: docs/instances.md.")


# ── Looking ────────────────────────────────────────────────────────────────────────────────────────────────


@cli.command("ps")
@click.option("-a", "--all", "every", is_flag=True, help="List all that have ended, not the newest 100.")
@JSON
def ps_command(*, every: bool, as_json: bool) -> None:
    """Show the instances: what is served, and what was."""
    from aimind import instances

    listing = instances.listing()
    sights = listing.look(None if every else instances.MOST_RECENT)
    instances.remove_leftovers(sights)
    used, found = _used(sights)
    if as_json:
        show.data({"instances": [show.instance_document(each, used.get(each.name)) for each in sights]})
    else:
        show.instances(sights, used, _indices(found))
        if not every and len(listing.ended) > instances.MOST_RECENT:
            more = len(listing.ended) - instances.MOST_RECENT
            show.note(f"{more} more that ended earlier are not shown: `aimind ps --all`")


@cli.command("status")
@NAME
@JSON
def status_command(*, name: str, as_json: bool) -> None:
    """Show all that is known of an instance."""
    from aimind import instances

    sight = instances.look(name)
    used, found = _used((sight,))
    lines = waiting.last_lines(sight) if sight.status in ("failed", "killed", "backing off") else []
    if as_json:
        show.data(show.instance_document(sight, used.get(name), last_lines=lines))
    else:
        show.instance(sight, used.get(name), _indices(found), last_lines=lines)


@cli.command("logs")
@NAME
@click.option("-f", "--follow", is_flag=True, help="Go on until the instance has ended, or Ctrl-C.")
@click.option("--previous", is_flag=True, help="Of the run before the newest.")
@click.option("-n", "--lines", type=click.IntRange(0), metavar="LINES", help="So many of the last; else all.")
@click.option("--json", "as_json", is_flag=True, help="A JSON document for each line.")
def logs_command(*, name: str, follow: bool, previous: bool, lines: int | None, as_json: bool) -> None:
    """Print what an instance has printed.

    Of the backend's newest run, with the lines of its supervisor between: they begin with "aimind:".
    """
    from collections import deque

    from aimind import instances
    from aimind.instances import logs

    if follow and previous:
        raise UsageError("what ran before prints no more", hint="--follow or --previous")
    folder = instances.look(name).folder
    runs = logs.runs(folder)
    if len(runs) < (2 if previous else 1) and not follow:
        which = "only one run" if runs else "no run"
        raise InstanceError(f"instance {name} has {which} yet", hint=f"`aimind status {name}` says how it is")
    if follow:
        entries = logs.follow(folder, runs[-1] if runs else 1, lines=lines)
    else:
        entries = logs.read(folder, runs[-2 if previous else -1])
        entries = entries if lines is None else iter(deque(entries, maxlen=lines))
    for entry in entries:
        if as_json:
            click.echo(json.dumps(show.log_document(entry), ensure_ascii=False))
        else:
            show.log_line(entry)


# ── Changing ───────────────────────────────────────────────────────────────────────────────────────────────


@cli.command("stop")
@NAMES
@click.option("--all", "every", is_flag=True, help="All that run.")
@JSON
def stop_command(*, names: tuple[str, ...], every: bool, as_json: bool) -> None:
    """Stop instances.

    Returns when nothing of them is left.
    """
    from aimind import instances

    if every == bool(names):
        raise UsageError("name the instances to stop, or say --all", hint="`aimind ps` shows them")
    wanted = [each.name for each in instances.living()] if every else list(dict.fromkeys(names))
    if every and not wanted:
        show.note("no instance runs")
    outcomes = _stop(wanted)
    if as_json:
        show.data({"instances": [{"name": name, "outcome": how} for name, how in outcomes.items()]})


@cli.command("restart")
@NAME
@JSON
def restart_command(*, name: str, as_json: bool) -> None:
    """Start an instance's backend again.

    Returns when it is ready. One that was stopped is started, as by `aimind start`.
    """
    import signal

    from aimind import instances

    sight = instances.look(name)
    if not sight.running:
        _start(sight, as_json=as_json)
        return
    if sight.state is not None and sight.state.state == "preparing":
        raise InstanceError(f"instance {name} is still preparing", hint="there is no backend to restart yet")
    before = sight.state.run if sight.state is not None else 0
    show.note(f"restarting instance {name}")
    if not instances.send(name, signal.SIGUSR1):
        _start(instances.look(name), as_json=as_json)
        return
    began = time.monotonic()
    sight = waiting.until_ready(name, lambda now: now.state is not None and now.state.run > before)
    if as_json:
        show.data(show.instance_document(sight, None))
    elif sight.instance is not None:
        url = sight.instance.url
        took = time.monotonic() - began
        show.ready(name, url, seconds=took, announcement=f"ready again: {url}", again=True)


@cli.command("start")
@NAME
@JSON
def start_command(*, name: str, as_json: bool) -> None:
    """Start an instance that has ended, by the same command.

    As `aimind serve --detach` does, in the same folder; returns when it is ready.
    """
    from aimind import instances

    sight = instances.look(name)
    if sight.running:
        raise InstanceError(f"instance {name} runs already", hint=f"`aimind restart {name}`")
    _start(sight, as_json=as_json)


@cli.command("remove", cls=Configured)
@click.argument("names", metavar="NAME|MODEL…", nargs=-1, shell_complete=_complete_both)
@hub_option
@click.option("--force", is_flag=True, help="Stop the instances that run.")
@click.option("-y", "--yes", is_flag=True, help="Remove models without a question.")
@JSON
def remove_command(*, names: tuple[str, ...], force: bool, yes: bool, as_json: bool) -> None:
    """Remove instances that have ended, or models from the caches.

    Of an instance its logs go, and how it was started; no model is removed with it. Of a model all goes that
    is here, or just the revision or quantization that is named; but nothing that an instance uses.

    \b
    aimind remove chat
    aimind remove unsloth/Qwen3-8B-GGUF:Q8_0
    """
    from aimind import instances
    from aimind.cli import models

    if not names:
        raise UsageError(
            "name the instances or models to remove", hint="`aimind ps` and `aimind models` show them"
        )
    found = models.removals([name for name in dict.fromkeys(names) if models.is_model(name)])
    wanted = [name for name in dict.fromkeys(names) if name not in found]
    running = [name for name in wanted if instances.look(name).running]
    if running and not force:
        raise InstanceError(
            f"instance {running[0]} runs", hint=f"`aimind stop {running[0]}` first, or --force"
        )
    if found and not yes:
        models.confirm(found)
    _stop(running)
    for name in wanted:
        instances.remove(name)
        show.note(f"instance {name} is removed")
    freed = {"freed_bytes": models.remove(found)} if found else {}
    if as_json:
        show.data({"removed": [*wanted, *found], **freed})


@cli.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(*, shell: str) -> None:
    """Print the completion script of a shell.

    It completes commands, options, and the names of instances and models.

    \b
    bash: echo 'eval "$(aimind completion bash)"' >> ~/.bashrc
    zsh:  echo 'eval "$(aimind completion zsh)"' >> ~/.zshrc
    fish: aimind completion fish > ~/.config/fish/completions/aimind.fish
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is None:
        raise UsageError(f"{shell} is not known", hint="bash, zsh, fish")
    click.echo(found(cli, {}, "aimind", "_AIMIND_COMPLETE").source())


# ── What these share ───────────────────────────────────────────────────────────────────────────────────────


def _stop(names: Sequence[str]) -> dict[str, str]:
    """Stop them side by side; by name, how that went: `stopped`, `killed`, or `not running`."""
    import signal

    from aimind import instances

    for name in names:
        instances.look(name)  # a wrong name must not stop the right ones before it
    told = {}
    for name in names:
        told[name] = instances.send(name, signal.SIGTERM)
        show.note(f"stopping instance {name}" if told[name] else f"instance {name} does not run")
    outcomes = {}
    for name, was_running in told.items():
        killed = was_running and instances.finish_stop(name)
        outcomes[name] = "killed" if killed else "stopped" if was_running else "not running"
        if was_running:
            why = " and had to be killed" if killed else ""
            show.note(f"instance {name} is stopped{why}")
    return outcomes


def _start(sight: Sight, *, as_json: bool) -> None:
    """Serve by the same command, detached."""
    from aimind.cli.serve import serve_command

    instance = sight.instance
    if instance is None:
        raise sight.problem or InstanceError(f"instance {sight.name} is damaged", hint="see `aimind ps`")
    try:
        os.chdir(instance.cwd)
    except OSError as problem:
        raise InstanceError(
            f"{instance.cwd}, where the command was given, cannot be entered: {problem.strerror}",
            hint=f"`aimind status {sight.name}` shows the command: give it anew where you like",
        ) from problem
    argv, backend_argv = split([*instance.argv])
    added = [NO_CONFIG, "--detach", "--name", sight.name]  # what was configured then is in the words
    added += ["--json"] if as_json else []
    added += ["--with-key"] if instance.has_key else []
    serve_command.main(
        args=[*argv, *added], prog_name="aimind serve", standalone_mode=False, obj=backend_argv
    )


def _used(sights: Sequence[Sight]) -> tuple[dict[str, Used], Sequence[Device]]:
    """What they hold, and the devices, as far as these matter and answer."""
    from aimind import instances

    running = [sight for sight in sights if sight.running]
    on_devices = any(sight.instance is not None and sight.instance.claim.devices for sight in running)
    found = _devices() if on_devices else ()
    return instances.used(running, found), found


def _devices() -> Sequence[Device]:
    """The devices; none where the driver does not answer."""
    import queue
    import threading

    from aimind import devices

    found: queue.SimpleQueue[Sequence[Device]] = queue.SimpleQueue()

    def probe() -> None:
        try:
            found.put(devices.probe({}).devices)  # all of them, whatever is visible here
        except AimindError:
            found.put(())

    threading.Thread(target=probe, daemon=True).start()
    try:
        return found.get(timeout=DRIVER_PATIENCE_SECONDS)
    except queue.Empty:
        return ()


def _indices(devices: Sequence[Device]) -> dict[str, int]:
    from aimind.instances import device_key

    return {device_key(device): device.index for device in devices}

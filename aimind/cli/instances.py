"""Commands about instances: `ps`, `status`, `logs`, `stop`, `restart`, `start`, `remove`."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from aimind import show
from aimind.cli import complete, waiting
from aimind.cli.app import Command, call, split
from aimind.cli.configured import NO_CONFIG, Configured
from aimind.cli.declare import OUTPUT, RUNNING, argument, option
from aimind.cli.options import Hub, Json, use_hub
from aimind.errors import AimindError, InstanceError, UsageError

if TYPE_CHECKING:
    from aimind.instances import Sight, Used
    from aimind.types import Device

# A driver that does not answer must not keep `ps` from answering.
DRIVER_PATIENCE_SECONDS = 2.0


app = typer.Typer(add_completion=False)
Name = Annotated[str, argument("NAME", "Name of the instance.", autocompletion=complete.instances)]
EndedName = Annotated[str, argument("NAME", "Name of the instance.", autocompletion=complete.ended_instances)]
RunningNames = Annotated[
    list[str] | None, argument("NAME", "Names of the instances.", autocompletion=complete.running_instances)
]


# ── Looking ────────────────────────────────────────────────────────────────────────────────────────────────


@app.command("ps", cls=Command)
def ps_command(
    *,
    with_ended: Annotated[
        bool, option("-a", "--all", panel=OUTPUT, help="List instances that have ended too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the running instances."""
    from aimind import instances

    listing = instances.listing()
    sights = listing.look(None if with_ended else instances.MOST_RECENT)
    instances.remove_leftovers(sights)
    if not with_ended:
        sights = tuple(sight for sight in sights if not sight.has_ended)
    used, found = _used(sights)
    if as_json:
        show.data({"instances": [show.instance_document(each, used.get(each.name)) for each in sights]})
    else:
        hidden = len(listing.running) + len(listing.ended) - len(sights)
        show.instances(sights, used, _indices(found), hidden=hidden)


@app.command("status", cls=Command)
def status_command(name: Name, *, as_json: Json = False) -> None:
    """Show everything about one instance."""
    from aimind import instances

    sight = instances.look(name)
    used, found = _used((sight,))
    lines = waiting.last_lines(sight) if sight.status in ("failed", "killed", "backing off") else []
    if as_json:
        show.data(show.instance_document(sight, used.get(name), last_lines=lines))
    else:
        show.instance(sight, used.get(name), _indices(found), last_lines=lines)


@app.command("logs", cls=Command)
def logs_command(
    name: Name,
    *,
    follow: Annotated[
        bool,
        option(
            "-f", "--follow", panel=OUTPUT, help="Print new lines too, until the instance ends or Ctrl-C."
        ),
    ] = False,
    previous: Annotated[
        bool,
        option("--previous", panel=OUTPUT, help="Print the log of the previous run."),
    ] = False,
    lines: Annotated[
        int | None,
        option(
            "-n",
            "--lines",
            panel=OUTPUT,
            metavar="N",
            min=0,
            help="Print only this many of the last lines (default: all).",
        ),
    ] = None,
    as_json: Annotated[
        bool, option("--json", panel=OUTPUT, help="Print one JSON document for each line.")
    ] = False,
) -> None:
    """Print the log of an instance.

    It has the output of the backend's newest run. Lines that begin with "aimind:" are from its supervisor.
    """
    from collections import deque

    from aimind import instances
    from aimind.instances import logs

    if follow and previous:
        raise UsageError("--follow cannot be combined with --previous", hint="leave one of them out")
    folder = instances.look(name).folder
    runs = logs.runs(folder)
    if len(runs) < (2 if previous else 1) and not follow:
        which = "only one run" if runs else "no run"
        raise InstanceError(
            f"instance {name} has {which} yet", hint=f"`aimind status {name}` shows its state"
        )
    if follow:
        entries = logs.follow(folder, runs[-1] if runs else 1, lines=lines)
    else:
        entries = logs.read(folder, runs[-2 if previous else -1])
        entries = entries if lines is None else iter(deque(entries, maxlen=lines))
    for entry in entries:
        if as_json:
            show.data(show.log_document(entry), indent=None)
        else:
            show.log_line(entry)


# ── Changing ───────────────────────────────────────────────────────────────────────────────────────────────


@app.command("stop", cls=Command)
def stop_command(
    names: RunningNames = None,
    *,
    every: Annotated[bool, option("--all", panel=RUNNING, help="Stop all running instances.")] = False,
    as_json: Json = False,
) -> None:
    """Stop instances.

    The command returns when none of their processes is left.
    """
    from aimind import instances

    if every == bool(names):
        raise UsageError("name the instances to stop, or use --all", hint="`aimind ps` shows them")
    wanted = [each.name for each in instances.living()] if every else list(dict.fromkeys(names or ()))
    if every and not wanted:
        show.note("no instance is running")
    outcomes = _stop(wanted)
    if as_json:
        show.data({"instances": [{"name": name, "outcome": how} for name, how in outcomes.items()]})


@app.command("restart", cls=Command)
def restart_command(name: Name, *, as_json: Json = False) -> None:
    """Restart the backend of an instance.

    The command returns when the instance is ready. An instance that has ended is started.
    """
    import signal

    from aimind import instances

    sight = instances.look(name)
    if not sight.running:
        _start(sight, as_json=as_json)
        return
    if sight.state is not None and sight.state.state == "preparing":
        raise InstanceError(
            f"instance {name} is still being prepared", hint=f"`aimind wait {name}` waits until it is ready"
        )
    before = sight.state.run if sight.state is not None else 0
    if not instances.send(name, signal.SIGUSR1):
        _start(instances.look(name), as_json=as_json)
        return
    began = time.monotonic()
    sight = waiting.until_ready(
        name,
        lambda now: now.state is not None and now.state.run > before,
        text=f"restarting instance {name}",
    )
    if as_json:
        show.data(show.instance_document(sight, None))
    elif sight.instance is not None:
        announcement = f"ready again: {sight.instance.url}"
        took = time.monotonic() - began
        show.ready(sight.instance, seconds=took, announcement=announcement, again=True)


@app.command("start", cls=Command)
def start_command(name: EndedName, *, as_json: Json = False) -> None:
    """Start an instance that has ended.

    It runs the same command in the same directory, as `aimind serve --detach`, and returns when it is ready.
    """
    from aimind import instances

    sight = instances.look(name)
    if sight.running:
        raise InstanceError(f"instance {name} is already running", hint=f"`aimind restart {name}`")
    _start(sight, as_json=as_json)


@app.command("wait", cls=Command)
def wait_command(
    name: Name,
    *,
    state: Annotated[
        Literal["ready", "stopped"],
        option("--for", panel=RUNNING, metavar="STATE", help="Wait for ready or stopped (default: ready)."),
    ] = "ready",
    timeout: Annotated[
        float | None,
        option(
            "--timeout",
            panel=RUNNING,
            metavar="SECONDS",
            min=0,
            help="Fail with exit code 13 after this many seconds (default: no limit).",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Wait until an instance is ready or stopped.

    If the instance ends before it is ready, the exit code is the one that it ended with.

    Examples:
      aimind wait chat --timeout 300
      aimind wait chat --for stopped
    """
    sight = waiting.until(name, state, timeout_seconds=timeout)
    if as_json:
        show.data(show.instance_document(sight, None))


@app.command("remove", cls=Configured)
def remove_command(
    names: Annotated[
        list[str] | None,
        argument(
            "NAME|MODEL", "Names of the instances or models.", autocompletion=complete.instances_and_models
        ),
    ] = None,
    *,
    hub: Hub = None,
    force: Annotated[
        bool, option("--force", panel=RUNNING, help="Stop instances that are still running.")
    ] = False,
    yes: Annotated[bool, option("-y", "--yes", panel=RUNNING, help="Remove models without asking.")] = False,
    as_json: Json = False,
) -> None:
    """Remove ended instances, or models from the caches.

    For an instance, its logs and its settings are removed, and no model. For a model, all its files are
    removed, or only the named revision or quantization. A model that an instance uses is not removed.

    Examples:
      aimind remove chat
      aimind remove unsloth/Qwen3-8B-GGUF:Q8_0
    """
    from aimind import instances
    from aimind.cli import models

    use_hub(hub)
    if not names:
        raise UsageError(
            "name the instances or models to remove", hint="`aimind ps` and `aimind models` show them"
        )
    found = models.removals([name for name in dict.fromkeys(names) if models.is_model(name)])
    wanted = [name for name in dict.fromkeys(names) if name not in found]
    running = [name for name in wanted if instances.look(name).running]
    if running and not force:
        raise InstanceError(
            f"instance {running[0]} is running", hint=f"`aimind stop {running[0]}` first, or --force"
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
    outcomes = {}
    for name, was_running in told.items():
        if not was_running:
            show.note(f"instance {name} is not running")
            outcomes[name] = "not running"
            continue
        with show.Step(f"stopping instance {name}") as step:
            killed = instances.finish_stop(name)
        why = " and had to be killed" if killed else ""
        step.complete(f"instance {name} is stopped{why}")
        outcomes[name] = "killed" if killed else "stopped"
    return outcomes


def _start(sight: Sight, *, as_json: bool) -> None:
    """Serve by the same command, detached."""
    instance = sight.instance
    if instance is None:
        raise sight.problem or InstanceError(f"instance {sight.name} is damaged", hint="see `aimind ps`")
    try:
        os.chdir(instance.cwd)
    except OSError as problem:
        raise InstanceError(
            f"{instance.cwd}, where the command was given, cannot be entered: {problem.strerror}",
            hint=f"`aimind status {sight.name}` shows the command: run it in another directory",
        ) from problem
    argv, backend_argv = split([*instance.argv])
    added = [NO_CONFIG, "--detach", "--name", sight.name]  # what was configured then is in the words
    added += ["--json"] if as_json else []
    added += ["--with-key"] if instance.has_key else []
    call("serve", [*argv, *added], backend_argv)


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

"""Instances as a person reads them, and as JSON documents."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import typer

from aimind.phrases import age, counted, gib, gib_of, shell_join, visible_output
from aimind.redaction import without_secrets
from aimind.show.columns import Cell, Column, Row, print_facts, print_table
from aimind.show.terminal import note

if TYPE_CHECKING:
    from aimind.instances import Sight, Used
    from aimind.instances.logs import Entry
    from aimind.show.live import Step

KILLED = "its supervisor was killed"
_COLUMNS = (
    Column("NAME"),
    Column("STATE"),
    Column("URL"),
    Column("MODEL"),
    Column("DEVICE MEMORY", rank=1, right=True),
    Column("RAM", rank=2, right=True),
    Column("BACKEND", rank=4),
    Column("DEVICES", rank=5),
    Column("AGE", rank=3, right=True),
    Column("RESTARTS", rank=1, right=True),
)
_STYLES = {
    "ready": "green",
    "failed": "red",
    "killed": "red",
    "damaged": "red",
    "orphaned": "red",
    "stopped": "dim",
}


def instances(
    sights: Sequence[Sight], used: Mapping[str, Used], indices: Mapping[str, int], *, hidden: int
) -> None:
    """Print a table of instances.

    Args:
        sights: the instances.
        used: what the processes of each hold, by its name.
        indices: the driver's index of each device, by the device's name in claims.
        hidden: how many more have ended, and are not in the table.
    """
    if sights:
        print_table(_COLUMNS, [_row(sight, used.get(sight.name), indices) for sight in sights])
    elif not hidden:
        typer.echo("There are no instances. `aimind serve MODEL` starts one.")
    else:
        typer.echo("No instance is running.")
    for sight in sights:
        if sight.problem is not None:
            note(f"{sight.name}: {sight.problem.message}")
    if hidden:
        note(f"{counted(hidden, 'instance')} ended: `aimind ps -a` shows {'it' if hidden == 1 else 'them'}.")


def _row(sight: Sight, used: Used | None, indices: Mapping[str, int]) -> Row:
    instance, state = sight.instance, sight.state
    if instance is None or state is None:
        return [sight.name, _state(sight), *[""] * (len(_COLUMNS) - 2)]
    claim = instance.claim
    devices = _of(sum(used.devices.values()) if used else 0, sum(claim.devices.values()))
    ram = _of(used.ram_bytes if used else 0, claim.ram_bytes)
    return [
        sight.name,
        _state(sight),
        instance.url if sight.running else "",
        instance.model,
        devices if sight.running else "",
        ram if sight.running else "",
        instance.backend,
        ", ".join(_device(device, indices) for device in claim.devices) if sight.running else "",
        age(state.since),
        str(state.restarts or ""),
    ]


def _of(used_bytes: int, planned_bytes: int) -> str:
    """What is held beside what was planned: `8.1 of 8.9 GiB`."""
    if not planned_bytes:
        return ""
    return gib_of(used_bytes, planned_bytes) if used_bytes else gib(planned_bytes)


def instance(
    sight: Sight, used: Used | None, indices: Mapping[str, int], *, last_lines: Sequence[str]
) -> None:
    """Print all that is known of one instance."""
    facts: list[tuple[str, str | Cell]] = [("name", sight.name), ("state", _state(sight))]
    facts += _state_facts(sight)
    facts += _instance_facts(sight, used, indices)
    if sight.problem is not None:
        facts += [("problem", sight.problem.message), ("hint", sight.problem.hint)]
    facts.append(("files", str(sight.folder)))
    print_facts(facts)
    for line in last_lines:
        typer.echo(f"| {visible_output(without_secrets(line))}")


def _state_facts(sight: Sight) -> list[tuple[str, str | Cell]]:
    state = sight.state
    if state is None:
        return []
    return [
        ("since", f"{_date(state.since)} ({age(state.since)})"),
        ("reason", _reason(sight) or ""),
        ("hint", state.hint or "" if sight.status != "killed" else ""),
        ("exit code", str(state.exit_code or "") if sight.status == "failed" else ""),
        ("ready since", _date(state.ready_since) if state.ready_since else ""),
        ("restarts", str(state.restarts or "")),
        ("supervisor", f"process {state.pid}" if sight.running else ""),
        ("server", f"process {state.backend_pid}" if sight.running and state.backend_pid else ""),
        ("log", f"run {state.run}: aimind logs {sight.name}" if state.run else ""),
    ]


def _instance_facts(
    sight: Sight, used: Used | None, indices: Mapping[str, int]
) -> list[tuple[str, str | Cell]]:
    instance = sight.instance
    if instance is None:
        return []
    claim = instance.claim
    taken = sight.state.taken if sight.running and sight.state is not None else None
    return [
        ("url", instance.url),
        ("model", f"{instance.model}, served as {instance.served_name}"),
        ("backend", f"{instance.backend} {instance.backend_version}"),
        ("devices", ", ".join(_device(device, indices) for device in claim.devices)),
        ("planned", _memory(claim.ram_bytes, claim.devices)),
        ("used", _used(used)),
        ("at most", _memory_in_use(claim.devices, taken, indices) if taken else ""),
        ("command", shell_join(["aimind", "serve", *instance.argv])),
        ("folder", instance.cwd),
        ("created", _date(instance.created)),
    ]


def instance_document(
    sight: Sight, used: Used | None, *, last_lines: Sequence[str] | None = None
) -> dict[str, object]:
    """The fields of `Instance` and `State` in one, with what is known besides: docs/instances.md."""
    document: dict[str, object] = {}
    if sight.instance is not None:
        document |= dataclasses.asdict(sight.instance)
    if sight.state is not None:
        document |= dataclasses.asdict(sight.state)
    document |= {"name": sight.name, "state": sight.status, "running": sight.running}
    if sight.status == "killed":  # the record is about an earlier end of the backend
        document |= {"reason": KILLED, "hint": None}
    if sight.problem is not None:
        document["problem"] = sight.problem.message
    if used is not None:
        document["used"] = dataclasses.asdict(used)
    if last_lines is not None:
        document["last_lines"] = list(last_lines)
    return document


def instance_progress(sight: Sight, step: Step) -> None:
    """Show in which state or phase an instance is that starts."""
    if sight.state is None or sight.status in ("starting", "ready"):
        return
    phase = sight.state.phase
    step.update(phase if phase and sight.status in ("loading", "preparing") else _phase(sight))


def ending(sight: Sight) -> str:
    """How it has ended, as a verb and what goes with it."""
    state = sight.state
    if sight.status == "damaged" or state is None:
        return f"cannot be seen: {sight.problem.message}" if sight.problem is not None else "is damaged"
    stopped = "has stopped" if state.ready_since else "has stopped before it was ready"
    how = {"failed": "failed", "killed": "was killed"}.get(sight.status, stopped)
    reason = _reason(sight)
    return f"{how}: {reason}" if reason else how


def _reason(sight: Sight) -> str | None:
    """Why the state is what it is; the record of a killed instance is about an earlier end of the backend."""
    if sight.status == "killed":
        return KILLED
    return sight.state.reason if sight.state is not None else None


def log_line(entry: Entry) -> None:
    """A line of a log, or that something is missing there."""
    if entry.line is not None:
        typer.echo(visible_output(without_secrets(entry.line)))
    else:
        typer.echo(
            f"aimind: {entry.dropped_parts} parts of the log were deleted here, because it was too long"
        )


def log_document(entry: Entry) -> dict[str, object]:
    """The same, as fields."""
    return {name: value for name, value in dataclasses.asdict(entry).items() if value not in (None, 0)}


def _state(sight: Sight) -> Cell:
    """The state in its color; of an instance that is starting the phase, and for how long."""
    return Cell(_phase(sight), _STYLES.get(sight.status, "yellow"))


def _phase(sight: Sight) -> str:
    state = sight.state
    if not sight.running or state is None or not state.phase:
        return sight.status
    if sight.status == "ready":
        return sight.status
    if sight.status == "backing off" and (delay := re.search(r"(\d+) s$", state.phase)):
        return f"restarting in {max(0, int(delay[1]) - int(time.time() - state.since))} s"
    phase = state.phase if state.phase.startswith(sight.status) else f"{sight.status}: {state.phase}"
    return f"{phase}, {age(state.since)}"


def _device(device: str, indices: Mapping[str, int]) -> str:
    return str(indices[device]) if device in indices else device[:12]


def _memory(ram_bytes: int, devices: Mapping[str, int]) -> str:
    parts = [gib(sum(devices.values()))] if devices else []
    return " + ".join([*parts, f"{gib(ram_bytes)} RAM"])


def _memory_in_use(planned: Mapping[str, int], taken: Mapping[str, int], indices: Mapping[str, int]) -> str:
    """What the backend's processes held on each device by the driver's count, beside what was planned."""
    parts = [
        f"{gib(size)} on device {_device(device, indices)}, planned {gib(planned.get(device, 0))}"
        for device, size in taken.items()
    ]
    return "; ".join(parts)


def _used(used: Used | None) -> str:
    return "" if used is None else _memory(used.ram_bytes, used.devices)


def _date(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))

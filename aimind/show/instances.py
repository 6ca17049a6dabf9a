"""Instances as a person reads them, and as JSON documents."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import typer

from aimind.phrases import age, gib, shell_join, visible_output
from aimind.show.terminal import console, escape, grid, note, table

if TYPE_CHECKING:
    from rich.table import Table

    from aimind.instances import Sight, Used
    from aimind.instances.logs import Entry
    from aimind.show.live import Step

NONE = "there are no instances: `aimind serve MODEL` starts one"


def instances(sights: Sequence[Sight], used: Mapping[str, Used], indices: Mapping[str, int]) -> None:
    """A table of them; `indices`: the devices' own, by the names that claims have for them."""
    if not sights:
        typer.echo(NONE)
        return
    titles = "name model backend state since restarts url devices planned used".split()
    rows = table(*titles)
    for sight in sights:
        instance, state = sight.instance, sight.state
        if instance is None or state is None:
            rows.add_row(sight.name, "", "", sight.status)
            continue
        claimed = instance.claim.devices if sight.running else {}
        rows.add_row(
            sight.name,
            escape(instance.model),
            instance.backend,
            _state(sight),
            age(state.since),
            str(state.restarts or ""),
            instance.url if sight.running else "",
            ", ".join(_device(device, indices) for device in claimed),
            _memory(instance.claim.ram_bytes, instance.claim.devices),
            _used(used.get(sight.name)),
        )
    console().print(rows)
    for sight in sights:
        if sight.problem is not None:
            note(f"{sight.name}: {sight.problem.message}")


def instance(
    sight: Sight, used: Used | None, indices: Mapping[str, int], *, last_lines: Sequence[str]
) -> None:
    """All that is known of one."""
    facts = grid()
    facts.add_row("name", sight.name)
    facts.add_row("state", _state(sight))
    if sight.state is not None:
        _add_state(facts, sight)
    if sight.instance is not None:
        _add_instance(facts, sight, used, indices)
    if sight.problem is not None:
        facts.add_row("problem", escape(sight.problem.message))
        facts.add_row("hint", escape(sight.problem.hint))
    facts.add_row("files", str(sight.folder))
    console().print(facts)
    for line in last_lines:
        typer.echo(f"| {visible_output(line)}")


def _add_state(facts: Table, sight: Sight) -> None:
    state = sight.state
    if state is None:
        return
    facts.add_row("since", f"{_date(state.since)} ({age(state.since)})")
    said = {
        "reason": state.reason,
        "hint": state.hint,
        "exit code": state.exit_code,
        "ready since": state.ready_since and _date(state.ready_since),
        "restarts": state.restarts or None,
        "process": state.pid if sight.running else None,
        "backend's": state.backend_pid if sight.running else None,
        "log": state.run and f"run {state.run}: aimind logs {sight.name}",
    }
    for name, value in said.items():
        if value:
            facts.add_row(name, escape(str(value)))


def _add_instance(facts: Table, sight: Sight, used: Used | None, indices: Mapping[str, int]) -> None:
    instance = sight.instance
    if instance is None:
        return
    facts.add_row("url", instance.url)
    facts.add_row("model", escape(f"{instance.model}, served as {instance.served_name}"))
    facts.add_row("backend", f"{instance.backend} {instance.backend_version}")
    facts.add_row("devices", ", ".join(_device(device, indices) for device in instance.claim.devices))
    facts.add_row("planned", _memory(instance.claim.ram_bytes, instance.claim.devices))
    facts.add_row("used", _used(used))
    if sight.running and sight.state is not None and sight.state.taken:
        facts.add_row("at most", _taken(instance.claim.devices, sight.state.taken, indices))
    facts.add_row("command", escape(shell_join(["aimind", "serve", *instance.argv])))
    facts.add_row("in", escape(instance.cwd))
    facts.add_row("created", _date(instance.created))


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
    step.update(phase if phase and sight.status in ("loading", "preparing") else _state(sight))


def ending(sight: Sight) -> str:
    """How it has ended, as a verb and what goes with it."""
    state = sight.state
    if sight.status == "damaged" or state is None:
        return f"cannot be seen: {sight.problem.message}" if sight.problem is not None else "is damaged"
    how = {"failed": "failed", "killed": "was killed"}.get(sight.status, "has stopped before it was ready")
    return f"{how}: {state.reason}" if state.reason else how


def log_line(entry: Entry) -> None:
    """A line of a log, or that something is missing there."""
    if entry.line is not None:
        typer.echo(visible_output(entry.line))
    else:
        typer.echo(f"aimind: {entry.dropped_parts} of the log's parts are missing here: it was too long")


def log_document(entry: Entry) -> dict[str, object]:
    """The same, as fields."""
    return {name: value for name, value in dataclasses.asdict(entry).items() if value not in (None, 0)}


def _state(sight: Sight) -> str:
    state = sight.state
    return (
        f"{sight.status}: {state.phase}"
        if sight.running and state is not None and state.phase
        else sight.status
    )


def _device(device: str, indices: Mapping[str, int]) -> str:
    return str(indices[device]) if device in indices else device[:12]


def _memory(ram_bytes: int, devices: Mapping[str, int]) -> str:
    parts = [gib(sum(devices.values()))] if devices else []
    return " + ".join([*parts, f"{gib(ram_bytes)} RAM"])


def _taken(planned: Mapping[str, int], taken: Mapping[str, int], indices: Mapping[str, int]) -> str:
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

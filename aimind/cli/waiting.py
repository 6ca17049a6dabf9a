"""Waiting until an instance is ready, and what is said meanwhile."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from aimind import show
from aimind.errors import InstanceEndedError, InstanceError

if TYPE_CHECKING:
    from aimind.instances import Sight

LAST_LINES = 10
POLL_SECONDS = 0.1


def until_ready(name: str, is_new: Callable[[Sight], bool], *, text: str = "") -> Sight:
    """Wait until an instance is ready, and show its states on the way, those of which `is_new` holds.

    `text`: what is under way (default: `starting NAME`).

    Raises:
        InstanceEndedError: it has ended instead.
    """
    from aimind import instances

    with show.Step(text or f"starting {name}") as step:
        sight = instances.follow_start(name, is_new, changed=lambda seen: show.instance_progress(seen, step))
    if sight.running:
        return sight
    raise _ended(sight)


def until(name: str, wanted: Literal["ready", "stopped"], *, timeout_seconds: float | None) -> Sight:
    """The instance once it is ready or stopped.

    Raises:
        InstanceEndedError: it has ended instead of becoming ready.
        InstanceError: there is none of this name, or the time is over.
    """
    from aimind import instances

    deadline = math.inf if timeout_seconds is None else time.monotonic() + timeout_seconds
    while True:
        sight = instances.look(name)
        if wanted == "stopped" and not sight.running:
            return sight
        if wanted == "ready" and not sight.running:
            raise _ended(sight)
        if wanted == "ready" and sight.status == "ready":
            return sight
        if time.monotonic() >= deadline:
            raise InstanceError(
                f"instance {name} is not {wanted} after {timeout_seconds:g} s",
                hint=f"`aimind status {name}` shows its state, `aimind logs {name}` its log",
            )
        time.sleep(POLL_SECONDS)


def _ended(sight: Sight) -> InstanceEndedError:
    """The error for an instance that has ended instead of becoming ready."""
    state = sight.state
    hints = [state.hint] if state is not None and state.hint else []
    hints.append(f"`aimind logs {sight.name}` prints its log")
    return InstanceEndedError(
        f"instance {sight.name} {show.ending(sight)}",
        hint="; ".join(hints),
        exit_code=state.exit_code if state is not None else None,
        output=tuple(last_lines(sight)),
    )


def last_lines(sight: Sight) -> list[str]:
    """What its backend printed last; nothing where its last run ended before there was one."""
    from aimind.instances import logs

    if sight.state is None or sight.state.run == 0:
        return []
    lines = [entry.line for entry in logs.read(sight.folder, sight.state.run) if entry.line is not None]
    return [line for line in lines if not line.startswith("aimind: ")][-LAST_LINES:]

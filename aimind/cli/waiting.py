"""Waiting until an instance is ready, and what is said meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from aimind import show
from aimind.errors import InstanceEndedError

if TYPE_CHECKING:
    from aimind.instances import Sight

LAST_LINES = 10


def until_ready(name: str, is_new: Callable[[Sight], bool]) -> Sight:
    """The instance once it is ready; its states are told on the way, those of which `is_new` holds.

    Raises:
        InstanceEndedError: it has ended instead.
    """
    from aimind import instances

    with show.Step(f"starting {name}") as step:
        sight = instances.follow_start(name, is_new, changed=lambda seen: show.instance_progress(seen, step))
    if sight.running:
        return sight
    state = sight.state
    raise InstanceEndedError(
        f"instance {name} {show.ending(sight)}",
        hint=(state.hint if state is not None else None) or f"all that it printed: `aimind logs {name}`",
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

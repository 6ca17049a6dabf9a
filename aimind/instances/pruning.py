"""Removing instances that ended long ago, with their logs: docs/instances.md tells the rule to users."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from aimind.errors import InstanceError
from aimind.instances import locks, look, records
from aimind.types import Instance

DAY_SECONDS = 86_400.0
# How many of the newest stay in any case, and how long the others do: instances whose names aimind chose, and
# instances that the user named.
MOST_UNNAMED, UNNAMED_SECONDS = 100, 30 * DAY_SECONDS
MOST_NAMED, NAMED_SECONDS = 1000, 365 * DAY_SECONDS
# So that no start is held up; the next one goes on.
MOST_AT_ONCE = 100


def remove_old(listing: look.Listing) -> None:
    """Remove some of those that ended long ago. The caller keeps others from making claims."""
    removed = 0
    for name in _old(listing):
        with contextlib.suppress(InstanceError):  # what cannot be removed is in nobody's way
            removed += _remove(name)
        if removed >= MOST_AT_ONCE:
            return


def _old(listing: look.Listing) -> Iterator[str]:
    """The names of those that may be removed, those that ended first first."""
    now = time.time()
    oldest_first = reversed(list(enumerate(listing.ended)))
    for newer, (ended_at, name) in oldest_first:
        age_seconds = now - ended_at
        if newer < MOST_UNNAMED or age_seconds < UNNAMED_SECONDS:
            return
        instance = _instance(name)
        if instance is None:
            continue
        if not instance.named or (newer >= MOST_NAMED and age_seconds >= NAMED_SECONDS):
            yield name


def _instance(name: str) -> Instance | None:
    """Its record; `None` where that is missing or damaged: `ps` then names it, until the user removes it."""
    try:
        return records.read_instance(records.instances_folder() / name)
    except (OSError, InstanceError):
        return None


def _remove(name: str) -> bool:
    """Remove it unless it runs; whether it did."""
    folder = records.instances_folder() / name
    lock = locks.take(folder / records.LOCK, patience_seconds=0)
    if lock is None:
        return False
    try:
        records.remove_folder(folder)
    finally:
        os.close(lock)
    return True

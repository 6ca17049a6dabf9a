"""The same work for several things at once, which Ctrl-C and the first failure end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

# For the other threads to stop and tidy up, once one has failed or the user gave up.
GRACE_SECONDS = 1.0

Item = TypeVar("Item")


def in_parallel(
    work: Callable[[Item], None], items: Sequence[Item], stop: threading.Event, *, limit: int
) -> None:
    """Do the work for each, `limit` at once; the first failure sets `stop`, which ends the others.

    In daemon threads, not in an executor: that would keep an interrupted program until all are done.
    """
    waiting: queue.SimpleQueue[Item] = queue.SimpleQueue()
    for item in items:
        waiting.put(item)
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    threads = [
        threading.Thread(target=lambda: ended.put(_failure(work, waiting, stop)), daemon=True)
        for _ in range(min(limit, len(items)))
    ]
    try:
        for thread in threads:
            thread.start()
        failure = next(filter(None, (ended.get() for _ in threads)), None)
    except BaseException as interruption:  # noqa: BLE001 - raised below
        failure = interruption
    if failure is not None:
        stop.set()
        for thread in threads:
            thread.join(GRACE_SECONDS)
        raise failure


def _failure(
    work: Callable[[Item], None], waiting: queue.SimpleQueue[Item], stop: threading.Event
) -> BaseException | None:
    """Do the work for those that wait, until there are none; what went wrong."""
    try:
        while not stop.is_set():
            work(waiting.get_nowait())
    except queue.Empty:
        return None
    except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
        return error
    return None

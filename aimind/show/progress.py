"""How a download goes on."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from aimind.phrases import gib
from aimind.show.terminal import console, is_quiet, note

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Progress:
    """How a download goes on: bars on a terminal, elsewhere a line every few seconds (`hub.Progress`)."""

    LINE_SECONDS = 5.0

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sizes: Mapping[str, int] = {}
        self._done: dict[str, int] = {}
        self._done_bytes = self._total_bytes = 0
        self._bar: RichProgress | None = None
        self._tasks: dict[str, TaskID] = {}  # of the files under way; "": of all
        self._next_line = 0.0

    def start(self, sizes: Mapping[str, int]) -> None:
        """Say what will come."""
        self._sizes, self._done = sizes, dict.fromkeys(sizes, 0)
        self._done_bytes, self._total_bytes = 0, sum(sizes.values())
        if is_quiet():
            return
        count = len(sizes)
        what = f"downloading {gib(self._total_bytes)} in {count} file{'s' if count != 1 else ''}"
        if not sys.stderr.isatty():
            note(what)
            self._next_line = time.monotonic() + self.LINE_SECONDS
            return
        from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn
        from rich.progress import Progress as Bar

        columns = (
            "{task.description}",
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Bar(*columns, console=console(err=True), transient=True)
        self._tasks = {"": self._bar.add_task(what, total=self._total_bytes)}
        self._bar.start()

    def advance(self, path: str, count_bytes: int) -> None:
        """Count what came."""
        with self._lock:
            self._done[path] += count_bytes
            self._done_bytes += count_bytes
            if self._bar is not None:
                self._draw(self._bar, path)
            elif time.monotonic() >= self._next_line:
                self._next_line = time.monotonic() + self.LINE_SECONDS
                note(f"downloaded {gib(self._done_bytes)} of {gib(self._total_bytes)}")

    def wait(self, path: str) -> None:
        """Say for whom."""
        with self._lock:
            note(f"waiting for another program, which downloads {path}")

    def finish(self) -> None:
        """Take the bars away."""
        if self._bar is not None:
            self._bar.stop()

    def _draw(self, bar: RichProgress, path: str) -> None:
        bar.update(self._tasks[""], completed=self._done_bytes)
        if len(self._sizes) == 1:
            return
        if self._done[path] >= self._sizes[path]:
            if path in self._tasks:
                bar.remove_task(self._tasks.pop(path))
            return
        if path not in self._tasks:
            name = path.rpartition("/")[2]
            self._tasks[path] = bar.add_task(f"  {name[:40]}", total=self._sizes[path])
        bar.update(self._tasks[path], completed=self._done[path])

"""How a download goes on."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING

from aimind.phrases import gib
from aimind.show.terminal import console, note

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Progress:
    """How a download goes on: a bar on a terminal, elsewhere a line every few seconds (`hub.Progress`)."""

    LINE_SECONDS = 5.0

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._total_bytes = self._done_bytes = 0
        self._next_line = 0.0

    def start(self, total_bytes: int, files: int) -> None:
        """Say what will come."""
        self._total_bytes, self._done_bytes = total_bytes, 0
        what = f"downloading {gib(total_bytes)} in {files} file{'s' if files != 1 else ''}"
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
        self._task = self._bar.add_task(what, total=total_bytes)
        self._bar.start()

    def advance(self, path: str, count_bytes: int) -> None:  # noqa: ARG002 - one bar for all files
        """Count what came."""
        with self._lock:
            self._done_bytes += count_bytes
            if self._bar is not None and self._task is not None:
                self._bar.update(self._task, completed=self._done_bytes)
            elif time.monotonic() >= self._next_line:
                self._next_line = time.monotonic() + self.LINE_SECONDS
                note(f"downloaded {gib(self._done_bytes)} of {gib(self._total_bytes)}")

    def finish(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

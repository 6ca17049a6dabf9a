"""How downloads and installations go on."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import TracebackType

from aimind.phrases import gib
from aimind.show.live import Transfer

# What uv has done, and what it does then.
_NEXT = (
    (": resolved ", "looking for its packages"),
    (": prepared ", "copying its packages"),
    (": installed ", "compiling to bytecode"),
    (": bytecode ", "checking it"),
)


class Progress:
    """How a download goes on (`hub.Progress`)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done_bytes = self._total_bytes = 0
        self._step: Transfer | None = None

    def start(self, sizes: Mapping[str, int]) -> None:
        """Show what will come."""
        self._done_bytes, self._total_bytes = 0, sum(sizes.values())
        self._step = Transfer("downloading", is_noted=False)
        self._step.__enter__()
        if not self._step.is_live:
            count = len(sizes)
            self._step.say(f"downloading {gib(self._total_bytes)} in {count} file{'s' if count != 1 else ''}")

    def advance(self, path: str, count_bytes: int) -> None:  # noqa: ARG002 - one bar for all files
        """Count what came."""
        with self._lock:
            self._done_bytes += count_bytes
            if self._step is not None:
                self._step.advance(self._done_bytes, self._total_bytes)

    def wait(self, path: str) -> None:
        """Show that another program is downloading the file."""
        with self._lock:
            if self._step is not None:
                self._step.say(f"waiting for another program that is downloading {path}")

    def finish(self) -> None:
        """Take the bar away; a line stays where all has come."""
        if self._step is None:
            return
        if self._done_bytes >= self._total_bytes:
            self._step.done("downloaded", gib(self._total_bytes))
        else:
            self._step.__exit__()


class Installation:
    """How the installation of a backend goes on (`environments.uv.Progress`)."""

    def __init__(self, name: str) -> None:
        """`name`: the backend and its version."""
        self._name = name
        self._step: Transfer | None = None

    def __enter__(self) -> Installation:
        return self

    def __call__(self, line: str) -> None:
        """What happens now: without a terminal a line, else beside the name."""
        if self._step is None:
            self._step = Transfer(line)
            self._step.__enter__()
            return
        if self._step.is_live:
            line = f"installing {self._name}: {next((now for past, now in _NEXT if past in line), line)}"
        self._step.update(line)

    def advance(self, done_bytes: int, total_bytes: int) -> None:
        """So many bytes of the packages are here."""
        if self._step is not None:
            self._step.text = f"installing {self._name.partition(' ')[0]}"
            self._step.advance(done_bytes, total_bytes)

    @property
    def is_live(self) -> bool:
        """Whether it is drawn, so that frequent updates make sense."""
        return self._step is not None and self._step.is_live

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Take the line away; another one stays where something was installed."""
        if self._step is None:
            return
        if kind is None:
            self._step.done("installed", self._name)
        else:
            self._step.__exit__()

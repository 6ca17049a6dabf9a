"""A line that ticks on stderr while something takes time, and the line that stays when it is done."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from types import TracebackType

from aimind.phrases import gib, gib_of, visible
from aimind.redaction import without_secrets
from aimind.show.terminal import is_live, look, note, put_above
from aimind.supervisor.screen import TICK_SECONDS, Screen, duration

LINE_SECONDS = 10.0  # between two lines about one transfer where there is no terminal
PAUSE_SECONDS = 0.3  # what takes less does not flicker by
RATE_SECONDS = 10.0  # over which the rate of a transfer is measured
BAR = 12
_PERCENT = re.compile(r" \d+ %$")


class Step:
    """Something under way: on a terminal a line that ticks, elsewhere a plain line for each change."""

    def __init__(self, text: str, *, is_noted: bool = True) -> None:
        """Begin with a text; `is_noted`: without a terminal it is printed."""
        self.text = text
        self._is_noted = is_noted
        self.began = time.monotonic()
        self._look = look()
        self.is_live = is_live()
        self._screen = Screen(_write, self._look)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Step:
        """Show it."""
        if self.is_live:
            self._screen.begin(self._line, now=self.began + PAUSE_SECONDS)
            put_above(self.say)
            self._thread = threading.Thread(target=self._tick, daemon=True)
            self._thread.start()
        elif self._is_noted:
            note(self.text)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        at: TracebackType | None = None,
    ) -> None:
        """Take the line away."""
        self._ended.set()
        put_above(None)
        if self._thread is not None:
            self._thread.join()
        self._screen.end()

    def update(self, text: str) -> None:
        """Change the text; without a terminal, print it unless only its percentage is new."""
        before, self.text = self.text, text
        if not self.is_live and _PERCENT.sub("", text) != _PERCENT.sub("", before):
            note(text)

    def say(self, line: str) -> None:
        """Print a line above the one that ticks."""
        if not self.is_live:
            note(line)
            return
        with self._lock:
            self._screen.line(visible(without_secrets(line)))

    def complete(self, line: str) -> None:
        """Replace the ticking line by a line that stays."""
        self.__exit__()
        if self.is_live:
            self._screen.line(self._look.done(visible(without_secrets(line))))
        else:
            note(line)

    def done(self, word: str, rest: str) -> None:
        """End with a line that states how long it took."""
        gap = "   " if self.is_live else " "
        self.complete(f"{word}{gap}{rest} in {duration(time.monotonic() - self.began)}")

    def _line(self) -> str:
        return visible(without_secrets(f"{self.text}   {duration(time.monotonic() - self.began)}"))

    def _tick(self) -> None:
        while not self._ended.wait(TICK_SECONDS):
            with self._lock:
                self._screen.tick(time.monotonic())


class Transfer(Step):
    """A step that brings a known number of bytes: a bar, the rate, and the time that is left."""

    def __init__(self, text: str, *, is_noted: bool = True) -> None:
        """Begin as any other step; it becomes a bar once `advance` is called."""
        super().__init__(text, is_noted=is_noted)
        self._done_bytes = self._total_bytes = 0
        self._samples: deque[tuple[float, int]] = deque()
        self._next_line = self.began + LINE_SECONDS

    def advance(self, done_bytes: int, total_bytes: int) -> None:
        """Show how many bytes have arrived, and of how many."""
        now = time.monotonic()
        self._done_bytes, self._total_bytes = done_bytes, total_bytes
        if not self._samples or now - self._samples[-1][0] > TICK_SECONDS:
            self._samples.append((now, done_bytes))
        while len(self._samples) > 2 and now - self._samples[0][0] > RATE_SECONDS:
            self._samples.popleft()
        if not self.is_live and now >= self._next_line:
            self._next_line = now + LINE_SECONDS
            note(f"{self.text}: {', '.join(self._numbers(now))}")

    def _line(self) -> str:
        done, total = self._done_bytes, self._total_bytes
        if not total or done >= total:
            return super()._line()
        bar = self._look.bar(done / total, BAR)
        numbers = " · ".join(self._numbers(time.monotonic()))
        return f"{visible(without_secrets(self.text))}  {bar}  {numbers}"

    def _numbers(self, now: float) -> list[str]:
        """`1.2 of 4.7 GiB`, `23 MiB/s`, `41 s left`; the last two once they are known."""
        shown = [gib_of(self._done_bytes, self._total_bytes)]
        since, before = self._samples[0]
        came = self._done_bytes - before
        if now - since >= 1.0 and came > 0:
            rate = came / (now - since)
            left = (self._total_bytes - self._done_bytes) / rate
            shown += [f"{gib(round(rate))}/s", f"{duration(max(left, 1.0))} left"]
        return shown


def _write(text: str) -> None:
    with suppress(OSError):  # the terminal has gone
        sys.stderr.write(text)
        sys.stderr.flush()

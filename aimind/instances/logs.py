"""The logs of an instance: one for each run of its backend, in parts, of which some may be dropped."""

from __future__ import annotations

import contextlib
import re
import time
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from aimind.instances import locks, records
from aimind.regular import open_regular

POLL_SECONDS = 0.1
CHUNK_BYTES = 1 << 16
_FILE = re.compile(r"(\d{6,})(?:\.(\d+))?\.log")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A line of a log.

    Attributes:
        run: the number of the backend's run.
        line: without its end; or
        dropped_parts: how many parts of the log are missing here.
    """

    run: int
    line: str | None = None
    dropped_parts: int = 0


def runs(folder: Path) -> tuple[int, ...]:
    """The runs of which there is a log, the oldest first; `folder` is the instance's."""
    return tuple(sorted(_parts(folder)))


def read(folder: Path, run: int) -> Iterator[Entry]:
    """What is there of a run's log."""
    with contextlib.closing(_Reader(folder, run)) as reader:
        yield from reader.more()
        yield from reader.rest()


def follow(folder: Path, run: int, *, lines: int | None) -> Iterator[Entry]:
    """A run's log, of what is there at most the last `lines`, and all that comes.

    It goes on over restarts, and ends with the instance.
    """
    while True:
        with contextlib.closing(_Reader(folder, run)) as reader:
            there = reader.more()
            yield from there if lines is None else deque(there, maxlen=lines)
            following = yield from _rest_of(folder, run, reader)
        if following is None:
            return
        run, lines = following, None


def _rest_of(folder: Path, run: int, reader: _Reader) -> Generator[Entry, None, int | None]:
    """All that comes of a run; then the next run, or `None` where the instance has ended."""
    while True:
        running = locks.held(folder / records.LOCK)  # asked before the last look, so that nothing is missed
        later = [each for each in runs(folder) if each > run]
        yield from reader.more()
        if later or not running:
            yield from reader.rest()
            return later[0] if later else None
        time.sleep(POLL_SECONDS)


class _Reader:
    """Reads a run's log from its beginning, as far as it is there."""

    def __init__(self, folder: Path, run: int) -> None:
        self._folder, self._run = folder, run
        self._part = 0
        self._file: BinaryIO | None = None
        self._unfinished = b""

    def more(self) -> Iterator[Entry]:
        """All whole lines that have come."""
        while True:
            later = [part for part in _parts(self._folder).get(self._run, ()) if part > self._part]
            yield from self._lines()  # after that look: a part that has a successor grows no more
            if not later:
                return
            dropped = later[0] - self._part - 1
            if dropped:
                yield from self.rest()
                yield Entry(run=self._run, dropped_parts=dropped)
            self._turn_to(later[0])

    def rest(self) -> Iterator[Entry]:
        """The last line, where it has no end."""
        if self._unfinished:
            yield self._entry(self._unfinished)
            self._unfinished = b""

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _turn_to(self, part: int) -> None:
        self.close()
        name = f"{self._run:06}.log" if part == 1 else f"{self._run:06}.{part}.log"
        self._part = part
        try:
            path = self._folder / records.LOGS / name
            self._file = open_regular(path)
        except OSError:  # dropped just now, or no log
            self._file = None

    def _lines(self) -> Iterator[Entry]:
        while self._file is not None and (data := self._file.read(CHUNK_BYTES)):
            *lines, self._unfinished = (self._unfinished + data).split(b"\n")
            yield from map(self._entry, lines)

    def _entry(self, line: bytes) -> Entry:
        return Entry(run=self._run, line=line.decode(errors="replace").rstrip("\r"))


def _parts(folder: Path) -> dict[int, list[int]]:
    """The parts of each run's log, in order."""
    found: dict[int, list[int]] = {}
    try:
        names = [path.name for path in (folder / records.LOGS).iterdir()]
    except OSError:
        return found
    for name in names:
        if match := _FILE.fullmatch(name):
            found.setdefault(int(match[1]), []).append(int(match[2] or 1))
    return {run: sorted(parts) for run, parts in found.items()}

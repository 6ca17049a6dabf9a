"""What the supervisor leaves in its instance's folder: `state.json`, and a log for each run."""

from __future__ import annotations

import json
import os
import re
import time
from contextlib import suppress

from aimind.supervisor.output import Lines

PART_BYTES = 4 * 1024 * 1024
RUNS = 10


class State:
    """The file `state.json`, with the fields of `aimind.types.State`; replaced whole at each change.

    A disk that is full, or gone, does not stop the backend: the next change writes what was missed.
    """

    def __init__(self, folder: str | None) -> None:
        """`folder`: of the instance; `None` keeps the fields alone."""
        self._path = folder and f"{folder}/state.json"
        self.fields: dict[str, object] = {
            "state": "starting",
            "since": time.time(),
            "pid": os.getpid(),
            "phase": None,
            "backend_pid": None,
            "run": 0,
            "restarts": 0,
            "ready_since": None,
            "reason": None,
            "hint": None,
            "exit_code": None,
            "temporary": None,
            "taken": {},
        }

    def change(self, **fields: object) -> bool:
        """Set fields, and write them all; whether anything is new."""
        if all(self.fields[name] == value for name, value in fields.items()):
            return False
        if "state" in fields and fields["state"] != self.fields["state"]:
            self.fields["since"] = time.time()
        self.fields |= fields
        if self._path is not None:
            with suppress(OSError):
                self._write(self._path)
        return True

    def _write(self, path: str) -> None:
        new = f"{path}.new"
        # A pipe in its place must not be waited for.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NONBLOCK
        fd = os.open(new, flags, 0o600)
        text = json.dumps(self.fields).encode()
        try:
            written = os.write(fd, text)
        finally:
            os.close(fd)
        if written < len(text):  # the disk is full: what was written before is the better one
            return
        os.replace(new, path)  # noqa: PTH105 (pathlib costs memory)


class Logs(Lines):
    """The folder `logs`: `000001.log` for the first run, and its further parts `000001.2.log` and so on.

    Of a run its first part and its last two are kept, each of `PART_BYTES`; of the runs the last `RUNS`.
    What a full disk does not take is left out, and counted in a line once it takes something again.

    Attributes:
        run: the number of the newest run; 0 before the first.
    """

    def __init__(self, folder: str) -> None:
        """Go on with the numbers of the runs that are there."""
        super().__init__()
        self._folder = folder
        self._fd: int | None = None
        self._part = 0
        self._size_bytes = 0
        self.run = max(self._runs(), default=0)

    def begin(self) -> None:
        """Begin the log of another run."""
        self.run += 1
        self._open(1)
        self.inside_line = False
        for run, names in self._runs().items():
            if run <= self.run - RUNS:
                for name in names:
                    self._remove(name)

    def _put(self, data: bytes) -> None:
        if self._size_bytes and self._size_bytes + len(data) > PART_BYTES:
            self._open(self._part + 1)
            if self._part > 3:
                self._remove(self._name(self._part - 2))
        elif self._fd is None and self.run:
            self._open(self._part)  # there may be room by now
        note = b"\naimind: %d bytes left out, for which there was no room\n" % self._left_out
        unwritten = self._write(note + data if self._left_out else data)
        self._left_out = unwritten if unwritten <= len(data) else self._left_out + len(data)

    def _write(self, data: bytes) -> int:
        """Write what the disk takes; how many bytes it does not."""
        while data and self._fd is not None:
            try:
                written = os.write(self._fd, data)
            except OSError:
                break
            self._size_bytes += written
            data = data[written:]
        return len(data)

    def _open(self, part: int) -> None:
        if self._fd is not None:
            os.close(self._fd)
        self._fd, self._part, self._size_bytes = None, part, 0
        with suppress(OSError):
            if not os.path.exists(self._folder):  # noqa: PTH110 (pathlib costs memory)
                os.mkdir(self._folder, 0o700)  # noqa: PTH102
            # Never over a log that is there.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
            self._fd = os.open(f"{self._folder}/{self._name(part)}", flags, 0o600)

    def _name(self, part: int) -> str:
        return f"{self.run:06}.log" if part == 1 else f"{self.run:06}.{part}.log"

    def _runs(self) -> dict[int, list[str]]:
        """The names of the files of each run."""
        found: dict[int, list[str]] = {}
        with suppress(OSError):
            for name in os.listdir(self._folder):  # noqa: PTH208 (pathlib costs memory)
                if number := re.match(r"(\d+)\.(\d+\.)?log$", name):
                    found.setdefault(int(number[1]), []).append(name)
        return found

    def _remove(self, name: str) -> None:
        with suppress(OSError):
            os.unlink(f"{self._folder}/{name}")  # noqa: PTH108 (pathlib costs memory)

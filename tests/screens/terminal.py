"""A terminal in which the real `aimind` runs, and what one sees in it.

with Terminal(env=home.env, columns=80) as terminal:
    terminal.run("serve", "demo")
    terminal.wait_for("ready in")
    compare("serve", terminal)
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import pyte

from tests.supervisor.harness import PATIENCE_SECONDS, wait_for

AIMIND = Path(sys.executable).with_name("aimind")
GOLDEN = Path(__file__).parent / "golden"
ROWS = 100  # so that nothing scrolls away
LOCALE = {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
# What differs from run to run and from machine to machine.
MASKS: Sequence[tuple[str, str]] = (
    (r"\d{4}\.\d+\.\d{4,}\b", "VERSION"),
    (r"(?<=127\.0\.0\.1:)\d+", "PORT"),
    (r"\b\d+ h \d+ min|\b\d+ min(?: \d+ s)?|\b\d+(?:\.\d+)? s\b", "N s"),
    (r"\d+(?=(?:\.\d+)? of \d+ MiB)", "NN"),
    (r"(?<=of )\d+(?:\.\d+)? GiB", "N GiB"),
    (r"[\d.]+ [KMG]iB/s", "N MiB/s"),
    (r"(?<=pid )\d+", "N"),
    (r"(?<=Python )[\d.]+", "VERSION"),
)


class Terminal:
    """A pseudo-terminal of so many columns, and one program at a time in it.

    Attributes:
        columns: how wide it is.
        process: the program that was started last.
        received: all bytes that came, to look for colors or for what was overwritten.
    """

    process: subprocess.Popen[bytes]

    def __init__(
        self, *, env: Mapping[str, str], columns: int = 80, rows: int = ROWS, cwd: Path | None = None
    ) -> None:
        """Open it, for programs with this environment, in that folder."""
        self.columns = columns
        self.received = b""
        self._env = {**LOCALE, **env}
        self._cwd = cwd
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self._lock = threading.Lock()
        self._master, self._slave = os.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def run(self, *words: str, program: Path = AIMIND) -> None:
        """Start `aimind` with these words, as a shell starts it: in the foreground of the terminal."""
        self.process = subprocess.Popen(
            ["setsid", "--ctty", program, *words],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env=self._env,
            cwd=self._cwd,
        )

    def press(self, keys: bytes) -> None:
        """Type these keys."""
        os.write(self._master, keys)

    def wait_for(self, text: str) -> None:
        """Wait until the terminal shows a text."""
        wait_for(lambda: text in self.text, what=f"{text!r} on the screen:\n{self.text}")

    def wait(self) -> int:
        """Wait until the program has ended, and all that it wrote is there; its exit code."""
        code = self.process.wait(PATIENCE_SECONDS)
        mark = b"\x1b]2;end %d\x07" % self.process.pid  # the terminal's title, which nobody sees
        os.write(self._slave, mark)
        wait_for(lambda: mark in self.received, what="the end of the output")
        return code

    @property
    def text(self) -> str:
        """What one sees, without blanks at the ends of lines and empty lines at the end."""
        with self._lock:
            lines = [line.rstrip() for line in self._screen.display]
        return "\n".join(lines).rstrip() + "\n"

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Close it; what still runs in it gets HUP, as when a window is closed."""
        if hasattr(self, "process") and self.process.poll() is None:
            self.process.send_signal(signal.SIGHUP)
            self.process.wait(PATIENCE_SECONDS)
        os.close(self._slave)
        self._reader.join()
        os.close(self._master)

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 1 << 16)
            except OSError:  # closed
                return
            with self._lock:
                self.received += data
                self._stream.feed(data)


def masked(text: str) -> str:
    """The text, the same whenever and wherever it was made."""
    for pattern, instead in MASKS:
        text = re.sub(pattern, instead, text)
    return text


def compare(name: str, terminal: Terminal) -> None:
    """Hold what the terminal shows against `golden/NAME-COLUMNS.txt`; AIMIND_WRITE_GOLDEN=1 writes it."""
    path = GOLDEN / f"{name}-{terminal.columns}.txt"
    seen = masked(terminal.text)
    if os.environ.get("AIMIND_WRITE_GOLDEN"):
        path.write_text(seen, encoding="utf-8")
    assert seen == path.read_text(encoding="utf-8")

"""A line at the bottom of a terminal that ticks, and lines above it that stay.

The supervisor draws with it, and so do the commands that download, install and wait (`aimind.show.live`).
Plain ANSI codes: clear the line, and colors.
"""

from __future__ import annotations

import os
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

TICK_SECONDS = 0.125
COLUMNS = 80  # where the terminal does not report its size
CLEAR = "\r\x1b[K"
BOLD, DIM, RED, GREEN, YELLOW, CYAN = 1, 2, 31, 32, 33, 36
# Unicode, and its stand-in where the terminal's encoding does not have it.
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "|/-\\"
DONE = "✓", "*"
DOT = "·", "-"
ELLIPSIS = "…", "..."
FULL, EMPTY = ("▇", "#"), ("░", ".")


class Look:
    """What a terminal can show.

    Attributes:
        color: it obeys ANSI colors, and the user wants them.
        unicode: its encoding has the characters above.
    """

    __slots__ = ("color", "unicode")

    def __init__(self, *, color: bool, unicode: bool) -> None:
        self.color = color
        self.unicode = unicode

    def paint(self, text: str, *codes: int) -> str:
        """The text in these colors."""
        if not self.color:
            return text
        return f"\x1b[{';'.join(map(str, codes))}m{text}\x1b[0m"

    def sign(self, pair: tuple[str, str]) -> str:
        """A character, or its stand-in."""
        return pair[0] if self.unicode else pair[1]

    def bar(self, share: float, width: int) -> str:
        """A bar of so many characters, filled by a share from 0 to 1; what is not nothing shows."""
        filled = min(width, max(round(share * width), 1 if share > 0 else 0))
        return self.sign(FULL) * filled + self.sign(EMPTY) * (width - filled)

    def done(self, text: str) -> str:
        """A line for a step that is complete."""
        return f"{self.paint(self.sign(DONE), GREEN)} {text}"

    def plain(self, text: str) -> str:
        """The text in characters that the terminal's encoding has."""
        if self.unicode:
            return text
        for character, instead in (DONE, DOT, ELLIPSIS, FULL, EMPTY):
            text = text.replace(character, instead)
        return text.encode("ascii", "backslashreplace").decode()


class Screen:
    """One ticking line on a terminal: a spinner and a text.

    Nothing is drawn while the program is in the background, where the terminal belongs to another one.

    Attributes:
        deadline: when `tick` is to be called at the latest; never while nothing is under way.
    """

    def __init__(self, write: Callable[[str], None], look: Look, *, fd: int = 2) -> None:
        """Draw by `write`, on the terminal that the descriptor `fd` is open for."""
        self._write = write
        self._look = look
        self._fd = fd
        self._text: Callable[[], str] | None = None
        self._frame = 0
        self._drawn = False
        self.deadline = float("inf")

    def begin(self, text: Callable[[], str], *, now: float) -> None:
        """Something is under way, to be drawn from `now` on; its text is asked for again at each tick."""
        self._text = text
        self.deadline = now

    def end(self) -> None:
        """Remove the line."""
        self._text = None
        self.deadline = float("inf")
        self._clear()

    def line(self, text: str) -> None:
        """Write a line that stays, above the one that ticks."""
        self._clear()
        self._write(f"{self._look.plain(text)}\n")
        self.deadline = 0.0 if self._text else self.deadline

    def cut(self, text: str) -> str:
        """The text, as much of it as a line has room for."""
        room = columns(self._fd) - 1
        if len(text) <= room:
            return text
        end = self._look.sign(ELLIPSIS)
        return text[: max(room - len(end), 0)] + end

    def wrapped(self, text: str) -> str:
        """The text in lines that end between words, the further ones indented."""
        room = columns(self._fd) - 1
        lines = [""]
        for word in text.split(" "):
            if len(lines[-1]) + len(word) >= room and lines[-1].strip():
                lines.append("  ")
            lines[-1] += word + " "
        return "\n".join(line.rstrip() for line in lines)

    def tick(self, now: float) -> None:
        """Draw the line again, when it is time to."""
        if self._text is None or now < self.deadline:
            return
        self.deadline = now + TICK_SECONDS
        if not _is_in_foreground(self._fd):
            return
        self._frame += 1
        frames = self._look.sign(SPINNER)
        spinner = frames[self._frame % len(frames)]
        text = self._look.plain(self._text())
        room = (
            columns(self._fd) - 3
        )  # the spinner, a blank, and the last column, which some terminals wrap at
        self._write(f"{CLEAR}{self._look.paint(spinner, CYAN)} {text[: max(room, 0)]}")
        self._drawn = True

    def _clear(self) -> None:
        if self._drawn:
            self._write(CLEAR)
            self._drawn = False


def duration(seconds: float) -> str:
    """A time for a person: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 1:
        return f"{max(seconds, 0.0):.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def columns(fd: int) -> int:
    """How wide the terminal is now."""
    with suppress(OSError):
        return os.get_terminal_size(fd).columns or COLUMNS
    return COLUMNS


def _is_in_foreground(fd: int) -> bool:
    """Whether the terminal listens to our process group."""
    with suppress(OSError):
        return os.tcgetpgrp(fd) == os.getpgrp()
    return False

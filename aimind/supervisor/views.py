"""What a person sees of the backend: its log and lines about it, or a line that ticks, or errors alone."""

from __future__ import annotations

import os
import time

from aimind.supervisor.output import Terminal
from aimind.supervisor.screen import BOLD, CYAN, DIM, RED, YELLOW, Look, Screen, duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from aimind.supervisor.output import Output
    from aimind.supervisor.progress import Progress
    from aimind.supervisor.spec import Spec

    # `progress`: the state shows it, too. `detail`: in the log above, where that is shown.
    Kind = Literal["progress", "event", "detail", "error"]

# Without progress for longer, the line shows when the start is given up.
SILENT_SECONDS = 20.0
# The beginnings of lines that are in colors.
LABELS = {"error": (RED, BOLD), "!": (YELLOW,), "cause": (CYAN,), "hint": (CYAN,), "log": (CYAN,)}


class Plain:
    """For files, pipes and journals: the backend's log as it comes, and our lines, which begin `aimind: `."""

    deadline = float("inf")

    def __init__(self, stdout: Output, stderr: Output) -> None:
        self._stdout, self._stderr = stdout, stderr
        # A program that reads it gets all that the backend printed, unchanged.
        self._terminal = Terminal() if os.isatty(stdout.fd) else None
        self.progress: Progress | None = None

    @property
    def inside_line(self) -> bool:
        """The backend has begun a line, which a line of ours would break."""
        return self._stdout.inside_line

    def output(self, data: bytes) -> None:
        """The backend has printed this."""
        self._stdout.write(data if self._terminal is None else self._terminal(data))

    def end_output(self) -> None:
        """The backend prints no more."""
        if self._terminal is not None:
            self._stdout.write(self._terminal.end())
        self._stdout.end_line()

    def say(self, sentence: str, kind: Kind) -> None:
        """Something has happened."""
        if kind != "detail":
            self._stderr.write_line(f"aimind: {sentence}")

    def change(self, state: str, phase: str | None) -> None:
        """The backend is in another state."""

    def ready(self, announcement: str, *, again: bool) -> None:  # noqa: ARG002 - for `Live`
        """The backend serves, for the first time or `again`."""
        self._stdout.write_line(announcement)

    def tick(self, now: float) -> None:
        """Draw again what changes with time."""


class Quiet(Plain):
    """Errors alone."""

    inside_line = False

    def output(self, data: bytes) -> None:
        """Leave it to the log's file."""

    def end_output(self) -> None:
        """Do nothing: no line was begun."""

    def say(self, sentence: str, kind: Kind) -> None:
        """Only what went wrong."""
        if kind in ("error", "detail"):
            self._stderr.write_line(sentence)

    def ready(self, announcement: str, *, again: bool) -> None:
        """Print nothing: a server that is ready is no error."""


class Live(Plain):
    """For a terminal: one line that ticks until the backend is ready, and then a line for each event.

    The log is in its file alone, unless stdout is no terminal: then it goes there.
    """

    def __init__(self, stdout: Output, stderr: Output, spec: Spec, *, shows_output: bool) -> None:
        super().__init__(stdout, stderr)
        screen = spec["screen"] or {"color": False, "unicode": False, "next": ""}
        self._look = Look(color=screen["color"], unicode=screen["unicode"])
        self._screen = Screen(lambda text: stderr.write(text.encode(errors="replace")), self._look)
        self._next = screen["next"]
        self._url = f"{spec['url']}/v1"
        self._shows_output = shows_output
        self._state, self._phase = "", ""
        self._since = time.monotonic()

    @property
    def deadline(self) -> float:  # type: ignore[override]
        """When `tick` is to be called at the latest."""
        return self._screen.deadline

    @property
    def inside_line(self) -> bool:
        """The log has lines of its own."""
        return self._shows_output and super().inside_line

    def output(self, data: bytes) -> None:
        """Pass it on to whoever reads stdout."""
        if self._shows_output:
            super().output(data)

    def end_output(self) -> None:
        """End the line in what was passed on."""
        if self._shows_output:
            super().end_output()

    def say(self, sentence: str, kind: Kind) -> None:
        """A line that stays, unless the one that ticks shows it, too."""
        if kind == "progress":
            return
        if sentence.startswith("| "):
            self._screen.line(self._look.paint(self._screen.cut(sentence), DIM))
            return
        label, colon, _ = sentence.partition(": ")
        if kind == "error" and label not in LABELS:
            sentence, label, colon = f"! {sentence}", "!", " "
        sentence = self._screen.wrapped(sentence)
        if colon and label in LABELS:
            sentence = self._look.paint(label, *LABELS[label]) + sentence.removeprefix(label)
        self._screen.line(sentence)

    def change(self, state: str, phase: str | None) -> None:
        """Let the line show it."""
        now = time.monotonic()
        self._phase = phase or ""
        if state == self._state:
            return
        before, self._state = self._state, state
        if state in ("ready", "failed", "stopped"):
            self._screen.end()
            if state == "stopped":
                self._screen.line(self._look.done("stopped"))
            return
        if (before, state) != ("starting", "loading"):
            self._since = now
        self._screen.begin(self._text, now=now)

    def ready(self, announcement: str, *, again: bool) -> None:
        """Where it answers, how long that took, and the first time what can be typed next."""
        took = duration(time.monotonic() - self._since)
        word = "ready again" if again else "ready"
        self._screen.line(self._look.done(f"{word} in {took}   {self._look.paint(self._url, BOLD)}"))
        if self._next and not again:
            self._screen.line(self._look.paint(f"  {self._next}", DIM))
        if self._shows_output:
            super().ready(announcement, again=again)

    def tick(self, now: float) -> None:
        """Let the line tick."""
        if not self._stderr.pending:  # a terminal that is held up (Ctrl-S) gets no more to draw
            self._screen.tick(now)

    def _text(self) -> str:
        now = time.monotonic()
        return f"{self._under_way(now)}   {duration(now - self._since)}"

    def _under_way(self, now: float) -> str:
        if self._state == "loading":
            return f"{self._phase}{self._stall(now)}"
        if self._state == "stopping":
            what = f"stopping {self._phase}".strip()
            return f"{what}{self._look.sign(('…', '...'))} Ctrl-C again kills it"
        if self._state == "starting":
            return f"starting{self._stall(now)}"
        return self._phase or self._state

    def _stall(self, now: float) -> str:
        """When it is given up, once there has been no progress for a while."""
        progress = self.progress
        if progress is None or not progress.watches:
            return ""
        silent = progress.silent_seconds(now)
        if silent < SILENT_SECONDS:
            return ""
        return f", no progress for {duration(silent)}: given up after {duration(progress.stall_seconds)}"


def choose(spec: Spec, stdout: Output, stderr: Output, *, is_terminal: bool) -> Plain:
    """The view that the spec wants; `is_terminal`: stdout is one."""
    if spec["quiet"]:
        return Quiet(stdout, stderr)
    if spec["screen"] is not None:
        return Live(stdout, stderr, spec, shows_output=not is_terminal)
    return Plain(stdout, stderr)

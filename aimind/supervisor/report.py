"""All that others learn of the backend: on the terminal, from its log, from `state.json`, and by systemd."""

from __future__ import annotations

import os
import time

from aimind.supervisor.notify import EXTENSION_SECONDS, Manager
from aimind.supervisor.output import Output, visible
from aimind.supervisor.probe import FOREVER
from aimind.supervisor.record import Logs, State
from aimind.supervisor.views import choose

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from aimind.supervisor.spec import Spec
    from aimind.supervisor.views import Kind

# States in which the service manager's time limits are extended.
PATIENT = ("starting", "loading", "stopping")


class Report:
    """Where the supervisor says what happens.

    Attributes:
        outputs: stdout and stderr; what waits in them must be pumped.
        view: what a person sees.
        state: what is kept in `state.json`.
        manager: what is told to systemd.
    """

    def __init__(self, spec: Spec, *, now: float) -> None:
        folder = spec["instance"] and spec["instance"]["folder"]
        self._spec = spec
        self._folder = folder or ""
        self.outputs = Output(1), Output(2)
        self.view = choose(spec, *self.outputs, is_terminal=os.isatty(1))
        self.state = State(folder)
        self._logs = Logs(f"{folder}/logs") if folder else None
        self.manager = Manager()
        self._tick_seconds = min(EXTENSION_SECONDS, self.manager.watchdog_seconds or EXTENSION_SECONDS) / 3
        self._deadline = now if self.manager.listens else FOREVER

    @property
    def deadline(self) -> float:
        """When `tick` is to be called at the latest."""
        return min(self._deadline, self.view.deadline)

    # ── What is said ───────────────────────────────────────────────────────────────────────────────────────

    def say(self, sentence: str, kind: Kind = "event") -> None:
        """A sentence of ours, for the person and the log."""
        sentence = visible(sentence)
        self.view.say(sentence, kind)
        if self._logs is not None and kind != "detail":
            self._logs.write_line(f"aimind: {sentence}")

    def show_log(self, last_lines: Iterable[str]) -> None:
        """The last lines of the log, and where the rest is, for those who do not see it."""
        for line in last_lines:
            self.say(f"| {line}", "detail")
        if self._logs is not None:
            self.say(f"log: aimind logs {os.path.basename(self._folder)}", "detail")  # noqa: PTH119

    def output(self, data: bytes) -> None:
        """What the backend printed."""
        self.view.output(data)
        if self._logs is not None:
            self._logs.write(data)

    def end_output(self) -> None:
        """Handle the end of the backend's output."""
        self.view.end_output()
        if self._logs is not None:
            self._logs.end_line()

    # ── What is kept ───────────────────────────────────────────────────────────────────────────────────────

    def start(self, *, temporary: str | None, restarts: int) -> None:
        """Another run begins."""
        if self._logs is not None:
            self._logs.begin()
        run = self._logs.run if self._logs is not None else 0
        self.change("starting", run=run, temporary=temporary, restarts=restarts)

    def ready(self) -> None:
        """Report that the server is ready; the first time with the announcement of the spec."""
        self.change("ready", ready_since=time.time())
        first = self.state.fields["restarts"] == 0
        text = self._spec["announce"] if first else f"ready again: {self._spec['url']}"
        self.view.ready(text, again=not first)
        if self._logs is not None:
            self._logs.write_line(text)
        self.manager.ready()

    def change(self, state: str, *, phase: str | None = None, **fields: object) -> None:
        """Record another state or phase; `fields` as in `aimind.types.State`."""
        if state != "ready":
            fields["ready_since"] = None
        self.view.change(state, phase)
        if self.state.change(state=state, phase=phase, **fields):
            self.manager.status(f"{state}: {phase}" if phase else f"{state} at {self._spec['url']}")

    # ── What must be said again and again ──────────────────────────────────────────────────────────────────

    def tick(self, now: float) -> None:
        """Draw, and tell systemd that all goes on; of a ready backend its probes do that (`alive`)."""
        self.view.tick(now)
        if now < self._deadline:
            return
        self._deadline = now + self._tick_seconds
        state = self.state.fields["state"]
        if state in PATIENT:
            self.manager.extend()
        if state != "ready":
            self.manager.alive()

    def alive(self) -> None:
        """Report that the backend answered a probe."""
        self.manager.alive()

    def pump(self, *, timeout_seconds: float = 0.0) -> None:
        """Write what waits."""
        for output in self.outputs:
            output.pump(timeout_seconds)

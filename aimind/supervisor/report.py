"""All that others learn of the backend: on the terminal, from its log, from `state.json`, and by systemd."""

from __future__ import annotations

import time

from aimind.supervisor.notify import EXTENSION_SECONDS, Manager
from aimind.supervisor.output import Output, visible
from aimind.supervisor.probe import FOREVER
from aimind.supervisor.record import Logs, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from aimind.supervisor.spec import Spec

# In these, time passes that no limit of the service manager shall cut short.
PATIENT = ("starting", "loading", "stopping")


class Report:
    """Where the supervisor says what happens.

    Attributes:
        outputs: stdout and stderr; what waits in them must be pumped.
        state: what is kept in `state.json`.
        manager: what is told to systemd.
        deadline: when `tick` is to be called at the latest.
    """

    def __init__(self, spec: Spec, *, now: float) -> None:
        folder = spec["instance"] and spec["instance"]["folder"]
        self._spec = spec
        self._stdout, self._stderr = self.outputs = Output(1), Output(2)
        self.state = State(folder)
        self._logs = Logs(f"{folder}/logs") if folder else None
        self.manager = Manager()
        self._tick_seconds = min(EXTENSION_SECONDS, self.manager.watchdog_seconds or EXTENSION_SECONDS) / 3
        self.deadline = now if self.manager.listens else FOREVER

    # ── What is said ───────────────────────────────────────────────────────────────────────────────────────

    def say(self, sentence: str) -> None:
        """A sentence of ours, for the person and the log."""
        line = f"aimind: {visible(sentence)}"
        self._stderr.write_line(line)
        if self._logs is not None:
            self._logs.write_line(line)

    def output(self, data: bytes) -> None:
        """What the backend printed."""
        self._stdout.write(data)
        if self._logs is not None:
            self._logs.write(data)

    def end_output(self) -> None:
        """It prints no more."""
        self._stdout.end_line()
        if self._logs is not None:
            self._logs.end_line()

    @property
    def inside_line(self) -> bool:
        """The backend has begun a line; on a terminal ours would come into it."""
        return self._stdout.inside_line

    # ── What is kept ───────────────────────────────────────────────────────────────────────────────────────

    def start(self, *, temporary: str | None, restarts: int) -> None:
        """Another run begins."""
        if self._logs is not None:
            self._logs.begin()
        run = self._logs.run if self._logs is not None else 0
        self.change("starting", run=run, temporary=temporary, restarts=restarts)

    def ready(self) -> None:
        """It serves: the first time in the words of the spec, later in ours."""
        self.change("ready", ready_since=time.time())
        first = self.state.fields["restarts"] == 0
        text = self._spec["announce"] if first else f"ready again: {self._spec['url']}"
        self._stdout.write_line(text)
        if self._logs is not None:
            self._logs.write_line(text)
        self.manager.ready()

    def change(self, state: str, *, phase: str | None = None, **fields: object) -> None:
        """It is in another state, or in another phase of it; `fields` as in `aimind.types.State`."""
        if state != "ready":
            fields["ready_since"] = None
        if self.state.change(state=state, phase=phase, **fields):
            self.manager.status(f"{state}: {phase}" if phase else f"{state} at {self._spec['url']}")

    # ── What must be said again and again ──────────────────────────────────────────────────────────────────

    def tick(self, now: float) -> None:
        """Tell systemd that all goes on; while the backend is ready, its probes do that (`alive`)."""
        if now < self.deadline:
            return
        self.deadline = now + self._tick_seconds
        state = self.state.fields["state"]
        if state in PATIENT:
            self.manager.extend()
        if state != "ready":
            self.manager.alive()

    def alive(self) -> None:
        """It has answered a probe."""
        self.manager.alive()

    def pump(self, *, timeout_seconds: float = 0.0) -> None:
        """Write what waits."""
        for output in self.outputs:
            output.pump(timeout_seconds)

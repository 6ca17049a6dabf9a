"""The supervisor's loop: it owns all state, and waits until there is something to do."""

from __future__ import annotations

import gc
import os
import select
import signal
import time
from contextlib import suppress

from aimind.supervisor.output import Output
from aimind.supervisor.policy import GiveUp, Rules, decide
from aimind.supervisor.probe import FOREVER
from aimind.supervisor.run import Run
from aimind.supervisor.spec import environment
from aimind.supervisor.tree import STOP_SIGNALS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from aimind.supervisor.spec import Spec


def supervise(spec: Spec) -> int:
    """Keep the backend running until a signal stops it or the policy gives up; the exit code."""
    _open_standard_descriptors()
    _keep_descriptors_from_children()
    wakeup = _listen_to_signals()
    gc.freeze()  # the guardian shares these pages for as long as nobody writes to them
    return Supervisor(spec, wakeup=wakeup).run()


def _open_standard_descriptors() -> None:
    """Fill 0, 1 and 2 where they are closed, so that no pipe of ours is taken for the user's."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)


def _keep_descriptors_from_children() -> None:
    """The backend gets its standard descriptors and no other that was left open for us."""
    with os.scandir("/dev/fd") as entries:
        descriptors = [int(entry.name) for entry in entries]
    for fd in descriptors:
        with suppress(OSError):  # the one that listed the folder is closed by now
            os.set_inheritable(fd, fd <= 2)


def _listen_to_signals() -> int:
    """Make each signal a byte in a pipe, and nothing else; the end to read from."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in STOP_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup, and a script's `&`, want these ignored
            signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # were it ignored, nobody could be waited for
    return reader


class Supervisor:
    """One backend, over all its runs."""

    def __init__(self, spec: Spec, *, wakeup: int) -> None:
        self._spec = spec
        self._wakeup = wakeup
        self._env = environment(spec)
        self._rules = Rules(
            restart=spec["restart"],
            max_restarts=spec["max_restarts"],
            first_delay_seconds=spec["first_delay_seconds"],
        )
        self._stdout, self._stderr = Output(1), Output(2)
        self._run: Run | None = None  # none while it waits to start the next one
        self._restart_at = FOREVER
        self._failures = 0
        self._ever_ready = False
        self._stop_signal: int | None = None
        self._exit_code: int | None = None

    def run(self) -> int:
        """Everything, until there is an exit code."""
        self._start()
        while self._exit_code is None:
            self._turn()
        for output in (self._stdout, self._stderr):
            output.pump(timeout_seconds=1.0)
        return self._exit_code

    def _say(self, sentence: str) -> None:
        self._stderr.write_line(f"aimind: {sentence}")

    def _start(self) -> None:
        self._restart_at = FOREVER
        self._run = Run(self._spec, env=self._env, stdout=self._stdout, now=time.monotonic())

    # ── One turn ───────────────────────────────────────────────────────────────────────────────────────────

    def _turn(self) -> None:
        """Sleep until something happens or is due, and act on it."""
        ready = self._sleep()
        now = time.monotonic()
        self._stdout.pump()
        self._stderr.pump()
        if self._wakeup in ready:
            for number in os.read(self._wakeup, 64):
                self._on_signal(number, now)
        if self._run is not None:
            self._step(self._run, ready, now)
        elif now >= self._restart_at:
            self._start()

    def _sleep(self) -> set[int]:
        """The descriptors that have something for us."""
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        for output in (self._stdout, self._stderr):
            if output.pending:
                poll.register(output.fd, select.POLLOUT)
        deadline = self._restart_at
        if self._run is not None:
            poll.register(self._run.tree.channel, select.POLLIN)
            if not self._run.silent:
                poll.register(self._run.tree.output, select.POLLIN)
            if self._run.health.exchange is not None:
                poll.register(self._run.health.exchange, self._run.health.exchange.events)
            deadline = self._run.deadline
        timeout = None if deadline == FOREVER else max(0.0, deadline - time.monotonic()) * 1000
        return {fd for fd, _ in poll.poll(timeout)}

    def _step(self, run: Run, ready: set[int], now: float) -> None:
        """Go on with the run."""
        if run.tree.output in ready and run.read():
            self._on_output(run, now)
        if run.tree.channel.fileno() in ready and run.tree.listen():
            self._on_end(run, now)
            return
        io = run.health.exchange is not None and run.health.exchange.fileno() in ready
        if io or now >= run.health.deadline:
            self._on_health(run, run.health.step(now=now, io=io), now)
        if run.progress.look(now):
            self._on_stall(run, now)
        run.escalate(now)

    # ── What can happen ────────────────────────────────────────────────────────────────────────────────────

    def _on_signal(self, number: int, now: float) -> None:
        """Stop, for whichever signal; a second Ctrl-C kills."""
        again = self._stop_signal is not None
        if not again:
            self._stop_signal = number
        if self._run is None:
            self._exit_code = 128 + number
        elif not again:
            self._say(f"stopping the backend ({signal.Signals(number).name})")
            self._run.stop(now)
        elif number == signal.SIGINT:
            self._run.kill()

    def _on_output(self, run: Run, now: float) -> None:
        """While it loads: progress, and perhaps another phase."""
        run.progress.made(now)
        between = not self._stdout.inside_line  # on a terminal both go to the same place
        if run.health.ready_at is None and between and run.log.phase != run.phase:
            run.phase = run.log.phase
            self._say(f"{run.phase} ({now - run.started_at:.0f} s)")

    def _on_stall(self, run: Run, now: float) -> None:
        phase = f" while {run.phase}" if run.phase else ""
        self._say(
            f"the backend has stalled{phase}: no line, no computing and no reading for "
            f"{self._spec['stall_seconds']:g} s: stopping it"
        )
        run.stop(now)

    def _on_health(self, run: Run, change: str | None, now: float) -> None:
        if change == "unhealthy":
            refused = run.health.refusal
            why = f"refused a tiny request ({refused})" if refused else "failed its last health probes"
            self._say(f"the backend {why}: stopping it")
            run.stop(now)
        elif change == "ready":
            run.progress.end()
            announce = f"ready again: {self._spec['url']}" if self._ever_ready else self._spec["announce"]
            self._ever_ready = True
            self._stdout.write_line(announce)

    def _on_end(self, run: Run, now: float) -> None:
        """Nothing of the run's tree is left: what now?"""
        returncode = run.close()
        self._run = None
        if self._stop_signal is not None:
            self._exit_code = 128 + self._stop_signal
            return
        ready_at = run.health.ready_at
        decision = decide(
            returncode=-signal.SIGKILL if returncode is None else returncode,
            ready_seconds=0.0 if ready_at is None else now - ready_at,
            ever_ready=self._ever_ready,
            cause_known=run.log.cause is not None,
            failures=self._failures,
            rules=self._rules,
        )
        what = f"the backend {_describe(returncode)} after {now - run.started_at:.1f} s"
        if isinstance(decision, GiveUp):
            self._exit_code = decision.exit_code
            if not decision.exit_code:
                self._say(f"{what}: done")
                return
            never = "" if self._ever_ready else " and was never ready"
            self._say(f"error: {what}{never}: not starting it again. Its last lines:")
            for line in run.log.last_lines:
                self._say(f"| {line}")
        else:
            self._failures = decision.failures
            self._restart_at = now + decision.delay_seconds
            self._say(f"{what}; starting it again in {decision.delay_seconds:g} s")
        if run.log.cause is not None:
            self._say(f"cause: {run.log.cause['cause']}")
            if run.log.cause["remedy"]:
                self._say(f"hint: {run.log.cause['remedy']}")


def _describe(returncode: int | None) -> str:
    """How it ended, as a verb."""
    if returncode is None:
        return "was ended because its guardian process was killed,"
    if returncode < 0:
        return f"was killed by signal {-returncode} ({signal.strsignal(-returncode)})"
    return f"exited with code {returncode}"

"""The supervisor's loop: it owns all state, and waits until there is something to do."""

from __future__ import annotations

import gc
import os
import select
import signal
import time
from contextlib import suppress

from aimind.supervisor.leftovers import choose_folder
from aimind.supervisor.listener import port_conflict
from aimind.supervisor.memory import Memory
from aimind.supervisor.policy import GiveUp, Rules, decide
from aimind.supervisor.probe import FOREVER
from aimind.supervisor.report import Report
from aimind.supervisor.run import Run
from aimind.supervisor.spec import environment
from aimind.supervisor.taken import Taken
from aimind.supervisor.tree import STOP_SIGNALS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from aimind.supervisor.spec import Spec

KILLED_HINT = "the kernel kills the largest process when memory runs out: see `dmesg` or `journalctl -k`"
PROCESSES_HINT = (
    "this user or its control group may have too many processes and threads: see `ulimit -u` and pids.max"
)
PORT_HINT = "end that process, or use another --port (0 chooses a free one)"

LINES_SHOWN = 5  # of the log, where the backend is started again
LOADING_WEIGHTS = "loading weights"  # the phase of this name, of every launcher


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
    for number in (*STOP_SIGNALS, signal.SIGUSR1):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup, and a script's `&`, want these ignored
            signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # a line for a terminal that is not ours must not stop us
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # were it ignored, nobody could be waited for
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # `aimind serve` keeps back what would end us before this
    return reader


def _has_terminal() -> bool:
    """Whether there is a terminal that can be closed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY))
    except OSError:
        return False
    return True


class Supervisor:
    """One backend, over all its runs."""

    def __init__(self, spec: Spec, *, wakeup: int) -> None:
        self._spec = spec
        self._wakeup = wakeup
        self._lifeline = spec["lifeline"]
        self._report = Report(spec, now=time.monotonic())
        if watchdog_seconds := self._report.manager.watchdog_seconds:
            spec["probe_seconds"] = min(spec["probe_seconds"], watchdog_seconds / 2)
        self._env = environment(spec)
        self._rules = Rules(
            restart=spec["restart"],
            max_restarts=spec["max_restarts"],
            first_delay_seconds=spec["first_delay_seconds"],
        )
        # Closing the terminal shall end what runs in it; elsewhere HUP is how a service is reloaded.
        restarts = (signal.SIGUSR1,) if _has_terminal() else (signal.SIGUSR1, signal.SIGHUP)
        self._restart_signals = frozenset(restarts)
        self._memory = Memory(spec["devices"])
        self._taken = Taken(spec["devices"], spec["calibration"])
        self._run: Run | None = None  # none while it waits to start the next one
        self._runs = 0
        self._restart_at = FOREVER
        self._restart_asked = False
        self._failures = 0
        self._ever_ready = False
        self._stop_signal: int | None = None
        self._exit_code: int | None = None

    def run(self) -> int:
        """Everything, until there is an exit code."""
        self._start()
        while self._exit_code is None:
            self._turn()
        self._report.pump(timeout_seconds=1.0)
        return self._exit_code

    def _start(self) -> None:
        """Start the backend, as soon as the device memory of the last run is back."""
        self._restart_at = FOREVER
        self._memory.begin(time.monotonic())
        if self._memory.fd is None:
            self._begin(time.monotonic())

    def _begin(self, now: float) -> None:
        """Start the backend, unless its port is taken."""
        self._restart_at = FOREVER
        why = port_conflict(self._spec["ready"]["url"])
        folder = None if why or "TMPDIR" in self._spec["env"] else choose_folder()
        if why is None or not self._runs:  # a first attempt has a log of its own, whatever comes of it
            self._report.start(temporary=folder, restarts=self._runs)  # it is known before it is there
        if why is not None:
            self._on_failure(f"the backend cannot start: {why}", returncode=1, now=now, hint=PORT_HINT)
            return
        self._runs += 1
        self._report.state.change(taken={})
        try:
            self._run = Run(self._spec, env=self._env, folder=folder, report=self._report, now=now)
            self._report.view.progress = self._run.progress
        except OSError as error:
            self._report.state.change(temporary=None)
            self._on_unstarted(str(error.strerror), now)

    # ── One turn ───────────────────────────────────────────────────────────────────────────────────────────

    def _turn(self) -> None:
        """Sleep until something happens or is due, and act on it."""
        ready = self._sleep()
        now = time.monotonic()
        self._report.pump()
        self._report.tick(now)
        if self._wakeup in ready:
            for number in os.read(self._wakeup, 64):
                self._on_signal(number, now)
        if self._lifeline in ready:
            self._lifeline = None
            self._report.say("the command that this instance belongs to has ended")
            self._on_signal(signal.SIGTERM, now)
        if self._run is not None:
            self._step(self._run, ready, now)
        elif self._memory.fd is not None:
            self._on_memory(self._memory.fd in ready, now)
        elif now >= self._restart_at:
            self._start()

    def _sleep(self) -> set[int]:
        """The descriptors that have something for us."""
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        if self._lifeline is not None:
            poll.register(self._lifeline, select.POLLIN)
        for output in self._report.outputs:
            if output.pending:
                poll.register(output.fd, select.POLLOUT)
        deadline = self._restart_at
        if self._run is not None:
            poll.register(self._run.tree.channel, select.POLLIN)
            if not self._run.silent:
                poll.register(self._run.tree.output, select.POLLIN)
            if self._run.health.exchange is not None:
                poll.register(self._run.health.exchange, self._run.health.exchange.events)
            if self._taken.fd is not None:
                poll.register(self._taken.fd, select.POLLIN)
            deadline = min(self._run.deadline, self._taken.deadline)
        elif self._memory.fd is not None:
            poll.register(self._memory.fd, select.POLLIN)
            deadline = self._memory.deadline
        deadline = min(deadline, self._report.deadline)
        timeout = None if deadline == FOREVER else max(0.0, deadline - time.monotonic()) * 1000
        return {fd for fd, _ in poll.poll(timeout)}

    def _step(self, run: Run, ready: set[int], now: float) -> None:
        """Go on with the run."""
        if run.tree.output in ready and run.read():
            self._on_output(run, now)
        if run.tree.channel.fileno() in ready:
            ended = run.tree.listen()
            self._report.state.change(backend_pid=run.tree.pid)
            if ended:
                self._on_end(run, now)
                return
        io = run.health.exchange is not None and run.health.exchange.fileno() in ready
        if io or now >= run.health.deadline:
            self._on_health(run, run.health.step(now=now, io=io), now)
        percent = run.progress.percent
        if run.progress.look(now):
            self._on_stall(run, now)
        if run.progress.percent != percent:
            self._on_phase(run, now)
        if self._taken.step(now, io=self._taken.fd in ready):
            self._report.state.change(taken=dict(self._taken.most))
        run.escalate(now)

    # ── What can happen ────────────────────────────────────────────────────────────────────────────────────

    def _on_signal(self, number: int, now: float) -> None:
        """Stop, or start the backend again; a second Ctrl-C kills."""
        name = signal.Signals(number).name
        if number in self._restart_signals:
            self._on_restart(name, now)
            return
        again = self._stop_signal is not None
        if not again:
            self._stop_signal = number
            self._report.manager.stopping()
        if self._run is None:
            self._end(128 + number)
        elif not again:
            self._report.say(f"stopping the backend ({name})", "progress")
            self._report.change("stopping")
            self._run.stop(now)
        elif number == signal.SIGINT:
            self._run.kill()

    def _on_restart(self, name: str, now: float) -> None:
        """Start the backend again: at once where it waits for that, else once it has stopped."""
        if self._stop_signal is not None or self._restart_asked:
            return
        self._report.say(f"restarting the backend ({name})")
        self._report.manager.reloading()
        if self._run is None:
            self._restart_at = now
        else:
            self._restart_asked = True
            self._report.change("stopping", phase="to start it again")
            self._run.stop(now)

    def _on_output(self, run: Run, now: float) -> None:
        """While it loads: progress, and perhaps another phase."""
        if run.log.news:
            run.progress.made(now)
        if run.log.fatal and not run.stopping:
            self._stop_sick(run, "the backend reported a fatal error", now)
        self._on_phase(run, now)

    def _on_phase(self, run: Run, now: float) -> None:
        """While it loads: what it does, and how far it is."""
        phase = run.log.phase
        if run.stopping or run.health.ready_at is not None or phase is None:
            return
        percent = run.log.percent
        if percent is None and phase == LOADING_WEIGHTS:
            run.progress.watch_weights(now)
            percent = run.progress.percent
        self._report.change("loading", phase=phase if percent is None else f"{phase} {percent} %")
        if phase != run.phase and not self._report.view.inside_line:
            run.phase = phase
            self._report.say(f"{phase} ({now - run.started_at:.0f} s)", "progress")

    def _on_stall(self, run: Run, now: float) -> None:
        phase = f" while {run.phase}" if run.phase else ""
        self._stop_sick(
            run,
            f"the backend has stalled{phase}: no output, no CPU use and no reads for "
            f"{self._spec['stall_seconds']:g} s",
            now,
        )

    def _on_health(self, run: Run, change: str | None, now: float) -> None:
        if change == "healthy":
            self._report.alive()
        elif change == "unhealthy":
            refused = run.health.refusal
            why = f"refused a tiny request ({refused})" if refused else "failed its last health probes"
            self._stop_sick(run, f"the backend {why}", now)
        elif change == "ready":
            run.settle()
            self._taken.begin(now, run.log.buffers)
            self._ever_ready = True
            self._mark_compiled()
            self._report.ready()
        elif change == "stranger":
            self._report.say(f"{run.health.stranger} answers on the backend's port: waiting for the backend")

    def _mark_compiled(self) -> None:
        """Let later plans know that what this run compiled is there, where it is kept."""
        mark = self._spec["compiled_mark"]
        if mark is None:
            return
        with suppress(OSError):  # no room: later plans expect that it compiles again
            os.makedirs(os.path.dirname(mark), mode=0o700, exist_ok=True)  # noqa: PTH103, PTH120
            os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK, 0o600))

    def _on_memory(self, io: bool, now: float) -> None:
        """While device memory is waited for."""
        if sentence := self._memory.step(now, io=io):
            self._report.say(sentence)
            self._report.change("backing off", phase=sentence)
        if self._memory.fd is None:
            self._begin(now)

    def _stop_sick(self, run: Run, why: str, now: float) -> None:
        self._report.say(f"{why}: stopping it", "error")
        self._report.change("unhealthy", phase="stopping it", reason=why)
        run.sick = why
        run.stop(now)

    def _on_end(self, run: Run, now: float) -> None:
        """Decide what follows when no process of the run is left."""
        self._taken.close()
        returncode = run.close()
        self._run = None
        self._report.state.change(backend_pid=None, temporary=None)
        if self._stop_signal is not None:
            self._end(128 + self._stop_signal)
        elif self._restart_asked:
            self._restart_asked = False
            self._restart_at = now
        elif run.tree.problem is not None:
            self._on_unstarted(run.tree.problem, now, run=run)
        else:
            self._on_crash(run, returncode, now)

    def _on_unstarted(self, problem: str, now: float, *, run: Run | None = None) -> None:
        """Handle a start for which no process could be created."""
        what = f"the backend cannot be started: {problem}"
        self._on_failure(what, returncode=1, now=now, run=run, hint=PROCESSES_HINT)

    def _on_crash(self, run: Run, returncode: int | None, now: float) -> None:
        """Handle a backend that ended by itself."""
        ready_at = run.health.ready_at
        code = -signal.SIGKILL if returncode is None else returncode
        killed = returncode == -signal.SIGKILL
        how = "was stopped" if run.sick and not killed else _describe(returncode)
        self._on_failure(
            f"the backend {how} after {now - run.started_at:.1f} s",
            returncode=1 if run.sick else code,  # however well it then ended
            ready_seconds=0.0 if ready_at is None else now - ready_at,
            run=run,
            now=now,
            hint=KILLED_HINT if killed and not run.sick else None,
        )

    def _on_failure(
        self,
        what: str,
        *,
        returncode: int,
        now: float,
        ready_seconds: float = 0.0,
        run: Run | None = None,
        hint: str | None = None,
    ) -> None:
        """Start it again later, or give it up; without a run it could not even be started."""
        log = None if run is None else run.log
        cause = None if log is None else log.cause
        decision = decide(
            returncode=returncode,
            ready_seconds=ready_seconds,
            ever_ready=self._ever_ready,
            cause_known=log is None or cause is not None,
            failures=self._failures,
            rules=self._rules,
        )
        hint = cause["remedy"] if cause else hint
        reason = (run and run.sick) or what
        if cause:
            reason += f": {cause['cause']}"
        if isinstance(decision, GiveUp) and not decision.exit_code:
            self._report.say(f"{what}: done")
            self._end(0, reason=reason)
            return
        lines = log.last_lines if log else ()
        if isinstance(decision, GiveUp):
            never = "" if self._ever_ready or log is None else " and was never ready"
            end = ". Its last lines:" if lines else ""
            self._report.say(f"error: {what}{never}: not restarting it{end}", "error")
            for line in lines:
                self._report.say(f"| {line}", "error")
        else:
            self._failures = decision.failures
            self._restart_at = now + decision.delay_seconds
            again = f"restarting it in {decision.delay_seconds:g} s"
            self._report.say(f"{what}; {again}", "error")
            self._report.change("backing off", phase=again, reason=reason, hint=hint)
        if cause is not None:
            self._report.say(f"cause: {cause['cause']}", "error")
        if hint:
            self._report.say(f"hint: {hint}", "error")
        self._report.show_log(() if isinstance(decision, GiveUp) else tuple(lines)[-LINES_SHOWN:])
        if isinstance(decision, GiveUp):
            self._end(decision.exit_code, "failed", reason=reason, hint=hint)

    def _end(self, exit_code: int, state: str = "stopped", **fields: str | None) -> None:
        self._exit_code = exit_code
        self._restart_at = FOREVER
        self._memory.close()
        self._report.change(state, phase=None, exit_code=exit_code, **fields)


def _describe(returncode: int | None) -> str:
    """How the backend ended, as a verb phrase."""
    if returncode is None:
        return "was stopped because its guardian process was killed,"
    if returncode < 0:
        return f"was killed by signal {-returncode} ({signal.strsignal(-returncode)})"
    return f"exited with code {returncode}"

"""One run of the backend: its processes, what they print, whether they answer, and how they are stopped."""

from __future__ import annotations

import os

from aimind.supervisor.listener import stranger
from aimind.supervisor.output import Filter, Log, Mask
from aimind.supervisor.probe import FOREVER, Health, split
from aimind.supervisor.progress import Progress
from aimind.supervisor.tree import Tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from aimind.supervisor.report import Report
    from aimind.supervisor.spec import Spec

CHUNK_BYTES = 64 * 1024


class Run:
    """One run: from the start of the backend until no process of its tree is left.

    Attributes:
        tree, log, health, progress: its parts.
        phase: of loading, as it was last said.
        sick: why it had to be stopped, as half a sentence; empty unless it had to.
        started_at: by the monotonic clock.
        silent: its output has ended.
    """

    def __init__(
        self, spec: Spec, *, env: Mapping[str, str], folder: str | None, report: Report, now: float
    ) -> None:
        """Start the backend; `folder`: for its temporary files, not there yet."""
        keep = [spec["instance"]["lock"]] if spec["instance"] else []
        self.tree = Tree(spec["argv"], env=env, cwd=spec["cwd"], folder=folder, keep=keep)
        guardian, url = self.tree.guardian, spec["ready"]["url"]
        self.log = Log(spec["signatures"], question=f"GET {split(url)[2]} ", buffers=spec["buffers"])
        self._filter = Filter(split(url)[2])
        self._mask = Mask(spec["secret_env"].values())
        self.health = Health(
            spec["ready"],
            env=env,
            probe_seconds=spec["probe_seconds"],
            now=now,
            find_stranger=lambda: stranger(url, root=guardian),
        )
        self.progress = Progress(
            guardian,
            stall_seconds=spec["stall_seconds"],
            now=now,
            weights_bytes=spec["weights_bytes"],
        )
        self.phase: str | None = None
        self.sick = ""
        self.started_at = now
        self.silent = False
        self._report = report
        self._stop_seconds = spec["stop_seconds"]
        self._escalate_at = FOREVER
        self._terms = 0

    @property
    def deadline(self) -> float:
        """When `step` is to be called at the latest."""
        return min(self._escalate_at, self.health.deadline, self.progress.deadline)

    @property
    def stopping(self) -> bool:
        """Whether the backend was told to stop."""
        return self._terms > 0

    def settle(self) -> None:
        """Stop watching the progress of a backend that is ready."""
        self.progress.end()

    def stop(self, now: float) -> None:
        """TERM now, TERM again after `stop_seconds` (some swallow it while they start), and then KILL."""
        self.health.close()
        self.progress.end()
        if self._terms == 2:
            self.kill()
            return
        self._terms += 1
        self._escalate_at = now + self._stop_seconds
        self.tree.terminate()

    def kill(self) -> None:
        """End it at once."""
        self.health.close()
        self.progress.end()
        self._escalate_at = FOREVER
        self.tree.kill()

    def escalate(self, now: float) -> None:
        """Go on with stopping, when it is time to."""
        if now >= self._escalate_at:
            self.stop(now)

    def read(self) -> bool:
        """Pass on some of what the backend printed; whether there was anything."""
        try:
            data = os.read(self.tree.output, CHUNK_BYTES)
        except BlockingIOError:
            return False
        self.silent = not data
        self._show(self._mask(data) if data else self._mask.end())
        return not self.silent

    def _show(self, data: bytes) -> None:
        self._report.output(self._filter(data))
        self.log.feed(data)

    def close(self) -> int | None:
        """Take what is left of the output; the return code, or `None` when the guardian was killed."""
        while self.read():
            pass
        self._show(self._mask.end())
        self.log.end()
        self._report.end_output()
        self.health.close()
        return self.tree.close()

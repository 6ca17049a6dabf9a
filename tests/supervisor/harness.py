"""Starts the real supervisor on the fake backend, and watches both from outside."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import psutil
import pytest

from aimind import supervise
from aimind.types import Command, Probe

BACKEND = Path(__file__).parents[1] / "fakes" / "backend.py"
LINUX_HERE = sys.platform == "linux"
LINUX = pytest.mark.skipif(not LINUX_HERE, reason="needs /proc, or a subreaper")
# Below the real-time ones, of which the C library keeps the first for itself: make leaves it ignored.
STANDARD_SIGNALS = (1 << 31) - 1
Answer = TypeVar("Answer")
PATIENCE_SECONDS = 60.0  # only ever waited for in full by a test that fails
# README.md: a KILL of ours leaves nothing for longer, unless the machine is busy.
PROMISE_SECONDS = 2.0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_for(condition: Callable[[], object], *, what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Look again and again until it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.005)


def alive(pid: int) -> bool:
    """Whether the process runs; one that ended and was not waited for yet does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(pid: int) -> bool:
    return not alive(pid)


def time_of_end(pids: Iterable[int]) -> str:
    """Wait for the end of all of them; what is to be said of how long that took."""
    left = list(pids)
    begin = time.monotonic()
    wait_for(lambda: not any(alive(pid) for pid in left), what="the end of the tree")
    return "" if time.monotonic() - begin < PROMISE_SECONDS else ", but later than promised"


def ask_each(processes: list[psutil.Process], ask: Callable[[psutil.Process], Answer]) -> dict[int, Answer]:
    """What each of them answers; those that end meanwhile, as the guardian's looks do, are left out."""
    answers = {}
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            answers[process.pid] = ask(process)
    return answers


def get(url: str) -> int:
    """The status of an answer; 0 without one."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return 0


def fake(folder: Path, *flags: str, port: int | None = None) -> Command:
    """The command of a fake backend that writes its process ids into `folder`."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    files = ("--pids", str(folder / "pids"), "--count", str(folder / "count"))
    argv = (sys.executable, "-I", "-S", str(BACKEND), "--port", str(port), *files, *flags)
    return Command(argv=argv, ready=Probe(url=f"{url}/health"), url=url, stop_seconds=PATIENCE_SECONDS)


def only_child(pid: int) -> int:
    (child,) = psutil.Process(pid).children()
    return child.pid


class Supervised:
    """A running supervisor; its stdout and stderr go to files of `folder`, and so do its state and logs.

    `terminal`: it is the first process of a terminal's session. `environment`: in place of the tests' own.
    `kept`: the folder of state and logs, where it is another one.
    """

    def __init__(
        self,
        command: Command,
        folder: Path,
        *,
        stdout: int | None = None,
        terminal: bool = False,
        environment: Mapping[str, str] | None = None,
        kept: Path | None = None,
        **rules: object,
    ) -> None:
        self.command = command
        self.folder = folder
        self.kept = kept or folder
        self._terminal: int | None = None
        inside: int | None = None
        if terminal:
            self._terminal, inside = os.openpty()
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
        document = supervise.document(command, announce="READY")
        document |= {"first_delay_seconds": 0.01, "instance": {"folder": str(self.kept), "lock": lock}}
        document |= rules
        with (
            tempfile.TemporaryFile() as spec,
            (folder / "stdout").open("wb") as out,
            (folder / "stderr").open("wb") as err,
        ):
            fcntl.flock(lock, fcntl.LOCK_EX)  # a guardian from before may still be at work
            spec.write(json.dumps(document).encode())
            spec.flush()
            argv = [sys.executable, *supervise.PYTHON_FLAGS, str(supervise.PROGRAM), str(spec.fileno())]
            if terminal:  # a program that makes it the controlling one, and becomes what it is given
                argv = ["setsid", "--ctty", *argv]
            self.process = subprocess.Popen(
                argv,
                stdin=inside,
                stdout=out if stdout is None else stdout,
                stderr=err,
                # One descriptor that nobody needs: the backend must not get it.
                pass_fds=[spec.fileno(), out.fileno(), lock],
                start_new_session=not terminal,
                env=environment,
            )
        for fd in filter(None, (lock, inside)):
            os.close(fd)

    def close_terminal(self) -> None:
        """As a person closes a window."""
        assert self._terminal is not None
        os.close(self._terminal)
        self._terminal = None

    def __enter__(self) -> Supervised:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        if self._terminal is not None:
            self.close_terminal()

    @property
    def state(self) -> dict[str, Any]:
        """What `state.json` says; nothing before it is there."""
        path = self.kept / "state.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout").read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text(errors="replace")

    @property
    def pids(self) -> list[int]:
        """Of the backend and its processes, itself first."""
        path = self.folder / "pids"
        return [int(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def starts(self) -> int:
        path = self.folder / "count"
        return len(path.read_text().splitlines()) if path.exists() else 0

    @property
    def sentinels(self) -> list[int]:
        """The outer one and the inner one."""
        outer = only_child(self.process.pid)
        return [outer, only_child(outer)]

    @property
    def guardian(self) -> int:
        """Below the sentinels, where there are any."""
        return only_child(self.sentinels[-1] if LINUX_HERE else self.process.pid)

    def wait_until_ready(self, times: int = 1, *, seconds: float = PATIENCE_SECONDS) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, f"it ended: {self.stderr}"
            lines = self.stdout.casefold().splitlines()
            return sum(line.startswith("ready") for line in lines) >= times

        wait_for(ready, what=f"ready number {times}; stderr: {self.stderr}", seconds=seconds)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def wait(self) -> int:
        return self.process.wait(PATIENCE_SECONDS)

    def assert_nothing_left(self, pids: list[int]) -> None:
        assert pids
        for pid in pids:
            wait_for(partial(gone, pid), what=f"the end of {pid}")
        with socket.socket() as listener:  # the port is free
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", int(self.command.url.rpartition(":")[2])))

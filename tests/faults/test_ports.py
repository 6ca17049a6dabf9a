"""Somebody else listens where the backend should."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.table import Seen, fault, sentence
from tests.supervisor.harness import BACKEND, LINUX, Supervised, fake, get, wait_for

pytestmark = LINUX


def port_of(supervised: Supervised) -> int:
    return int(supervised.command.url.rpartition(":")[2])


@contextmanager
def thief(port: int) -> Iterator[None]:
    """A server of somebody else, which says that all is well."""
    with subprocess.Popen([sys.executable, "-I", "-S", str(BACKEND), "--port", str(port)]) as process:
        try:
            wait_for(lambda: get(f"http://127.0.0.1:{port}/health") == 200, what="the thief")
            yield
        finally:
            process.kill()


@fault("the port is taken between plan and start", "given up before anything is started; who has it is said")
def test_taken_before_the_start(tmp_path: Path, seen: Seen) -> None:
    command = fake(tmp_path)
    with thief(int(command.url.rpartition(":")[2])), Supervised(command, tmp_path) as supervised:
        assert supervised.wait() == 1
        assert supervised.starts == 0
        seen("exit code 1", sentence(supervised.stderr, "cannot start"), sentence(supervised.stderr, "hint:"))


@fault(
    "the port is taken after the start, just before the backend would listen, by a server that answers 200",
    "that is never taken for the backend, which ends; then given up, and who has it is said",
)
def test_taken_after_the_start(tmp_path: Path, seen: Seen) -> None:
    now = tmp_path / "now"
    command = fake(tmp_path, "--bind-when", str(now))
    with Supervised(command, tmp_path) as supervised:
        wait_for(lambda: supervised.pids, what="the start")
        with thief(int(command.url.rpartition(":")[2])):
            now.touch()
            assert supervised.wait() == 1
        assert "READY" not in supervised.stdout
        assert supervised.starts == 1
        seen(sentence(supervised.stderr, "exited with code 1"), sentence(supervised.stderr, "cannot start"))


@fault(
    "the port is taken after a crash, for some while",
    "started again and again, for it was ready once; ready when the port is free",
)
def test_stolen_after_a_crash(tmp_path: Path, seen: Seen) -> None:
    with Supervised(fake(tmp_path), tmp_path, first_delay_seconds=0.3) as supervised:
        supervised.wait_until_ready()
        os.kill(supervised.pids[0], signal.SIGKILL)
        wait_for(lambda: supervised.state["state"] == "backing off", what="its end")
        with socket.socket() as stolen:
            stolen.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            stolen.bind(("127.0.0.1", port_of(supervised)))
            stolen.listen()
            wait_for(lambda: supervised.stderr.count("cannot start") >= 2, what="two looks in vain")
        supervised.wait_until_ready(times=2)
        assert get(supervised.command.ready.url) == 200
        seen(sentence(supervised.stderr, "cannot start"), "“ready again” once it is free")

"""What systemd is told, read from a real socket."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aimind.types import Signature
from tests.supervisor.harness import LINUX, PATIENCE_SECONDS, Supervised, fake, wait_for

pytestmark = LINUX


class Manager:
    """A service manager's end of the socket."""

    def __init__(self, address: str) -> None:
        self.environment = {**os.environ, "NOTIFY_SOCKET": address}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1))
        self._socket.settimeout(PATIENCE_SECONDS)
        self.told: list[str] = []

    def close(self) -> None:
        self._socket.close()

    def wait_for(self, message: str, *, after: int = 0) -> int:
        """Read on until a message begins so; the number of messages until then."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not any(message in told for told in self.told[after:]):
            assert time.monotonic() < deadline, f"waited in vain for {message} after {self.told[after:]}"
            self.told.append(self._socket.recv(4096).decode())
        return len(self.told)


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify") if request.param == "path" else f"@aimind-test-{os.getpid()}")
    yield made
    made.close()


def test_it_is_told_when_the_backend_is_ready_and_not_before(manager: Manager, tmp_path: Path) -> None:
    signature = Signature("shards", phase="loading weights")
    flags = ("--print", "shards", "--unready", "0.5", "--print-env", "NOTIFY_SOCKET")
    command = dataclasses.replace(fake(tmp_path, *flags), signatures=(signature,))
    with Supervised(command, tmp_path, environment=manager.environment) as supervised:
        manager.wait_for("READY=1")
        assert manager.told[-1] == f"READY=1\nMAINPID={supervised.process.pid}"
        assert "STATUS=loading: loading weights" in manager.told
        assert f"STATUS=ready at {command.url}" in manager.told
        assert "EXTEND_TIMEOUT_USEC=60000000" in manager.told
        supervised.send(signal.SIGTERM)
        manager.wait_for("STOPPING=1")
        assert "NOTIFY_SOCKET=None" in supervised.stdout  # the backend could say READY=1 itself


def test_a_reload_is_told(manager: Manager, tmp_path: Path) -> None:
    with Supervised(fake(tmp_path), tmp_path, environment=manager.environment) as supervised:
        begin = manager.wait_for("READY=1")
        supervised.send(signal.SIGHUP)
        begin = manager.wait_for("RELOADING=1\nMONOTONIC_USEC=", after=begin)
        manager.wait_for("READY=1", after=begin)


def test_the_watchdog_hears_of_each_good_probe(manager: Manager, tmp_path: Path) -> None:
    environment = {**manager.environment, "WATCHDOG_USEC": "400000"}
    with Supervised(fake(tmp_path), tmp_path, environment=environment) as supervised:
        begin = manager.wait_for("READY=1")
        for _ in range(3):  # the probes are due every 10 s, and came in time for the watchdog
            begin = manager.wait_for("WATCHDOG=1", after=begin)
        os.kill(supervised.pids[0], signal.SIGSTOP)
        wait_for(lambda: supervised.state["state"] == "unhealthy", what="the failed probes")
        manager.wait_for("STATUS=unhealthy", after=begin)


def test_the_watchdog_hears_of_a_supervisor_that_waits(manager: Manager, tmp_path: Path) -> None:
    environment = {**manager.environment, "WATCHDOG_USEC": "100000"}
    flags = ("--exit-at-start", "1")
    with Supervised(fake(tmp_path, *flags), tmp_path, environment=environment, first_delay_seconds=300):
        begin = manager.wait_for("STATUS=backing off")
        for _ in range(3):
            begin = manager.wait_for("WATCHDOG=1", after=begin)


def test_another_process_of_the_service_is_not_watched(manager: Manager, tmp_path: Path) -> None:
    environment = {**manager.environment, "WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"}
    with Supervised(fake(tmp_path), tmp_path, environment=environment) as supervised:
        manager.wait_for("READY=1")
        supervised.send(signal.SIGTERM)
        manager.wait_for("STATUS=stopped")
        assert "WATCHDOG=1" not in manager.told


def test_a_manager_that_does_not_listen_is_nobodys_trouble(tmp_path: Path) -> None:
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "nobody")}
    with Supervised(fake(tmp_path), tmp_path, environment=environment) as supervised:
        supervised.wait_until_ready()

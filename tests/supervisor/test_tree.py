"""Nothing of the tree is left, however it ends: not what ignores TERM, nor what leaves the group."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.supervisor.harness import LINUX, Supervised, alive, fake, get, wait_for

pytestmark = LINUX

STUBBORN = ("--ignore-term", "--grandchildren", "4")


def test_kill_of_the_supervisor(tmp_path: Path) -> None:
    with Supervised(fake(tmp_path, *STUBBORN), tmp_path) as supervised:
        supervised.wait_until_ready()
        pids = [supervised.guardian, *supervised.pids]
        assert len(pids) == 6
        assert all(alive(pid) for pid in pids)
        supervised.process.kill()
        supervised.wait()
        supervised.assert_nothing_left(pids)


def test_kill_of_the_supervisor_while_the_backend_starts(tmp_path: Path) -> None:
    with Supervised(fake(tmp_path, *STUBBORN, "--bind-after", "3600"), tmp_path) as supervised:
        wait_for(lambda: supervised.pids, what="the backend's start")
        pids = [supervised.guardian, *supervised.pids]
        supervised.process.kill()
        supervised.wait()
        supervised.assert_nothing_left(pids)


def test_kill_of_the_guardian(tmp_path: Path) -> None:
    """The supervisor inherits the tree, ends it, says so, and starts the backend again."""
    with Supervised(fake(tmp_path, *STUBBORN), tmp_path) as supervised:
        supervised.wait_until_ready()
        pids = [supervised.guardian, *supervised.pids]
        os.kill(supervised.guardian, signal.SIGKILL)
        supervised.wait_until_ready(times=2)
        assert not any(alive(pid) for pid in pids)
        assert "its guardian process was killed" in supervised.stderr
        assert get(supervised.command.ready.url) == 200


def test_kill_of_the_supervisor_and_the_guardian(tmp_path: Path) -> None:
    with Supervised(fake(tmp_path, "--ignore-term"), tmp_path) as supervised:
        supervised.wait_until_ready()
        pids = [supervised.guardian, *supervised.pids]
        supervised.send(signal.SIGSTOP)  # so that it cannot act between the two
        os.kill(supervised.guardian, signal.SIGKILL)
        supervised.process.kill()
        supervised.wait()
        supervised.assert_nothing_left(pids)


def test_what_the_backend_leaves_behind_is_ended(tmp_path: Path) -> None:
    """Before it is started again: its orphans hold memory and ports."""
    flags = ("--grandchildren", "4")
    with Supervised(fake(tmp_path, *flags), tmp_path) as supervised:
        supervised.wait_until_ready()
        first = supervised.pids
        os.kill(first[0], signal.SIGKILL)
        wait_for(lambda: supervised.pids != first, what="the second start")
        assert not any(alive(pid) for pid in first)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_the_guardian_is_deaf_to_signals_for_the_group(tmp_path: Path, number: signal.Signals) -> None:
    """A service manager sends TERM to every process: the guardian must outlive them all."""
    with Supervised(fake(tmp_path, *STUBBORN), tmp_path) as supervised:
        supervised.wait_until_ready()
        pids = [supervised.guardian, *supervised.pids]
        supervised.send(signal.SIGSTOP)  # it would end the tree if the guardian died
        os.kill(supervised.guardian, number)
        supervised.process.kill()
        supervised.wait()
        supervised.assert_nothing_left(pids)


def test_kill_of_the_supervisors_process_group(tmp_path: Path) -> None:
    with Supervised(fake(tmp_path, *STUBBORN), tmp_path) as supervised:
        supervised.wait_until_ready()
        pids = [supervised.guardian, *supervised.pids]
        os.killpg(supervised.process.pid, signal.SIGKILL)
        supervised.wait()
        supervised.assert_nothing_left(pids)


def test_no_zombie_is_kept(tmp_path: Path) -> None:
    """The orphans that the guardian inherits while the backend runs are waited for."""
    with Supervised(fake(tmp_path, "--grandchildren", "4"), tmp_path) as supervised:
        supervised.wait_until_ready()
        orphans = [pid for pid in supervised.pids if psutil.Process(pid).ppid() == supervised.guardian]
        assert len(orphans) == 3  # the backend is the first
        os.kill(orphans[1], signal.SIGKILL)
        wait_for(lambda: not psutil.pid_exists(orphans[1]), what="the orphan's end")
        assert supervised.starts == 1

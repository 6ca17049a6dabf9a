"""What the supervisor leaves in its instance's folder: the state, and a log for each run."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import os
import signal
from pathlib import Path

import pytest

from aimind.supervisor.record import PART_BYTES, RUNS, Logs
from aimind.supervisor.record import State as StateFile
from aimind.types import Signature, State
from tests.supervisor.harness import LINUX, Supervised, fake, wait_for


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ── The state ──────────────────────────────────────────────────────────────────────────────────────────────


def test_the_fields_are_those_of_the_type(tmp_path: Path) -> None:
    assert set(StateFile(None).fields) == {field.name for field in dataclasses.fields(State)}
    with Supervised(fake(tmp_path), tmp_path) as supervised:
        supervised.wait_until_ready()
        assert State(**supervised.state).state == "ready"


def test_the_state_follows_the_backend(tmp_path: Path) -> None:
    with Supervised(fake(tmp_path), tmp_path, first_delay_seconds=300) as supervised:
        supervised.wait_until_ready()
        first = State(**supervised.state)
        assert (first.pid, first.backend_pid) == (supervised.process.pid, supervised.pids[0])
        assert (first.run, first.restarts, first.exit_code) == (1, 0, None)
        assert first.ready_since is not None
        os.kill(supervised.pids[0], signal.SIGKILL)
        wait_for(lambda: supervised.state["state"] == "backing off", what="the end of the backend")
        second = State(**supervised.state)
        assert second.phase == "restarting it in 300 s"
        assert second.reason is not None
        assert "was killed by signal 9" in second.reason
        assert (second.backend_pid, second.ready_since) == (None, None)
        supervised.send(signal.SIGUSR1)
        supervised.wait_until_ready(times=2)
        third = State(**supervised.state)
        assert (third.state, third.run, third.restarts) == ("ready", 2, 1)
        supervised.send(signal.SIGTERM)
        supervised.wait()
        assert (supervised.state["state"], supervised.state["exit_code"]) == ("stopped", 143)


def test_a_failure_is_kept_with_its_reason(tmp_path: Path) -> None:
    signature = Signature("no such model", cause="the model is gone", remedy="bring it back")
    flags = ("--print", "no such model", "--exit-at-start", "7")
    command = dataclasses.replace(fake(tmp_path, *flags), signatures=(signature,))
    with Supervised(command, tmp_path) as supervised:
        assert supervised.wait() == 7
        state = State(**supervised.state)
    assert (state.state, state.exit_code, state.hint) == ("failed", 7, "bring it back")
    assert state.reason is not None
    assert state.reason.endswith(": the model is gone")


def test_phases_are_states_of_loading(tmp_path: Path) -> None:
    signature = Signature(r"shards: +(?P<percent>\d+)%", phase="loading weights")
    flags = ("--print-partial", r"\rshards:  10% |\rshards:  50% |", "--bind-after", "600")
    command = dataclasses.replace(fake(tmp_path, *flags), signatures=(signature,))
    with Supervised(command, tmp_path) as supervised:
        wait_for(lambda: supervised.state.get("phase") == "loading weights 50 %", what="the phase")
        assert supervised.state["state"] == "loading"


@LINUX
def test_the_lock_is_held_until_nothing_is_left(tmp_path: Path) -> None:
    with Supervised(fake(tmp_path, "--grandchildren", "2"), tmp_path) as supervised:
        supervised.wait_until_ready()
        for pid in supervised.pids:  # the backend has no hand in it
            folder = Path(f"/proc/{pid}/fd")
            assert str(tmp_path / "lock") not in [str(link.readlink()) for link in folder.iterdir()]
        with (tmp_path / "lock").open() as lock:
            with pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            supervised.process.kill()
            fcntl.flock(lock, fcntl.LOCK_SH)
            supervised.assert_nothing_left(supervised.pids)


def test_a_folder_that_is_gone_does_not_stop_the_backend(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    with Supervised(fake(tmp_path), tmp_path, instance={"folder": str(folder), "lock": 99}) as supervised:
        supervised.wait_until_ready()
        supervised.send(signal.SIGTERM)
        assert supervised.wait() == 143
    assert not folder.exists()


# ── The logs ───────────────────────────────────────────────────────────────────────────────────────────────


def test_each_run_has_a_log_of_its_own(tmp_path: Path) -> None:
    with Supervised(fake(tmp_path, "--print", "I am here"), tmp_path) as supervised:
        supervised.wait_until_ready()
        os.kill(supervised.pids[0], signal.SIGKILL)
        supervised.wait_until_ready(times=2)
        supervised.send(signal.SIGTERM)
        supervised.wait()
    logs = tmp_path / "logs"
    assert names(logs) == ["000001.log", "000002.log"]
    first, second = (path.read_text() for path in sorted(logs.iterdir()))
    assert first.startswith("I am here\nREADY\naimind: the backend was killed by signal 9 (Killed) after ")
    assert second.startswith("I am here\nready again: ")
    assert second.endswith("aimind: stopping the backend (SIGTERM)\n")
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in logs.iterdir())


def test_a_crash_log_is_never_overwritten(tmp_path: Path) -> None:
    first = Logs(str(tmp_path))
    first.begin()
    first.write(b"the crash\n")
    again = Logs(str(tmp_path))
    again.begin()
    assert again.run == 2
    assert (tmp_path / "000001.log").read_bytes() == b"the crash\n"


def test_the_last_ten_runs_are_kept(tmp_path: Path) -> None:
    logs = Logs(str(tmp_path))
    for run in range(1, 24):
        logs.begin()
        logs.write(b"%d\n" % run)
    assert names(tmp_path) == [f"{run:06}.log" for run in range(24 - RUNS, 24)]


def test_of_a_long_log_the_first_part_and_the_last_two_are_kept(tmp_path: Path) -> None:
    logs = Logs(str(tmp_path))
    logs.begin()
    line = b"x" * (PART_BYTES // 4 - 1) + b"\n"
    for _ in range(4 * 6 + 1):
        logs.write(line)
    assert names(tmp_path) == ["000001.6.log", "000001.7.log", "000001.log"]
    assert all(path.stat().st_size <= PART_BYTES for path in tmp_path.iterdir())
    for _ in range(RUNS):
        logs.begin()
    assert "000001.6.log" not in names(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_disk_leaves_out_and_says_so(tmp_path: Path) -> None:
    import subprocess

    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], check=True)
    try:
        logs = Logs(str(disk))
        logs.begin()
        (disk / "ballast").write_bytes(b"x" * 40_000)
        with pytest.raises(OSError, match="No space") as full:
            (disk / "more").write_bytes(b"x" * 40_000)
        assert full.value.errno == errno.ENOSPC
        logs.write(b"lost\n" * 2000)
        (disk / "ballast").unlink()
        (disk / "more").unlink()
        logs.write_line("kept")
        text = (disk / "000001.log").read_bytes()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
    assert text.endswith(b"bytes left out, for which there was no room\nkept\n")

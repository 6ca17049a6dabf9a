"""The supervisor as a program: what its user sees of a backend's life."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aimind import supervise
from aimind.types import Command, Signature, TinyRequest
from tests.supervisor.harness import (
    BACKEND,
    LINUX,
    STANDARD_SIGNALS,
    Supervised,
    alive,
    fake,
    free_port,
    get,
    wait_for,
)


def with_argv(command: Command, *argv: str) -> Command:
    return dataclasses.replace(command, argv=argv)


def run_to_the_end(command: Command, folder: Path) -> tuple[int, str, str]:
    with Supervised(command, folder) as supervised:
        return supervised.wait(), supervised.stdout, supervised.stderr


# ── Ready ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_announces_a_ready_backend_once(tmp_path: Path) -> None:
    with Supervised(fake(tmp_path, "--unready", "0.2"), tmp_path, probe_seconds=0.02) as supervised:
        supervised.wait_until_ready()
        assert get(supervised.command.ready.url) == 200
        supervised.send(signal.SIGTERM)
        supervised.wait()
        assert supervised.stdout == "READY\n"


def test_the_probe_carries_the_key(tmp_path: Path) -> None:
    command = fake(tmp_path, "--key-env", "FAKE_KEY")
    probe = dataclasses.replace(command.ready, bearer_env="FAKE_KEY")
    command = dataclasses.replace(command, ready=probe, secret_env={"FAKE_KEY": "canary"})
    with Supervised(command, tmp_path) as supervised:
        supervised.wait_until_ready()
        assert get(command.ready.url) == 401  # it does want one


def asking(command: Command) -> Command:
    """The command with a tiny request before it is ready."""
    request = TinyRequest(url=f"{command.url}/v1/chat/completions", body='{"messages": []}')
    return dataclasses.replace(command, ready=dataclasses.replace(command.ready, request=request))


def test_ready_is_when_a_request_is_answered(tmp_path: Path) -> None:
    with Supervised(asking(fake(tmp_path)), tmp_path) as supervised:
        supervised.wait_until_ready()


def test_a_backend_that_refuses_the_request_is_given_up(tmp_path: Path) -> None:
    with Supervised(asking(fake(tmp_path, "--refuse")), tmp_path) as supervised:
        assert supervised.wait() == 1
        assert supervised.stdout == ""
        assert 'refused a tiny request (400 {"error": "not like this"})' in supervised.stderr
        assert "was never ready: not restarting it" in supervised.stderr


@LINUX
def test_a_backend_that_logs_our_questions_gets_nowhere(tmp_path: Path) -> None:
    silent = fake(tmp_path, "--unready", "3600", "--log-requests")
    with Supervised(silent, tmp_path, stall_seconds=0.6, restart="never") as supervised:
        assert supervised.wait() == 1
        assert "has stalled: no output" in supervised.stderr
        assert "GET /health" not in supervised.stdout


@pytest.mark.parametrize("restart", ["never", "on-failure"])
def test_a_backend_that_says_it_is_of_no_use_is_ended(tmp_path: Path, restart: str) -> None:
    """It has failed, though it ends as if all were well."""
    command = fake(tmp_path, "--unready", "3600", "--print", "generation thread died: no such file")
    signature = Signature(r"thread died", cause="it is dead", remedy="bury it", fatal=True)
    politely = ("sh", "-c", 'trap "exit 0" TERM; "$@" & wait', "sh", *command.argv)
    command = dataclasses.replace(command, argv=politely, signatures=(signature,))
    with Supervised(command, tmp_path, restart=restart) as supervised:
        assert supervised.wait() == 1
        assert "the backend reported a fatal error: stopping it" in supervised.stderr
        assert "error: the backend was stopped after" in supervised.stderr
        assert "cause: it is dead" in supervised.stderr
        supervised.assert_nothing_left(supervised.pids)


@LINUX
def test_a_start_without_any_progress_is_a_stall(tmp_path: Path) -> None:
    with Supervised(fake(tmp_path, "--bind-after", "3600"), tmp_path, stall_seconds=0.4) as supervised:
        assert supervised.wait() == 1
        assert supervised.stderr.count("has stalled: no output, no CPU use and no reads for 0.4 s") == 3


@LINUX
@pytest.mark.parametrize("progress", ["--busy", "--chatter"])
def test_a_long_start_that_gets_on_is_none(tmp_path: Path, progress: str) -> None:
    with Supervised(fake(tmp_path, progress, "4"), tmp_path, stall_seconds=2.5) as supervised:
        supervised.wait_until_ready()
        assert "stalled" not in supervised.stderr


def test_the_phases_of_loading_are_said(tmp_path: Path) -> None:
    lines = ("--print", "reading shards 1/2", "--print", "reading shards 2/2", "--print", "capturing")
    command = dataclasses.replace(
        fake(tmp_path, *lines),
        signatures=(
            Signature("reading shards", phase="loading weights"),
            Signature("capturing", phase="capturing graphs"),
        ),
    )
    with Supervised(command, tmp_path) as supervised:
        supervised.wait_until_ready()
        assert re.search(r"capturing graphs \(\d+ s\)", supervised.stderr)


@pytest.mark.parametrize(
    ("rules", "code", "starts"),
    [
        ({"restart": "never"}, 3, 1),
        ({"restart": "on-failure"}, None, 3),
        ({"max_restarts": 1}, 3, 2),
        ({"max_restarts": 0}, 3, 1),
    ],
)
def test_the_rules_of_restarting(
    tmp_path: Path, rules: dict[str, str | int], code: int | None, starts: int
) -> None:
    flags = ("--exit-after", "0.5", "--exit-code", "3")
    with Supervised(fake(tmp_path, *flags), tmp_path, **rules) as supervised:  # type: ignore[arg-type]
        if code is None:
            supervised.wait_until_ready(times=starts)
        else:
            assert supervised.wait() == code
            assert supervised.starts == starts


def test_done_is_done_where_only_failures_count(tmp_path: Path) -> None:
    with Supervised(fake(tmp_path, "--exit-after", "0.3"), tmp_path, restart="on-failure") as supervised:
        assert supervised.wait() == 0
        assert "the backend exited with code 0" in supervised.stderr
        assert "error" not in supervised.stderr


def test_a_killed_backend_is_started_again_and_answers(tmp_path: Path) -> None:
    with Supervised(fake(tmp_path), tmp_path) as supervised:
        supervised.wait_until_ready()
        first = supervised.pids
        os.kill(first[0], signal.SIGKILL)
        supervised.wait_until_ready(times=2)
        assert supervised.pids != first
        assert get(supervised.command.ready.url) == 200
        assert supervised.stdout == f"READY\nready again: {supervised.command.url}\n"
        assert "was killed by signal 9 (Killed)" in supervised.stderr


def test_code_0_is_a_failure_too(tmp_path: Path) -> None:
    with Supervised(fake(tmp_path, "--exit-after", "0.3"), tmp_path) as supervised:
        supervised.wait_until_ready(times=2)
        assert "the backend exited with code 0" in supervised.stderr


@pytest.mark.parametrize("misbehaviour", ["--fail-after", "--hang-after"])
def test_a_backend_that_no_longer_answers_is_started_again(tmp_path: Path, misbehaviour: str) -> None:
    with Supervised(fake(tmp_path, misbehaviour, "0.3"), tmp_path, probe_seconds=0.1) as supervised:
        supervised.wait_until_ready(times=2)
        assert "failed its last health probes: stopping it" in supervised.stderr


# ── Giving up ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_crash_loop_is_called_one(tmp_path: Path) -> None:
    flags = ("--print", "last words", "--exit-at-start", "3")
    code, _, stderr = run_to_the_end(fake(tmp_path, *flags), tmp_path)
    assert code == 3
    assert (tmp_path / "count").read_text().count("start") == 3
    assert "exited with code 3" in stderr
    assert stderr.endswith("Its last lines:\naimind: | last words\n")


@pytest.mark.parametrize(("script", "code"), [("exit 0", 1), ("exit 7", 7), ("kill -ABRT $$", 134)])
def test_the_exit_code_is_the_backends_own(tmp_path: Path, script: str, code: int) -> None:
    assert run_to_the_end(with_argv(fake(tmp_path), "sh", "-c", script), tmp_path)[0] == code


def test_an_error_that_would_repeat_is_not_tried_again(tmp_path: Path) -> None:
    flags = ("--print-error", "E: bad model file", "--print", "bye", "--exit-at-start", "1")
    signatures = (
        Signature(r"bye", phase="ending"),
        Signature(r"bad \w+ file", cause="the model is damaged", remedy="download it again"),
    )
    command = dataclasses.replace(fake(tmp_path, *flags), signatures=signatures)
    code, _, stderr = run_to_the_end(command, tmp_path)
    assert code == 1
    assert (tmp_path / "count").read_text() == "start\n"
    assert stderr.endswith("aimind: cause: the model is damaged\naimind: hint: download it again\n")


def test_a_program_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    code, stdout, _ = run_to_the_end(with_argv(fake(tmp_path), "/nowhere/backend"), tmp_path)
    assert code == 127
    assert "cannot start /nowhere/backend" in stdout


# ── Stopping ───────────────────────────────────────────────────────────────────────────────────────────────


@LINUX
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all(tmp_path: Path, number: signal.Signals) -> None:
    with Supervised(fake(tmp_path, "--grandchildren", "2"), tmp_path) as supervised:
        supervised.wait_until_ready()
        pids = [*supervised.pids, supervised.guardian]
        supervised.send(number)
        assert supervised.wait() == 128 + number
        supervised.assert_nothing_left(pids)


def test_a_backend_that_ignores_term_is_killed(tmp_path: Path) -> None:
    command = dataclasses.replace(fake(tmp_path, "--ignore-term"), stop_seconds=0.05)
    with Supervised(command, tmp_path) as supervised:
        supervised.wait_until_ready()
        supervised.send(signal.SIGTERM)
        assert supervised.wait() == 143
        supervised.assert_nothing_left(supervised.pids)


def test_a_second_interrupt_kills(tmp_path: Path) -> None:
    with Supervised(fake(tmp_path, "--ignore-term"), tmp_path) as supervised:
        supervised.wait_until_ready()
        supervised.send(signal.SIGINT)
        wait_for(lambda: "stopping" in supervised.stderr, what="the first interrupt")
        supervised.send(signal.SIGINT)
        assert supervised.wait() == 130
        supervised.assert_nothing_left(supervised.pids)


def test_it_stops_while_it_waits_to_start_again(tmp_path: Path) -> None:
    with Supervised(fake(tmp_path, "--exit-at-start", "1"), tmp_path, first_delay_seconds=300) as supervised:
        wait_for(lambda: "restarting it in 300 s" in supervised.stderr, what="the crash")
        supervised.send(signal.SIGTERM)
        assert supervised.wait() == 143


# ── Starting again, when asked to ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_without_a_terminal_it_is_reloaded(tmp_path: Path, number: signal.Signals) -> None:
    """A service has no terminal; to start again is what its manager's HUP asks for."""
    with Supervised(fake(tmp_path), tmp_path, first_delay_seconds=300) as supervised:
        supervised.wait_until_ready()
        first = supervised.pids
        supervised.send(number)
        supervised.wait_until_ready(times=2)
        assert supervised.starts == 2
        assert not alive(first[0])
        assert f"restarting the backend ({number.name})" in supervised.stderr


@pytest.mark.parametrize(("number", "stops"), [(signal.SIGHUP, True), (signal.SIGUSR1, False)])
def test_with_a_terminal_hup_says_that_it_was_closed(
    tmp_path: Path, number: signal.Signals, *, stops: bool
) -> None:
    with Supervised(fake(tmp_path), tmp_path, terminal=True) as supervised:
        supervised.wait_until_ready()
        supervised.send(number)
        if stops:
            assert supervised.wait() == 129
            supervised.assert_nothing_left(supervised.pids)
        else:
            supervised.wait_until_ready(times=2)


def test_a_closed_terminal_stops_all(tmp_path: Path) -> None:
    with Supervised(fake(tmp_path), tmp_path, terminal=True) as supervised:
        supervised.wait_until_ready()
        supervised.close_terminal()
        assert supervised.wait() == 129
        supervised.assert_nothing_left(supervised.pids)


def test_it_starts_at_once_where_it_waited_to(tmp_path: Path) -> None:
    with Supervised(fake(tmp_path, "--exit-at-start", "1"), tmp_path, first_delay_seconds=300) as supervised:
        wait_for(lambda: "restarting it in 300 s" in supervised.stderr, what="the crash")
        supervised.send(signal.SIGHUP)
        wait_for(lambda: supervised.starts == 2, what="the second start")


# ── What the backend is given ──────────────────────────────────────────────────────────────────────────────


def test_the_backend_gets_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KEPT", "REMOVED", "FAMILY_A", "FAMILY_B"):
        monkeypatch.setenv(name, "outer")
    names = ("KEPT", "REMOVED", "FAMILY_A", "FAMILY_B", "ADDED", "SECRET")
    command = dataclasses.replace(
        fake(tmp_path, *(flag for name in names for flag in ("--print-env", name))),
        env={"ADDED": "1", "FAMILY_B": "mine"},
        secret_env={"SECRET": "canary"},
        unset_env=("REMOVED", "FAMILY_*"),
    )
    with Supervised(command, tmp_path) as supervised:
        supervised.wait_until_ready()
        shown = dict(line.split("=") for line in supervised.stdout.splitlines() if "=" in line)
    assert shown == {
        "KEPT": "outer",
        "REMOVED": "None",
        "FAMILY_A": "None",
        "FAMILY_B": "mine",
        "ADDED": "1",
        "SECRET": "***",  # it has that, and it is not shown
    }


@LINUX
def test_the_backend_starts_in_its_folder_with_nothing_inherited(tmp_path: Path) -> None:
    script = "pwd; ls -l /proc/self/fd; grep -E 'Sig(Ign|Blk)' /proc/self/status; exit 9"
    folder = tmp_path / "folder"
    folder.mkdir()
    command = dataclasses.replace(with_argv(fake(tmp_path), "sh", "-c", script), cwd=str(folder))
    _, stdout, _ = run_to_the_end(command, tmp_path)
    first_run = stdout[: stdout.index("SigIgn") + 80]
    assert str(folder) in first_run
    assert "0 -> /dev/null" in first_run
    # `ls` itself opens one.
    assert [line.split()[-3] for line in first_run.splitlines() if "->" in line] == ["0", "1", "2", "3"]
    assert "SigBlk:\t0000000000000000" in first_run
    ignored = int(first_run[first_run.index("SigIgn:") :].split()[1], 16)
    assert ignored & STANDARD_SIGNALS == 0


def test_the_backend_has_a_session_of_its_own(tmp_path: Path) -> None:
    with Supervised(fake(tmp_path), tmp_path) as supervised:
        supervised.wait_until_ready()
        backend = supervised.pids[0]
        assert os.getsid(backend) == os.getpgid(backend) == backend


# ── The program itself ─────────────────────────────────────────────────────────────────────────────────────


def test_nothing_of_aimind_shadows_the_standard_library() -> None:
    """`aimind/types.py` and `aimind/select.py` have the names of modules that the supervisor needs."""
    folder = supervise.PROGRAM.parents[1]
    look = (
        "import runpy, sys\n"
        f"runpy.run_path({str(supervise.PROGRAM)!r}, run_name='looked_at')\n"
        "import json, select, subprocess, types\n"
        "subprocess.run(['true'], check=True)\n"
        "print(json.dumps([sys.path, hasattr(select, 'poll'), hasattr(types, 'MappingProxyType')]))\n"
    )
    argv = [sys.executable, *supervise.PYTHON_FLAGS, "-c", look]
    found = subprocess.run(argv, check=True, capture_output=True, text=True, cwd=folder)
    path, select_is_right, types_is_right = json.loads(found.stdout)
    assert select_is_right
    assert types_is_right
    assert str(folder) not in path
    assert path[-1] == str(folder.parent)


def test_it_imports_little() -> None:
    """The light parts of the standard library, and nothing of aimind but its own package."""
    argv = [sys.executable, *supervise.PYTHON_FLAGS, "-v", str(supervise.PROGRAM)]
    found = subprocess.run(argv, check=False, capture_output=True, text=True)  # ends: it was given no work
    imported = set(re.findall(r"^import '?([\w.]+)", found.stderr, flags=re.MULTILINE))
    assert {"select", "json", "aimind.supervisor.loop"} <= imported
    heavy = {
        "typing",
        "dataclasses",
        "subprocess",
        "logging",
        "threading",
        "http",
        "pathlib",
        "encodings.idna",
    }
    assert not imported & heavy
    ours = {name for name in imported if name.startswith("aimind")}
    assert all(name == "aimind" or name.startswith("aimind.supervisor") for name in ours)


@LINUX
def test_it_sleeps_between_two_probes(tmp_path: Path) -> None:
    """Nothing wakes the supervisor or its guardian but a probe, every ten seconds, and a signal."""

    def switches(pid: int) -> int:
        status = Path(f"/proc/{pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("voluntary"))

    def asleep(pid: int) -> bool:
        before = switches(pid)
        subprocess.run(["sleep", "0.3"], check=True)
        return switches(pid) == before

    with Supervised(fake(tmp_path), tmp_path) as supervised:
        supervised.wait_until_ready()
        wait_for(lambda: asleep(supervised.process.pid), what="the supervisor's sleep")
        wait_for(lambda: asleep(supervised.guardian), what="the guardian's sleep")


@LINUX
def test_no_secret_is_in_a_command_line(tmp_path: Path) -> None:
    command = dataclasses.replace(fake(tmp_path), secret_env={"FAKE_KEY": "canary-7316"})
    with Supervised(command, tmp_path) as supervised:
        supervised.wait_until_ready()
        for pid in (supervised.process.pid, supervised.guardian, *supervised.pids):
            assert alive(pid)
            assert b"canary" not in Path(f"/proc/{pid}/cmdline").read_bytes()
            if pid != supervised.pids[0]:
                assert b"canary" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert b"canary" in Path(f"/proc/{supervised.pids[0]}/environ").read_bytes()
        assert "canary" not in supervised.stdout + supervised.stderr


def test_the_fake_backend_is_a_program() -> None:
    assert os.access(BACKEND, os.X_OK)


# ── Another on the port ────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def other_server(port: int) -> Iterator[int]:
    """A server that answers as a healthy backend does; its process id."""
    with subprocess.Popen([sys.executable, "-I", "-S", str(BACKEND), "--port", str(port)]) as process:
        try:
            wait_for(lambda: get(f"http://127.0.0.1:{port}/health") == 200, what="the other server")
            yield process.pid
        finally:
            process.kill()


@LINUX
def test_a_port_that_is_taken_is_said_to_be(tmp_path: Path) -> None:
    port = free_port()
    with (
        other_server(port) as pid,
        Supervised(fake(tmp_path, port=port), tmp_path) as supervised,
    ):
        assert supervised.wait() == 1
        assert re.search(
            rf"the backend cannot start: port {port} is in use by \S+ \(pid {pid}\): not restarting it",
            supervised.stderr,
        )
        assert supervised.starts == 0
        assert supervised.stdout == ""
        assert supervised.state["state"] == "failed"
        assert "is in use by" in (tmp_path / "logs" / "000001.log").read_text()


@LINUX
def test_a_port_that_was_stolen_after_a_crash_is_waited_for(tmp_path: Path) -> None:
    with Supervised(fake(tmp_path), tmp_path, first_delay_seconds=2) as supervised:
        supervised.wait_until_ready()
        os.kill(supervised.pids[0], signal.SIGKILL)
        wait_for(lambda: "restarting it" in supervised.stderr, what="the crash")
        with other_server(int(supervised.command.url.rpartition(":")[2])):
            wait_for(lambda: "is in use by" in supervised.stderr, what="the second start")
            assert supervised.starts == 1
            assert "ready again" not in supervised.stdout
        supervised.wait_until_ready(times=2)
        assert supervised.starts == 2


@LINUX
def test_the_answer_of_another_is_not_the_backends(tmp_path: Path) -> None:
    """It took the port while the backend loads."""
    port = free_port()
    with Supervised(fake(tmp_path, "--bind-when", str(tmp_path / "now"), port=port), tmp_path) as supervised:
        wait_for(lambda: supervised.pids, what="the start")
        with other_server(port) as pid:
            wait_for(lambda: f"(pid {pid}) answers on the backend's port" in supervised.stderr, what="a word")
            assert supervised.stdout == ""
        (tmp_path / "now").touch()
        supervised.wait_until_ready()
        assert supervised.stderr.count("answers on the backend's port") == 1
        assert supervised.starts == 1

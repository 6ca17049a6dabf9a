"""The whole program, as a person or a script runs it, with instances that are kept."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.fakes import clock
from tests.faults.table import Seen, fault, sentence
from tests.instances.conftest import AIMIND, Home
from tests.leftovers import MARK
from tests.supervisor.harness import LINUX, alive, get, wait_for

pytestmark = LINUX
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
NOBODY = 65534
WORK = "`ps`, `stop --all` and `remove --force` work"
SERVE = ("serve", "-d", "demo", "--backend", "llama-server", "--port", "0")


@pytest.fixture
def aimind(tmp_path: Path) -> Iterator[Home]:
    folder = tmp_path / "aimind"
    folder.mkdir()
    found = Home(folder)
    found.env |= {MARK: os.environ[MARK], "TMPDIR": os.environ["TMPDIR"]}
    try:
        yield found
    finally:
        found.close()


def instances(aimind: Home) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(aimind.good("ps", "-a", "--json"))["instances"]
    return found


# ── Many ───────────────────────────────────────────────────────────────────────────────────────────────────


@fault("50 instances started at once", "each gets a name and a port of its own and is ready; all stop")
def test_fifty(aimind: Home, seen: Seen) -> None:
    started = [aimind.start(*SERVE) for _ in range(50)]
    for process in started:
        _, said = process.communicate(timeout=200)
        assert process.returncode == 0, said
    found = instances(aimind)
    assert len({each["name"] for each in found}) == 50
    assert len({each["url"] for each in found}) == 50
    assert all(each["state"] == "ready" for each in found)
    assert all(get(f"{each['url']}/health") == 200 for each in found)
    pids = [each["pid"] for each in found] + [each["backend_pid"] for each in found]
    aimind.good("stop", "--all")
    assert not any(alive(pid) for pid in pids if isinstance(pid, int))
    seen("50 names, 50 ports, all ready", f"after `stop --all` nothing left of {len(pids)} processes")


@fault(
    "two are started with the same port at once",
    "one is ready; the other is told, before anything is started",
)
def test_one_port(aimind: Home, seen: Seen) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    both = [aimind.start(*SERVE[:-1], port, "--name", name) for name in ("one", "two")]
    said = [process.communicate(timeout=60)[1] for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes == [0, 11], said
    loser = next(text for text, process in zip(said, both, strict=True) if process.returncode)
    seen("exit codes 0 and 11", sentence(loser.replace("two", "one"), "error:"))


@fault("two are started with the same name at once", "one is ready; the other is told")
def test_one_name(aimind: Home, seen: Seen) -> None:
    both = [aimind.start(*SERVE, "--name", "same") for _ in range(2)]
    said = [process.communicate(timeout=60)[1] for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes == [0, 13], said
    loser = next(text for text, process in zip(said, both, strict=True) if process.returncode)
    seen("exit codes 0 and 13", sentence(loser, "error:"))


# ── What is kept ───────────────────────────────────────────────────────────────────────────────────────────


@ROOT
@fault("the state's folder may not be written (another user)", "an error with a hint; nothing is started")
def test_no_right_to_write(aimind: Home, seen: Seen) -> None:
    aimind.state.mkdir(mode=0o755)
    as_nobody = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    look = subprocess.run([*as_nobody, str(AIMIND), "--version"], env=aimind.env, capture_output=True)
    if look.returncode:
        pytest.skip("another user cannot run aimind here")
    for folder in [aimind.folder, *aimind.folder.parents[:4]]:
        if not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    (aimind.folder / "data").mkdir(mode=0o777)
    done = subprocess.run(
        [*as_nobody, str(AIMIND), *SERVE], env=aimind.env, capture_output=True, text=True, cwd="/"
    )
    assert "Traceback" not in done.stderr
    assert 0 < done.returncode < 70, done.stderr
    assert list(aimind.state.iterdir()) == []
    seen(f"exit code {done.returncode}", sentence(done.stderr, "error:"), sentence(done.stderr, "hint:"))


@ROOT
@fault("the disk of the state is full when it is to be started", "an error with a hint; nothing is started")
def test_full_disk(aimind: Home, seen: Seen) -> None:
    aimind.state.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=3,mode=700", "none", aimind.state]
    )
    if mounted.returncode:
        pytest.skip("cannot mount a disk here")
    try:
        done = aimind.run(*SERVE)
    finally:
        subprocess.run(["umount", "--lazy", aimind.state], check=True)
    assert "Traceback" not in done.stderr
    assert 0 < done.returncode < 70, done.stderr
    assert "No space left on device" in done.stderr
    seen(f"exit code {done.returncode}", sentence(done.stderr, "error:"), sentence(done.stderr, "hint:"))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("state.json", marks=fault("state.json of a running instance is damaged", WORK)),
        pytest.param("instance.json", marks=fault("instance.json of a running instance is damaged", WORK)),
    ],
)
def test_a_damaged_file(aimind: Home, seen: Seen, name: str) -> None:
    aimind.serve("--name", "good")
    aimind.serve("--name", "bad")
    supervisor = aimind.file("bad")["pid"]
    (aimind.state / "instances" / "bad" / name).write_text('{"half a')
    assert "good" in {each["name"] for each in instances(aimind)}
    stopped = aimind.run("stop", "--all")
    removed = aimind.run("remove", "--force", "bad")
    if stopped.returncode:
        os.kill(supervisor, signal.SIGTERM)
        aimind.good("stop", "good")
    assert "Traceback" not in stopped.stderr + removed.stderr
    assert stopped.returncode == 0, stopped.stderr
    assert removed.returncode == 0, removed.stderr
    assert not alive(supervisor)
    seen("`ps` lists the other one", "both are stopped", "it is removed")


@fault("KILL of the supervisor of an instance", "`ps` says so; `start` starts it again, and the log is kept")
def test_killed(aimind: Home, seen: Seen) -> None:
    aimind.serve()
    os.kill(aimind.file()["pid"], signal.SIGKILL)
    wait_for(aimind.is_free, what="its end")
    (found,) = instances(aimind)
    assert found["state"] == "killed"
    aimind.good("start", "demo")
    assert aimind.status()["run"] == 2
    aimind.good("logs", "demo", "--previous")
    seen("state “killed”", "after `start`: run 2, ready; `logs --previous` shows run 1")


@fault(
    "STOP of the guardian, and KILL of the supervisor of an instance",
    "`ps` says so, `restart` says what to do, and `stop` ends what is left",
)
def test_orphaned(aimind: Home, seen: Seen) -> None:
    aimind.serve()
    state = aimind.file()
    pids = [state["pid"], *(each.pid for each in psutil.Process(state["pid"]).children(recursive=True))]
    guardian = psutil.Process(state["backend_pid"]).ppid()
    os.kill(guardian, signal.SIGSTOP)
    os.kill(state["pid"], signal.SIGKILL)
    wait_for(lambda: not alive(state["pid"]), what="its end")
    (found,) = instances(aimind)
    assert found["state"] == "orphaned"
    refused = aimind.run("restart", "demo")
    assert refused.returncode == 13
    aimind.good("stop", "demo")
    assert not any(alive(pid) for pid in pids)
    assert aimind.is_free()
    seen("state “orphaned”", sentence(refused.stderr, "error:"), sentence(refused.stderr, "hint:"), "stopped")


# It waits for as long as the program does.
@fault("a crash loop", "the log of each of its runs is kept, and shown by name")
def test_no_crash_log_is_lost(aimind: Home, seen: Seen) -> None:
    aimind.fake("--print", "farewell", "--exit-at-start", "7")
    done = aimind.run(*SERVE, "--restart", "always")
    logs = sorted((aimind.state / "instances" / "demo" / "logs").iterdir())
    assert done.returncode == 7
    assert [path.name for path in logs] == ["000001.log", "000002.log", "000003.log"]
    assert all("farewell" in path.read_text() for path in logs)
    seen("exit code 7", f"{len(logs)} logs with the last words", sentence(done.stderr, "error:"))


@pytest.mark.skipif(clock.COMPILER is None, reason="needs a C compiler")
@fault(
    "the clock is set ten years back while an instance runs",
    "`ps` and `status` still tell its age, `stop` works",
)
def test_younger_than_now(aimind: Home, tmp_path: Path, seen: Seen) -> None:
    shift = tmp_path / "shift"
    shift.write_text("0")
    aimind.env |= clock.environment(clock.build(tmp_path), shift)
    aimind.serve()
    shift.write_text(str(-10 * 365 * 86400))
    shown = aimind.good("ps")
    assert "ready" in shown
    assert "-" not in shown.splitlines()[1].split("ready")[1].split("http")[0]  # no age below zero
    aimind.good("status", "demo")
    assert aimind.run("stop", "demo").returncode == 0
    assert aimind.status()["state"] == "stopped"
    seen("`ps` and `status` as ever", "stopped")


# ── Who started it ─────────────────────────────────────────────────────────────────────────────────────────


@fault("stdout and stderr of `aimind serve` are closed", "it serves all the same, and its log is kept")
def test_closed_output(aimind: Home, seen: Seen) -> None:
    aimind.fake("--print", "printed")
    words = ("serve", "demo", "--backend", "llama-server", "--port", "0")
    process = subprocess.Popen(
        ["sh", "-c", 'exec "$@" >&- 2>&- <&-', "sh", str(AIMIND), *words], env=aimind.env, cwd=aimind.folder
    )
    aimind.wait_for_state("ready")
    assert "printed" in aimind.good("logs", "demo")
    process.terminate()
    assert process.wait(20) == 143
    seen("ready", "`logs` shows what it printed", "exit code 143 after TERM")


@fault("nobody reads the stdout of `aimind serve` any more", "it serves all the same, and its log is kept")
def test_gone_reader(aimind: Home, seen: Seen) -> None:
    words = ("serve", "demo", "--backend", "llama-server", "--port", "0")
    reader, writer = os.pipe()
    with (aimind.folder / "stderr").open("wb") as said:
        process = subprocess.Popen(
            [str(AIMIND), *words], env=aimind.env, cwd=aimind.folder, stdout=writer, stderr=said
        )
    os.close(writer)
    os.close(reader)
    aimind.wait_for_state("ready")
    assert "ready: http" in aimind.good("logs", "demo")
    process.terminate()
    assert process.wait(20) == 143
    seen("ready, says the log", "exit code 143 after TERM")


@fault("KILL of `aimind serve -d` while it waits", "the instance goes on by itself")
def test_nobody_waits(aimind: Home, seen: Seen) -> None:
    aimind.fake("--unready", "0.5")
    process = aimind.start(*SERVE)
    aimind.wait_for_state("starting", "loading")
    process.kill()
    process.wait()
    aimind.wait_for_state("ready")
    seen("ready")


@fault("20 times `serve -d` and `stop` in a row, with the same name", "nothing is left but its folder")
def test_in_a_row(aimind: Home, seen: Seen) -> None:
    for _ in range(20):
        aimind.serve("--name", "again")
        found = aimind.status("again")
        aimind.good("stop", "again")
        assert not alive(found["pid"])
        assert not alive(found["backend_pid"])
    assert [path.name for path in (aimind.state / "instances").iterdir()] == ["again"]
    assert found["run"] == 20
    aimind.good("remove", "again")
    assert list((aimind.state / "instances").iterdir()) == []
    seen("run 20", "no process")

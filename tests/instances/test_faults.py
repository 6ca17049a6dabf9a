"""What can be wrong with the state folder, and with what is in it."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

from tests.fakes import nvml
from tests.instances.conftest import AIMIND, Home
from tests.supervisor.harness import LINUX, alive

pytestmark = LINUX


def written(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_a_state_folder_that_cannot_be_made(home: Home) -> None:
    (home.folder / "file").write_text("")
    home.env["AIMIND_STATE_DIR"] = str(home.folder / "file" / "state")
    shown = home.run("serve", "-d", "demo", "--backend", "llama-server", "--port", "0")
    assert shown.returncode == 13
    error, hint = shown.stderr.splitlines()
    assert re.fullmatch(r"error: .*/file/state.* cannot be written: (File exists|Not a directory)", error)
    assert "AIMIND_STATE_DIR" in hint
    assert home.good("ps") == "There are no instances. `aimind serve MODEL` starts one.\n"


def limited(home: Home, *words: str) -> subprocess.CompletedProcess[str]:
    """`aimind`, whose files cannot have a byte."""
    command = ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", str(AIMIND), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=home.folder, env=home.env)


def test_a_full_disk_leaves_nothing_half_written(home: Home) -> None:
    shown = limited(home, "serve", "-d", "demo", "--backend", "llama-server", "--port", "0")
    assert shown.returncode == 13
    assert re.search(r"error: .*state\.json cannot be written: File too large\nhint: ", shown.stderr)
    assert written(home.state) == {"claims.lock", "lock"}
    assert json.loads(home.good("ps", "--json")) == {"schema": 1, "instances": []}
    home.serve()


def test_a_full_disk_keeps_what_was_there(home: Home) -> None:
    home.serve()
    home.good("stop", "demo")
    before = home.status()
    assert limited(home, "start", "demo").returncode == 13
    assert home.status() == before


@pytest.mark.parametrize("name", ["instance.json", "state.json"])
def test_a_damaged_file_is_named_and_harms_no_other(home: Home, name: str) -> None:
    home.serve("--name", "good")
    home.serve("--name", "bad")
    path = home.state / "instances" / "bad" / name
    path.write_text(path.read_text()[:-10])
    found = {each["name"]: each for each in json.loads(home.good("ps", "--json"))["instances"]}
    assert (found["good"]["state"], found["bad"]["state"]) == ("ready", "damaged")
    assert str(path) in found["bad"]["problem"]
    shown = home.run("ps")
    assert f"bad: {path} is damaged: " in shown.stderr
    assert str(path) in home.good("status", "bad")
    home.good("stop", "bad")  # the lock tells who holds it
    assert home.run("start", "bad").returncode == (13 if name == "instance.json" else 0)
    home.good("remove", "--force", "bad")
    assert [each["name"] for each in json.loads(home.good("ps", "--json"))["instances"]] == ["good"]


def test_what_else_lies_in_the_folder_is_left_alone(home: Home) -> None:
    home.serve()
    folder = home.state / "instances"
    (folder / "file").write_text("a file")
    (folder / "empty").mkdir()
    (folder / "Not a name").mkdir()
    assert [each["name"] for each in json.loads(home.good("ps", "--json"))["instances"]] == ["demo"]


def test_nothing_waits_for_a_pipe_in_the_place_of_a_file(home: Home) -> None:
    home.serve()
    home.good("stop", "demo")
    path = home.state / "instances" / "demo" / "state.json"
    path.unlink()
    os.mkfifo(path)
    assert json.loads(home.good("ps", "--json"))["instances"][0]["state"] == "damaged"


def test_a_signal_hits_no_foreign_process(home: Home) -> None:
    """The number in the file is another's by now, and something still holds the lock."""
    home.serve()
    home.good("stop", "demo")
    folder = home.state / "instances" / "demo"
    with (
        subprocess.Popen(["sleep", "600"]) as foreign,
        (folder / "lock").open() as lock,
    ):
        try:
            state = json.loads((folder / "state.json").read_text())
            (folder / "state.json").write_text(json.dumps({**state, "state": "ready", "pid": foreign.pid}))
            fcntl.flock(lock, fcntl.LOCK_EX)
            stop = home.start("stop", "demo")
            time.sleep(0.5)  # nothing can be waited for: it shall do nothing
            assert alive(foreign.pid)
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert stop.wait() == 0
            assert alive(foreign.pid)
        finally:
            foreign.kill()


def test_a_temporary_folder_that_was_left_is_removed(home: Home) -> None:
    home.serve()
    home.good("stop", "demo")
    left, foreign = home.folder / "aimind-left", home.folder / "important"
    for folder in (left, foreign):
        folder.mkdir()
        (folder / "file").write_text("")
    path = home.state / "instances" / "demo" / "state.json"
    state = json.loads(path.read_text())
    for folder in (left, foreign):
        path.write_text(json.dumps({**state, "temporary": str(folder)}))
        home.good("start", "demo")
        home.good("stop", "demo")
    assert not left.exists()
    assert foreign.exists()  # none that aimind would make


def test_files_are_the_users_alone(home: Home) -> None:
    home.serve()
    modes = {path: path.stat().st_mode & 0o777 for path in (home.state, *home.state.rglob("*"))}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


def test_a_start_that_fails_says_so_afterwards_too(home: Home) -> None:
    """The backend's program is gone between the plan and the start of the instance."""
    home.serve()
    home.good("stop", "demo")
    (home.folder / "programs" / "llama-server").unlink()
    shown = home.run("start", "demo")
    assert shown.returncode != 0
    assert home.status()["state"] == "stopped"  # no plan, no claim: nothing has changed


def test_ps_and_status_take_no_lock_that_others_hold(home: Home) -> None:
    home.serve()
    with (home.state / "claims.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert home.status()["state"] == "ready"
        home.good("ps")
        home.good("logs", "demo")
        home.good("stop", "demo")


def test_a_second_starter_waits_for_the_first(home: Home) -> None:
    home.state.mkdir(mode=0o700)
    with (home.state / "claims.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = home.begin("--detach")
        assert process.stderr is not None
        assert process.stderr.readline() == "waiting for another aimind process that is starting\n"
        fcntl.flock(lock, fcntl.LOCK_UN)
        process.communicate()
        assert process.returncode == 0


def test_who_waits_can_be_interrupted(home: Home) -> None:
    home.state.mkdir(mode=0o700)
    with (home.state / "claims.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = home.begin()
        assert process.stderr is not None
        process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
    assert written(home.state) == {"claims.lock"}


@pytest.mark.skipif(nvml.COMPILER is None, reason="the fake NVML needs a C compiler")
def test_a_driver_that_never_answers_keeps_ps_from_nothing(home: Home) -> None:
    home.serve()
    path = home.state / "instances" / "demo" / "instance.json"
    instance = json.loads(path.read_text())
    instance["claim"]["devices"] = {"GPU-0a7b2f58": 5 << 30}
    path.write_text(json.dumps(instance))
    os.mkfifo(home.folder / "machine")
    home.env |= nvml.environment(nvml.build(home.folder), home.folder / "machine")
    shown = home.run("ps")
    assert shown.returncode == 0, shown.stderr
    assert "GPU-0a7b2f58 " in shown.stdout
    assert " 5.0 GiB " in shown.stdout
    assert home.status()["used"]["devices"] == {}


@pytest.mark.parametrize(
    "words", [("ps",), ("serve", "-d", "demo", "--name", "other", "--port", "0")], ids=" ".join
)
def test_the_folder_of_a_run_that_nobody_survived_is_removed(home: Home, words: tuple[str, ...]) -> None:
    """All that watch were killed at once: who looks next removes what the state names, and nothing else."""
    home.serve()
    home.good("stop", "demo")
    state = home.file() | {"state": "loading", "temporary": str(home.folder / "aimind-0123")}
    (home.state / "instances" / "demo" / "state.json").write_text(json.dumps(state))
    left, other = home.folder / "aimind-0123", home.folder / "aimind-4567"
    for folder in (left, other):
        folder.mkdir()
        (folder / "file").touch()
    home.good(*words, *(("--backend", "llama-server") if words[0] == "serve" else ()))
    assert not left.exists()
    assert other.exists()


@pytest.mark.parametrize("umask", ["000", "077"])
def test_the_folders_are_the_users_alone(home: Home, umask: str) -> None:
    """What is in them is run, whatever the user's umask is."""
    command = ["sh", "-c", f'umask {umask}; exec "$@"', "sh", str(AIMIND)]
    serve = ["serve", "-d", "demo", "--backend", "llama-server", "--port", "0"]
    done = subprocess.run([*command, *serve], capture_output=True, text=True, cwd=home.folder, env=home.env)
    assert done.returncode == 0, done.stderr
    for name in ("data", "state", "state/instances", "state/instances/demo", "state/instances/demo/logs"):
        assert stat.S_IMODE((home.folder / name).stat().st_mode) == 0o700, name
    files = [path for path in home.state.rglob("*") if path.is_file()]
    assert len(files) >= 4
    assert not [path for path in files if path.stat().st_mode & 0o077]


MENDED = [
    ("state", 13, 0o777, ("start", "demo")),
    ("state", 13, 0o1777, ("start", "demo")),
    ("state", 13, 0o770, ("start", "demo")),
    ("state/instances/demo", 13, 0o722, ("start", "demo")),
    ("data", 10, 0o720, ("plan", "demo", "--backend", "llama-server")),
]


@pytest.mark.parametrize(("name", "code", "mode", "words"), MENDED)
def test_a_folder_that_others_can_change_is_refused(
    home: Home, name: str, code: int, mode: int, words: tuple[str, ...]
) -> None:
    """The hint mends it when it is pasted."""
    home.serve()
    home.good("stop", "demo")
    (home.folder / name).chmod(mode)
    done = home.run(*words)
    assert done.returncode == code, done.stderr
    assert f"can be written by {'everybody' if mode & 0o002 else 'its group'}" in done.stderr
    (command,) = re.findall(r"`(chmod .*)`", done.stderr)
    subprocess.run(command, shell=True, check=True)
    home.good(*words)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
@pytest.mark.parametrize(("name", "code", "mode", "words"), MENDED[2:])
def test_a_folder_of_another_user_is_refused(
    home: Home, name: str, code: int, mode: int, words: tuple[str, ...]
) -> None:
    home.serve()
    home.good("stop", "demo")
    os.chown(home.folder / name, 1234, -1)
    done = home.run(*words)
    assert done.returncode == code, done.stderr
    assert "belongs to another user (1234)" in done.stderr
    (command,) = re.findall(r"`(chown .*?)`", done.stderr)
    subprocess.run(command, shell=True, check=True)
    home.good(*words)


def test_environments_that_others_can_change_are_refused(home: Home) -> None:
    """Unless nobody else reaches them."""
    folder = home.folder / "data" / "environments" / "xllamacpp" / "1"
    folder.mkdir(parents=True)
    for each in (folder, *folder.parents[:2]):
        each.chmod(0o755)
        (home.folder / "data").chmod(0o755)
        home.good("backends")
        each.chmod(0o775)
        done = home.run("backends")
        assert done.returncode == 10
        assert f"{each} can be written by its group" in done.stderr
        (home.folder / "data").chmod(0o700)
        home.good("backends")
        each.chmod(0o755)

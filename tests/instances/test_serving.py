"""Instances from outside: the real `aimind`, real processes, the fake backend."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from tests.instances.conftest import Home
from tests.supervisor.harness import LINUX, alive, get, gone, wait_for

pytestmark = LINUX  # where all of it can be seen

SECRET = "canary-4711"


# ── Starting ───────────────────────────────────────────────────────────────────────────────────────────────


def test_detached_it_returns_when_it_is_ready(home: Home) -> None:
    ready, attempt = home.serve().splitlines()
    found = home.status()
    assert ready == f"ready: {found['url']}"
    assert attempt.startswith("try:   curl ")
    assert get(f"{found['url']}/health") == 200
    assert (found["state"], found["running"], found["run"], found["restarts"]) == ("ready", True, 1, 0)
    assert found["argv"] == ["demo", "--port", "0", "--backend", "llama-server"]
    assert found["cwd"] == str(home.folder)
    assert found["claim"]["port"] == urlsplit(found["url"]).port
    assert found["used"]["ram_bytes"] > found["used"]["own_ram_bytes"] > 1 << 20
    assert home.good("wait", "demo") == ""
    waited = home.run("wait", "demo", "--for", "stopped", "--timeout", "0")
    assert (waited.returncode, "demo is not stopped after 0 s" in waited.stderr) == (13, True)
    home.good("stop", "demo", "-q")
    assert home.good("wait", "demo", "--for", "stopped") == ""
    assert home.run("wait", "demo").returncode != 0


def test_detached_it_belongs_to_nobody(home: Home) -> None:
    home.serve()
    supervisor = psutil.Process(home.status()["pid"])
    assert os.getsid(supervisor.pid) == supervisor.pid
    links = [str(Path(f"/proc/{supervisor.pid}/fd/{fd}").readlink()) for fd in range(3)]
    assert links == ["/dev/null"] * 3


def test_the_backend_has_no_hand_in_the_lock(home: Home) -> None:
    home.serve()
    found = home.status()
    lock = str(home.state / "instances" / "demo" / "lock")

    def open_files(pid: int) -> list[str]:
        return [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]

    assert lock in open_files(found["pid"])
    assert lock not in open_files(found["backend_pid"])


def test_what_is_told_while_it_starts(home: Home) -> None:
    home.fake("--unready", "0.3", "--print", "'load_tensors: loading model tensors'")
    shown = home.run("serve", "-d", "demo", "--backend", "llama-server", "--port", "0")
    assert shown.returncode == 0, shown.stderr
    plan, *phases = [
        line for line in shown.stderr.splitlines() if line.startswith(("demo ", "starting", "load"))
    ]
    assert plan.startswith("demo  F16 · 749 KiB · llama-server")
    assert phases == ["starting demo", "loading weights"]


def test_in_the_foreground_it_is_an_instance_too(home: Home) -> None:
    process = home.begin("--name", "here")
    home.wait_for_state("ready", name="here")
    assert home.status("here")["pid"] == process.pid
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    found = home.status("here")
    assert (found["state"], found["exit_code"], found["running"]) == ("stopped", 130, False)


def test_names_are_made_of_the_models(home: Home) -> None:
    home.serve()
    home.serve()
    assert {"demo", "demo-2"} == {each["name"] for each in json.loads(home.good("ps", "--json"))["instances"]}
    home.good("stop", "demo")
    home.serve()  # the first is free again
    assert home.status("demo")["running"]
    assert not (home.state / "instances" / "demo-3").exists()


def test_a_name_that_is_in_use(home: Home) -> None:
    home.serve("--name", "mine")
    shown = home.run("serve", "demo", "--name", "mine", "--port", "0")
    assert shown.returncode == 13
    assert "error: instance mine is already running\nhint: run `aimind stop mine`" in shown.stderr


@pytest.mark.parametrize("name", ["Mine", ".hidden", "../mine", "a" * 64, ""])
def test_a_name_that_cannot_be_one(home: Home, name: str) -> None:
    shown = home.run("serve", "demo", "--name", name)
    assert shown.returncode == 2
    assert "cannot be the name of an instance" in shown.stderr
    assert not home.state.exists()


@pytest.mark.parametrize("words", [("--name", "x", "--no-supervise"), ("-d", "--no-supervise"), ("--json",)])
def test_options_that_contradict_each_other(home: Home, words: tuple[str, ...]) -> None:
    assert home.run("serve", "demo", *words).returncode == 2
    assert not home.state.exists()


def test_what_is_no_instance_leaves_nothing(home: Home) -> None:
    home.good("serve", "demo", "--backend", "llama-server", "--dry-run")
    home.good("plan", "demo", "--backend", "llama-server")
    home.good("ps")
    assert not home.state.exists()


def test_a_failure_is_told_with_its_last_lines(home: Home) -> None:
    home.fake("--print", "'error loading model: no such luck'", "--exit-at-start", "7", "--print", "unlucky")
    shown = home.run("serve", "-d", "demo", "--backend", "llama-server", "--port", "0")
    assert shown.returncode == 7
    assert shown.stdout == ""
    assert "error: instance demo failed: the backend exited with code 7" in shown.stderr
    assert "\n| error loading model: no such luck\n| unlucky\nhint: " in shown.stderr
    found = home.status()
    assert (found["state"], found["exit_code"]) == ("failed", 7)
    assert found["last_lines"] == ["error loading model: no such luck", "unlucky"]
    assert re.search(r"^demo +failed +demo ", home.good("ps", "-a"), re.MULTILINE)
    assert "| unlucky" in home.good("status", "demo")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_who_does_not_want_to_wait_stops_it(home: Home, number: signal.Signals, code: int) -> None:
    home.fake("--unready", "600", "--pids", str(home.folder / "pids"))
    process = home.begin("--detach")
    home.wait_for_state("starting", "loading")
    wait_for((home.folder / "pids").exists, what="the backend")
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == code
    assert said.rstrip().endswith("stopping instance demo\ninstance demo is stopped")
    assert home.status()["state"] == "stopped"
    assert home.is_free()
    assert gone(int((home.folder / "pids").read_text()))


def test_a_document_instead_of_the_announcement(home: Home) -> None:
    found = json.loads(home.serve("--json"))
    assert (found["name"], found["state"]) == ("demo", "ready")


def test_the_interval_of_probes_is_the_supervisors(home: Home) -> None:
    home.fake("--fail-after", "0.5")
    home.serve("--probe-interval", "0.05")
    # Also while the next start is waited for.
    wait_for(
        lambda: "failed its last health probes" in (home.file()["reason"] or ""),
        what="the third failed probe",
    )


# ── Stopping, restarting, starting again ───────────────────────────────────────────────────────────────────


def test_stop_waits_until_nothing_is_left(home: Home) -> None:
    home.fake("--grandchildren", "2", "--pids", str(home.folder / "pids"))
    home.serve()
    pids = [int(line) for line in (home.folder / "pids").read_text().split()]
    shown = home.run("stop", "demo", "--json")
    assert json.loads(shown.stdout) == {"schema": 1, "instances": [{"name": "demo", "outcome": "stopped"}]}
    assert shown.stderr == "stopping instance demo\ninstance demo is stopped\n"
    assert not any(map(alive, pids))
    assert home.status()["state"] == "stopped"
    again = home.run("stop", "demo", "--json")
    assert again.returncode == 0
    assert json.loads(again.stdout)["instances"][0]["outcome"] == "not running"


def test_stop_all(home: Home) -> None:
    home.serve("--name", "one")
    home.serve("--name", "two")
    home.good("stop", "--all")
    assert home.is_free("one")
    assert home.is_free("two")
    assert "no instance is running" in home.run("stop", "--all").stderr


def test_stop_of_what_is_not_there_stops_nothing(home: Home) -> None:
    home.serve()
    shown = home.run("stop", "demo", "nothing")
    assert shown.returncode == 13
    assert "there is no instance nothing" in shown.stderr
    assert home.status()["running"]
    assert home.run("stop").returncode == 2


def test_a_supervisor_that_does_not_answer_is_killed(home: Home) -> None:
    home.serve()
    found = home.status()
    path = home.state / "instances" / "demo" / "instance.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "stop_seconds": -2.4}))  # all but no patience
    os.kill(found["pid"], signal.SIGSTOP)
    shown = home.run("stop", "demo", "--json")
    assert json.loads(shown.stdout)["instances"][0]["outcome"] == "killed"
    assert gone(found["backend_pid"])
    assert home.status()["state"] == "killed"


def test_restart_is_another_run(home: Home) -> None:
    home.fake("--print-env", "RUN_OF_TEST")
    home.serve()
    before = home.status()
    shown = home.good("restart", "demo")
    after = home.status()
    assert shown == f"ready again: {before['url']}\n"
    assert (after["state"], after["run"], after["pid"]) == ("ready", 2, before["pid"])
    assert after["backend_pid"] != before["backend_pid"]
    assert json.loads(home.good("restart", "demo", "--json"))["run"] == 3


def test_restart_tells_a_failure(home: Home) -> None:
    flag = home.folder / "bad"
    program = home.folder / "programs" / "llama-server"
    program.write_text(program.read_text().replace("exec", f"[ -e {flag} ] && echo worn out && exit 9\nexec"))
    home.serve("--restart", "never")
    flag.touch()
    shown = home.run("restart", "demo")
    assert shown.returncode == 9
    assert "| worn out" in shown.stderr


def test_start_is_the_same_command_again(home: Home) -> None:
    home.serve("--name", "mine", "--", "--threads", "3")
    first = home.status("mine")
    shown = home.run("start", "mine")
    assert shown.returncode == 13
    assert "is already running" in shown.stderr
    home.good("stop", "mine")
    elsewhere = home.folder / "elsewhere"
    elsewhere.mkdir()
    done = home.run("start", "mine", cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    second = home.status("mine")
    assert (second["argv"], second["cwd"]) == (first["argv"], first["cwd"])
    assert second["argv"][-3:] == ["--", "--threads", "3"]
    assert second["run"] == 2  # the logs go on
    home.good("stop", "mine")
    assert json.loads(home.good("restart", "mine", "--json"))["run"] == 3


def test_start_wants_the_key_again(home: Home) -> None:
    home.env["AIMIND_API_KEY"] = SECRET
    home.serve()
    home.good("stop", "demo")
    written = [
        path for path in home.folder.rglob("*") if path.is_file() and SECRET in path.read_text("latin-1")
    ]
    assert not written
    argv = home.status()["argv"]
    home.good("start", "demo")
    home.good("stop", "demo")
    assert home.status()["argv"] == argv
    del home.env["AIMIND_API_KEY"]
    shown = home.run("start", "demo")
    assert shown.returncode == 13
    assert "started with an API key, but no key is set now\nhint: export AIMIND_API_KEY" in shown.stderr


def test_a_secret_is_not_kept_in_a_file(home: Home) -> None:
    shown = home.run("serve", "-d", "demo", "--env", f"HF_TOKEN={SECRET}")
    assert shown.returncode == 2
    assert "--env HF_TOKEN" in shown.stderr
    assert not home.state.exists()


def test_remove(home: Home) -> None:
    home.serve("--name", "one")
    home.serve("--name", "two")
    shown = home.run("remove", "two", "one")
    assert shown.returncode == 13
    assert "error: instance two is running\nhint: `aimind stop two` first, or --force" in shown.stderr
    home.good("stop", "one")
    assert json.loads(home.good("remove", "one", "--json")) == {"schema": 1, "removed": ["one"]}
    home.good("remove", "two", "--force")
    assert list((home.state / "instances").iterdir()) == []
    assert home.good("ps") == "There are no instances. `aimind serve MODEL` starts one.\n"
    assert json.loads(home.good("ps", "--json")) == {"schema": 1, "instances": []}
    assert home.run("remove", "one").returncode == 13


# ── Looking ────────────────────────────────────────────────────────────────────────────────────────────────


def test_those_that_run_come_first(home: Home) -> None:
    home.serve("--name", "a")
    home.serve("--name", "b")
    home.good("stop", "a")
    title, *rows = home.good("ps", "-a").splitlines()
    assert title.split() == "NAME STATE URL MODEL RAM BACKEND AGE".split()
    assert [row.split()[0] for row in rows] == ["b", "a"]
    assert re.search(r"http://127\.0\.0\.1:\d+ +demo +[\d.]+ of \d+ MiB", rows[0])
    assert "http" not in rows[1]
    running = home.run("ps")
    assert [row.split()[0] for row in running.stdout.splitlines()] == ["NAME", "b"]
    assert running.stderr == "1 instance ended: `aimind ps -a` shows it.\n"
    assert [each["name"] for each in json.loads(home.good("ps", "--json"))["instances"]] == ["b"]


def test_logs(home: Home) -> None:
    home.fake("--print", "first", "--print", "second")
    home.serve()
    assert home.good("logs", "demo").splitlines()[:2] == ["first", "second"]
    assert "only one run" in home.run("logs", "demo", "--previous").stderr
    home.fake("--print", "other")
    home.good("restart", "demo")
    assert home.good("logs", "demo", "-n", "1") == f"ready again: {home.status()['url']}\n"
    previous = home.good("logs", "demo", "--previous").splitlines()
    assert previous[:2] == ["first", "second"]
    assert "aimind: restarting the backend (SIGUSR1)" in previous
    entry = json.loads(home.good("logs", "demo", "--json").splitlines()[0])
    assert entry == {"schema": 1, "run": 2, "line": "first"}  # the environment is the supervisor's


def test_logs_are_followed_over_restarts_to_the_end(home: Home) -> None:
    home.fake("--print", "hello")
    home.serve()
    follower = home.start("logs", "demo", "-f", "-n", "1", "--json")
    assert follower.stdout is not None
    assert follower.stdout.readline()  # it follows
    home.good("restart", "demo")
    lines = iter(follower.stdout.readline, "")
    assert json.loads(next(line for line in lines if '"run": 2' in line)) == {
        "schema": 1,
        "run": 2,
        "line": "hello",
    }
    home.good("stop", "demo")
    assert [json.loads(line)["line"] for line in lines][-1] == "aimind: stopping the backend (SIGTERM)"
    assert follower.wait() == 0


def test_what_was_killed_is_called_so_and_can_be_taken_over(home: Home) -> None:
    home.fake("--print", "hello")
    home.serve()
    os.kill(home.status()["pid"], signal.SIGKILL)
    wait_for(home.is_free, what="the guardian")
    found = home.status()
    assert (found["state"], found["running"], found["last_lines"][0]) == ("killed", False, "hello")
    assert re.search(r"^demo +killed +demo ", home.good("ps", "-a"), re.MULTILINE)
    home.serve("--name", "demo")
    assert home.status()["run"] == 2


def test_names_are_completed(home: Home) -> None:
    home.serve("--name", "one")
    home.serve("--name", "other")
    home.good("stop", "other")
    home.env |= {"_AIMIND_COMPLETE": "complete_bash", "COMP_CWORD": "2"}
    for command, names in (("stop", ["one"]), ("start", ["other"]), ("logs", ["one", "other"])):
        home.env["COMP_WORDS"] = f"aimind {command} o"
        assert home.good().split() == names


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_the_script_for_completion(home: Home, shell: str) -> None:
    script = home.good("completion", shell)
    assert re.search(f'_AIMIND_COMPLETE ?= ?"?complete_{shell}', script)
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)

"""`aimind unit`: what it decides, what it says, how it installs; and that what it prints really runs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from aimind.hub.local import DEMO as DEMO_FOLDER
from aimind.hub.local import DEMO_GGUF
from tests import models
from tests.fakes.hub import Hub
from tests.instances.conftest import AIMIND, Home, home
from tests.supervisor.harness import LINUX, wait_for
from tests.supervisor.test_notify import Manager
from tests.test_units import SYSTEMD, argv, environment, values, verify

__all__ = ["home"]
pytestmark = LINUX
DEMO = DEMO_FOLDER / DEMO_GGUF
CANARY = "canary-b1c7"
SYSTEMCTL = f"""#!{sys.executable} -I
import os, pathlib, sys
folder = pathlib.Path(sys.argv[0]).parent
with (folder / "calls").open("a") as calls:
    print(*sys.argv[1:], file=calls)
if os.environ.get("FAIL", "-") in sys.argv:
    sys.exit("Failed to connect to bus: No medium found")
"""


def unit(home: Home, *words: str) -> str:
    return home.good("unit", "demo", "--backend", "llama-server", *words)


def refused(home: Home, *words: str, code: int = 2) -> str:
    done = home.run("unit", *words)
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stdout == ""
    return done.stderr


# ── What is decided ────────────────────────────────────────────────────────────────────────────────────────


def test_everything_that_the_boot_must_not_decide_is_said(home: Home) -> None:
    told = argv(unit(home, "--context", "2k", "--parallel", "3", "--no-install", "--", "--threads", "1"))
    assert told[:3] == [str(AIMIND), "serve", "demo"]
    words = " ".join(told[3:])
    for option in (
        "--context 2k",
        "--parallel 3",
        "--no-install",
        "--device none",
        "--port 8000",
        "--name demo",
    ):
        assert f"{option} " in f"{words} "
    assert told[-3:] == ["--", "--threads", "1"]


def test_a_free_port_is_chosen_now(home: Home) -> None:
    told = argv(unit(home, "--port", "0"))
    assert int(told[told.index("--port") + 1]) > 0
    assert told.count("--port") == 1


def test_what_is_said_to_the_backend_is_decided_too(home: Home) -> None:
    told = argv(unit(home, "--", "--port", "9123"))
    assert "--port 9123 --name demo -- --port 9123" in " ".join(told)


def test_paths_are_whole(home: Home) -> None:
    llama = models.header("llama-3.1-8b.Q4_K_M", home.folder)
    words = ("--backend", "llama-server", "--", "--lora", "./a.gguf", "--log-file=../log")
    told = argv(home.good("unit", f"./{llama.name}", *words))
    assert told[2] == str(llama)
    assert told[-3:] == ["--lora", f"{home.folder}/a.gguf", f"--log-file={home.folder}/../log"]


def test_a_model_that_does_not_fit_is_an_error_now(home: Home) -> None:
    models.header("llama-3.1-70b.Q4_K_M", home.folder)
    said = refused(home, "./llama-3.1-70b.Q4_K_M.gguf", "--context", "128k", code=8)
    assert "error: " in said


def test_nothing_is_downloaded_or_installed(home: Home) -> None:
    before = set(home.folder.rglob("*"))
    home.good("unit", "demo", "--backend", "xllamacpp", "--hardened")
    assert set(home.folder.rglob("*")) == before


def test_a_name_is_that_of_unit_and_instance(home: Home) -> None:
    told = argv(unit(home, "--name", "chat"))
    assert told[-2:] == ["--name", "chat"]
    assert "cannot be the name" in refused(home, "demo", "--name", "a/b")


def test_the_backend_is_found_at_boot(home: Home) -> None:
    assert environment(unit(home))["PATH"].split(":")[0] == str(home.folder / "programs")
    text = home.good("unit", "demo", "--backend", "xllamacpp")
    assert "PATH" not in environment(text)


def test_a_unit_of_the_system_has_folders_of_its_own(home: Home) -> None:
    found = environment(unit(home, "--hardened"))
    assert found["AIMIND_STATE_DIR"] == "/var/lib/aimind"
    assert found["AIMIND_DATA_DIR"] == "/var/lib/aimind/data"
    assert found["HF_HOME"] == "/var/cache/aimind/huggingface"
    assert found["HOME"] == "/var/cache/aimind"


def test_a_unit_of_the_user_has_the_user_s(home: Home) -> None:
    text = unit(home, "--user")
    assert environment(text)["AIMIND_STATE_DIR"] == str(home.state)
    assert values(text, "User") == values(text, "StateDirectory") == []
    assert values(text, "WantedBy") == ["default.target"]


def test_the_network_is_waited_for_where_it_is_needed(home: Home) -> None:
    alone = unit(home, "--hardened")
    assert values(alone, "Wants") == []
    assert values(alone, "IPAddressDeny") == ["any"]
    for needs in (
        unit(home, "--hardened", "--host", "0.0.0.0"),
        home.good("unit", "demo", "--hardened", "--backend", "xllamacpp"),
    ):
        assert values(needs, "Wants") == ["network-online.target"]
        assert values(needs, "IPAddressDeny") == []


def test_a_hardened_unit_sees_what_it_needs(home: Home) -> None:
    llama = models.header("llama-3.1-8b.Q4_K_M", home.folder)
    (other,) = [models.header("llama-3.1-8b.Q8_0", home.folder)]
    text = home.good("unit", str(llama), "--hardened", "--backend", "llama-server")
    bound = [Path(path) for line in values(text, "BindReadOnlyPaths") for path in line.split()]

    def seen(path: Path) -> bool:
        hidden = any(path.is_relative_to(folder) for folder in ("/home", "/root", "/tmp", "/run/user"))
        return not hidden or any(path.is_relative_to(each) for each in bound)

    assert seen(llama)
    assert not seen(other)
    assert seen(home.folder / "programs" / "llama-server")
    for path in (AIMIND, Path(sys.executable), Path(sys.executable).resolve(), Path(os.__file__)):
        assert seen(path)


def test_a_unit_gives_a_backend_what_that_needs(home: Home) -> None:
    engine = home.good("unit", "demo:safetensors", "--backend", "vllm", "--hardened")
    assert values(engine, "RestrictAddressFamilies") == ["AF_UNIX AF_INET AF_INET6 AF_NETLINK"]
    assert values(engine, "TimeoutStopSec") == ["45"]
    for words in (("--mlock",), ("--load-mode", "mmap+mlock")):
        llama = unit(home, "--hardened", "--", *words)
        assert values(llama, "RestrictAddressFamilies") == ["AF_UNIX AF_INET AF_INET6"]
        assert values(llama, "LimitMEMLOCK") == ["infinity"]


def test_what_its_user_cannot_read_is_said(home: Home) -> None:
    llama = models.header("llama-3.1-8b.Q4_K_M", home.folder)
    llama.chmod(0o600)
    assert f"cannot read {llama}" in home.run("unit", str(llama), "--hardened").stderr
    assert "cannot read" not in home.run("unit", str(llama), "--hardened", "--run-as", "daemon").stderr


def test_a_user_that_is_not_there(home: Home) -> None:
    assert "there is no user" in refused(home, "demo", "--run-as", "nobody-at-all")
    assert "runs as you" in refused(home, "demo", "--run-as", "daemon", "--user")
    assert values(unit(home, "--run-as", "daemon"), "User") == ["daemon"]


@pytest.mark.parametrize("option", ["--dry-run", "--detach", "--no-supervise", "--json"])
def test_what_makes_no_sense_in_a_unit_is_no_option_of_it(home: Home, option: str) -> None:
    done = home.run("unit", "demo", option)
    assert (done.returncode, f"there is no option {option}" in done.stderr) == (2, True)


@SYSTEMD
@pytest.mark.parametrize("words", [(), ("--user",), ("--hardened",), ("--hardened", "--run-as", "daemon")])
def test_systemd_verifies_what_is_printed(home: Home, words: tuple[str, ...]) -> None:
    key = home.folder / "a key"
    key.write_text(CANARY)
    path = home.folder / "aimind-demo.service"
    path.write_text(unit(home, *words, "--api-key-file", str(key), "--", "--log-prefix", 'a "b" $c %d \\'))
    assert verify(path, user="--user" in words) == ""


# ── Secrets ────────────────────────────────────────────────────────────────────────────────────────────────


def test_secrets_are_credentials(home: Home) -> None:
    for name in ("key", "token"):
        (home.folder / name).write_text(CANARY)
        (home.folder / name).chmod(0o644)
    done = home.run("unit", "demo", "--api-key-file", "key", "--hf-token-file", "token")
    assert values(done.stdout, "LoadCredential") == [
        f"aimind.api-key:{home.folder}/key",
        f"aimind.hf-token:{home.folder}/token",
    ]
    told = argv(done.stdout, {"CREDENTIALS_DIRECTORY": "/secrets"})
    assert told[-4:] == [
        "--api-key-file",
        "/secrets/aimind.api-key",
        "--hf-token-file",
        "/secrets/aimind.hf-token",
    ]
    assert f"others can read {home.folder}/key: chmod 600" in done.stderr
    assert CANARY not in done.stdout + done.stderr


def test_a_unit_of_the_user_reads_the_file_itself(home: Home) -> None:
    (home.folder / "key").write_text(CANARY)
    text = unit(home, "--user", "--api-key-file", "key")
    assert values(text, "LoadCredential") == []
    assert argv(text)[-2:] == ["--api-key-file", f"{home.folder}/key"]


def test_a_key_of_the_environment_would_be_lost(home: Home) -> None:
    home.env["AIMIND_API_KEY"] = CANARY
    said = refused(home, "demo")
    assert "--api-key-file" in said
    assert CANARY not in said


def test_a_variable_that_holds_a_secret_is_not_written(home: Home) -> None:
    home.env |= {"WANDB_API_KEY": CANARY, "COLOR": "red"}
    said = refused(home, "demo", "--env", "WANDB_API_KEY")
    assert "EnvironmentFile" in said
    assert CANARY not in said
    text = unit(home, "--env", "COLOR", "--env", "SHAPE=round")
    assert environment(text)["COLOR"] == "red"
    assert "--env COLOR --env SHAPE=round" in " ".join(argv(text))


def test_a_token_of_the_environment_is_told_about(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "repositories"
    (folder / "owner" / "demo").mkdir(parents=True)
    shutil.copy(DEMO, folder / "owner" / "demo")
    with Hub(folder) as hub:
        home.env |= {"HF_TOKEN": CANARY, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
        done = home.run("unit", "owner/demo", "--backend", "llama-server")
        del home.env["HF_TOKEN"]
        token = home.folder / "home" / ".cache" / "huggingface" / "token"
        token.parent.mkdir(parents=True, exist_ok=True)
        token.write_text(CANARY)
        later = home.run("unit", "owner/demo", "--backend", "llama-server")
        at_home = home.run("unit", "owner/demo", "--backend", "llama-server", "--user")
    for each in (done, later, at_home):
        assert each.returncode == 0, each.stderr
        assert CANARY not in each.stdout + each.stderr
    assert "HF_TOKEN is not passed" in done.stderr
    assert f"--hf-token-file {token}" in later.stderr
    assert "oken" not in at_home.stderr  # it is found there
    assert environment(done.stdout)["HF_ENDPOINT"] == hub.url


# ── Installing ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def systemctl(home: Home) -> Path:
    """A real program of that name; the file in which it writes its calls down."""
    program = home.folder / "programs" / "systemctl"
    program.write_text(SYSTEMCTL)
    program.chmod(0o755)
    home.env["XDG_CONFIG_HOME"] = str(home.folder / "config")
    return program.parent / "calls"


def installed(home: Home) -> Path:
    return home.folder / "config" / "systemd" / "user" / "aimind-demo.service"


def test_it_is_written_and_enabled(home: Home, systemctl: Path) -> None:
    done = home.run("unit", "demo", "--backend", "llama-server", "--user", "--install")
    assert done.returncode == 0, done.stderr
    path = installed(home)
    assert argv(path.read_text()) == argv(unit(home, "--user"))
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]
    calls = systemctl.read_text().splitlines()
    assert calls == [
        "--no-ask-password --user daemon-reload",
        "--no-ask-password --user enable aimind-demo.service",
    ]
    assert "systemctl --user start aimind-demo.service" in done.stderr
    assert done.stdout == ""


def test_it_is_made_again(home: Home, systemctl: Path) -> None:
    unit(home, "--user", "--install")
    unit(home, "--user", "--install", "--context", "4k")
    assert "4k" in argv(installed(home).read_text())


@pytest.mark.parametrize("link", [False, True])
def test_a_unit_of_somebody_else_stays(home: Home, systemctl: Path, link: bool) -> None:
    path = installed(home)
    path.parent.mkdir(parents=True)
    if link:
        path.symlink_to("/dev/null")  # as systemctl mask makes it
    else:
        path.write_text("[Service]\n")
    assert "not made by aimind" in refused(home, "demo", "--user", "--install")
    assert path.is_symlink() if link else path.read_text() == "[Service]\n"
    assert not systemctl.exists()


@pytest.mark.parametrize("step", ["daemon-reload", "enable"])
def test_what_systemd_refuses_is_taken_back(home: Home, systemctl: Path, step: str) -> None:
    home.env["FAIL"] = step
    said = refused(home, "demo", "--user", "--install", code=10)
    assert f"{step}" in said
    assert "Failed to connect to bus: No medium found" in said
    assert not list(installed(home).parent.iterdir())
    assert systemctl.read_text().splitlines()[-1] == "--no-ask-password --user daemon-reload"


def test_what_was_there_before_comes_back(home: Home, systemctl: Path) -> None:
    unit(home, "--user", "--install")
    before = installed(home).read_text()
    home.env["FAIL"] = "enable"
    refused(home, "demo", "--user", "--install", "--context", "4k", code=10)
    assert installed(home).read_text() == before
    assert list(installed(home).parent.iterdir()) == [installed(home)]


def test_without_systemd_it_is_only_printed(home: Home) -> None:
    home.env["PATH"] = str(home.folder / "programs")
    assert "systemctl is not on PATH" in refused(home, "demo", "--user", "--install", code=7)


def test_a_folder_that_cannot_be_written(home: Home, systemctl: Path) -> None:
    (home.folder / "config").write_text("a file")
    assert "cannot be written" in refused(home, "demo", "--user", "--install", code=10)
    assert not systemctl.exists()


# ── Running ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify"))
    yield made
    made.close()


def test_what_it_prints_runs_as_a_service(home: Home, manager: Manager) -> None:
    """Started as systemd would: its words, its environment, a credential, a socket to notify."""
    key = home.folder / "key"
    key.write_text(CANARY)
    home.fake("--key-env", "LLAMA_API_KEY", "--open-health", "--print-env", "CREDENTIALS_DIRECTORY")
    text = unit(home, "--user", "--port", "0", "--context", "2k").replace(
        " --name demo", " --name demo --api-key-file ${CREDENTIALS_DIRECTORY}/aimind.api-key"
    )
    key.rename(home.folder / "aimind.api-key")
    told = argv(text, {"CREDENTIALS_DIRECTORY": str(home.folder)})
    env = {
        "PATH": "/usr/bin:/bin",
        "HOME": home.env["HOME"],
        "FAKE_BACKEND": home.env["FAKE_BACKEND"],
        "CREDENTIALS_DIRECTORY": str(home.folder),
        "NOTIFY_SOCKET": manager.environment["NOTIFY_SOCKET"],
        "WATCHDOG_USEC": "120000000",
        **environment(text),
    }
    process = subprocess.Popen(
        told, env=env, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    home.processes.append(process)
    begin = manager.wait_for("READY=1")
    assert manager.told[0] == "STATUS=preparing\nEXTEND_TIMEOUT_USEC=60000000"
    assert manager.told[begin - 1] == f"READY=1\nMAINPID={process.pid}"  # NotifyAccess=main
    process.send_signal(signal.SIGHUP)  # ExecReload=
    begin = manager.wait_for("RELOADING=1", after=begin)
    manager.wait_for("READY=1", after=begin)
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    output = process.stdout.read()
    assert str(process.wait()) in values(text, "SuccessExitStatus")[0].split()
    assert "CREDENTIALS_DIRECTORY=None" in output
    assert CANARY not in output
    assert home.is_free()


def test_a_backend_that_is_given_up_is_not_started_by_systemd_either(home: Home) -> None:
    """Its code is none that systemd restarts for; a supervisor that is killed it does restart (a signal)."""
    home.fake("--exit-at-start", "7")
    text = unit(home, "--port", "0")
    process = home.begin("--restart", "never")
    process.communicate()
    assert process.returncode == 7
    assert values(text, "Restart") == ["on-abnormal"]
    assert str(process.returncode) not in values(text, "RestartForceExitStatus")[0].split()
    home.fake()
    process = home.begin()
    home.wait_for_state("ready")
    psutil.Process(process.pid).kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    wait_for(home.is_free, what="the end of the tree")


def test_the_first_line_is_the_mark_of_aimind(home: Home) -> None:
    first, second = unit(home, "--", "--lora", "a b").splitlines()[:2]
    assert re.match("# Made by aimind unit", first)
    assert second == "# aimind unit demo --backend llama-server -- --lora 'a b'"

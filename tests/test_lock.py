"""`aimind lock` and `aimind serve --frozen`: exactly that again, or a refusal that names what differs."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from aimind import lock, plan
from aimind.errors import AimindError
from aimind.hub.local import DEMO, DEMO_GGUF
from aimind.launchers import LAUNCHERS
from aimind.types import Metadata, Model, Request
from tests.fakes.hub import Fault, Hub
from tests.instances.conftest import Home, home
from tests.samples import llama, model
from tests.supervisor.harness import LINUX
from tests.test_golden import MACHINES, machine, read

__all__ = ["home", "read"]
pytestmark = LINUX
CANARY = "canary-77c1"
WORDS = ("--backend", "llama-server")


def made(home: Home, *words: str) -> dict[str, Any]:
    home.good("lock", "demo", *WORDS, *words)
    return tomllib.loads((home.folder / "aimind.lock").read_text("utf-8"))


def refused(home: Home, *words: str, code: int = 7) -> str:
    done = home.run("serve", "--frozen", "aimind.lock", *words)
    assert done.returncode == code, done.stdout + done.stderr
    assert not list(home.state.glob("instances/*"))
    return done.stderr


def change(home: Home, old: str, new: str) -> None:
    path = home.folder / "aimind.lock"
    text = path.read_text("utf-8")
    assert text.count(old) == 1, text
    path.write_text(text.replace(old, new), "utf-8")


# ── What is written ────────────────────────────────────────────────────────────────────────────────────────


def test_a_lock_says_all_of_it(home: Home) -> None:
    found = made(home, "--context", "4k", "--env", "A=two words", "--", "--threads", "3")
    assert (found["model"], found["backend"], found["backend_version"]) == ("demo", "llama-server", "9999")
    (file,) = found["files"]
    assert file["path"] == DEMO_GGUF
    assert file["size_bytes"] == (DEMO / DEMO_GGUF).stat().st_size
    assert len(file["sha256"]) == 64
    assert found["settings"]["max_model_len"] == 4096
    assert found["env"] == {"A": "two words"}
    command = home.good("serve", "demo", *WORDS, "--context", "4k", "--dry-run", "--", "--threads", "3")
    flags = [word for word in command.split() if word.startswith("--")]
    assert [each["flag"] for each in found["flags"]] == flags
    why = {each["flag"]: each["why"] for each in found["flags"]}
    assert all(why.values())
    assert why["--threads"] == "asked for"
    assert why["--n-gpu-layers"] == "all layers are in RAM, because no device is used"
    assert str(home.folder) not in json.dumps(found)
    assert (
        "# aimind lock demo --backend llama-server --context 4k" in (home.folder / "aimind.lock").read_text()
    )


def test_what_is_configured_is_locked(home: Home) -> None:
    (home.folder / "aimind.toml").write_text(
        'context = 4096\n[backends.llama-server]\nargs = ["--threads", 3]'
    )
    home.good("config", "trust")
    found = made(home)
    assert found["settings"]["max_model_len"] == 4096
    assert {"flag": "--threads", "value": "3", "why": "asked for"} in found["flags"]
    (home.folder / "aimind.toml").write_text("context = 2048\nnonsense")
    assert "--threads 3" in home.good("serve", "--frozen", "aimind.lock", "--dry-run")


def test_no_secret_is_written(home: Home) -> None:
    home.env |= {"AIMIND_API_KEY": CANARY, "WANDB_API_KEY": CANARY}
    found = made(home, "--env", "WANDB_API_KEY")
    assert found["has_key"]
    assert found["env_names"] == ["WANDB_API_KEY"]
    assert CANARY not in (home.folder / "aimind.lock").read_text()
    shown = home.good("serve", "--frozen", "aimind.lock", "--dry-run")
    assert CANARY not in shown
    del home.env["WANDB_API_KEY"]
    assert "export WANDB_API_KEY" in refused(home, code=2)
    home.env["WANDB_API_KEY"] = "x"
    del home.env["AIMIND_API_KEY"]
    assert "the lock was made for a server with an API key" in refused(home, code=2)


@pytest.mark.parametrize("name", ["llama-3.1-8b.Q4_K_M", "qwen3-30b-a3b.Q4_K_M", "gemma-3-12b.Q4_K_M"])
@pytest.mark.parametrize("size", MACHINES)
def test_what_is_decided_can_be_asked_for(
    read: Callable[[str], tuple[Model, Metadata]], name: str, size: str
) -> None:
    """A plan of its own settings is the same plan; a lock lives on that."""
    check(*read(name), size, Request())
    check(*read(name), size, Request(max_model_len=8192, max_num_seqs=2))


@pytest.mark.parametrize("backend", ["vllm", "sglang", "transformers", "mlx"])
@pytest.mark.parametrize("size", MACHINES)
def test_it_can_of_every_backend(backend: str, size: str) -> None:
    check(model(llama()), llama(), size, Request(backend=backend))


def check(of: Model, described: Metadata, size: str, asked: Request) -> None:
    host = machine(size)
    try:
        first = plan.make(of, described, host, asked, LAUNCHERS)
    except AimindError:
        return  # there is nothing to lock
    written = lock.Lock(
        model="demo",
        backend=first.backend.name,
        backend_version=first.backend.version,
        settings=lock.settings(first.settings),
        env={"A b": 'quoted " \\ \x7f é\n'},
        files=(lock.LockedFile(path="a", size_bytes=1, sha256="x"),),
        flags=(lock.LockedFlag(flag="--a", why="asked for"),),
    )
    again = lock.read(lock.text(written, made_by="aimind lock").encode())
    lock.check(written, again)
    assert (again.files, again.flags, again.env) == (written.files, written.flags, written.env)
    second = plan.make(of, described, host, again.request(None, {}), LAUNCHERS)
    assert dataclasses.replace(second.settings, env={}) == dataclasses.replace(first.settings, env={})
    assert (second.shards, second.host) == (first.shards, first.host)


# ── Serving ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_lock_is_served_and_started_again(home: Home) -> None:
    made(home, "--port", "0", "--context", "4k", "--", "--threads", "3")
    home.good("serve", "--frozen", "aimind.lock", "--detach", "--name", "locked", "--restart", "never")
    for _ in range(2):
        words = psutil.Process(home.status("locked")["backend_pid"]).cmdline()
        assert words[-2:] == ["--threads", "3"]
        assert words[words.index("--ctx-size") + 1] == "16384"
        assert home.status("locked")["argv"] == ["--frozen", "aimind.lock", "--restart", "never"]
        home.good("stop", "locked")
        home.good("start", "locked")


def test_a_lock_and_nothing_besides(home: Home) -> None:
    made(home)
    assert "--frozen cannot be combined with --context" in refused(home, "--context", "4k", code=2)
    assert "cannot be combined with the arguments after --" in refused(home, "--", "--threads", "3", code=2)
    assert "the model is already set by the lock" in refused(home, "demo", code=2)
    assert "the model is missing" in home.run("serve").stderr
    home.env["AIMIND_CONTEXT"] = "4096"  # is not heard
    assert "--ctx-size 32768" in home.good("serve", "--frozen=aimind.lock", "--dry-run")


def test_a_file_is_replaced_only_where_it_is_a_lock(home: Home) -> None:
    path = home.folder / "aimind.lock"
    path.write_text("my notes\n")
    done = home.run("lock", "demo", *WORDS)
    assert (done.returncode, path.read_text()) == (2, "my notes\n")
    assert "exists and is not a lock" in done.stderr
    path.unlink()
    assert "aimind.lock is written" in home.run("lock", "demo", *WORDS).stderr
    assert "aimind.lock is replaced" in home.run("lock", "demo", *WORDS).stderr


def test_another_file_is_refused(home: Home) -> None:
    path = home.folder / "m.gguf"
    shutil.copy(DEMO / DEMO_GGUF, path)
    home.good("lock", "./m.gguf", *WORDS)
    home.good("serve", "--frozen", "aimind.lock", "--dry-run")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    said = refused(home)
    assert f"error: {path} is not the locked file: its sha256 is " in said
    path.write_bytes(content[:-1])
    assert (
        f"{path} is not the locked file: it has {len(content) - 1} bytes instead of {len(content)}"
        in refused(home)
    )
    path.unlink()
    assert "does not exist" in refused(home, code=3)


def test_another_version_of_the_backend_is_refused(home: Home) -> None:
    made(home)
    change(home, 'backend_version = "9999"', 'backend_version = "9998"')
    assert "version 9999 is installed here, not the requested one" in refused(home)


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ('value = "32768"', 'value = "16384"', "--ctx-size is '16384' in the lock and '32768' here"),
        (
            'flag = "--cache-ram"\nvalue = "0"',
            'flag = "--gone"\nvalue = "0"',
            "--gone is '0' in the lock and not set",
        ),
        ("gpu_layers = 0", "gpu_layers = 3", "--gpu-layers 3 needs a GPU"),
        ("[settings]\n", "[settings]\nbatch_size = 64\n", ""),
    ],
)
def test_what_would_be_otherwise_is_refused(home: Home, old: str, new: str, difference: str) -> None:
    made(home, "--device", "none")
    if "batch_size" in new:
        text = (home.folder / "aimind.lock").read_text("utf-8")
        (home.folder / "aimind.lock").write_text(text.replace("\nbatch_size = 2048", ""), "utf-8")
        difference = "--batch-size is '2048' in the lock and '64' here"
    change(home, old, new)
    done = home.run("serve", "--frozen", "aimind.lock", "--dry-run")
    assert done.returncode != 0
    assert difference in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lock = 1\n", "lock = 2\n", "is not a lock of format 1"),
        ("lock = 1\n", "lock = 1\nmore = 1\n", "more: Unexpected keyword argument"),
        ('model = "demo"', "model = 1", "model: Input should be a valid string"),
        (
            "max_model_len = 8192",
            "max_model_len = 'x'",
            "settings.max_model_len: Input should be a valid integer",
        ),
        ("max_model_len = 8192", "api_key = 'x'", "settings.api_key: there is no such setting"),
        ("[settings]", "[settings", "the lock is damaged: "),
        (f'path = "{DEMO_GGUF}"', 'path = "../../etc/passwd"', "../../etc/passwd"),
        (f'path = "{DEMO_GGUF}"', 'path = "/etc/passwd"', "/etc/passwd"),
        ('model = "demo"', 'model = "owner/demo"', "it names no commit"),
        ('model = "demo"', 'model = "demo"\ncommit = "x"', ""),
    ],
)
def test_a_damaged_lock(home: Home, old: str, new: str, message: str) -> None:
    made(home)
    change(home, old, new)
    done = home.run("serve", "--frozen", "aimind.lock", "--dry-run")
    assert done.returncode in (2, 4, 7), done.stderr
    assert "error: " in done.stderr
    assert message in done.stderr
    assert "bug" not in done.stderr


# ── On a hub ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("prefix", ["hf:", "ms:"])
def test_a_model_of_a_hub(home: Home, tmp_path: Path, prefix: str) -> None:
    """Locked without its weights, fetched at that commit, and then served without the hub."""
    folder = tmp_path / "repositories"
    (folder / "owner" / "demo").mkdir(parents=True)
    shutil.copy(DEMO / DEMO_GGUF, folder / "owner" / "demo")
    cache = home.folder / "cache"
    with Hub(folder) as hub:
        home.env |= {"HF_ENDPOINT": hub.url, "MODELSCOPE_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
        home.env |= {"HF_HOME": str(cache), "MODELSCOPE_CACHE": str(cache)}
        commit = hub.commit("owner/demo")
        home.good("lock", f"{prefix}owner/demo", *WORDS, "--port", "0", "-o", "a.lock")
        found = tomllib.loads((home.folder / "a.lock").read_text("utf-8"))
        assert (found["model"], found["commit"]) == (f"{prefix}owner/demo", commit)
        assert found["files"][0]["sha256"] == hub.hashes(DEMO / DEMO_GGUF)[1]
        assert not list(cache.rglob("blobs/*"))
        home.good("serve", "--frozen", "a.lock", "--detach", "--name", "chat")
        home.good("stop", "chat")
        before = len(hub.requests)
        home.good("serve", "--frozen", "a.lock", "--detach", "--name", "chat", "--offline")
        home.good("stop", "chat")
        assert len(hub.requests) == before
    home.good("start", "chat")
    assert f"/snapshots/{commit}/" in " ".join(psutil.Process(home.status("chat")["backend_pid"]).cmdline())
    home.good("remove", "--force", "chat")
    (blob,) = cache.rglob("blobs/*")
    with blob.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x55")
    for _ in range(2):  # the second time it has no other name
        done = home.run("serve", "--frozen", "a.lock", "--dry-run")
        assert done.returncode == 7, done.stderr
        assert "is not the locked file: its sha256" in done.stderr
        for each in cache.rglob(f"snapshots/*/{DEMO_GGUF}"):
            each.unlink()


def test_a_hub_that_tells_no_commit(home: Home, tmp_path: Path) -> None:
    """As ModelScope where the last commit changed none of the files that are left: the hashes say it all."""
    folder = tmp_path / "repositories"
    (folder / "owner" / "demo").mkdir(parents=True)
    shutil.copy(DEMO / DEMO_GGUF, folder / "owner" / "demo")
    with Hub(folder) as hub:
        home.env |= {"MODELSCOPE_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
        size, sha256 = (DEMO / DEMO_GGUF).stat().st_size, hub.hashes(DEMO / DEMO_GGUF)[1]
        listed = [{"Path": DEMO_GGUF, "Size": size, "Sha256": sha256, "Type": "blob"}]
        body = json.dumps({"Code": 200, "Data": {"Files": listed}}).encode()
        hub.faults.append(Fault("/repo/files", body=body))
        home.good("lock", "ms:owner/demo@master", *WORDS, "--port", "0")
        found = tomllib.loads((home.folder / "aimind.lock").read_text("utf-8"))
        assert (found["model"], "commit" in found) == ("ms:owner/demo@master", False)
        for words in ((), ("--offline",)):
            home.good("serve", "--frozen", "aimind.lock", "--detach", "--name", "chat", *words)
            home.good("stop", "chat")
        with (folder / "owner" / "demo" / DEMO_GGUF).open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x55")
        home.good("remove", "--yes", "chat", "ms:owner/demo")
        done = home.run("serve", "--frozen", "aimind.lock", "--detach")
        assert done.returncode == 4
        assert f"instead of {sha256}" in done.stderr

"""`models --prune` and `remove`, as a shell runs them: nothing goes that somebody uses."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import subprocess
import threading
from pathlib import Path

import huggingface_hub
import psutil
import pytest
from filelock import FileLock

from tests.fakes.hub import Fault
from tests.instances.conftest import AIMIND
from tests.shop import GGUF, NAME, Shop, half, serving, shop
from tests.supervisor.harness import LINUX, wait_for

__all__ = ["shop"]
OLD = 1_000_000_000.0  # in September 2001


# ── prune ──────────────────────────────────────────────────────────────────────────────────────────────────


def aged(path: Path) -> Path:
    os.utime(path, (OLD, OLD), follow_symlinks=False)
    return path


def test_prune_removes_what_broken_downloads_left(shop: Shop) -> None:
    shop.good("pull", f"{NAME}:Q8_0")
    blobs = shop.repository() / "blobs"
    leaked = [
        half(shop),
        blobs / f"{'cd' * 32}.0123abcd.incomplete",
        blobs / ("ef" * 32),  # a content that no snapshot shows
        aged_file(shop.repository() / "refs" / "main.1234.tmp"),
        aged_file(shop.cache / "tmpabcd_123"),
        shop.modelscope / "models/o--n/snapshots/master/model.safetensors.incomplete",
        aged_file(shop.modelscope / "models/o--n/snapshots/master/model.safetensors.parallel_tmp"),
        aged_file(shop.modelscope / "models/o--n/blobs" / ("12" * 32)),
    ]
    for path in leaked:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.exists() or path.write_bytes(bytes(100))
    old = shop.modelscope / "hub/models/o/n/._____temp"
    old.mkdir(parents=True)
    (old / "x").write_bytes(bytes(100))
    aged(old)
    kept = shop.modelscope / "models/o--n/snapshots/master/config.json"
    kept.write_text("{}")
    before = shop.json("models")["size_bytes"]
    removed = shop.json("models", "--prune")
    assert {Path(each["path"]) for each in removed["removed"]} == {*leaked, old}
    assert not any(path.exists() for path in (*leaked, old))
    assert removed["freed_bytes"] == 5000 + 8 * 100
    assert shop.json("models")["size_bytes"] == before - 5000 - 7 * 100  # one was in no repository
    assert kept.exists()
    assert shop.here()[f"{NAME}:Q8_0"]["complete"]
    assert shop.json("models", "--prune") == {"schema": 1, "removed": [], "freed_bytes": 0}


def aged_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(100))
    return aged(path)


def test_prune_leaves_a_running_download_alone(shop: Shop) -> None:
    theirs = half(shop)
    lock = shop.cache / ".locks" / shop.repository().name / f"{'ab' * 32}.lock"
    other = half(shop, "owner/other")
    scope = shop.modelscope / ".lock" / "file_0.lock"
    part = shop.modelscope / "models/o--n/snapshots/master/model.safetensors.incomplete"
    for path in (lock, scope, part):
        path.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(b"x")
    with FileLock(lock), FileLock(scope):
        here = {each["reference"]: each["downloading"] for each in shop.json("models")["models"]}
        assert here == {"ms:o/n": True, "owner/other": False, NAME: True}
        assert "downloading" in shop.good("models")
        removed = shop.json("models", "--prune")["removed"]
        assert [each["path"] for each in removed] == [str(other)]
    assert theirs.exists()
    assert part.exists()
    assert {each["path"] for each in shop.json("models", "--prune")["removed"]} == {str(theirs), str(part)}


@pytest.mark.parametrize("prefix", ["", "ms:"])
def test_a_download_that_runs_keeps_its_first_part(shop: Shop, prefix: str) -> None:
    header = Fault("/cdn/", times=1)  # nothing goes wrong while that is read
    shop.hub.faults += [header, Fault("/cdn/", hold_after=1000)]
    process = shop.start("pull", f"{prefix}{NAME}:Q8_0")
    wait_for(
        lambda: any(each["size_bytes"] for each in shop.json("models")["leftovers"]), what="a first part"
    )
    (left,) = shop.json("models")["leftovers"]
    assert (left["half"], left["busy"], left["reference"]) == (True, True, f"{prefix}{NAME}")
    assert shop.json("models", "--prune")["removed"] == []
    shop.fails(1, "another program is downloading", "remove", f"{prefix}{NAME}", "--yes")
    process.kill()
    process.wait()
    wait_for(lambda: not shop.json("models")["leftovers"][0]["busy"], what="the lock to be free")
    assert [each["path"] for each in shop.json("models", "--prune")["removed"]] == [left["path"]]
    shop.hub.go_on.set()


def test_prune_leaves_alone_what_is_only_young(shop: Shop) -> None:
    young = shop.repository() / "refs" / "main.1234.tmp"
    young.parent.mkdir(parents=True)
    young.write_text("0" * 40)
    assert shop.json("models", "--prune")["removed"] == []
    assert young.exists()


def test_a_pull_goes_on_after_prune(shop: Shop) -> None:
    half(shop)
    shop.good("models", "--prune")
    shop.good("pull", NAME)
    assert shop.here()[f"{NAME}:Q4_K_M"]["complete"]


# ── remove ─────────────────────────────────────────────────────────────────────────────────────────────────


def on_disk(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def sound(shop: Shop) -> None:
    """The client of the hub finds no fault with its cache."""
    assert huggingface_hub.scan_cache_dir(shop.cache).warnings == []


def test_remove_a_whole_model(shop: Shop) -> None:
    shop.good("pull", NAME)
    shop.good("pull", "owner/safe")
    half(shop)
    expected = on_disk(shop.repository() / "blobs")
    done = shop.run("remove", NAME, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "schema": 1,
        "removed": [NAME],
        "freed_bytes": expected + 40,  # the branch's commit
    }
    assert f"{NAME} is removed: " in done.stderr
    assert not shop.repository().exists()
    assert list(shop.here()) == ["owner/safe"]
    sound(shop)


def test_remove_one_quantization(shop: Shop) -> None:
    (shop.hub.folder / NAME / "mmproj-F16.gguf").write_bytes(GGUF[:1000])
    shop.good("pull", f"{NAME}:Q8_0")
    shop.good("pull", f"{NAME}:Q4_K_M")
    done = shop.json("remove", f"{NAME}:q8_0", "-y")
    assert done["freed_bytes"] == len(GGUF) + 4096
    assert list(shop.here()) == [f"{NAME}:Q4_K_M"]
    assert len(shop.here()[f"{NAME}:Q4_K_M"]["files"]) == 2
    sound(shop)
    shop.fails(3, "Q4_K_M of main", "remove", f"{NAME}:Q8_0", "-y")
    shop.json("remove", f"{NAME}/small-Q4_K_M.gguf", "-y")  # the last one takes its projector with it
    assert not shop.repository().exists()


def test_what_another_revision_shows_too_stays(shop: Shop) -> None:
    first = shop.json("pull", f"{NAME}:Q8_0")["commit"]
    (shop.hub.folder / NAME / "small-Q4_K_M.gguf").write_bytes(GGUF + b"new")
    shop.good("pull", f"{NAME}:Q8_0")
    shop.good("pull", f"{NAME}:Q4_K_M")
    assert shop.json("remove", f"{NAME}@{first[:8]}", "-y")["freed_bytes"] == 0
    assert set(shop.here()) == {f"{NAME}:Q8_0", f"{NAME}:Q4_K_M"}
    assert {each["complete"] for each in shop.here().values()} == {True}
    sound(shop)
    shop.fails(3, "is not in the cache", "remove", f"{NAME}@{first}", "-y")


def test_a_copy_of_a_repository_has_the_same_commits(shop: Shop) -> None:
    shutil.copytree(shop.hub.folder / NAME, shop.hub.folder / "owner" / "copy")
    commit = shop.json("pull", f"{NAME}:Q8_0")["commit"]
    assert shop.json("pull", "owner/copy:Q8_0")["commit"] == commit
    shop.good("remove", f"owner/copy@{commit}", "-y")
    assert list(shop.here()) == [f"{NAME}:Q8_0"]


def test_remove_of_modelscope(shop: Shop) -> None:
    master = shop.modelscope / "models/o--n/snapshots/master"
    other = shop.modelscope / "models/o--n/snapshots/v1"
    blobs = shop.modelscope / "models/o--n/blobs"
    for folder in (master, other, blobs):
        folder.mkdir(parents=True)
    for number, name in enumerate(("n-Q4_K_M.gguf", "n-Q8_0.gguf")):
        blob = blobs / (str(number) * 64)
        blob.write_bytes(bytes(1000 + number))
        (master / name).hardlink_to(blob)
    (other / "n-Q8_0.gguf").hardlink_to(blob)
    old = shop.modelscope / "hub/models/o/n___2"
    old.mkdir(parents=True)
    (old / "model.safetensors").write_bytes(bytes(10))
    (old.parent / "n.2").symlink_to(old.name)
    assert list(shop.here()) == ["ms:o/n:Q4_K_M", "ms:o/n:Q8_0", "ms:o/n@v1:Q8_0", "ms:o/n.2"]
    assert shop.json("remove", "ms:o/n@v1", "-y")["freed_bytes"] == 0
    assert shop.json("remove", "ms:o/n:Q4_K_M", "-y")["freed_bytes"] == 1000
    assert list(shop.here()) == ["ms:o/n:Q8_0", "ms:o/n.2"]
    assert shop.json("remove", "ms:o/n", "ms:o/n.2", "-y")["freed_bytes"] == 1001 + 10
    assert not old.exists()
    assert not (old.parent / "n.2").is_symlink()
    assert shop.here() == {}


def answered(shop: Shop, answer: bytes, *words: str) -> tuple[int, str]:
    """The exit code, and what is on the terminal, where the answer is typed at the question."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [str(AIMIND), *words], stdin=theirs, stdout=theirs, stderr=theirs, env=shop.env, cwd=shop.folder
    )
    os.close(theirs)
    end = threading.Timer(120, process.kill)  # should it never ask, or never end
    end.start()
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while block := os.read(ours, 1 << 16):
            shown += block
            if b"[y/N]" in shown and answer:
                os.write(ours, answer)
                answer = b""
    os.close(ours)
    code = process.wait()
    end.cancel()
    return code, shown.decode()


def test_remove_asks(shop: Shop) -> None:
    shop.good("pull", f"{NAME}:Q8_0")
    shop.fails(2, "cannot ask for confirmation", "remove", NAME)
    code, shown = answered(shop, b"n\n", "remove", NAME)
    assert code == 1
    assert str(shop.repository()) in shown
    assert "nothing was removed" in shown
    assert shop.here()
    code, shown = answered(shop, b"\x04", "remove", NAME)
    assert (code, bool(shop.here())) == (130, True)
    code, shown = answered(shop, b"y\n", "remove", NAME)
    assert (code, shop.here()) == (0, {})
    assert "freed" in shown


@pytest.mark.parametrize("prefix", ["", "ms:"])
def test_a_branch_with_a_slash(shop: Shop, prefix: str) -> None:
    for branch in ("feature%2Fx", "feature%2Fy"):
        shutil.copytree(shop.hub.folder / NAME, shop.hub.folder / f"{NAME}@{branch}")
        shop.good("pull", f"{prefix}{NAME}@{branch}")
    names = [f"{prefix}{NAME}@feature%2F{each}" for each in "xy"]
    assert set(shop.here()) == {f"{name}:Q4_K_M" for name in names}
    shop.good("remove", names[0], "--yes")
    assert set(shop.here()) == {f"{names[1]}:Q4_K_M"}
    shop.good("pull", f"{prefix}{NAME}")
    shop.good("remove", names[1], "--yes")
    assert set(shop.here()) == {f"{prefix}{NAME}:Q4_K_M"}


@LINUX
def test_remove_refuses_what_an_instance_uses(shop: Shop) -> None:
    shop.good("pull", f"{NAME}:Q8_0")
    shop.good("pull", f"{NAME}:Q4_K_M")
    with serving(shop, f"{NAME}:Q8_0"):
        for reference in (NAME, f"{NAME}:Q8_0", f"{NAME}@{shop.hub.commit(NAME)}"):
            shop.fails(13, "instance chat uses", "remove", reference, "--yes")
        assert set(shop.here()) == {f"{NAME}:Q8_0", f"{NAME}:Q4_K_M"}
        shop.good("remove", f"{NAME}:Q4_K_M", "--yes")
        shop.fails(13, "instance chat is running", "remove", "chat", "--yes")
    shop.good("stop", "chat")
    shop.good("remove", NAME, "chat", "--yes")
    assert shop.here() == {}
    assert shop.json("ps")["instances"] == []


@LINUX
@LINUX
@pytest.mark.parametrize("default", ["hf", "ms"])
def test_an_instance_uses_that_of_its_hub(shop: Shop, default: str) -> None:
    """Whatever hub a bare name was on then, and is on now."""
    for name in (f"hf:{NAME}", f"ms:{NAME}"):
        shop.good("pull", name)
    other = {"hf": "ms", "ms": "hf"}[default]
    shop.env["AIMIND_HUB"] = default
    with serving(shop, NAME):
        for later in (default, other):
            shop.env["AIMIND_HUB"] = later
            shop.fails(13, "instance chat uses", "remove", f"{default}:{NAME}", "--yes")
        shop.good("remove", f"{other}:{NAME}", "--yes")
    shop.good("stop", "chat")
    shop.good("start", "chat")  # with nothing to fetch
    assert f"{'models--' if default == 'hf' else 'models/'}owner" in " ".join(
        psutil.Process(shop.status("chat")["backend_pid"]).cmdline()
    )
    shop.good("stop", "chat")


def test_what_an_instance_may_use_is_refused(shop: Shop) -> None:
    repository = shop.hub.folder / NAME
    (repository / "small-Q8_0.gguf").rename(repository / "small-UD-Q8_K_XL.gguf")
    for shape in ("UD-Q8_K_XL", "Q4_K_M"):
        shop.good("pull", f"{NAME}:{shape}")
    for told in ([f"{NAME}:Q8_K_XL"], [NAME, "--quant", "q8_k_xl"], [f"{NAME}:gguf"]):
        with serving(shop, *told):
            shop.fails(13, "instance chat uses", "remove", f"{NAME}:UD-Q8_K_XL", "--yes")
        shop.good("stop", "chat")
    assert len(shop.here()) == 2


@LINUX
def test_remove_refuses_what_an_instance_uses_by_its_path(shop: Shop) -> None:
    folder = Path(shop.good("pull", f"{NAME}:Q8_0").strip())
    with serving(shop, str(folder / "small-Q8_0.gguf")):
        shop.fails(13, "instance chat uses", "remove", f"{NAME}:Q8_0", "--yes")


def test_remove_refuses_what_is_being_downloaded(shop: Shop) -> None:
    half(shop)
    lock = shop.cache / ".locks" / shop.repository().name / f"{'ab' * 32}.lock"
    lock.parent.mkdir(parents=True)
    with FileLock(lock):
        shop.fails(1, "another program is downloading", "remove", NAME, "--yes")
    shop.good("remove", NAME, "--yes")
    assert shop.here() == {}


def test_what_remove_refuses(shop: Shop) -> None:
    shop.good("pull", f"{NAME}:Q8_0")
    shop.fails(3, "is not in", "remove", "owner/other", "--yes")
    shop.fails(3, "is not in", "remove", f"ms:{NAME}", "--yes")
    shop.fails(3, "is not in the cache", "remove", f"{NAME}@v9", "--yes")
    shop.fails(2, "not a model in the cache", "remove", "./model.gguf", "--yes")
    shop.fails(2, "is not a weights file", "remove", "a/b/c", "--yes")
    shop.fails(13, "no instance", "remove", NAME, "nobody", "--yes")
    assert shop.here()

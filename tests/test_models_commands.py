"""`search`, `files`, `pull` and `models`, as a shell runs them, with both hubs on loopback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import models
from tests.fakes.search import Entry, SearchHub
from tests.shop import DEMO, GGUF, NAME, Shop, half, serving, shop
from tests.supervisor.harness import LINUX

__all__ = ["shop"]
OLD = 1_000_000_000.0  # in September 2001


# ── search ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def search(shop: Shop) -> Iterator[SearchHub]:
    small = {"gguf": {"total": 100_000_000}, "siblings": [{"rfilename": "small-Q4_K_M.gguf"}]}
    huge = {"safetensors": {"parameters": {"BF16": 10**13}, "total": 10**13}}
    entries = (
        Entry("owner/small-GGUF", 1234, ("gguf",), details=small),
        Entry("owner/huge", 99, ("safetensors",), gated=True, details=huge),
        Entry("owner/unknown", 7),
    )
    with SearchHub(*entries) as running:
        shop.env |= {"HF_ENDPOINT": running.url, "MODELSCOPE_ENDPOINT": running.url}
        yield running


def test_search_for_a_person(shop: Shop, search: SearchHub) -> None:
    done = shop.run("search", "owner/")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == ["NAME", "owner/small-GGUF", "owner/huge", "owner/unknown"]
    assert {"1,234", "58", "MiB", "(Q4_K_M)", "gguf"} <= set(rows[1])
    assert "no" not in rows[1]
    assert {"(gated)", "18626.5", "safetensors", "no"} <= set(rows[2])
    assert rows[3] == ["owner/unknown", "7"]
    assert "`aimind plan NAME` counts everything" in done.stderr


def test_search_for_a_program(shop: Shop, search: SearchHub) -> None:
    small, huge, unknown = shop.json("search", "owner", "--limit", "3")["models"]
    assert small["reference"] == "owner/small-GGUF"
    assert small["about"]["quantization"] == "Q4_K_M"
    assert small["about"]["fits"] in ("RAM", "devices")
    assert huge["about"] == {"size_bytes": 2 * 10**13, "fits": "nowhere"}
    assert "about" not in unknown
    found = shop.json("search", "small", "--hub", "ms", "--gguf", "--category", "llm")["models"]
    assert [each["reference"] for each in found] == ["ms:owner/small-GGUF"]


def test_search_hears_which_hub_is_meant_and_no_more(shop: Shop, search: SearchHub, tmp_path: Path) -> None:
    """A category that is configured is that of serving."""
    (tmp_path / "aimind.toml").write_text('hub = "ms"\ncategory = "embedding"\n', "utf-8")
    shop.good("config", "trust")
    found = shop.json("search", "small")["models"]
    assert {each["hub"] for each in found} == {"modelscope"}
    assert {each["hub"] for each in shop.json("search", "small", "--hub", "hf")["models"]} == {"huggingface"}


def test_offline_is_configured_for_all(shop: Shop, search: SearchHub) -> None:
    shop.env["AIMIND_OFFLINE"] = "1"
    shop.fails(4, "search needs the network", "search", "small")
    shop.fails(4, "aimind is offline", "pull", NAME)
    assert search.asked == []
    shop.env["HF_ENDPOINT"] = shop.hub.url
    del shop.env["AIMIND_OFFLINE"]
    folder = shop.good("pull", NAME)
    shop.hub.requests.clear()
    assert shop.good("pull", NAME, "--offline") == folder
    assert shop.hub.requests == []


def test_of_two_hubs_one_is_enough(shop: Shop, search: SearchHub) -> None:
    found = shop.json("search", "small", "--hub", "both")["models"]
    assert [each["reference"] for each in found] == ["owner/small-GGUF", "ms:owner/small-GGUF"]
    with SearchHub() as gone:
        pass
    shop.env["MODELSCOPE_ENDPOINT"] = gone.url
    done = shop.run("search", "small", "--hub", "both")
    assert (done.returncode, "owner/small-GGUF" in done.stdout) == (0, True)
    assert f"note: {gone.url} cannot be reached" in done.stderr
    shop.fails(4, "cannot be reached", "search", "nothing", "--hub", "both")


def test_what_search_refuses(shop: Shop, search: SearchHub) -> None:
    shop.fails(2, "the search has no words", "search")
    shop.fails(2, "--category", "search", "--category", "poetry")
    shop.fails(2, "--limit", "search", "x", "--limit", "0")
    shop.fails(3, "finds nothing for 'quite other'", "search", "quite", "other")
    search.answers = [(401, b"", {})]
    shop.fails(4, "refused access to its search", "search", "x")


# ── files ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_files_are_those_of_plan_and_say_which_are_here(shop: Shop) -> None:
    shop.good("pull", f"{NAME}:Q8_0")
    done = shop.run("files", NAME, "--hardware", "24G")
    assert done.returncode == 0, done.stderr
    _, large, small = done.stdout.splitlines()
    assert ("Q8_0" in large, "yes" in large.split()) == (True, True)
    assert ("Q4_K_M" in small, "yes" in small.split(), "→" in small) == (True, False, True)
    assert shop.run("plan", NAME, "--hardware", "24G", "--files").stdout == done.stdout
    listed = shop.json("files", NAME, "--hardware", "24G")["candidates"]
    assert listed == shop.json("plan", NAME, "--hardware", "24G", "--files")["candidates"]
    assert [each["quantization"] for each in listed] == ["Q8_0", "Q4_K_M"]


def test_files_of_both_formats(shop: Shop) -> None:
    shutil.copy(shop.hub.folder / NAME / "small-Q8_0.gguf", shop.hub.folder / "owner" / "safe")
    listed = shop.json("files", "owner/safe", "--hardware", "24G")["candidates"]
    assert [each["quantization"] for each in listed] == ["model.safetensors", "Q8_0"]
    assert [each["chosen"] for each in listed] == [True, False]
    alone = shop.json("files", "owner/safe:safetensors", "--hardware", "24G")["candidates"]
    assert [each["quantization"] for each in alone] == ["model.safetensors"]


def test_files_are_shown_where_nothing_fits(shop: Shop) -> None:
    models.header("llama-3.1-8b.Q4_K_M", shop.folder)
    done = shop.run("files", "./llama-3.1-8b.Q4_K_M.gguf", "--hardware", "1G", "--no-cpu-offload")
    assert done.returncode == 0, done.stderr
    assert "no" in done.stdout.splitlines()[1].split()
    assert "note: " in done.stderr
    listed = shop.json("files", "./llama-3.1-8b.Q4_K_M.gguf", "--hardware", "1G", "--no-cpu-offload")
    assert [(each["fits"], each["chosen"]) for each in listed["candidates"]] == [(False, False)]


def test_files_are_shown_where_no_backend_is_right(shop: Shop) -> None:
    done = shop.run("files", NAME, "--backend", "vllm")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == ["Q8_0", "Q4_K_M"]
    assert "note: " in done.stderr


# ── pull ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_pull_brings_what_would_be_served_and_nothing_else(shop: Shop) -> None:
    (shop.hub.folder / "owner" / "safe" / "pytorch_model.bin").write_bytes(b"pickled")
    folder = Path(shop.good("pull", "owner/safe").strip())
    assert {path.name for path in folder.iterdir()} == {
        path.name for path in (DEMO / "huggingface").iterdir()
    }
    assert shop.here()["owner/safe"]["complete"]
    assert not list((shop.state).glob("instances/*"))


def test_pull_takes_the_usual_quantization(shop: Shop) -> None:
    found = shop.json("pull", NAME)
    assert [file["path"] for file in found["files"]] == ["small-Q4_K_M.gguf"]
    assert found["commit"] == shop.hub.commit(NAME)
    assert (Path(found["folder"]) / "small-Q4_K_M.gguf").read_bytes() == GGUF
    best = shop.json("pull", NAME, "--quant", "best")
    assert [file["path"] for file in best["files"]] == ["small-Q8_0.gguf"]
    assert list(shop.here()) == [f"{NAME}:Q4_K_M", f"{NAME}:Q8_0"]


def test_pull_brings_what_does_not_fit_too(shop: Shop) -> None:
    llama = shop.hub.folder / "owner" / "odd"
    llama.mkdir()
    (llama / "odd-Q4_K_M.gguf").write_bytes(b"GGUF" + bytes(64))
    done = shop.run("pull", "owner/odd")
    assert done.returncode == 0, done.stderr
    assert list(shop.here()) == ["owner/odd:Q4_K_M"]


def test_a_quiet_pull_prints_where_it_is_and_no_more(shop: Shop) -> None:
    done = shop.run("pull", NAME, "--quiet")
    assert Path(done.stdout.strip()).is_dir()
    assert done.stderr == ""
    assert "error: " in shop.fails(3, "there is no owner/nothing", "pull", "owner/nothing", "--quiet")


def test_pull_and_remove_hear_what_is_configured(shop: Shop, tmp_path: Path) -> None:
    configuration = tmp_path / "configured.toml"
    configuration.write_text('hub = "modelscope"\nquant = "Q8_0"\n', "utf-8")
    shop.env["AIMIND_CONFIG"] = str(configuration)
    shop.good("pull", NAME)
    (found,) = shop.here().values()
    assert (found["reference"], found["hub"]) == (f"{NAME}:Q8_0", "modelscope")  # as it is to be typed
    shop.env |= {"_AIMIND_COMPLETE": "complete_bash", "COMP_WORDS": "aimind serve own", "COMP_CWORD": "2"}
    assert shop.good().splitlines() == [NAME]
    del shop.env["_AIMIND_COMPLETE"]
    shop.good("remove", NAME, "--yes")
    assert shop.here() == {}


def test_what_pull_refuses(shop: Shop) -> None:
    shop.fails(2, "is already on this machine", "pull", "demo")
    shop.fails(2, "is not a weights file", "pull", "a/b/c")
    shop.fails(3, "there is no owner/nothing", "pull", "owner/nothing")
    shop.fails(3, "Q2_K", "pull", f"{NAME}:Q2_K")
    shop.hub.gated.add("owner/safe")
    shop.fails(4, "is gated", "pull", "owner/safe")
    shop.env["HF_HUB_OFFLINE"] = "1"
    shop.fails(4, "offline", "pull", NAME)
    assert shop.here() == {}


def test_pull_and_remove_of_modelscope(shop: Shop) -> None:
    for shape in ("Q8_0", "Q4_K_M"):
        assert shop.json("pull", f"ms:{NAME}:{shape}")["reference"] == f"ms:{NAME}:{shape}"
    assert list(shop.here()) == [f"ms:{NAME}:Q4_K_M", f"ms:{NAME}:Q8_0"]
    assert {each["complete"] for each in shop.here().values()} == {True}
    assert shop.json("models")["leftovers"] == []
    assert shop.json("remove", f"ms:{NAME}:Q8_0", "-y")["freed_bytes"] == len(GGUF) + 4096
    assert list(shop.here()) == [f"ms:{NAME}:Q4_K_M"]
    shop.env["AIMIND_HUB"] = "modelscope"
    assert list(shop.here()) == [f"{NAME}:Q4_K_M"]
    assert shop.json("remove", NAME, "-y")["freed_bytes"] > len(GGUF)
    assert shop.here() == {}
    assert not any(path.is_file() for path in (shop.modelscope / "models").rglob("*"))


# ── models ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_is_here(shop: Shop) -> None:
    assert "`aimind pull MODEL` downloads one" in shop.good("models")
    assert shop.json("models") == {"schema": 1, "models": [], "leftovers": [], "size_bytes": 0}


def test_models_of_both_hubs(shop: Shop) -> None:
    shop.good("pull", f"{NAME}:Q8_0")
    for place in ("models/Qwen--Qwen3-8B/snapshots/master", "hub/models/Qwen/Qwen2___5-7B", "AI-x/Old"):
        folder = shop.modelscope / place
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(bytes(1000))
        (folder / ".msc").write_bytes(b"pickle")
    (shop.modelscope / "hub/models/Qwen/Qwen2.5-7B").symlink_to("Qwen2___5-7B")
    found = shop.here()
    assert list(found) == ["ms:AI-x/Old", f"{NAME}:Q8_0", "ms:Qwen/Qwen2.5-7B", "ms:Qwen/Qwen3-8B"]
    assert {each["complete"] for each in found.values()} == {True}
    assert found["ms:Qwen/Qwen3-8B"]["size_bytes"] == 1002
    assert found[f"{NAME}:Q8_0"]["size_bytes"] == len(GGUF) + 4096
    assert found[f"{NAME}:Q8_0"]["commit"] == shop.hub.commit(NAME)
    shown = shop.run("models")
    assert [line.split()[0] for line in shown.stdout.splitlines()[1:]] == list(found)
    assert "complete" in shown.stdout
    assert "on the disk" in shown.stderr


def test_models_that_the_hubs_own_clients_fetched(shop: Shop) -> None:
    for package, expected in (("huggingface_hub", NAME), ("modelscope_hub.compat", f"ms:{NAME}")):
        program = f"from {package} import snapshot_download; snapshot_download({NAME!r})"
        subprocess.run([sys.executable, "-c", program], env=shop.env, check=True, capture_output=True)
        found = {name: each for name, each in shop.here().items() if name.startswith(expected)}
        assert list(found) == [f"{expected}:Q4_K_M", f"{expected}:Q8_0"]
        assert {each["complete"] for each in found.values()} == {True}
    assert shop.json("models", "--prune")["removed"] == []
    shop.good("remove", NAME, f"ms:{NAME}:Q8_0", "--yes")
    assert list(shop.here()) == [f"ms:{NAME}:Q4_K_M"]


def test_models_without_a_network(shop: Shop) -> None:
    shop.good("pull", f"{NAME}:Q8_0")
    shop.env["HF_ENDPOINT"] = "http://127.0.0.1:1"
    before = len(shop.hub.requests)
    assert list(shop.here()) == [f"{NAME}:Q8_0"]
    assert len(shop.hub.requests) == before


def test_what_is_only_begun_is_shown_as_such(shop: Shop) -> None:
    half(shop)
    found = shop.here()[NAME]
    assert (found["complete"], found["size_bytes"], found["downloading"]) == (False, 5000, False)
    assert "first part" in found["missing"]
    shown = shop.run("models")
    assert "incomplete" in shown.stdout
    assert "--prune" in shown.stderr


def test_parts_that_are_missing(shop: Shop) -> None:
    folder = shop.modelscope / "models" / "o--split" / "snapshots" / "master"
    folder.mkdir(parents=True)
    for number in (1, 3):
        (folder / f"big-Q8_0-0000{number}-of-00003.gguf").write_bytes(b"GGUF")
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"safe")
    gguf, safe = shop.json("models")["models"]
    assert (gguf["reference"], safe["reference"]) == ("ms:o/split:Q8_0", "ms:o/split")
    assert "1 of the 3 parts" in gguf["missing"]
    assert "1 of the 2 parts" in safe["missing"]


def test_older_revisions_and_links_to_nowhere(shop: Shop) -> None:
    first = shop.json("pull", f"{NAME}:Q8_0")["commit"]
    (shop.hub.folder / NAME / "README.md").write_text("new")
    second = shop.json("pull", f"{NAME}:Q8_0")["commit"]
    assert first != second
    assert set(shop.here()) == {f"{NAME}:Q8_0", f"{NAME}@{first}:Q8_0"}
    shop.good("pull", "owner/safe")
    (shop.repository("owner/safe") / "blobs").rename(shop.folder / "lost")
    assert set(shop.here()) == {f"{NAME}:Q8_0", f"{NAME}@{first}:Q8_0", "owner/safe"}
    assert not shop.here()["owner/safe"]["complete"]
    shop.good("remove", "owner/safe", "--yes")
    assert not shop.repository("owner/safe").exists()


@LINUX
def test_last_used_is_when_an_instance_used_it(shop: Shop) -> None:
    shop.good("pull", f"{NAME}:Q8_0")
    for blob in (shop.repository() / "blobs").iterdir():
        os.utime(blob, (OLD, OLD))
    assert shop.here()[f"{NAME}:Q8_0"]["last_used"] == OLD
    with serving(shop, f"{NAME}:Q8_0"):
        assert time.time() - shop.here()[f"{NAME}:Q8_0"]["last_used"] < 3600
        assert "s ago" in shop.good("models")
    shop.good("stop", "chat")
    assert time.time() - shop.here()[f"{NAME}:Q8_0"]["last_used"] < 3600


# ── completion ─────────────────────────────────────────────────────────────────────────────────────────────


def test_bash_completes_quantizations_behind_the_colon(shop: Shop) -> None:
    """The script in a real bash, which splits words at colons and replaces only what stands after them."""
    shop.good("pull", f"{NAME}:Q8_0")
    script = (
        shop.good("completion", "bash")
        + """
        for COMP_LINE in "$@"; do
            COMP_POINT=${#COMP_LINE} COMP_WORDBREAKS=$' \\t\\n:='
            _aimind_completion aimind
            echo "${COMPREPLY[*]}"
        done
    """
    )
    lines = [f"aimind serve {NAME}:", f"aimind serve {NAME[:5]}", "aimind serve --backend vl", "aimind star"]
    env = {**shop.env, "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    done = subprocess.run(
        ["bash", "-c", script, "bash", *lines], capture_output=True, text=True, env=env, check=True
    )
    assert done.stdout.splitlines() == ["Q8_0", NAME, "vllm", "start"]


def test_names_are_completed_from_the_caches(shop: Shop) -> None:
    (shop.repository() / "snapshots").mkdir(parents=True)
    (shop.modelscope / "models" / "Qwen--Qwen3-8B").mkdir(parents=True)
    shop.env |= {"_AIMIND_COMPLETE": "complete_bash", "COMP_CWORD": "2"}
    for command in ("serve", "plan", "pull", "files", "remove", "unit", "lock"):
        for begun, whole in (
            ("own", NAME),
            ("ms:", "ms:Qwen/Qwen3-8B"),
        ):
            shop.env["COMP_WORDS"] = f"aimind {command} {begun}"
            assert shop.run().stdout.split() == [whole]

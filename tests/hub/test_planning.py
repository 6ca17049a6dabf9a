"""Planning a model on the hub: a handful of requests, the headers, and no weights."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aimind import hub as source
from aimind.hub.local import DEMO
from aimind.metadata.safetensors import FIRST_READ_BYTES
from aimind.types import Model, Reference
from tests.fakes import repositories
from tests.fakes.hub import Fault, Hub
from tests.fakes.repositories import HubOfHoles
from tests.hub.samples import MODELSCOPE, NAME, Kind, Progress, fetch, resolve

AIMIND = Path(sys.executable).with_name("aimind")
MOST_REQUESTS = 6
MOST_BEHIND = 4 << 20  # the header's end lies somewhere in the last range


@pytest.fixture
def holes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubOfHoles]:
    with HubOfHoles(tmp_path / "holes") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.url)
        yield hub


@pytest.fixture(params=["hf:", "ms:"])
def prefix(request: pytest.FixtureRequest) -> str:
    """Each of the two hubs."""
    return str(request.param)


def document(model: str, *options: str) -> dict[str, Any]:
    """The plan."""
    argv = [str(AIMIND), "plan", model, "--json", *options]
    done = subprocess.run(argv, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def planned(model: str, *options: str) -> int:
    """The parameters in the plan."""
    return int(document(model, "--hardware", "24G", *options)["model"]["parameters"])


def test_offline_what_is_in_the_cache(hub: Hub, kind: Kind) -> None:
    """And of what is not there, at once the error."""
    shutil.copytree(DEMO / "huggingface", hub.folder / "owner" / "model")
    model = f"{'ms' if kind == MODELSCOPE else 'hf'}:{NAME}"
    parameters = planned(model)
    fetch(resolve(kind.reference), Progress())
    hub.requests.clear()
    assert planned(model, "--offline") == parameters
    done = subprocess.run(
        [str(AIMIND), "plan", f"{model}2", "--offline"], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 4
    assert "owner/model2 is not complete in the cache, and aimind is offline" in done.stderr
    assert hub.requests == []


@pytest.mark.parametrize("name", ["llama-3.1-8b.Q4_K_M", "qwen3-8b.Q4_K_M"])
def test_a_gguf_file_with_its_whole_vocabulary(holes: HubOfHoles, prefix: str, name: str) -> None:
    header_bytes = repositories.gguf(holes.folder / "org" / name, name)
    assert planned(f"{prefix}org/{name}") > 8_000_000_000
    assert len(holes.requests) <= MOST_REQUESTS
    assert holes.sent_bytes() < header_bytes + MOST_BEHIND
    ranges = [re.findall(r"\d+", seen.range) for seen in holes.requests if seen.range]
    end = max(int(last) + 1 for _, last in ranges)
    assert header_bytes <= end < header_bytes + MOST_BEHIND


def test_shards_are_one_range_each(holes: HubOfHoles, prefix: str) -> None:
    repositories.shards(holes.folder / "org/llama", repositories.LLAMA_8B, 4)
    assert planned(f"{prefix}org/llama") == 8_030_261_248
    assert holes.count(path="/cdn/") == 4
    assert holes.count(path=".safetensors") == 4 + 4 + 1  # each is redirected; the index is not
    assert len(holes.requests) == 4 + 4 + 4  # the list, two configurations, the index
    assert sum(seen.sent_bytes for seen in holes.requests if seen.host == "cdn") <= 4 * FIRST_READ_BYTES


# ── Without a GPU: is there a GGUF? ────────────────────────────────────────────────────────────────────────


@pytest.fixture
def folder(holes: HubOfHoles) -> str:
    """A small Hugging Face folder on the hub."""
    repositories.shards(holes.folder / "org/small", {**repositories.LLAMA_8B, "num_hidden_layers": 2}, 1)
    return "org/small"


def hint(model: str, *options: str) -> str | None:
    reasons = document(model, "--device", "none", *options)["reasons"]
    return next((each["sentence"] for each in reasons if each["field"] == "hint"), None)


def asked_for(holes: HubOfHoles) -> list[str]:
    """Repositories in GGUF, in order."""
    paths = (seen.path.partition("?")[0] for seen in holes.requests)
    return [path.removeprefix("/api/models/") for path in paths if "-GGUF" in path]


@pytest.mark.parametrize("owner", ["org", "unsloth"])
def test_the_same_model_in_gguf_is_hinted_at(holes: HubOfHoles, folder: str, owner: str) -> None:
    repository = holes.folder / owner / "small-GGUF"
    repository.mkdir(parents=True)
    (repository / "small-Q4_K_M.gguf").write_bytes(b"GGUF")
    said = hint(folder)
    assert said == f"llama.cpp serves GGUF files far faster without a GPU: aimind serve {owner}/small-GGUF"
    assert asked_for(holes) == (
        ["org/small-GGUF"] if owner == "org" else ["org/small-GGUF", "unsloth/small-GGUF"]
    )


def test_without_one_nothing_is_said(holes: HubOfHoles, folder: str) -> None:
    (holes.folder / "unsloth" / "small-GGUF").mkdir(parents=True)
    (holes.folder / "unsloth" / "small-GGUF" / "README.md").write_text("soon")
    assert hint(folder) is None
    assert len(asked_for(holes)) == 2


@pytest.mark.parametrize(
    "fault",
    [
        Fault("-GGUF", status=500),
        Fault("-GGUF", status=429),
        Fault("-GGUF", body=b"<html>"),
        Fault("-GGUF", body=b'{"siblings": 3}'),
        Fault("-GGUF", cut_after=3),
    ],
)
def test_a_hub_that_fails_does_not_fail_the_plan(holes: HubOfHoles, folder: str, fault: Fault) -> None:
    holes.faults.append(fault)
    assert hint(folder) is None
    assert 1 <= len(asked_for(holes)) <= 2


def test_what_cannot_be_served_as_it_is_may_be_in_gguf(holes: HubOfHoles) -> None:
    """Too large for the RAM, or in weights that nothing here computes."""
    repositories.shards(holes.folder / "org/large", repositories.LLAMA_8B, 1)
    small = {**repositories.LLAMA_8B, "num_hidden_layers": 2}
    repositories.shards(holes.folder / "org/small-FP8", small, 1, fp8=True)
    for name in ("large", "small"):
        (holes.folder / f"org/{name}-GGUF").mkdir()
        (holes.folder / f"org/{name}-GGUF/{name}-Q4_K_M.gguf").write_bytes(b"GGUF")
    for name in ("large", "small-FP8"):
        argv = [str(AIMIND), "plan", f"org/{name}", "--hardware", "cpu-4G"]
        done = subprocess.run(argv, capture_output=True, text=True, env=dict(os.environ))
        assert done.returncode in (7, 8)
        found = name.removesuffix("-FP8")
        assert done.stderr.rstrip().endswith(f"for the same model in GGUF: aimind plan org/{found}-GGUF")
    assert len(asked_for(holes)) == 2


def test_nobody_is_asked_where_it_would_not_help(holes: HubOfHoles, folder: str) -> None:
    document(folder, "--hardware", "24G")
    hint(folder, "--backend", "vllm")
    hint(str(holes.folder / folder))
    assert asked_for(holes) == []


def test_nobody_is_asked_offline(holes: HubOfHoles, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(reference=Reference(source="huggingface", name="org/small"), files=())
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert source.in_gguf(model) is None
    assert holes.requests == []

"""Planning a model on the hub: a handful of requests, the headers, and no weights."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aimind.metadata.safetensors import FIRST_READ_BYTES
from tests.fakes import repositories
from tests.fakes.repositories import HubOfHoles

AIMIND = Path(sys.executable).with_name("aimind")
MOST_REQUESTS = 6
MOST_BEHIND = 4 << 20  # the header's end lies somewhere in the last range


@pytest.fixture
def holes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubOfHoles]:
    with HubOfHoles(tmp_path / "holes") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def planned(model: str) -> int:
    """The parameters in the plan."""
    argv = [str(AIMIND), "plan", model, "--hardware", "24G", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    return int(json.loads(done.stdout)["model"]["parameters"])


@pytest.mark.parametrize("name", ["llama-3.1-8b.Q4_K_M", "qwen3-8b.Q4_K_M"])
def test_a_gguf_file_with_its_whole_vocabulary(holes: HubOfHoles, name: str) -> None:
    header_bytes = repositories.gguf(holes.folder / "org" / name, name)
    assert planned(f"org/{name}") > 8_000_000_000
    assert len(holes.requests) <= MOST_REQUESTS
    assert holes.sent_bytes() < header_bytes + MOST_BEHIND
    ranges = [re.findall(r"\d+", seen.range) for seen in holes.requests if seen.range]
    end = max(int(last) + 1 for _, last in ranges)
    assert header_bytes <= end < header_bytes + MOST_BEHIND


def test_shards_are_one_range_each(holes: HubOfHoles) -> None:
    repositories.shards(holes.folder / "org/llama", repositories.LLAMA_8B, 4)
    assert planned("org/llama") == 8_030_261_248
    assert holes.count(path="/cdn/") == 4
    assert holes.count(path=".safetensors") == 4 + 4 + 1  # each is redirected; the index is not
    assert len(holes.requests) == 4 + 4 + 4  # the list, two configurations, the index
    assert sum(seen.sent_bytes for seen in holes.requests if seen.host == "cdn") <= 4 * FIRST_READ_BYTES

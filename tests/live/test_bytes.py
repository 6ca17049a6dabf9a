"""What llama.cpp allocates for real models of many families is what the plan said, component by component."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from aimind.errors import ExactSizesError
from aimind.exact import Exact, exact, sparse
from aimind.types import Command, Probe
from tests.live import tiny
from tests.live.memory import logged, planned
from tests.live.served import AIMIND, environment, plan, serve

pytestmark = pytest.mark.live

MIB = 1 << 20
# The fewest checkpoints: they are filled in time, and no buffer in the log holds them.
FLAGS = ("--backend", "xllamacpp", "--device", "none", "--", "--ctx-checkpoints", "0")


class _File:
    """As `sparse` reads a model's file."""

    def __init__(self, path: Path) -> None:
        self.path, self.size_bytes = path, path.stat().st_size

    def read(self, offset: int, length: int) -> bytes:
        return self.path.read_bytes()[offset : offset + length]


def asked(argv: list[str]) -> tuple[Exact, ...]:
    """What llama.cpp answers to the arguments of a server."""
    return exact(Command(argv=tuple(argv), ready=Probe(url=""), url=""))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_its_log_and_its_answer_are_the_plan(family: str, tmp_path: Path) -> None:
    path = tiny.write(tmp_path / f"{family}.gguf", family)
    host = plan(str(path), *FLAGS)["host"]
    with serve(str(path), *FLAGS) as served:
        argv = served.backend().cmdline()
    assert logged(served) == pytest.approx(planned(host), abs=0.0101)  # two windows of caches are two lines

    (answer,) = asked(argv)
    assert answer.place == "host"
    assert answer.weights_bytes == host["weights_bytes"]
    assert answer.context_bytes == host["kv_cache_bytes"] + host["state_bytes"]
    assert answer.compute_bytes == pytest.approx(host["compute_bytes"], abs=64)

    if family == "qwen3moe":
        (beside,) = asked([*argv, "--n-cpu-moe", "2"])
        assert beside == answer  # in RAM they are anyway

    header = tmp_path / "header.gguf"
    sparse(header, _File(path), header_bytes=MIB)
    assert header.stat().st_blocks * 512 < path.stat().st_size
    assert asked([str(header) if word == str(path) else word for word in argv]) == (answer,)


def test_a_file_that_it_cannot_open_is_said(tmp_path: Path) -> None:
    path = tiny.write(tmp_path / "llama.gguf", "llama")
    with serve(str(path), *FLAGS) as served:
        argv = served.backend().cmdline()
    path.write_bytes(b"GGUF")
    with pytest.raises(ExactSizesError, match="cannot open this model"):
        asked(argv)


def test_a_llama_server_without_its_companion_cannot_tell(tmp_path: Path) -> None:
    with pytest.raises(ExactSizesError, match="needs llama-fit-params"):
        asked([str(tmp_path / "llama-server"), "--model", "m.gguf"])


@pytest.mark.parametrize("name", ["demo", "a tiny one"])
def test_no_more_is_used_than_was_planned(name: str, demo_file: Path, tmp_path: Path) -> None:
    """As `aimind ps` counts: the pages of all of its processes, also when each slot has had a long prompt."""
    path = demo_file if name == "demo" else tiny.write(tmp_path / "tiny.gguf", next(iter(tiny.FAMILIES)))
    env = {"AIMIND_STATE_DIR": str(tmp_path / "state")}
    words = (str(path), *(("--context", "2048") if name == "demo" else ()), *FLAGS)
    with serve(*words, env=env) as served:
        decided = plan(*words, env=env)
        body = {"prompt": "one two three " * 500, "n_predict": 64}
        with ThreadPoolExecutor(8) as pool:
            prompts = 12 if name == "demo" else 0  # the other's vocabulary has no words
            list(pool.map(lambda _: ask(f"{served.url}/completion", body), range(prompts)))
        (seen,) = json.loads(aimind("ps", "--json", env=env))["instances"]
        assert 0 < seen["used"]["ram_bytes"] <= seen["claim"]["ram_bytes"]
        assert seen["claim"]["ram_bytes"] <= decided["host"]["total_bytes"]


def ask(url: str, body: dict[str, object]) -> None:
    """Have it compute; a prompt that is too long for the model is no trouble here."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=120) as answer:
        answer.read()


def aimind(*words: str, env: dict[str, str]) -> str:
    return subprocess.run(
        [str(AIMIND), *words], capture_output=True, text=True, check=True, env=environment(env)
    ).stdout

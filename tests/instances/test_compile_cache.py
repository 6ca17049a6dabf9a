"""From one `aimind serve` to the next plan: whether vLLM compiles the model again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from aimind.launchers import vllm
from tests.instances.conftest import Home
from tests.supervisor.harness import BACKEND, LINUX, wait_for

pytestmark = LINUX
MODEL = ("demo:safetensors", "--backend", "vllm", "--device", "none")


@pytest.fixture
def environment(home: Home) -> Path:
    """An environment of vLLM whose Python is the fake backend; it writes down the cache that it is given."""
    environment = home.folder / "data" / "environments" / "vllm" / f"{vllm.VERSION}-cpu"
    python = environment / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f'#!/bin/sh\necho "$VLLM_CACHE_ROOT" > {home.folder}/root\n'
        f'exec "{sys.executable}" -I -S "{BACKEND}" "$@"\n'
    )
    python.chmod(0o755)
    (environment / "pyvenv.cfg").touch()
    (environment / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
    (environment / "aimind.json").write_text(json.dumps({"size_bytes": 1}))
    return environment


def planned(home: Home, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(home.good("plan", *MODEL, "--json", *words))
    return found


def serve(home: Home, *words: str) -> None:
    home.good("serve", "--detach", "--name", "it", *MODEL, "--port", "0", *words)


def test_the_second_plan_is_warm_and_stays_so_after_a_stop(home: Home, environment: Path) -> None:
    before = planned(home)
    assert before["compile_cache"] == "cold"
    serve(home)
    assert (home.folder / "root").read_text().strip() == str(environment / "compiled")
    assert planned(home, "--port", "0")["compile_cache"] == "warm"
    home.good("stop", "it")
    after = planned(home)
    assert after["compile_cache"] == "warm"
    assert after["command"]["env"]["VLLM_CACHE_ROOT"] == str(environment / "compiled")
    assert planned(home, "--parallel", "7")["compile_cache"] == "cold"
    assert "compile_cache" not in planned(home, "--hardware", "24G")


def test_a_start_that_was_never_ready_leaves_it_cold(home: Home, environment: Path) -> None:
    home.fake("--bind-when", str(home.folder / "never"), "--pids", str(home.folder / "pids"))
    process = home.start("serve", "--name", "it", *MODEL, "--port", "0")
    wait_for((home.folder / "pids").exists, what="the backend")
    home.good("stop", "it")
    process.wait(timeout=60)
    assert planned(home)["compile_cache"] == "cold"


def test_the_users_own_folder_is_his(home: Home, environment: Path) -> None:
    home.env["VLLM_CACHE_ROOT"] = str(home.folder / "mine")
    found = planned(home)
    assert "compile_cache" not in found
    assert "VLLM_CACHE_ROOT" not in found["command"]["env"]
    serve(home)
    assert (home.folder / "root").read_text().strip() == str(home.folder / "mine")
    assert not (environment / "compiled").exists()


def test_it_goes_with_the_version(home: Home, environment: Path) -> None:
    serve(home)
    home.good("stop", "it")
    home.good("remove", "it")
    assert list((environment / "compiled").rglob("aimind-*"))
    home.good("backends", "remove", f"vllm=={vllm.VERSION}")
    assert not environment.exists()
    assert planned(home)["compile_cache"] == "cold"

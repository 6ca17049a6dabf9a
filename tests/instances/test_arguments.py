"""Arguments of a backend that does not take them: `plan` and `serve` say so, as early as it can be known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aimind.launchers import vllm
from tests.instances.conftest import Home, home
from tests.supervisor.harness import LINUX

__all__ = ["home"]
pytestmark = LINUX
LLAMA = ("demo", "--backend", "llama-server", "--port", "0")
VLLM = ("demo:safetensors", "--backend", "vllm", "--device", "none", "--port", "0")


@pytest.fixture
def python(home: Home) -> Path:
    """Of an environment of vLLM that tells its flags, and does nothing else."""
    environment = home.folder / "data" / "environments" / "vllm" / f"{vllm.VERSION}-cpu"
    python = environment / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f'#!/bin/sh\necho "$@" >> {home.folder}/calls\n'
        "echo '  --enable-prefix-caching, --no-enable-prefix-caching'\n"
    )
    python.chmod(0o755)
    (environment / "pyvenv.cfg").touch()
    (environment / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
    (environment / "aimind.json").write_text(json.dumps({"size_bytes": 1}))
    return python


def calls(home: Home) -> list[str]:
    path = home.folder / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_a_program_is_asked_in_planning(home: Home) -> None:
    """It answers at once."""
    said = home.run("plan", *LLAMA[:3], "--", "--threds", "4")
    assert said.returncode == 2
    assert "error: llama-server 9999 does not know --threds\n" in said.stderr
    assert "hint: did you mean --threads?" in said.stderr
    home.good("plan", *LLAMA[:3], "--", "--threads", "4")


def test_nothing_is_started_or_left_by_a_wrong_argument(home: Home) -> None:
    said = home.run("serve", *LLAMA, "--", "--threds", "4")
    assert said.returncode == 2
    assert "does not know --threds" in said.stderr
    assert not list(home.state.glob("instances/*"))


def test_by_force_it_is_passed(home: Home) -> None:
    shown = home.run("serve", "--dry-run", *LLAMA, "--force", "--", "--threds", "4")
    assert shown.returncode == 0
    assert shown.stdout.rstrip().endswith("--threds 4")
    assert (
        "warning: llama-server 9999 does not know --threds; it is passed because of --force" in shown.stderr
    )


def test_what_takes_long_is_asked_in_serving_and_once(home: Home, python: Path) -> None:
    wrong = ("--", "--nonsense", "4")
    home.good("plan", *VLLM, *wrong)  # it was not asked yet
    assert calls(home) == []
    said = home.run("serve", *VLLM, *wrong)
    assert said.returncode == 2
    assert f"asking vllm {vllm.VERSION} which arguments it accepts" in said.stderr
    assert f"error: vllm {vllm.VERSION} does not know --nonsense\n" in said.stderr
    for command in ("plan", "serve"):
        assert home.run(command, *VLLM, *wrong).returncode == 2
    assert calls(home) == [" ".join(vllm.HELP.args)]
    home.good("plan", *VLLM, "--", "--enable-prefix-caching")


def test_what_it_is_known_to_have_dropped_is_told_unasked(home: Home, python: Path) -> None:
    said = home.run("plan", *VLLM, "--", "--swap-space", "4")
    assert said.returncode == 2
    assert f"error: vllm {vllm.VERSION} no longer has --swap-space: " in said.stderr
    assert calls(home) == []


def test_without_a_supervisor_it_is_asked_too(home: Home, python: Path) -> None:
    said = home.run("serve", "--no-supervise", *VLLM, "--", "--nonsense", "4")
    assert said.returncode == 2
    assert "does not know --nonsense" in said.stderr


def test_where_nothing_is_to_be_checked_nobody_is_asked(home: Home, python: Path) -> None:
    home.run("serve", "--no-supervise", *VLLM, "--", "--max-num-seqs", "4")
    assert [line for line in calls(home) if "--help" in line] == []
    assert len(calls(home)) == 1  # it was started


def test_a_backend_that_tells_nothing_is_started_all_the_same(home: Home, python: Path) -> None:
    python.write_text(f'#!/bin/sh\necho "$@" >> {home.folder}/calls\n')
    said = home.run("serve", "--no-supervise", *VLLM, "--", "--nonsense", "4")
    assert "warning: vllm does not list its arguments, so yours are not checked" in said.stderr
    assert calls(home)[-1].endswith("--nonsense 4")

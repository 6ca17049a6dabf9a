"""Programs on PATH: real scripts that tell their version, or do not."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from aimind import environments
from aimind.environments import programs
from aimind.types import Program


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIMIND_DATA_DIR", str(tmp_path / "data"))


TOOL = Program(
    names=("toy-server", "toy"), version_args=("--version",), version_pattern=r"version: (\S+)", remedy="none"
)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\necho run >> {path}.runs\n{text}\n")
    path.chmod(0o755)
    return str(path)


def runs(program: str) -> int:
    return len(Path(f"{program}.runs").read_text().splitlines())


def test_a_program_is_asked_for_its_version_once(path: Path) -> None:
    assert environments.find("toy", TOOL) == ()
    program = script(path / "toy", 'echo "version: 7.1 ($1)" >&2')
    for _ in range(3):
        (found,) = environments.find("toy", TOOL)
        assert (found.version, found.executable, found.problem) == ("7.1", program, None)
    assert runs(program) == 1


def test_a_program_that_was_replaced_is_asked_again(path: Path) -> None:
    script(path / "toy", "echo version: 7.1")
    environments.find("toy", TOOL)
    program = script(path / "toy", "echo version: 10.2")
    (found,) = environments.find("toy", TOOL)
    assert found.version == "10.2"
    assert runs(program) == 2


def test_the_preferred_name_wins(path: Path) -> None:
    script(path / "toy", "echo version: 1")
    preferred = script(path / "toy-server", "echo version: 2")
    assert environments.find("toy", TOOL)[0].executable == preferred


def test_a_program_that_tells_no_version_can_be_used(path: Path) -> None:
    script(path / "toy", "echo built yesterday")
    (found,) = environments.find("toy", TOOL)
    assert (found.version, found.problem) == ("unknown", None)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("echo libtoy.so.1: cannot open shared object file; exit 127", "libtoy.so.1: cannot open shared"),
        ("exit 3", "exit code 3"),
        ("kill -SEGV $$", f"signal {int(signal.SIGSEGV)}"),
        ("exec sleep 100", "did not report its version within 0.5 seconds"),
    ],
)
def test_a_program_that_cannot_be_run_is_a_problem(path: Path, text: str, problem: str) -> None:
    program = script(path / "toy", text)
    for asked in (1, 2):
        (found,) = programs.find("toy", TOOL, patience_seconds=0.5)
        assert found.problem is not None
        assert problem in found.problem
        assert found.problem.startswith(program)
        assert runs(program) == asked, "a problem may be gone the next time"


def test_a_program_that_is_none(path: Path) -> None:
    (path / "toy").write_bytes(b"\x7fELF nonsense")
    (path / "toy").chmod(0o755)
    assert "cannot be run: Exec format error" in str(environments.find("toy", TOOL)[0].problem)

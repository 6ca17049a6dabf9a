"""The steps of CONTRIBUTING.md, followed as they stand there to add a backend to a copy of the project."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.leftovers import nothing_left
from tests.live.served import AIMIND, plan, serve
from tests.supervisor.harness import BACKEND

ROOT = Path(__file__).parents[1]
SENTENCE = "I am a fake backend, and I work."

# What a person writes at each step, in place of what the copied launcher has.
WRITTEN = {
    2: '''
NAME = "toy"
SUMMARY = "GGUF on nothing at all"
MEMORY = WholeMemory(process_bytes=64 << 20)

def source(_host: Host) -> Program:
    """Whoever wants to play."""
    return Program(
        names=("toy",),
        version_args=("--version",),
        version_pattern=r"version:\\s*(\\S+)",
        remedy="put it on your PATH",
    )
''',
    3: '''
FLAGS = {
    "served_name": Flag(spellings=("--alias",)),
    "address": Flag(spellings=("--host",)),
    "port": Flag(spellings=("--port",), kind="int"),
}
RESERVED = {"--key-env": KEY_IS_SEEN}
UNCOUNTED = ("--allocate",)
SIGNATURES = (Signature(r"still loading", phase="loading"),)

def refuse(metadata: Metadata, _host: Host) -> str | None:
    """Language models in GGUF."""
    wanted = (metadata.format, metadata.category) == ("gguf", "llm")
    return None if wanted else f"it plays with language models in GGUF, and this is {metadata.format}"
''',
    4: '''
def command(plan: Plan, weights: str) -> Command:
    """`toy`, which needs no weights."""
    settings = plan.settings
    return Command(
        argv=(plan.backend.executable, *render(FLAGS, settings), *settings.extra),
        env=settings.env,
        secret_env={"TOY_KEY": settings.api_key} if settings.api_key else {},
        ready=Probe(url=f"{url(settings)}/health"),
        signatures=SIGNATURES,
        url=url(settings),
    )
''',
}
IMPORTS = """
from aimind.launchers.arguments import render
from aimind.launchers.base import KEY_IS_SEEN, Flag, url
from aimind.types import Command, Help, Host, Metadata, Plan, Probe, Program, Signature, WholeMemory
"""
# What the steps speak of and such a backend does not need to change.
LEFT_AS_IT_IS = {"HELP"}
# What such a backend leaves out: no flag needs a look, and all its versions know the same architectures.
LEFT_OUT = {"check", "REGISTRY", "table", "knows"}


# ── Reading the steps ──────────────────────────────────────────────────────────────────────────────────────


def steps() -> dict[int, str]:
    """The numbered ones of the chapter."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    chapter = re.split(r"^## ", text.partition("\n## Add a backend\n")[2], flags=re.MULTILINE)[0]
    found = re.findall(r"^(\d)\. (.*?)(?=^\d\. |\n\n|\Z)", chapter, re.MULTILINE | re.DOTALL)
    return {int(number): " ".join(step.split()) for number, step in found}


def named(step: str) -> set[str]:
    """The constants and functions of a launcher that a step speaks of."""
    return set(re.findall(r"`([A-Z]{3,}|[a-z]+(?=\(.*?\)`))", step))


def paths(step: str) -> list[str]:
    return re.findall(r"`([\w/]+\.(?:py|toml|md))`", step)


def defined(text: str) -> dict[str, ast.stmt]:
    """What a module defines -> where."""
    found: dict[str, ast.stmt] = {}
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.FunctionDef):
            found[statement.name] = statement
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            found[statement.targets[0].id] = statement
        elif isinstance(statement, ast.ImportFrom):
            found["import"] = statement
    return found


def replace(text: str, written: str) -> str:
    """The module with what is written in place of what has these names."""
    for name, new in defined(written).items():
        old = ast.get_source_segment(text, defined(text)[name])
        said = ast.get_source_segment(written, new)
        assert old is not None
        assert said is not None
        text = text.replace(old, said)
    return text


def without(text: str, names: set[str]) -> str:
    """The module without what has these names."""
    for name in names:
        old = ast.get_source_segment(text, defined(text)[name])
        assert old is not None
        text = text.replace(f"{old}\n", "").replace("\n\n\n\n\n", "\n\n\n")
    return text


# ── Following them ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of it, with the backend."""
    copy = tmp_path_factory.mktemp("copy")
    for part in ("aimind", "tests", "docs", "scripts"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("pyproject.toml", "README.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / part, copy)
    first, *middle, last = steps().values()
    assert len(middle) == len(WRITTEN)

    original, _, destination = paths(first)
    launcher = copy / destination.replace("NAME", "toy")
    shutil.copy(copy / original, launcher)
    text = launcher.read_text()
    old = [line for line in text.splitlines() if line.startswith("from aimind.")]
    text = text.replace("\n".join(old), IMPORTS.strip())
    text = text.replace(text.splitlines()[0], '"""toy: nothing but a server."""')
    for step, written in zip(middle, WRITTEN.values(), strict=True):
        assert named(step) - LEFT_AS_IT_IS - LEFT_OUT == set(defined(written))
        text = replace(text, written)
    text = without(text, LEFT_OUT)
    launcher.write_text(text)
    assert len(text.splitlines()) < 60

    registry, contracts, table, *_ = paths(last)
    insert(copy / registry, "    transformers,\n", "    toy,\n", both=True)
    (title,) = re.findall(r'"(.*?)"', last)
    rest = (copy / contracts).read_text().partition(f'name = "{title}"')[2]
    first_module = re.search(r'    "aimind\.launchers\.\w+",\n', rest)
    assert first_module
    insert(copy / contracts, first_module[0], '    "aimind.launchers.toy",\n')
    rows = [line for line in (ROOT / table).read_text().splitlines(keepends=True) if line.startswith("| ")]
    insert(
        copy / table,
        next(row for row in rows if row.startswith("| llama-box ")),
        "| toy | x | x | not run |\n",
    )
    (module,) = re.findall(r"`python -m ([\w.]+)`", last)
    run(copy, sys.executable, "-m", module)
    assert "\n| toy | " in (copy / "docs" / "backends.md").read_text()
    return copy


def insert(path: Path, before: str, line: str, *, both: bool = False) -> None:
    """Add a line after another, which is there once, or twice where both are meant."""
    text = path.read_text()
    assert text.count(before) == (2 if both else 1)
    path.write_text(text.replace(before, before + line))


def test_the_steps_name_all_that_a_launcher_has() -> None:
    protocols = (ROOT / "aimind" / "launchers" / "base.py").read_text()
    classes = {each.name: each for each in ast.parse(protocols).body if isinstance(each, ast.ClassDef)}
    members = {
        each.name
        for name in ("Launcher", "TellsFlags", "Checks", "KnowsArchitectures", "ListsModels")
        for each in classes[name].body
        if isinstance(each, ast.FunctionDef)
    }
    assert set().union(*(named(step) for number, step in steps().items() if 1 < number < 5)) == members


def test_its_tests_pass(project: Path) -> None:
    """Those that the last step names, as far as they are about it, and the contracts."""
    tests = [path for path in paths(steps()[5]) if path.startswith("tests/")]
    assert tests
    for test in tests:
        said = run(
            project, sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-k", "toy or row", test
        )
        assert "[toy] PASSED" in said
    assert "Contracts: " in run(project, str(AIMIND.with_name("lint-imports")), "--no-cache")


def run(project: Path, *command: str) -> str:
    """What a command prints that works on the copy."""
    env = {**os.environ, "PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def env(project: Path, tmp_path: Path) -> Mapping[str, str]:
    """With the program on PATH, as a user has it."""
    program = tmp_path / "toy"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{BACKEND}" "$@"\n')
    program.chmod(0o755)
    return {
        "PYTHONPATH": str(project),
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "AIMIND_DATA_DIR": str(tmp_path / "data"),
    }


def test_it_is_listed_planned_and_served(env: Mapping[str, str]) -> None:
    listed = subprocess.run(
        [AIMIND, "backends"], env={**os.environ, **env}, capture_output=True, text=True, check=True
    )
    assert re.search(r"^toy +9999 +installed ", listed.stdout, re.MULTILINE), listed.stdout
    with nothing_left() as variables:
        every = {**env, **variables}
        assert plan("demo", "--backend", "toy", env=every)["backend"]["name"] == "toy"
        with serve("demo", "--backend", "toy", "--device", "none", env=every) as served:
            assert served.say("Who are you?", name=served.name) == SENTENCE

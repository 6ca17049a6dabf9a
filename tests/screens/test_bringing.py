"""What installing a backend and downloading a model show, kept as text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.environments.wheels import index, wheel
from tests.fakes.hub import Hub
from tests.screens.terminal import AIMIND, Terminal, compare
from tests.supervisor.harness import LINUX

pytestmark = LINUX
NAME = "owner/some-model"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "home").mkdir()
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path / "home"),
        "AIMIND_DATA_DIR": str(tmp_path / "data"),
        "AIMIND_STATE_DIR": str(tmp_path / "state"),
    }


@pytest.fixture
def hub(tmp_path: Path, env: dict[str, str]) -> Iterator[Hub]:
    folder = tmp_path / "repositories"
    (folder / NAME).mkdir(parents=True)
    demo = Path(__file__).parents[2] / "aimind" / "demo" / "aimind-demo-F16.gguf"
    (folder / NAME / "model-F16.gguf").write_bytes(demo.read_bytes())
    with Hub(folder) as running:
        env["HF_ENDPOINT"] = running.url
        yield running


def test_a_pull(hub: Hub, env: dict[str, str]) -> None:
    with Terminal(env=env) as terminal:
        # What goes to stdout is the path of a temporary folder.
        terminal.run("-c", f"{AIMIND} pull {NAME} > /dev/null", program=Path("/bin/sh"))
        assert terminal.wait() == 0
        compare("pull", terminal)


def test_an_installation(tmp_path: Path, env: dict[str, str]) -> None:
    folder = tmp_path / "index"
    wheel(folder / "xllamacpp", "xllamacpp", "2026.10.11549")
    with index(folder) as url:
        packages = {"UV_DEFAULT_INDEX": url, "UV_CACHE_DIR": str(tmp_path / "cache")}
        with Terminal(env={**env, **packages}) as terminal:
            terminal.run("backends", "install", "xllamacpp")
            assert terminal.wait() == 0
            compare("install", terminal)

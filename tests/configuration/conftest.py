"""A home with a configuration, in which the real `aimind` runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aimind.configuration import allowed, files
from tests.instances.conftest import Home, home

__all__ = ["home"]


class Configured:
    """The files of a configuration, and what comes of them."""

    def __init__(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = home
        self._monkeypatch = monkeypatch
        self.own = home.folder / "home" / ".config" / "aimind" / "aimind.toml"
        self.own.parent.mkdir(parents=True)
        self.here = home.folder / "aimind.toml"

    def trust(self, text: str) -> None:
        """Write the file of the current folder, and allow it as `aimind config trust` does."""
        write(self.here, text)
        with self._monkeypatch.context() as patch:
            patch.setenv("AIMIND_STATE_DIR", str(self.home.state))
            allowed.allow(files.read_file(self.here))

    def shown(self) -> dict[str, Any]:
        found = json.loads(self.home.good("config", "--json"))
        assert isinstance(found, dict)
        return found

    def plan(self, *words: str) -> dict[str, Any]:
        found = json.loads(self.home.good("plan", "demo", "--backend", "llama-server", "--json", *words))
        assert isinstance(found, dict)
        return found

    def refused(self, *words: str) -> str:
        done = self.home.run(*(words or ("config",)))
        assert done.returncode == 2, done.stdout + done.stderr
        assert done.stdout == ""
        return done.stderr


@pytest.fixture
def at(home: Home, monkeypatch: pytest.MonkeyPatch) -> Configured:
    return Configured(home, monkeypatch)


def words_of(plan: dict[str, Any]) -> list[str]:
    argv = plan["command"]["argv"]
    assert isinstance(argv, list)
    return [str(word) for word in argv]


def write(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")
    path.chmod(0o644)

"""What `ps` and `plan` print, kept as text: columns that lack the room are left out, never cut."""

from __future__ import annotations

import pytest

from tests.instances.conftest import Home, home
from tests.screens.terminal import Terminal, compare
from tests.supervisor.harness import LINUX

__all__ = ["home"]  # a fixture
COLUMNS = pytest.mark.parametrize("columns", [80, 120])


@LINUX
def test_ps(home: Home) -> None:
    home.serve("--name", "small")
    home.serve("--name", "ended")
    home.good("stop", "ended")
    for columns in (80, 120):
        with Terminal(env=home.env, columns=columns) as terminal:
            for words in (("ps",), ("ps", "-a")):
                terminal.run(*words)
                assert terminal.wait() == 0
            compare("ps", terminal)
    piped = home.good("ps", "-a").splitlines()
    assert all(line == line.rstrip() for line in piped)


@COLUMNS
def test_plan(home: Home, columns: int) -> None:
    with Terminal(env=home.env, columns=columns) as terminal:
        for words in (
            ("--hardware", "1x24G+1x8G"),
            ("--hardware", "24G", "--why"),
            ("--hardware", "2x24G", "--hardware", "none", "--context", "2k,max"),
        ):
            terminal.run("plan", "demo", "--backend", "xllamacpp", *words)
            assert terminal.wait() == 0
        compare("plan", terminal)

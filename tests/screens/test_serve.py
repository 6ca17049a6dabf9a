"""What `serve`, `start` and `restart` show, kept as text; the demo is served for real, by xllamacpp."""

from __future__ import annotations

import pytest

from aimind.environments.install import ensure
from aimind.launchers import xllamacpp
from tests.instances.conftest import Home, home
from tests.live.served import DATA
from tests.samples import host
from tests.screens.terminal import Terminal, compare
from tests.supervisor.harness import LINUX

__all__ = ["home"]  # a fixture
pytestmark = LINUX
CTRL_C = b"\x03"


@pytest.fixture
def real(home: Home) -> Home:
    """A home where xllamacpp is installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIMIND_DATA_DIR", str(DATA))
        ensure(xllamacpp.NAME, xllamacpp.source(host()), progress=print)
    home.env["AIMIND_DATA_DIR"] = str(DATA)
    return home


@pytest.mark.live
@pytest.mark.parametrize("columns", [80, 120])
def test_serve(real: Home, columns: int) -> None:
    with Terminal(env=real.env, columns=columns) as terminal:
        terminal.run("serve", "demo", "--backend", "xllamacpp", "--port", "0")
        terminal.wait_for("Ctrl-C stops it")
        terminal.press(CTRL_C)
        assert terminal.wait() == 130
        compare("serve", terminal)


def test_a_failing_start(home: Home) -> None:
    home.fake("--print", "loading", "--print", "'out of memory'", "--exit-at-start", "1")
    with Terminal(env=home.env) as terminal:
        terminal.run("serve", "demo", "--backend", "llama-server", "--port", "0")
        assert terminal.wait() == 1
        compare("failing-start", terminal)


def test_a_detached_one_that_is_restarted(home: Home) -> None:
    with Terminal(env=home.env) as terminal:
        for words in (
            ("serve", "demo", "-d", "--backend", "llama-server", "--port", "0"),
            ("restart", "demo"),
            ("stop", "demo"),
            ("start", "demo"),
        ):
            terminal.run(*words)
            assert terminal.wait() == 0
        compare("detached", terminal)

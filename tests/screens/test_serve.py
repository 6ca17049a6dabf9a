"""What `serve`, `start` and `restart` show, kept as text; the demo is served for real, by xllamacpp."""

from __future__ import annotations

from pathlib import Path

import pytest

from aimind.environments.install import ensure
from aimind.launchers import xllamacpp
from tests.instances.conftest import Home, home
from tests.live.served import DATA
from tests.samples import host
from tests.screens.terminal import AIMIND, Terminal, compare
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


def test_a_crash_and_a_restart(home: Home) -> None:
    """What happens once it is ready is one line each; Ctrl-C during the wait ends it."""
    home.fake("--print", "'the last line'", "--exit-after", "0.1", "--exit-code", "3")
    with Terminal(env=home.env) as terminal:
        terminal.run("serve", "demo", "--backend", "llama-server", "--port", "0")
        terminal.wait_for("restarting it in 5 s")
        terminal.wait_for("log: aimind logs demo")
        terminal.press(CTRL_C)
        assert terminal.wait() == 130
        compare("crash", terminal)


def test_a_terminal_without_colors_and_unicode(home: Home) -> None:
    plain = {"NO_COLOR": "1", "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    home.fake("--unready", "0.5")
    with Terminal(env={**home.env, **plain}) as terminal:
        terminal.run("serve", "demo", "--backend", "llama-server", "--port", "0")
        terminal.wait_for("Ctrl-C stops it")
        terminal.press(CTRL_C)
        assert terminal.wait() == 130
        compare("ascii", terminal)
        assert terminal.received.isascii()
        assert b"\x1b[3" not in terminal.received  # no colors: it only clears lines


def test_a_dumb_terminal_gets_plain_lines_and_the_log(home: Home) -> None:
    home.fake("--print", "hello")
    with Terminal(env={**home.env, "TERM": "dumb"}) as terminal:
        terminal.run("serve", "demo", "--backend", "llama-server", "--port", "0")
        terminal.wait_for("try: ")
        terminal.press(CTRL_C)
        assert terminal.wait() == 130
        assert "\nhello\nready: http" in terminal.text
        assert b"\x1b[K" not in terminal.received


def test_quiet_shows_errors_alone(home: Home) -> None:
    home.fake("--print", "hello")
    with Terminal(env=home.env) as terminal:
        terminal.run("serve", "demo", "--backend", "llama-server", "--port", "0", "-q")
        home.wait_for_state("ready")
        terminal.press(CTRL_C)
        assert terminal.wait() == 130
        assert terminal.text.replace("^C", "").strip() == ""
    home.fake("--exit-at-start", "1", "--print", "'out of memory'")
    with Terminal(env=home.env) as terminal:
        terminal.run("serve", "demo", "--backend", "llama-server", "--port", "0", "-q")
        assert terminal.wait() == 1
        compare("quiet", terminal)


def test_in_the_background_of_a_shell(home: Home) -> None:
    """Nothing ticks over what is typed meanwhile; it says that it is ready, and goes on."""
    home.fake("--unready", "0.5")
    serve = f"{AIMIND} serve demo --backend llama-server --port 0"
    with Terminal(env=home.env) as terminal:
        terminal.run("-c", f"set -m; {serve} & wait $!", program=Path("/bin/bash"))
        terminal.wait_for("ready in")
        assert "starting" not in terminal.received.decode()
        home.good("stop", "demo")
        assert terminal.wait() == 143

"""What `--help` shows, kept as text."""

from __future__ import annotations

import pytest

from tests.screens.terminal import Terminal, compare
from tests.supervisor.harness import LINUX

pytestmark = LINUX


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("command", ["", "serve"])
def test_help(columns: int, command: str) -> None:
    with Terminal(env={"PATH": "/usr/bin:/bin"}, columns=columns, rows=200) as terminal:
        terminal.run(*filter(None, [command]), "--help")
        assert terminal.wait() == 0
        compare("-".join(filter(None, [command, "help"])), terminal)


@pytest.mark.parametrize(("language", "shown"), [("zh_CN.UTF-8", True), ("zh_TW", True), ("C.UTF-8", False)])
def test_a_chinese_locale_shows_the_first_steps_in_chinese(language: str, shown: bool) -> None:
    with Terminal(env={"PATH": "/usr/bin:/bin", "LC_ALL": language}, rows=200) as terminal:
        terminal.run("--help")
        assert terminal.wait() == 0
        assert ("docs/zh/first-steps.md" in terminal.text) == shown

"""What README says of the backends is what is tested."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aimind.launchers import LAUNCHERS
from aimind.launchers.base import Launcher
from tests.live.cases import CASES

README = Path(__file__).parents[1] / "README.md"


def states() -> dict[str, str]:
    """Backend -> its state; some have their maker's name before their own."""
    table = re.split(r"^## ", README.read_text().partition("\n## Backends\n")[2], flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| (.*?) \|.*\| (.*?) \|$", table, re.MULTILINE)
    return {name.split()[-1].casefold(): state for name, state in rows if name != "backend"}


def has_tests_of_its_own(launcher: Launcher) -> bool:
    """Of its arguments, against its parser or its documentation."""
    name = f"test_{launcher.NAME.replace('-', '_')}.py"
    return any((Path(__file__).parent / folder / name).exists() for folder in ("live", "launchers"))


def test_every_backend_has_a_row() -> None:
    assert set(states()) == {launcher.NAME for launcher in LAUNCHERS}


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=lambda launcher: launcher.NAME)
def test_what_is_run_here_is_served_by_a_test(launcher: Launcher) -> None:
    """And of what is not run its arguments may be checked, or nothing."""
    state = states()[launcher.NAME]
    if launcher in [case.launcher for case in CASES]:
        assert "run here" in state
        assert "arguments checked" not in state
    else:
        assert state == ("arguments checked, not run" if has_tests_of_its_own(launcher) else "not run")

"""Each test here does one thing to running programs: one row of the table that `make faults` prints."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.table import Row, Seen, ordered, page
from tests.leftovers import nothing_left

DOCUMENT = Path(__file__).parents[2] / "docs" / "faults.md"
ROWS: dict[str, Row] = {}


@pytest.fixture
def seen(request: pytest.FixtureRequest) -> Seen:
    """To be told what was seen."""
    told = Seen()
    request.node.user_properties.append(("seen", told.words))
    return told


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Whatever is kept is kept in the test's own folder."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("AIMIND_STATE_DIR", str(folder / "state"))
    monkeypatch.setenv("AIMIND_DATA_DIR", str(folder / "data"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return folder


@pytest.fixture(autouse=True)
def _nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No process that the test started, nor one of its descendants, may outlive it; nor a temporary file."""
    with nothing_left() as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield


# ── The table ──────────────────────────────────────────────────────────────────────────────────────────────


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let the report carry the row: it is made in one process, and the table in another."""
    mark = item.get_closest_marker("fault")
    assert mark is not None, f"{item.name}: a test here is one fault: @fault(title, expected)"
    item.user_properties.append(("fault", mark.kwargs))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    properties: dict[str, Any] = dict(report.user_properties)
    if "fault" in properties and (report.when == "call" or not report.passed):
        words = outcome(report) or "; ".join(properties.get("seen", ()))
        place = (report.location[0], report.location[1] or 0, report.nodeid)
        ROWS[report.nodeid] = Row(place=place, seen=words, **properties["fault"])


def outcome(report: pytest.TestReport) -> str | None:
    """Why a test has nothing to show; `None` for one that passed."""
    if hasattr(report, "wasxfail"):
        return f"**not yet**: {report.wasxfail.removeprefix('reason: ')}"
    if report.failed:
        lines = report.longreprtext.splitlines()
        return "**failed**: " + next((line[1:].strip() for line in lines if line.startswith("E ")), lines[-1])
    if report.skipped:
        return f"not tried here: {report.longreprtext}"
    return None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print it; with AIMIND_WRITE_FAULTS, also write the document."""
    if not ROWS:
        return
    terminalreporter.section("faults")
    for each in ordered(ROWS.values()):
        terminalreporter.write_line(
            f"{each.title} ({each.on})\n    expected: {each.expected}\n    seen: {each.seen}"
        )
    if os.environ.get("AIMIND_WRITE_FAULTS"):
        DOCUMENT.write_text(page(ROWS.values(), DOCUMENT.read_text("utf-8")), encoding="utf-8")

"""Folders of instances that nobody has tidied up for years, and what else may lie in a state folder."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aimind import instances
from aimind.errors import AimindError
from aimind.instances import control, locks, logs, pruning, records
from tests.instances.test_records import INSTANCE, STATE
from tests.supervisor.harness import LINUX

pytestmark = LINUX
DAY_SECONDS = 86_400.0
ENDED = dataclasses.replace(STATE, state="stopped")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AIMIND_STATE_DIR", str(tmp_path / "state"))
    records.make_folder(records.instances_folder())
    return tmp_path / "state"


def ended(name: str, *, days: float, named: bool = False) -> Path:
    """An instance that ended so many days ago, with a log."""
    folder = records.instances_folder() / name
    records.make_folder(folder / records.LOGS)
    (folder / records.LOGS / "000001.log").write_text("once\n")
    (folder / records.LOCK).touch()
    records.write(folder / records.INSTANCE, dataclasses.replace(INSTANCE, name=name, named=named))
    records.write(folder / records.STATE, ENDED)
    moment = time.time() - days * DAY_SECONDS
    os.utime(folder / records.STATE, (moment, moment))
    return folder


def copies(template: Path, count: int) -> set[str]:
    """Instances that ended when another one did; they share its files."""
    names = {f"{template.name}-{number}" for number in range(count)}
    for name in names:
        (template.parent / name).mkdir()
        for file in (records.INSTANCE, records.STATE, records.LOCK):
            os.link(template / file, template.parent / name / file)
    return names


def claim() -> None:
    """What `aimind serve` does first."""
    with instances.claims(wait=lambda: None):
        pass


def there() -> set[str]:
    return {path.name for path in records.instances_folder().iterdir()}


# ── Thousands ──────────────────────────────────────────────────────────────────────────────────────────────

opened: list[str] | None = None


def _count(event: str, arguments: tuple[object, ...]) -> None:
    if opened is not None and event == "open":
        opened.append(str(arguments[0]))


@contextlib.contextmanager
def counted() -> Iterator[list[str]]:
    """The paths of all files that are opened in the block."""
    global opened  # noqa: PLW0603 - an audit hook cannot be removed
    if opened is None:
        sys.addaudithook(_count)
    opened = []
    yield opened
    opened = None


def test_of_ten_thousand_that_have_ended_few_are_read() -> None:
    copies(ended("template", days=1), 10_000)
    running = ended("running", days=400)
    lock = locks.take(running / records.LOCK, patience_seconds=0)
    assert lock is not None
    with counted() as paths:
        listing = instances.listing()
        shown = listing.look(instances.MOST_RECENT)
        living = instances.living()
        claim()
    os.close(lock)
    assert [sight.name for sight in shown if sight.running] == ["running"]
    assert [sight.name for sight in living] == ["running"]
    assert len(shown) == instances.MOST_RECENT + 1
    assert len(listing.ended) == 10_001
    assert len([path for path in paths if path.endswith(".json")]) <= 5 * instances.MOST_RECENT


def test_those_that_ended_last_are_shown_and_all_on_request() -> None:
    newest = {"new"} | copies(ended("new", days=1), instances.MOST_RECENT - 1)
    copies(ended("old", days=2), 5)
    listing = instances.listing()
    assert {sight.name for sight in listing.look(instances.MOST_RECENT)} == newest
    assert len(listing.look()) == instances.MOST_RECENT + 6


# ── Old ones are removed ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def newest() -> set[str]:
    """So many newer ones that the rule leaves none because of its place."""
    return {"new"} | copies(ended("new", days=0), pruning.MOST_UNNAMED - 1)


def test_only_what_is_old_and_was_not_named_is_removed(newest: set[str]) -> None:
    ended("old", days=31)
    ended("young", days=29)
    ended("chat", days=300, named=True)
    damaged = ended("damaged", days=300)
    (damaged / records.INSTANCE).write_text("{")
    from_before = ended("from-before", days=300)
    values = json.loads((from_before / records.INSTANCE).read_text())
    del values["named"]
    (from_before / records.INSTANCE).write_text(json.dumps(values))
    running = ended("running", days=300)
    lock = locks.take(running / records.LOCK, patience_seconds=0)
    assert lock is not None
    claim()
    os.close(lock)
    assert there() == newest | {"young", "chat", "damaged", "from-before", "running"}


def test_among_the_newest_nothing_is_removed() -> None:
    copies(ended("old", days=400), pruning.MOST_UNNAMED - 1)
    claim()
    assert len(there()) == pruning.MOST_UNNAMED


def test_what_was_named_goes_after_a_year_beyond_the_newest_thousand() -> None:
    kept = {"chat"} | copies(ended("chat", days=1, named=True), pruning.MOST_NAMED - 2)
    ended("one-of-the-newest", days=366, named=True)
    ended("old", days=367, named=True)
    claim()
    assert there() == kept | {"one-of-the-newest"}


def test_a_start_removes_so_many_at_once(newest: set[str]) -> None:
    ended("old-and-newest", days=99)
    copies(ended("old", days=100), pruning.MOST_AT_ONCE - 1)
    claim()
    assert there() == newest | {"old-and-newest"}


# ── Whatever else lies there ───────────────────────────────────────────────────────────────────────────────


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    """A socket; its path may have 108 bytes at most."""
    here = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


def dangling(path: Path) -> None:
    path.symlink_to("/nonexistent/file")


def loop(path: Path) -> None:
    path.symlink_to(path)


def folder(path: Path) -> None:
    path.mkdir()


def unreadable(path: Path) -> None:
    path.touch(mode=0)


PLACES = (
    "claims.lock",
    "instances",
    "instances/demo",
    "instances/demo/lock",
    "instances/demo/instance.json",
    "instances/demo/state.json",
    "instances/demo/instance.json.new",
    "instances/demo/state.json.new",
    "instances/demo/logs",
    "instances/demo/logs/000001.log",
    "instances/.demo.removed",
)


def read_logs() -> None:
    demo = instances.look("demo").folder
    for run in logs.runs(demo):
        for _ in logs.read(demo, run):
            pass


def take_over() -> None:
    with instances.claims(wait=lambda: None) as claims:
        claims.write(dataclasses.replace(INSTANCE, name="demo")).release()


DEEDS: tuple[Callable[[], object], ...] = (
    instances.everything,
    instances.living,
    lambda: instances.remove_leftovers(instances.everything()),
    read_logs,
    lambda: instances.send("demo", signal.SIGTERM),
    lambda: control.wait_until_ended("demo", patience_seconds=0),
    take_over,
    lambda: instances.remove("demo"),
)


class WaitsForEverError(BaseException):
    """None that the code under test could take for an answer of the system."""


@pytest.fixture
def _impatient() -> Iterator[None]:
    """Whatever waits for ever is ended by an exception."""

    def end(_number: int, _frame: object) -> None:
        raise WaitsForEverError

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("kind", [pipe, listening, dangling, loop, folder, unreadable])
@pytest.mark.parametrize("place", PLACES)
def test_nothing_hangs_or_crashes(state: Path, place: str, kind: Callable[[Path], None]) -> None:
    """Each deed does its work or says in an error what is in its way."""
    for deed in DEEDS:
        ended("demo", days=0)
        path = state / place
        clear(path)
        kind(path)
        with contextlib.suppress(AimindError):
            deed()
        clear(path)
        records.make_folder(records.instances_folder())


def clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def test_what_is_no_instance_is_not_shown() -> None:
    folder(records.instances_folder() / "empty")
    pipe(records.instances_folder() / "pipe")
    dangling(records.instances_folder() / "dangling")
    ended("demo", days=0)
    assert [sight.name for sight in instances.everything()] == ["demo"]

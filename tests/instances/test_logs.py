"""Logs of several parts and runs, as the supervisor leaves them."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

from aimind.instances import logs
from aimind.instances.logs import Entry


def write(folder: Path, name: str, text: str) -> None:
    (folder / "logs").mkdir(exist_ok=True)
    with (folder / "logs" / name).open("a") as file:
        file.write(text)


def test_parts_in_order_and_what_is_missing_between(tmp_path: Path) -> None:
    write(tmp_path, "000003.log", "one\ncut")
    write(tmp_path, "000003.11.log", "four\n")
    write(tmp_path, "000003.10.log", "three\r\nlong")
    write(tmp_path, "000003.11.log", "five")
    write(tmp_path, "000003.txt", "not a log\n")
    assert logs.runs(tmp_path) == (3,)
    assert list(logs.read(tmp_path, 3)) == [
        Entry(run=3, line="one"),
        Entry(run=3, line="cut"),
        Entry(run=3, dropped_parts=8),
        Entry(run=3, line="three"),
        Entry(run=3, line="longfour"),
        Entry(run=3, line="five"),
    ]


def test_a_first_part_that_is_missing(tmp_path: Path) -> None:
    write(tmp_path, "000001.4.log", "four\n")
    assert list(logs.read(tmp_path, 1)) == [Entry(run=1, dropped_parts=3), Entry(run=1, line="four")]


def test_no_logs(tmp_path: Path) -> None:
    assert logs.runs(tmp_path) == ()
    assert list(logs.read(tmp_path, 1)) == []


def test_followed_over_parts_and_runs_until_the_lock_is_free(tmp_path: Path) -> None:
    write(tmp_path, "000001.log", "a\nb\nc\nd")
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        followed = logs.follow(tmp_path, 1, lines=2)
        assert [next(followed).line, next(followed).line] == ["b", "c"]
        write(tmp_path, "000001.log", "d\n")
        assert next(followed).line == "dd"
        write(tmp_path, "000001.2.log", "e\n")
        write(tmp_path, "000002.log", "f\n")
        assert [next(followed), next(followed)] == [Entry(run=1, line="e"), Entry(run=2, line="f")]
        write(tmp_path, "000002.log", "the end")
        releasing = threading.Timer(0.05, fcntl.flock, (lock, fcntl.LOCK_UN))
        releasing.start()
        assert [entry.line for entry in followed] == ["the end"]
        releasing.join()


def test_none_of_what_is_there(tmp_path: Path) -> None:
    write(tmp_path, "000001.log", "a\nb\n")
    assert list(logs.follow(tmp_path, 1, lines=0)) == []

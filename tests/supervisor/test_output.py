"""What the backend prints comes through, and nothing that happens to it there stops the backend."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from aimind.supervisor.output import PENDING_BYTES, Log, Output
from tests.supervisor.harness import LINUX, Supervised, fake, get, wait_for


def test_all_bytes_come_through_in_order(tmp_path: Path) -> None:
    flags = (
        "--print",
        "one",
        "--print",
        r"\xff\xfe no UTF-8",
        "--print-error",
        "three",
        "--print-partial",
        "fo",
    )
    with Supervised(fake(tmp_path, *flags, "--exit-at-start", "2"), tmp_path) as supervised:
        supervised.wait()
    once = b"one\n\xff\xfe no UTF-8\nthree\nfo\n"
    assert (tmp_path / "stdout").read_bytes() == once * 3


def test_a_partial_line_is_seen_at_once_and_never_glued_to_ours(tmp_path: Path) -> None:
    with Supervised(fake(tmp_path, "--print-partial", "loading..."), tmp_path) as supervised:
        supervised.wait_until_ready()
        assert supervised.stdout == "loading...\nREADY\n"


def test_a_lot_of_output_is_complete(tmp_path: Path) -> None:
    with Supervised(fake(tmp_path, "--print-bytes", "20000000"), tmp_path) as supervised:
        supervised.wait_until_ready()
        line = b"x" * 99 + b"\n"
        assert (tmp_path / "stdout").read_bytes() == line * 200_000 + b"READY\n"


def test_a_dead_stdout_does_not_stop_the_backend(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    flags = ("--print-bytes", "1000000")
    with Supervised(fake(tmp_path, *flags), tmp_path, stdout=writer) as supervised:
        os.close(writer)
        os.close(reader)
        wait_for(lambda: get(supervised.command.ready.url) == 200, what="the backend")
        supervised.send(signal.SIGTERM)
        assert supervised.wait() == 143


def test_a_reader_that_stalls_does_not_stop_the_backend(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with Supervised(fake(tmp_path, "--print-bytes", "3000000"), tmp_path, stdout=writer) as supervised:
        os.close(writer)
        wait_for(lambda: get(supervised.command.ready.url) == 200, what="the backend")
        supervised.send(signal.SIGTERM)
        with os.fdopen(reader, "rb") as stalled:
            text = stalled.read()
        assert supervised.wait() == 143
    assert b"bytes left out, which nobody read\n" in text
    assert text.endswith(b"\nREADY\n") or b"READY" not in text  # stopped before the first probe
    assert len(text) < PENDING_BYTES + 200_000


@LINUX
def test_a_full_disk_does_not_stop_the_backend(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        flags = ("--print-bytes", "100000")
        with Supervised(fake(tmp_path, *flags), tmp_path, stdout=full.fileno()) as supervised:
            wait_for(lambda: get(supervised.command.ready.url) == 200, what="the backend")
            supervised.send(signal.SIGTERM)
            assert supervised.wait() == 143


def test_what_is_left_out_is_counted() -> None:
    reader, writer = os.pipe()
    output = Output(writer)
    for _ in range(40):
        output.write(b"y" * 9999 + b"\n")
    output.write_line("ours")
    os.set_blocking(reader, False)
    text = b""
    while output.pending:
        text += os.read(reader, 1 << 20)
        output.pump()
    text += os.read(reader, 1 << 20)
    os.close(reader)
    os.close(writer)
    *lines, note, ours = text.splitlines()
    shown = sum(len(line) + 1 for line in lines if line)
    assert note == b"aimind: %d bytes left out, which nobody read" % (400_000 - shown)
    assert ours == b"ours"


def test_the_earliest_cause_is_kept() -> None:
    log = Log(
        [
            {"pattern": "start", "phase": "starting", "cause": None, "remedy": None, "fatal": False},
            {"pattern": "second", "phase": None, "cause": "B", "remedy": None, "fatal": True},
            {"pattern": "first", "phase": None, "cause": "A", "remedy": None, "fatal": False},
        ],
        question="GET /health ",
    )
    log.feed(b"start\nthe fir")
    assert log.cause is None
    log.feed(b"st error\nthe second error\nunfinished")
    log.end()
    assert log.cause is not None
    assert log.cause["cause"] == "A"
    assert list(log.last_lines) == ["start", "the first error", "the second error", "unfinished"]


def test_that_we_have_asked_is_no_news() -> None:
    log = Log([], question="GET /health ")
    log.feed(b'10.0.0.1 - "GET /health HTTP/1.1" 503\n')
    assert not log.news
    log.feed(b'10.0.0.1 - "GET /health HTTP/1.1" 503\nloaded\n')
    assert log.news
    assert list(log.last_lines) == ["loaded"]


def test_the_last_lines_are_few_and_short() -> None:
    log = Log([], question="GET /health ")
    log.feed(b"".join(b"%d\r\n" % n for n in range(100)) + b" 1%\r 2%\r100%\n\xff\n")
    for _ in range(1000):
        log.feed(b"z" * 10_000)
    log.feed(b"\n")
    *numbers, progress, broken, long = log.last_lines
    assert numbers == ["93", "94", "95", "96", "97", "98", "99"]
    assert progress == "100%"
    assert broken == "\ufffd"
    assert long == "z" * 4096

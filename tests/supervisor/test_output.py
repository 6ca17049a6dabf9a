"""What the backend prints comes through, and nothing that happens to it there stops the backend."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from aimind.supervisor.output import PENDING_BYTES, Filter, Log, Mask, Output
from tests.supervisor.harness import LINUX, Supervised, fake, get, wait_for

OWN = b'INFO: 127.0.0.1:40000 - "GET /health HTTP/1.0" 200 OK'


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
            {
                "pattern": "start",
                "phase": "starting",
                "cause": None,
                "remedy": None,
                "fatal": False,
                "fallback": False,
            },
            {
                "pattern": "second",
                "phase": None,
                "cause": "B",
                "remedy": None,
                "fatal": True,
                "fallback": False,
            },
            {
                "pattern": "first",
                "phase": None,
                "cause": "A",
                "remedy": None,
                "fatal": False,
                "fallback": False,
            },
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


SECRET = "canary-canary-key"


def test_a_secret_is_masked_wherever_it_goes(tmp_path: Path) -> None:
    """Its beginning too, where that is all that came before the end."""
    flags = ("--print", f"Namespace(api_key='{SECRET}', x={SECRET * 2})", "--print-env", "KEY")
    dies = ("--print-partial", SECRET[:9], "--exit-at-start", "3")
    command = dataclasses.replace(fake(tmp_path, *flags, *dies), secret_env={"KEY": SECRET})
    with Supervised(command, tmp_path, max_restarts=0) as supervised:
        supervised.wait()
    printed = (tmp_path / "stdout").read_text()
    assert printed == f"Namespace(api_key='***', x=******)\nKEY=***\n{SECRET[:9]}\n"
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in kept if path.name.endswith(".log") and b"KEY=***" in path.read_bytes()]
    assert not [path for path in kept if SECRET.encode() in path.read_bytes()]


def test_a_secret_in_two_pieces_is_masked_however_it_is_cut() -> None:
    text = b"canary " + SECRET.encode() + b" can" + SECRET.encode() + b"\ncanary-canary-canary-key, canary-"
    masked = text.replace(SECRET.encode(), b"***")
    for first in range(len(text)):
        for second in range(first, len(text), 5):
            mask = Mask([SECRET, "a longer one, which is not there"])
            pieces = [mask(text[:first]), mask(text[first:second]), mask(text[second:]), mask.end()]
            assert b"".join(pieces) == masked
            assert mask.end() == b""


def test_what_begins_no_secret_is_not_waited_for() -> None:
    mask = Mask([SECRET])
    assert mask(b"loading: 10%") == b"loading: 10%"
    assert mask(b" can") == b" "
    assert mask(b"not\n") == b"cannot\n"


def test_a_short_secret_is_no_reason_to_change_what_is_printed() -> None:
    assert Mask(["token"])(b"one token a second") == b"one token a second"
    assert Mask([])(SECRET.encode()) == SECRET.encode()


@given(lines=st.lists(st.sampled_from((b"a line", b"GET /v1/models HTTP/1.0", b"GET /health HTTP/1.1", OWN))))
def test_lines_about_our_probes_are_left_out(lines: list[bytes]) -> None:
    left = Filter("/health")(b"".join(line + b"\n" for line in lines) + b"the beginning of a")
    assert left.split(b"\n") == [*(line for line in lines if line != OWN), b"the beginning of a"]

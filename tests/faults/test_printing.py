"""What the backend prints, and who does not read it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.faults.table import Seen, fault
from tests.supervisor.harness import LINUX, Supervised, fake, get, wait_for

pytestmark = LINUX
FLAT_KIB = 2048  # more than the buffers of 256 KiB that there are for it


def peak_kib(pid: int) -> int:
    """The largest resident memory so far."""
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("VmHWM"))


def grown(tmp_path: Path, *flags: str, stdout: int) -> int:
    """KiB that the supervisor takes more with a backend that prints so than with one that prints nothing."""
    silent, printing = tmp_path / "silent", tmp_path / "printing"
    return peak_with(printing, *flags, stdout=stdout) - peak_with(silent, stdout=stdout)


def peak_with(folder: Path, *flags: str, stdout: int) -> int:
    folder.mkdir()
    with Supervised(fake(folder, *flags), folder, stdout=stdout) as supervised:
        wait_for(lambda: get(supervised.command.ready.url) == 200, what="an answer", seconds=100)
        return peak_kib(supervised.process.pid)


@fault(
    "1 GB of log at once",
    "it comes through; the supervisor's memory grows by less than 2 MiB, and the log takes at most 12 MiB",
)
def test_a_gigabyte(tmp_path: Path, seen: Seen) -> None:
    with Path(os.devnull).open("wb") as null:
        assert grown(tmp_path, "--print-bytes", "1000000000", stdout=null.fileno()) < FLAT_KIB
    parts = [path.stat().st_size for path in (tmp_path / "printing" / "logs").iterdir()]
    assert len(parts) == 3
    assert sum(parts) <= 12 * 2**20
    seen(
        "the backend is ready after it",
        "memory as before",
        "of the log the first part and the last two are kept",
    )


@fault("a line of 100 MB", "it comes through whole; the supervisor's memory grows by less than 2 MiB")
def test_a_long_line(tmp_path: Path, seen: Seen) -> None:
    with (tmp_path / "out").open("wb") as out:
        more = grown(tmp_path, "--print-line", "100000000", stdout=out.fileno())
    assert (tmp_path / "out").stat().st_size >= 100_000_000
    (tmp_path / "out").unlink()
    assert more < FLAT_KIB
    seen("the backend is ready after it", "memory as before")


@fault("10 MB that are no UTF-8", "they come through as they are")
def test_garbage(tmp_path: Path, seen: Seen) -> None:
    with Supervised(
        fake(tmp_path, "--print-garbage", "10000000", "--exit-at-start", "1"), tmp_path, restart="never"
    ) as supervised:
        assert supervised.wait() == 1
    size = (tmp_path / "stdout").stat().st_size
    assert size in (10_000_000, 10_000_001)  # a line that did not end is ended
    supervised.stderr.encode()  # what was quoted of it is text
    seen("all bytes", "exit code 1, its last lines as far as they are text")


@fault("stdout is closed", "the backend serves all the same")
def test_closed(tmp_path: Path, seen: Seen) -> None:
    reader, writer = os.pipe()
    with Supervised(fake(tmp_path, "--print-bytes", "1000000"), tmp_path, stdout=writer) as supervised:
        os.close(writer)
        os.close(reader)
        seen(serves_and_stops(supervised))


@fault("stdout is not read", "the backend serves all the same; what is left out is counted")
def test_not_read(tmp_path: Path, seen: Seen) -> None:
    reader, writer = os.pipe()
    with Supervised(fake(tmp_path, "--print-bytes", "3000000"), tmp_path, stdout=writer) as supervised:
        os.close(writer)
        wait_for(lambda: get(supervised.command.ready.url) == 200, what="the backend")
        supervised.send(signal.SIGTERM)
        with os.fdopen(reader, "rb") as stalled:
            text = stalled.read()
        assert supervised.wait() == 143
    assert b"bytes left out, which nobody read\n" in text
    seen("it answers; exit code 143 after TERM", "“… bytes left out, which nobody read”")


@fault("the disk is full where stdout goes", "the backend serves all the same")
def test_full(tmp_path: Path, seen: Seen) -> None:
    with (
        Path("/dev/full").open("wb") as full,
        Supervised(fake(tmp_path, "--print-bytes", "1000000"), tmp_path, stdout=full.fileno()) as supervised,
    ):
        seen(serves_and_stops(supervised))


def serves_and_stops(supervised: Supervised) -> str:
    wait_for(lambda: get(supervised.command.ready.url) == 200, what="the backend")
    supervised.send(signal.SIGTERM)
    assert supervised.wait() == 143
    return "it answers; exit code 143 after TERM"

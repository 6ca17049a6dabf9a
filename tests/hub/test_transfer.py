"""One large file over several connections: whole, in order, hashed as it comes, and gone on with."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from aimind.errors import HubError
from tests.fakes.hub import Fault, Hub
from tests.hub.samples import NAME, Kind, Progress, fetch, publish, resolve
from tests.supervisor.harness import wait_for

MIB = 1 << 20
CHUNK = MIB // 2
CONTENT = random.Random(0).randbytes(12 * MIB + 12345)
CONNECTIONS = 8
# Slow enough for the others to come and help.
RATE = 3e6


@pytest.fixture
def slow(hub: Hub) -> Hub:
    publish(hub, {"model.safetensors": CONTENT})
    hub.bytes_per_second = RATE
    return hub


def fetched(kind: Kind, progress: Progress | None = None) -> bytes:
    progress = progress or Progress()
    folder = fetch(resolve(kind.reference), progress, small_bytes=0, chunk_bytes=CHUNK)
    return (folder / "model.safetensors").read_bytes()


def home_of(kind: Kind) -> Path:
    return Path(os.environ[kind.home])


def ranges(hub: Hub) -> list[tuple[int, int]]:
    """Of all requests for a part of the file: the first byte, and that behind the last."""
    found = []
    for seen in hub.requests:
        if seen.host == "cdn" and seen.range is not None:
            start, _, last = seen.range.removeprefix("bytes=").partition("-")
            found.append((int(start), int(last) + 1))
    return sorted(found)


def test_several_connections_bring_one_file(slow: Hub, kind: Kind) -> None:
    progress = Progress()
    assert fetched(kind, progress) == CONTENT
    assert progress.bytes["model.safetensors"] == len(CONTENT)
    asked = ranges(slow)
    assert len(asked) >= len(CONTENT) // CHUNK // 2
    assert all(stop - start <= CHUNK for start, stop in asked)
    # The redirect is followed once for each connection at most, then its end is known.
    assert slow.count("GET", "/resolve/") + slow.count("GET", "FilePath") <= CONNECTIONS
    assert not list(home_of(kind).rglob("*.incomplete"))


def test_a_small_file_has_one_connection(hub: Hub, kind: Kind) -> None:
    publish(hub, {"model.safetensors": CONTENT[:MIB]})
    hub.bytes_per_second = RATE
    folder = fetch(resolve(kind.reference), Progress(), small_bytes=0, chunk_bytes=MIB)
    assert (folder / "model.safetensors").read_bytes() == CONTENT[:MIB]
    assert hub.count("GET", "/cdn/") == 1


@pytest.mark.parametrize(
    "fault",
    [
        Fault("/cdn/", cut_after=300_000, times=12),
        Fault("/cdn/", cut_after=0, times=4),
        Fault("/cdn/", status=503, times=4),
        Fault("/cdn/", status=429, times=4),
        Fault("/cdn/", status=403, times=4),
        Fault("/cdn/", ignore_range=True),
    ],
    ids=["cut", "cut at once", "503", "429", "403", "no ranges"],
)
def test_connections_that_fail(slow: Hub, kind: Kind, fault: Fault) -> None:
    """A server that does not like several connections still sends the file."""
    begun = threading.Event()

    class Then(Progress):
        def advance(self, path: str, count_bytes: int) -> None:
            super().advance(path, count_bytes)
            if count_bytes and not begun.is_set():  # it is told of none before the first request
                begun.set()
                slow.faults.append(fault)  # once the first connection is there

    assert fetched(kind, Then()) == CONTENT


def test_other_bytes_than_listed_are_fetched_again(slow: Hub, kind: Kind) -> None:
    slow.faults.append(Fault("/cdn/", flip=True, times=1))
    assert fetched(kind) == CONTENT


def test_other_bytes_for_ever(slow: Hub, kind: Kind) -> None:
    slow.faults.append(Fault("/cdn/", flip=True))
    with pytest.raises(HubError, match="with the sha256"):
        fetched(kind)
    assert not list(home_of(kind).rglob("snapshots/**/*.safetensors"))


def test_a_failure_of_another_file_ends_all(slow: Hub, kind: Kind) -> None:
    publish(slow, {"other.safetensors": CONTENT[: 2 * MIB]})
    slow.faults.append(Fault("/cdn/.*other", status=404))
    with pytest.raises(HubError):
        fetched(kind)


def test_kill(slow: Hub, kind: Kind) -> None:
    """What is on the disk is the beginning of the file; at most one chunk for each connection comes twice."""
    content = CONTENT * 3
    publish(slow, {"model.safetensors": content})
    home = home_of(kind)
    argv = [sys.executable, "-m", "tests.hub.pull", kind.source, NAME, str(CHUNK)]
    first = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def part() -> bytes:
        (found,) = home.rglob("*.incomplete")
        return found.read_bytes()

    wait_for(
        lambda: any(each.stat().st_size >= 8 * MIB for each in home.rglob("*.incomplete")),
        what="a part of it",
    )
    first.send_signal(signal.SIGKILL)
    first.wait()
    here = part()
    assert content.startswith(here)
    assert len(ranges(slow)) > CONNECTIONS
    assert max(stop for _, stop in ranges(slow)) <= len(here) + CONNECTIONS * CHUNK
    slow.requests.clear()
    slow.bytes_per_second = None
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert (Path(done.stdout.strip()) / "model.safetensors").read_bytes() == content
    assert min(start for start, _ in ranges(slow)) == len(here)


@pytest.mark.parametrize("seed", range(4))
def test_any_sizes(hub: Hub, kind: Kind, seed: int) -> None:
    choose = random.Random(seed)
    content = CONTENT[: choose.randrange(MIB, 4 * MIB)]
    publish(hub, {"model.safetensors": content})
    hub.bytes_per_second = choose.choice([1e6, 2e6])
    chunk = choose.randrange(60_000, 400_000)
    folder = fetch(resolve(kind.reference), Progress(), small_bytes=0, chunk_bytes=chunk)
    assert (folder / "model.safetensors").read_bytes() == content

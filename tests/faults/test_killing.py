"""Those that keep a backend are killed one after another, at all distances: nothing of it may be left."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import cycle, permutations
from pathlib import Path

import psutil
import pytest

from tests.fakes import clock
from tests.faults.table import Seen, fault
from tests.supervisor.harness import LINUX, PROMISE_SECONDS, Supervised, alive, fake, time_of_end, wait_for

pytestmark = LINUX

GAPS_SECONDS = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
# Three of the four, in all orders, are 24: each order once, each gap three times; or each with each.
ZOMBIES = 10_000
ROUNDS = 24 * len(GAPS_SECONDS) if os.environ.get("AIMIND_TEST_ALL") else 24
# Twenty processes that ignore TERM: every second one in a session of its own, and its parent has ended.
FOREST = """
trap '' TERM
for number in 1 2 3 4 5 6 7 8 9 10; do
    sleep 3600 & echo $! >>"$1.part"
    (setsid sleep 3600 & echo $! >>"$1.part")
done
echo $$ >>"$1.part"
mv "$1.part" "$1"
wait
"""


def forest(folder: Path, pids: Path) -> Supervised:
    """A supervisor whose backend starts twenty processes, writes down their numbers, and never answers."""
    command = dataclasses.replace(fake(folder), argv=("sh", "-c", FOREST, "sh", str(pids)))
    return Supervised(command, folder)


def keepers(supervised: Supervised, backend: int) -> list[int]:
    """The supervisor and all those between it and the backend."""
    above = [process.pid for process in psutil.Process(backend).parents()]
    return above[: above.index(supervised.process.pid) + 1][::-1]


def orders() -> list[tuple[tuple[int, ...], float]]:
    """Which of the keepers are killed in which order, and the seconds between them."""
    gaps = cycle(GAPS_SECONDS)
    triples = list(permutations(range(4), 3))
    return [(triples[number % len(triples)], gap) for number, gap in zip(range(ROUNDS), gaps, strict=False)]


@fault(
    "KILL of any three of supervisor, both sentinels and guardian, in any order, 0 to 200 ms apart",
    "within 2 s nothing of the tree is alive, and no folder is left",
)
def test_kill_in_all_orders(tmp_path: Path, seen: Seen) -> None:
    left: list[str] = []
    for number, (victims, gap_seconds) in enumerate(orders()):
        folder = tmp_path / str(number)
        folder.mkdir()
        with forest(folder, folder / "pids") as supervised:
            wait_for((folder / "pids").exists, what="the processes of the backend")
            backend = supervised.pids[-1]
            temporary = Path(psutil.Process(backend).environ()["TMPDIR"])
            chain = keepers(supervised, backend)
            started = [*chain[1:], *supervised.pids]
            kill_one_by_one([chain[victim] for victim in victims], gap_seconds)
            if 0 in victims:
                supervised.process.wait()
            if problem := what_is_left(started, temporary):
                left.append(f"{victims} {gap_seconds * 1000:g} ms apart: {problem}")
    assert not left, "\n".join(left)
    seen("nothing left of 24 processes, and no folder, whatever the order")


@fault(
    "KILL of the supervisor as soon as its temporary folder is there, 30 times",
    "within 2 s nothing of it is alive, and no folder is left",
)
def test_kill_of_what_has_just_begun(tmp_path: Path, seen: Seen) -> None:
    temporary = os.environ["TMPDIR"]
    late = ""
    for number in range(30):
        folder = tmp_path / str(number)
        folder.mkdir()
        with Supervised(fake(folder), folder) as supervised:
            while not os.listdir(temporary):  # noqa: PTH208 (quicker)
                pass
            supervised.process.kill()
            supervised.process.wait()
        begin = time.monotonic()
        wait_for(lambda: not os.listdir(temporary), what="the end of the folder", seconds=10)  # noqa: PTH208
        if time.monotonic() - begin > PROMISE_SECONDS:
            late = ", but later than promised"
    seen(f"nothing is left{late}")


def kill_one_by_one(pids: list[int], gap_seconds: float) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # the end of another may have been its own
            os.kill(pid, signal.SIGKILL)
        if gap_seconds:
            time.sleep(gap_seconds)


def what_is_left(pids: list[int], temporary: Path) -> str:
    """What is still there after the time that is promised; what is alive is killed."""
    deadline = time.monotonic() + PROMISE_SECONDS
    while any(alive(pid) for pid in pids) or temporary.exists():
        if time.monotonic() >= deadline:
            break
        time.sleep(0.01)
    found = [pid for pid in pids if alive(pid)]
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    words = [f"{len(found)} alive"] if found else []
    if temporary.exists():
        words.append("a folder")
        temporary.rmdir()
    return ", ".join(words)


# ── Processes that start others for ever ───────────────────────────────────────────────────────────────────

NEEDS_COMPILER = pytest.mark.skipif(clock.COMPILER is None, reason="needs a C compiler")


@contextmanager
def succeeding(folder: Path) -> Iterator[tuple[Supervised, Path]]:
    """A supervisor whose backend has started chains of successors, and the file that these write into."""
    program, count = folder / "successors", folder / "count"
    source = Path(clock.__file__).parents[1] / "successors.c"
    subprocess.run([str(clock.COMPILER), "-O1", "-Wall", "-Werror", "-o", program, source], check=True)
    command = dataclasses.replace(fake(folder), argv=(str(program), str(count), "16"), stop_seconds=0.5)
    with Supervised(command, folder) as supervised:
        wait_for(lambda: count.exists() and count.stat().st_size > 1000, what="a thousand of them")
        yield supervised, count


def stands_still(count: Path) -> bool:
    before = count.stat().st_size
    time.sleep(0.2)
    return count.stat().st_size == before


@NEEDS_COMPILER
@fault(
    "16 chains of processes, each of which starts its successor and ends",
    "ended when the backend is stopped",
)
def test_successors(tmp_path: Path, seen: Seen) -> None:
    with succeeding(tmp_path) as (supervised, count):
        supervised.send(signal.SIGTERM)
        assert supervised.wait() == 143
        assert stands_still(count)
        seen("exit code 143; nothing is started any more")


@NEEDS_COMPILER
@fault("the same, and KILL of supervisor and guardian at once", "within 2 s nothing of the tree is alive")
def test_successors_without_guardian(tmp_path: Path, seen: Seen) -> None:
    with succeeding(tmp_path) as (supervised, count):
        sentinels = supervised.sentinels
        kill_one_by_one([supervised.process.pid, supervised.guardian], 0)
        supervised.process.wait()
        late = time_of_end(sentinels)
        assert stands_still(count)
        seen(f"nothing is started any more{late}")


# It keeps what has ended, as a program does that never waits for its children.
NEGLIGENT = """
import os, sys, time
for number in range(int(sys.argv[2])):
    if os.fork() == 0:
        os._exit(0)
open(sys.argv[1], "w").close()
time.sleep(3600)
"""


@fault(
    "10,000 zombies of the backend, and TERM",
    "stopped as soon as without them; the guardian is not busy meanwhile",
)
def test_zombies(tmp_path: Path, seen: Seen) -> None:
    made = tmp_path / "made"
    argv = (sys.executable, "-I", "-S", "-c", NEGLIGENT, str(made), str(ZOMBIES))
    with Supervised(dataclasses.replace(fake(tmp_path), argv=argv), tmp_path) as supervised:
        wait_for(made.exists, what="the zombies")
        guardian = psutil.Process(supervised.guardian)
        before = sum(guardian.cpu_times()[:2])
        time.sleep(1)
        assert sum(guardian.cpu_times()[:2]) - before < 0.1
        begin = time.monotonic()
        supervised.send(signal.SIGTERM)
        assert supervised.wait() == 143
        late = ", but late" if time.monotonic() - begin > 10 else ""
        seen(f"exit code 143{late}")

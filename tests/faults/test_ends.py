"""The backend ends, by itself or by a signal; a process of the tree is killed."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from tests.faults.table import Seen, fault, sentence
from tests.supervisor.harness import LINUX, Supervised, alive, fake, get, time_of_end, wait_for

pytestmark = LINUX
STUBBORN = ("--ignore-term", "--grandchildren", "4")  # two of them leave the process group, too
LOADING = ("--unready", "3600")  # it listens, and says 503
GIVEN_UP = "started three times, then given up with its last lines and the exit code "


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        pytest.param(
            ("--exit-at-start", "0"),
            1,
            marks=fault("exit 0 before it listens", GIVEN_UP + "1: it was no success"),
        ),
        pytest.param(("--exit-at-start", "3"), 3, marks=fault("exit 3 before it listens", GIVEN_UP + "3")),
        pytest.param(
            (*LOADING, "--exit-after", "0.2"),
            1,
            marks=fault("exit 0 while it loads", GIVEN_UP + "1: it was no success"),
        ),
        pytest.param(
            (*LOADING, "--exit-after", "0.2", "--exit-code", "3"),
            3,
            marks=fault("exit 3 while it loads", GIVEN_UP + "3"),
        ),
    ],
)
def test_an_exit_before_it_is_ready(tmp_path: Path, seen: Seen, flags: tuple[str, ...], code: int) -> None:
    with Supervised(fake(tmp_path, "--print", "last words", *flags), tmp_path) as supervised:
        assert supervised.wait() == code
        assert supervised.starts == 3
        assert "aimind: | last words" in supervised.stderr
        assert supervised.stdout == "last words\n" * 3
        seen(f"exit code {code} after 3 starts", sentence(supervised.stderr, "never ready"))


@fault("ABRT while it loads", GIVEN_UP + "134")
def test_an_abort_before_it_is_ready(tmp_path: Path, seen: Seen) -> None:
    with Supervised(fake(tmp_path, *LOADING), tmp_path) as supervised:
        for start in range(1, 4):
            wait_for(partial(started, supervised, start), what="503")
            os.kill(supervised.pids[0], signal.SIGABRT)
        assert supervised.wait() == 134
        seen("exit code 134 after 3 starts", sentence(supervised.stderr, "never ready"))


def started(supervised: Supervised, times: int) -> bool:
    """Whether it listens, after so many starts."""
    return supervised.starts == times and get(supervised.command.ready.url) == 503


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        pytest.param(
            ("--exit-after", "0.3"),
            "exited with code 0",
            marks=fault("exit 0 while it serves", "started again, and answers"),
        ),
        pytest.param(
            ("--exit-after", "0.3", "--exit-code", "3"),
            "exited with code 3",
            marks=fault("exit 3 while it serves", "started again, and answers"),
        ),
    ],
)
def test_an_exit_while_it_serves(tmp_path: Path, seen: Seen, flags: tuple[str, ...], words: str) -> None:
    with Supervised(fake(tmp_path, *flags), tmp_path) as supervised:
        supervised.wait_until_ready(times=3)  # it was ready: it is never given up
        seen(sentence(supervised.stderr, words), "“ready again”")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        pytest.param(
            signal.SIGABRT,
            "was killed by signal 6 (Aborted)",
            marks=fault("ABRT while it serves", "started again, and answers"),
        ),
        pytest.param(
            signal.SIGKILL,
            "was killed by signal 9 (Killed)",
            marks=fault(
                "KILL of the backend, four processes of its own that ignore TERM left behind",
                "they are ended, too; started again, and answers",
            ),
        ),
    ],
)
def test_a_signal_while_it_serves(tmp_path: Path, seen: Seen, number: signal.Signals, words: str) -> None:
    with Supervised(fake(tmp_path, *STUBBORN), tmp_path) as supervised:
        supervised.wait_until_ready()
        first = supervised.pids
        os.kill(first[0], number)
        supervised.wait_until_ready(times=2)
        assert not any(alive(pid) for pid in first)
        assert get(supervised.command.ready.url) == 200
        seen(sentence(supervised.stderr, words), "“ready again”")


@fault("KILL of a process that the backend started and left", "the backend goes on, and no zombie is kept")
def test_kill_of_a_grandchild(tmp_path: Path, seen: Seen) -> None:
    with Supervised(fake(tmp_path, *STUBBORN), tmp_path) as supervised:
        supervised.wait_until_ready()
        orphan = supervised.pids[-1]
        os.kill(orphan, signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{orphan}").exists(), what="the orphan's end")
        assert get(supervised.command.ready.url) == 200
        assert supervised.starts == 1
        seen("it answers", "nothing is left of the other")


@fault("KILL of the guardian", "what it guarded is ended, and so it is said; started again, and answers")
def test_kill_of_the_guardian(tmp_path: Path, seen: Seen) -> None:
    with Supervised(fake(tmp_path, *STUBBORN), tmp_path) as supervised:
        supervised.wait_until_ready()
        pids = [*supervised.sentinels, supervised.guardian, *supervised.pids]
        os.kill(supervised.guardian, signal.SIGKILL)
        supervised.wait_until_ready(times=2)
        assert not any(alive(pid) for pid in pids)
        seen(sentence(supervised.stderr, "guardian"), "“ready again”")


@fault(
    "KILL of the sentinel, and of the supervisor later",
    "the others go on without it; after the second, within 2 s nothing is alive",
)
def test_kill_of_the_sentinel(tmp_path: Path, seen: Seen) -> None:
    with Supervised(fake(tmp_path, *STUBBORN), tmp_path) as supervised:
        supervised.wait_until_ready()
        pids = [*supervised.sentinels, supervised.guardian, *supervised.pids]
        os.kill(pids[0], signal.SIGKILL)
        wait_for(lambda: not alive(pids[0]), what="its end")
        assert get(supervised.command.ready.url) == 200
        assert supervised.starts == 1
        supervised.process.kill()
        seen("it answers", all_gone(supervised, pids))


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param((), marks=fault("KILL of the supervisor", "within 2 s nothing of the tree is alive")),
        pytest.param(
            ("--bind-after", "3600"),
            marks=fault("KILL of the supervisor while it loads", "within 2 s nothing of the tree is alive"),
        ),
    ],
)
def test_kill_of_the_supervisor(tmp_path: Path, seen: Seen, flags: tuple[str, ...]) -> None:
    with Supervised(fake(tmp_path, *STUBBORN, *flags), tmp_path) as supervised:
        wait_for(lambda: supervised.pids, what="the start")
        pids = [*supervised.sentinels, supervised.guardian, *supervised.pids]
        supervised.process.kill()
        seen(all_gone(supervised, pids))


@fault("KILL of supervisor and guardian at once", "within 2 s nothing of the tree is alive")
def test_kill_of_both(tmp_path: Path, seen: Seen) -> None:
    with Supervised(fake(tmp_path, *STUBBORN), tmp_path) as supervised:
        supervised.wait_until_ready()
        pids = [*supervised.sentinels, supervised.guardian, *supervised.pids]
        supervised.send(signal.SIGSTOP)  # so that it cannot act between the two
        os.kill(supervised.guardian, signal.SIGKILL)
        supervised.process.kill()
        seen(all_gone(supervised, pids))


@fault("KILL of the supervisor's whole process group", "within 2 s nothing of the tree is alive")
def test_kill_of_the_group(tmp_path: Path, seen: Seen) -> None:
    with Supervised(fake(tmp_path, *STUBBORN), tmp_path) as supervised:
        supervised.wait_until_ready()
        pids = [*supervised.sentinels, supervised.guardian, *supervised.pids]
        os.killpg(supervised.process.pid, signal.SIGKILL)
        seen(all_gone(supervised, pids))


def all_gone(supervised: Supervised, pids: list[int]) -> str:
    """Wait for the end of all of them."""
    supervised.wait()
    try:
        late = time_of_end(pids)
    finally:
        for pid in filter(alive, pids):
            os.kill(pid, signal.SIGKILL)
    supervised.assert_nothing_left(pids)
    return f"nothing left of {len(pids)} processes, and the port is free{late}"

"""Nothing ends, but nothing works: what is stopped, says 503, lies, or ignores TERM."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.faults.table import Seen, fault, sentence
from tests.supervisor.harness import LINUX, Supervised, alive, fake, get, wait_for

pytestmark = LINUX


@fault(
    "STOP of the backend: it hangs",
    "three probes unanswered, then stopped, killed at last, and started again",
)
def test_stop_of_the_backend(tmp_path: Path, seen: Seen) -> None:
    command = dataclasses.replace(fake(tmp_path), stop_seconds=0.1)
    with Supervised(command, tmp_path, probe_seconds=0.1) as supervised:
        supervised.wait_until_ready()
        first = supervised.pids[0]
        os.kill(first, signal.SIGSTOP)
        supervised.wait_until_ready(times=2)
        assert not alive(first)
        seen(
            sentence(supervised.stderr, "health probes"),
            sentence(supervised.stderr, "was killed"),
            "“ready again”",
        )


@fault("the backend answers 500 from some time on", "three times, then stopped and started again")
def test_500(tmp_path: Path, seen: Seen) -> None:
    with Supervised(fake(tmp_path, "--fail-after", "0.3"), tmp_path, probe_seconds=0.1) as supervised:
        supervised.wait_until_ready(times=2)
        seen(sentence(supervised.stderr, "health probes"), "“ready again”")


@fault(
    "STOP of the supervisor, and CONT later",
    "the backend serves meanwhile, and is not taken for a hung one after it",
)
def test_stop_of_the_supervisor(tmp_path: Path, seen: Seen) -> None:
    with Supervised(fake(tmp_path), tmp_path, probe_seconds=0.2) as supervised:
        supervised.wait_until_ready()
        supervised.send(signal.SIGSTOP)
        subprocess.run(["sleep", "1"], check=True)  # five probes long
        assert get(supervised.command.ready.url) == 200
        supervised.send(signal.SIGCONT)
        subprocess.run(["sleep", "1"], check=True)
        assert supervised.starts == 1
        assert supervised.stderr == ""
        supervised.send(signal.SIGTERM)
        assert supervised.wait() == 143
        seen("it answers while the supervisor is stopped", "1 start", "exit code 143 after TERM")


@fault("KILL of the backend while the supervisor is stopped", "started again after CONT")
def test_an_end_that_nobody_sees(tmp_path: Path, seen: Seen) -> None:
    with Supervised(fake(tmp_path), tmp_path) as supervised:
        supervised.wait_until_ready()
        guardian = supervised.guardian
        supervised.send(signal.SIGSTOP)
        os.kill(supervised.pids[0], signal.SIGKILL)
        wait_for(lambda: not alive(guardian), what="the guardian's end")
        supervised.send(signal.SIGCONT)
        supervised.wait_until_ready(times=2)
        seen(sentence(supervised.stderr, "was killed"), "“ready again”")


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(
            ("--unready", "3600"),
            marks=fault("503 for ever, and nothing printed", "a stall: stopped, and said so"),
        ),
        pytest.param(
            ("--lie", '{"status_code": 400, "message": "no model"}'),
            marks=fault(
                "200 with an error in the body, for ever", "it is never ready; a stall: stopped, and said so"
            ),
        ),
    ],
)
def test_never_ready(tmp_path: Path, seen: Seen, flags: tuple[str, ...]) -> None:
    command = fake(tmp_path, *flags)
    command = dataclasses.replace(
        command, ready=dataclasses.replace(command.ready, lie=r'"status_code": *[45]')
    )
    with Supervised(command, tmp_path, restart="never", stall_seconds=3) as supervised:
        assert supervised.wait() == 1
        assert supervised.stdout == ""
        seen(sentence(supervised.stderr, "stalled"), "exit code 1")


@fault("the backend ignores TERM", "TERM twice, then KILL; nothing is left")
def test_term_is_ignored(tmp_path: Path, seen: Seen) -> None:
    command = dataclasses.replace(fake(tmp_path, "--ignore-term", "--grandchildren", "4"), stop_seconds=0.1)
    with Supervised(command, tmp_path) as supervised:
        supervised.wait_until_ready()
        pids = [supervised.guardian, *supervised.pids]
        supervised.send(signal.SIGTERM)
        assert supervised.wait() == 143
        supervised.assert_nothing_left(pids)
        seen("exit code 143", f"nothing left of {len(pids)} processes")


@fault("TERM while the backend hangs", "TERM twice, then KILL; nothing is left")
def test_term_during_a_hang(tmp_path: Path, seen: Seen) -> None:
    command = dataclasses.replace(fake(tmp_path), stop_seconds=0.1)
    with Supervised(command, tmp_path) as supervised:
        supervised.wait_until_ready()
        pids = [supervised.guardian, *supervised.pids]
        os.kill(pids[1], signal.SIGSTOP)
        supervised.send(signal.SIGTERM)
        assert supervised.wait() == 143
        supervised.assert_nothing_left(pids)
        seen("exit code 143", f"nothing left of {len(pids)} processes")


@fault(
    "what the backend started leaves its session, ignores TERM and holds its output open",
    "ended with it when the backend is stopped",
)
def test_setsid(tmp_path: Path, seen: Seen) -> None:
    with Supervised(fake(tmp_path, "--grandchildren", "2"), tmp_path) as supervised:
        supervised.wait_until_ready()
        pids = [supervised.guardian, *supervised.pids]
        assert os.getsid(pids[-1]) == pids[-1]
        supervised.send(signal.SIGTERM)
        assert supervised.wait() == 143
        supervised.assert_nothing_left(pids)
        seen("exit code 143", f"nothing left of {len(pids)} processes")

"""Often, and many at once."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.faults.table import Seen, fault
from tests.supervisor.harness import LINUX, Supervised, alive, fake

pytestmark = LINUX


def resident_kib(pid: int) -> int:
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("VmRSS"))


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@fault(
    "100 restarts of the backend in a row (USR1)",
    "the supervisor has as many descriptors and as much memory as after ten; ten logs are kept",
)
def test_restarts(tmp_path: Path, seen: Seen) -> None:
    found = {}
    with Supervised(fake(tmp_path), tmp_path) as supervised:
        supervised.wait_until_ready()
        for times in range(1, 101):
            before = supervised.pids
            supervised.send(signal.SIGUSR1)
            supervised.wait_until_ready(times=times + 1)
            assert not any(alive(pid) for pid in before)
            if times in (10, 100):
                pid = supervised.process.pid
                found[times] = descriptors(pid), resident_kib(pid)
        assert supervised.state["restarts"] == 100
        assert len(list((tmp_path / "logs").iterdir())) == 10
    assert found[100][0] == found[10][0]
    assert found[100][1] < found[10][1] + 512
    seen("as many descriptors", "less than 0.5 MiB more", "10 logs")


@fault(
    "200 starts and stops of an instance in a row",
    "nothing is left: no process, no file but the last ten logs, the state and the lock",
)
def test_starts_and_stops(tmp_path: Path, seen: Seen) -> None:
    instance = tmp_path / "instance"
    instance.mkdir()
    for _ in range(200):
        with Supervised(fake(tmp_path), tmp_path, kept=instance) as supervised:
            supervised.wait_until_ready()
            pids = [supervised.process.pid, supervised.guardian, *supervised.pids]
            supervised.send(signal.SIGTERM)
            assert supervised.wait() == 143
            assert not any(alive(pid) for pid in pids)
    assert sorted(path.name for path in instance.iterdir()) == ["logs", "state.json"]
    assert len(list((instance / "logs").iterdir())) == 10
    seen("200 times exit code 143", "10 logs and the state")

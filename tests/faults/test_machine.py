"""The machine fails: no room on the disk, no memory, another time of day."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from aimind.types import Command
from tests.fakes import clock
from tests.faults.table import Seen, fault, sentence
from tests.supervisor.harness import LINUX, Supervised, fake, get, wait_for

pytestmark = LINUX
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
MIB = 2**20
TEN_YEARS_SECONDS = 10 * 365 * 86400
GROUPS = Path("/sys/fs/cgroup")
MEMORY_GROUPS = (GROUPS / "memory", "memory.limit_in_bytes"), (GROUPS, "memory.max")
PIDS_GROUPS = (GROUPS / "pids", "pids.max"), (GROUPS, "pids.max")


# ── The disk ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], stderr=subprocess.PIPE
    )
    if mounted.returncode:
        pytest.skip("cannot mount a disk here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path) -> Path:
    """A file that leaves no room for any other."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    return ballast


@ROOT
@fault(
    "the disk of the log is full",
    "the backend serves all the same; what is left out is counted, and later runs are logged again",
)
def test_full_log(tmp_path: Path, disk: Path, seen: Seen) -> None:
    with Supervised(fake(tmp_path, "--print-bytes", "3000000"), tmp_path, kept=disk) as supervised:
        supervised.wait_until_ready()
        first = disk / "logs" / "000001.log"
        assert first.stat().st_size > MIB // 2
        first.write_bytes(b"")  # room again, though the supervisor still writes into it
        os.kill(supervised.pids[0], signal.SIGKILL)
        supervised.wait_until_ready(times=2)
        assert get(supervised.command.ready.url) == 200
        said = sentence(first.read_text(), "bytes left out")
        assert "was killed by signal 9" in first.read_text()
        seen("it answers", "“… " + said.partition(" ")[2], "the end of the run is logged")


@ROOT
@fault(
    "the disk of the state is full",
    "the backend serves and is started again all the same; the state is never half a file, and right later",
)
def test_full_state(tmp_path: Path, disk: Path, seen: Seen) -> None:
    with Supervised(fake(tmp_path), tmp_path, kept=disk) as supervised:
        supervised.wait_until_ready()
        ballast = fill(disk)
        os.kill(supervised.pids[0], signal.SIGKILL)
        supervised.wait_until_ready(times=2)
        assert get(supervised.command.ready.url) == 200
        assert supervised.state["restarts"] == 0  # old, but whole
        ballast.unlink()
        os.kill(supervised.pids[0], signal.SIGKILL)
        supervised.wait_until_ready(times=3)
        wait_for(lambda: supervised.state["state"] == "ready", what="the state")
        assert supervised.state["restarts"] == 2
        seen("it answers; the state is an old one", "right once there is room")


@fault(
    "the state's folder is removed while it serves", "the backend serves and is started again all the same"
)
def test_removed_state(tmp_path: Path, seen: Seen) -> None:
    instance = tmp_path / "instance"
    instance.mkdir()
    with Supervised(fake(tmp_path), tmp_path, kept=instance) as supervised:
        supervised.wait_until_ready()
        subprocess.run(["rm", "-r", str(instance)], check=True)
        os.kill(supervised.pids[0], signal.SIGKILL)
        supervised.wait_until_ready(times=2)
        supervised.send(signal.SIGTERM)
        assert supervised.wait() == 143
        seen("“ready again”; exit code 143 after TERM")


# ── Memory ─────────────────────────────────────────────────────────────────────────────────────────────────


def limited(command: Command, mib: int) -> Command:
    """The command with so much address space."""
    argv = ("sh", "-c", f'ulimit -v {mib * 1024}; exec "$@"', "sh", *command.argv)
    return dataclasses.replace(command, argv=argv)


@fault(
    "the backend gets no memory (ulimit -v)",
    "given up after three tries; its own words are among the last lines",
)
def test_no_address_space(tmp_path: Path, seen: Seen) -> None:
    with Supervised(limited(fake(tmp_path, "--allocate", str(2**31)), 512), tmp_path) as supervised:
        assert supervised.wait() == 1
        assert supervised.starts == 3
        seen("exit code 1 after 3 starts", sentence(supervised.stderr, "MemoryError"))


@contextmanager
def control_group(places: Sequence[tuple[Path, str]], limit: str) -> Iterator[Path]:
    """A control group whose processes have so much of something; `places`: where, and the limit's file."""
    parent, file = next(((p, file) for p, file in places if (p / "cgroup.procs").exists()), (None, ""))
    if parent is None or not os.access(parent, os.W_OK):
        pytest.skip("no control group can be made here")
    folder = parent / f"aimind-{uuid.uuid4().hex}"
    folder.mkdir()
    try:
        if not (folder / file).exists():
            pytest.skip(f"no control group with {file} can be made here")
        (folder / file).write_text(limit)
        yield folder
    finally:
        wait_for(lambda: not (folder / "cgroup.procs").read_text(), what="the end of its processes")
        folder.rmdir()


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A control group whose processes have 100 MiB of memory in all, and no swap."""
    with control_group(MEMORY_GROUPS, str(100 * MIB)) as folder:
        yield folder


@fault(
    "the kernel kills the backend: out of memory (cgroup)",
    "given up after three tries with exit code 137, and the message says what KILL may mean",
)
def test_out_of_memory(tmp_path: Path, cgroup: Path, seen: Seen) -> None:
    command = fake(tmp_path, "--allocate", str(400 * MIB))
    argv = ("sh", "-c", f'echo $$ > {cgroup}/cgroup.procs; exec "$@"', "sh", *command.argv)
    with Supervised(dataclasses.replace(command, argv=argv), tmp_path) as supervised:
        assert supervised.wait() == 137
        assert supervised.starts == 3
        assert "was killed by signal 9" in supervised.stderr
        hint = next(line for line in supervised.stderr.splitlines()[::-1] if "memory" in line)
        seen("exit code 137 after 3 starts", sentence(supervised.stderr, "error:"), sentence(hint, "memory"))


# ── Processes ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "limit",
    [
        pytest.param(
            limit,
            marks=fault(
                f"a restart, and no process can be had for the {missing} (pids.max)",
                "the cause is said, and it is tried again; ready once there can be more",
            ),
        )
        for limit, missing in enumerate(("outer sentinel", "inner sentinel", "guardian", "backend"), 1)
    ],
)
def test_no_processes(tmp_path: Path, seen: Seen, limit: int) -> None:
    with (
        control_group(PIDS_GROUPS, "max") as group,
        Supervised(fake(tmp_path), tmp_path, first_delay_seconds=0.1) as supervised,
    ):
        supervised.wait_until_ready()
        (group / "cgroup.procs").write_text(str(supervised.process.pid))
        (group / "pids.max").write_text(str(limit))
        os.kill(supervised.pids[0], signal.SIGKILL)
        wait_for(lambda: supervised.stderr.count("cannot be started") >= 2, what="two tries")
        assert supervised.state["state"] == "backing off"
        (group / "pids.max").write_text("max")
        supervised.wait_until_ready(times=2)
        supervised.send(signal.SIGTERM)
        assert supervised.wait() == 143
        hint = sentence(supervised.stderr, "hint: this user")
        seen(sentence(supervised.stderr, "cannot be started"), hint, "“ready again”")


# ── The time of day ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(clock.COMPILER is None, reason="needs a C compiler")
@fault(
    "the clock is set ten years forward, and then twenty back",
    "probes go on, no stall is seen, and restarts wait for as long as they should",
)
def test_another_time(tmp_path: Path, seen: Seen) -> None:
    shift = tmp_path / "shift"
    shift.write_text("0")
    environment = {**os.environ, **clock.environment(clock.build(tmp_path), shift)}
    look = [sys.executable, "-I", "-S", "-c", "import time; print(time.time())"]
    with Supervised(
        fake(tmp_path, "--unready", "0.3"),
        tmp_path,
        environment=environment,
        probe_seconds=0.1,
        first_delay_seconds=0.5,
        stall_seconds=60,
    ) as supervised:
        supervised.wait_until_ready()
        for times, years in ((2, 1), (3, -1)):
            shift.write_text(str(years * TEN_YEARS_SECONDS))
            told = float(subprocess.run(look, env=environment, capture_output=True, check=True).stdout)
            assert abs(told - time.time() - years * TEN_YEARS_SECONDS) < 100  # the clock is a false one
            os.kill(supervised.pids[0], signal.SIGKILL)
            killed_at = time.monotonic()
            supervised.wait_until_ready(times=times)
            waited = time.monotonic() - killed_at
            assert 0.5 <= waited < 10
        state = json.loads((tmp_path / "state.json").read_text())
        assert state["since"] < time.time() - TEN_YEARS_SECONDS / 2
        assert "probes" not in supervised.stderr
        assert "stalled" not in supervised.stderr
        seen("two restarts after the delays that were announced", "no failed probe, no stall")

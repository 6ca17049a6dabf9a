"""A restart waits until the device memory of the last run is back: with a driver library of our own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.fakes import nvml
from tests.supervisor.harness import LINUX, Supervised, fake, wait_for

pytestmark = [LINUX, pytest.mark.skipif(nvml.COMPILER is None, reason="needs a C compiler")]

GIB = nvml.GIB
PLANNED = {"uuid": nvml.uuid(0), "name": "NVIDIA A", "planned_bytes": 20 * GIB}


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nvml.build(tmp_path_factory.mktemp("nvml"))


class Machine:
    """A machine with one GPU, whose free memory can be changed while others look."""

    def __init__(self, library: Path, folder: Path) -> None:
        self._path = folder / "machine"
        self.environment = {**os.environ, **nvml.environment(library, self._path)}
        self.set(23)

    def set(self, free_gib: float, **errors: int) -> None:
        nvml.write(self._path, nvml.Gpu(free_bytes=int(free_gib * GIB), errors=errors))


@pytest.fixture
def machine(library: Path, tmp_path: Path) -> Machine:
    return Machine(library, tmp_path)


def supervised(machine: Machine, folder: Path, **planned: object) -> Supervised:
    return Supervised(fake(folder), folder, environment=machine.environment, devices=[{**PLANNED, **planned}])


def crash(running: Supervised) -> list[int]:
    pids = running.pids
    os.kill(pids[0], signal.SIGKILL)
    return pids


def test_a_restart_waits_until_the_memory_is_back(machine: Machine, tmp_path: Path) -> None:
    with supervised(machine, tmp_path) as running:
        running.wait_until_ready()
        machine.set(3.1)
        first = crash(running)
        line = "aimind: waiting for device memory: 3.1 of 20.0 GiB are free on NVIDIA A\n"
        wait_for(lambda: line in running.stderr, what="the wait")
        assert running.pids == first
        machine.set(20)
        running.wait_until_ready(times=2)
        assert running.stderr.count("device memory") == 1
        # Neither the library nor the child that had it stays.
        supervisor = psutil.Process(running.process.pid)
        wait_for(lambda: len(supervisor.children()) == 1, what="the child's end")
        assert "nvidia" not in Path(f"/proc/{running.process.pid}/maps").read_text()


def test_no_more_is_wanted_than_was_free_at_first(machine: Machine, tmp_path: Path) -> None:
    machine.set(12)
    with supervised(machine, tmp_path) as running:
        running.wait_until_ready()
        machine.set(11.9)
        crash(running)
        wait_for(lambda: "11.9 of 12.0 GiB are free" in running.stderr, what="the wait")
        machine.set(12)
        running.wait_until_ready(times=2)


def test_a_stop_is_not_delayed(machine: Machine, tmp_path: Path) -> None:
    with supervised(machine, tmp_path) as running:
        running.wait_until_ready()
        machine.set(1)
        first = crash(running)
        wait_for(lambda: "waiting for device memory" in running.stderr, what="the wait")
        children = [child.pid for child in psutil.Process(running.process.pid).children()]
        running.send(signal.SIGTERM)
        assert running.wait() == 143
        assert running.pids == first
        assert not any(psutil.pid_exists(pid) for pid in children)


def test_a_restart_that_is_asked_for_waits_as_well(machine: Machine, tmp_path: Path) -> None:
    with supervised(machine, tmp_path) as running:
        running.wait_until_ready()
        machine.set(1)
        running.send(signal.SIGUSR1)
        wait_for(lambda: "waiting for device memory" in running.stderr, what="the wait")
        running.send(signal.SIGUSR1)  # it is being started again already
        machine.set(23)
        running.wait_until_ready(times=2)
        assert running.starts == 2


@pytest.mark.parametrize(
    "trouble",
    [
        {"nvmlDeviceGetMemoryInfo": 999},
        {"nvmlDeviceGetHandleByUUID": 6},
    ],
)
def test_a_driver_that_does_not_answer_is_not_waited_for(
    machine: Machine, tmp_path: Path, trouble: dict[str, int]
) -> None:
    with supervised(machine, tmp_path) as running:
        running.wait_until_ready()
        machine.set(1, **trouble)
        crash(running)
        running.wait_until_ready(times=2)
        assert "device memory" not in running.stderr


def test_without_the_library_nothing_is_waited_for(tmp_path: Path) -> None:
    with Supervised(fake(tmp_path), tmp_path, devices=[PLANNED]) as running:
        running.wait_until_ready()
        crash(running)
        running.wait_until_ready(times=2)
        assert "device memory" not in running.stderr


# Its first wait finds 23 GiB free, its second, after half a second, still 3.
TWICE = """
import select, sys, time
from pathlib import Path
from aimind.supervisor.memory import Memory
from tests.fakes import nvml

devices = [{"uuid": nvml.uuid(0), "name": "NVIDIA A", "planned_bytes": 20 * nvml.GIB}]
memory = Memory(devices, patience_seconds=0.5)
for free_gib in (23, 3):
    nvml.write(Path(sys.argv[1]), nvml.Gpu(free_bytes=free_gib * nvml.GIB))
    memory.begin(time.monotonic())
    while memory.fd is not None:
        ready = select.select([memory.fd], [], [], max(0.0, memory.deadline - time.monotonic()))[0]
        if sentence := memory.step(time.monotonic(), io=bool(ready)):
            print(sentence)
"""


def test_the_wait_is_bounded(machine: Machine) -> None:
    script = [sys.executable, "-c", TWICE, machine.environment["FAKE_NVML"]]
    asked = subprocess.run(script, env=machine.environment, capture_output=True, text=True, check=True)
    short = "3.0 of 20.0 GiB are free on NVIDIA A"
    assert asked.stdout.splitlines() == [
        f"waiting for device memory: {short}",
        f"device memory was not freed within 0.5 s: {short}; starting anyway",
    ]

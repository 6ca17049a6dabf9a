"""What a backend's processes hold on a device is asked of the driver, and remembered for later plans."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from aimind.devices import read_measurements
from aimind.launchers import ggml
from aimind.supervisor import taken
from aimind.supervisor.output import Log
from aimind.types import BufferLine
from tests.fakes import nvml
from tests.supervisor.harness import LINUX, Supervised, fake, wait_for

MIB = 1 << 20
DEVICE = {"uuid": nvml.uuid(0), "name": "NVIDIA A", "planned_bytes": 2 * nvml.GIB}
KEY = {"device": "NVIDIA A", "driver": "560.35.03", "backend": "b", "version": "1", "kind": "k"}
NEEDS_COMPILER = pytest.mark.skipif(nvml.COMPILER is None, reason="needs a C compiler")
LINES = (
    BufferLine(r"\bGPU(?P<device>\d+) kept (?P<size>[\d.]+) MiB", MIB),
    BufferLine(r"\bGPU(?P<device>\d+) scratch (?P<size>[\d.]+) MiB", MIB, replaces=True),
)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nvml.build(tmp_path_factory.mktemp("nvml"))


def entries(path: Path) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text())["entries"]) if path.exists() else []


class Machine:
    """A machine with one GPU, and a backend whose start waits until it is known who holds what there."""

    def __init__(self, library: Path, folder: Path) -> None:
        self.folder, self.machine = folder, folder / "machine"
        self.calibration = folder / "data" / "calibration.json"
        nvml.write(self.machine, nvml.Gpu())
        self.environment = {**os.environ, **nvml.environment(library, self.machine)}

    def start(self, *lines: str) -> Supervised:
        printed = [word for line in lines for word in ("--print", line)]
        command = fake(self.folder, "--bind-when", str(self.folder / "go"), *printed)
        calibration = {name: KEY[name] for name in ("backend", "version", "kind")}
        return Supervised(
            dataclasses.replace(command, buffers=LINES),
            self.folder,
            environment=self.environment,
            devices=[DEVICE],
            calibration={"path": str(self.calibration), **calibration},
        )

    def go(self, running: Supervised, used_mib: int | None, **errors: int) -> None:
        """Let it become ready, holding so much: `None` where the driver does not tell."""
        wait_for(lambda: running.pids, what="the backend")
        used = None if used_mib is None else used_mib * MIB
        tenants = {running.pids[0]: used, 1: 7 * MIB}
        nvml.write(self.machine, nvml.Gpu(compute=tenants, errors=errors))
        (self.folder / "go").touch()
        running.wait_until_ready()


@pytest.fixture
def machine(library: Path, tmp_path: Path) -> Machine:
    return Machine(library, tmp_path)


# ── A run ──────────────────────────────────────────────────────────────────────────────────────────────────


@LINUX
@NEEDS_COMPILER
def test_what_no_buffer_explains_is_remembered(machine: Machine) -> None:
    lines = (
        "GPU0 kept 300.00 MiB",
        "GPU0 kept 200.00 MiB",
        "GPU0 scratch 90.5 MiB",
        "GPU0 scratch 50.00 MiB",
    )
    with machine.start(*lines) as running:
        machine.go(running, 900)
        wait_for(lambda: running.state.get("taken"), what="a look")
        assert running.state["taken"] == {nvml.uuid(0): 900 * MIB}
        (found,) = read_measurements(machine.calibration)
        assert (found.device, found.driver, found.kind) == ("NVIDIA A", "560.35.03", "k")
        assert found.ready_bytes == found.most_bytes == 350 * MIB
        supervisor = psutil.Process(running.process.pid)
        wait_for(lambda: len(supervisor.children()) == 1, what="the child's end")
        assert "nvidia" not in Path(f"/proc/{running.process.pid}/maps").read_text()


@LINUX
@NEEDS_COMPILER
def test_without_a_line_that_names_a_buffer_nothing_is_remembered(machine: Machine) -> None:
    with machine.start("GPU1 kept 300.00 MiB") as running:
        machine.go(running, 900)
        wait_for(lambda: running.state.get("taken"), what="a look")
        assert not machine.calibration.exists()


@LINUX
@NEEDS_COMPILER
@pytest.mark.parametrize(
    ("used_mib", "errors"),
    [
        (None, {}),
        (900, {"nvmlDeviceGetComputeRunningProcesses_v3": 3}),
        (900, {"nvmlDeviceGetHandleByUUID": 6}),
    ],
)
def test_a_driver_that_does_not_tell_is_no_trouble(
    machine: Machine, used_mib: int | None, errors: dict[str, int]
) -> None:
    with machine.start("GPU0 kept 300.00 MiB") as running:
        machine.go(running, used_mib, **errors)
        supervisor = psutil.Process(running.process.pid)
        wait_for(lambda: len(supervisor.children()) == 1, what="the end of the look")
        assert running.state["taken"] == {}
        assert not machine.calibration.exists()
        running.send(signal.SIGTERM)
        assert running.wait() == 143


@LINUX
@NEEDS_COMPILER
def test_of_a_new_run_nothing_is_known_yet(machine: Machine) -> None:
    with machine.start("GPU0 kept 300.00 MiB") as running:
        machine.go(running, 900)
        wait_for(lambda: running.state.get("taken"), what="a look")
        nvml.write(machine.machine, nvml.Gpu())
        os.kill(running.pids[0], signal.SIGKILL)
        running.wait_until_ready(times=2)
        assert running.state["taken"] == {}


# ── The file ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_has_its_first_figure_and_its_largest(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    for size in (5, 9, 7):
        taken.remember(str(path), KEY, "a", size)
    (found,) = read_measurements(path)
    assert (found.ready_bytes, found.most_bytes) == (5, 9)


def test_the_last_runs_of_the_last_kinds_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    for number in range(taken.ENTRIES + 5):
        taken.remember(str(path), {**KEY, "version": str(number)}, "a", number)
    for number in range(taken.RUNS + 3):
        taken.remember(str(path), {**KEY, "version": "5"}, f"run {number}", number)
    found = entries(path)
    assert len(found) == taken.ENTRIES
    assert found[-1]["version"] == "5"
    assert [run["run"] for run in found[-1]["runs"]] == [f"run {n}" for n in range(3, taken.RUNS + 3)]


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    program = (
        "import sys; from aimind.supervisor import taken\n"
        "for number in range(5):\n"
        f"    key = {KEY!r} | {{'version': sys.argv[1]}}\n"
        f"    taken.remember({str(path)!r}, key, f'run {{number}}', number)\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(number)]) for number in range(6)]
    assert [writer.wait(60) for writer in writers] == [0] * 6
    assert len(read_measurements(path)) == 30


DAMAGED = (
    b"",
    b"\xff\xfe",
    b"[]",
    b"{}",
    b'{"schema": 2, "entries": []}',
    b'{"schema": 1, "entries": [{}]}',
    b'{"schema": 1, "entries": {"a": 1}}',
    b'{"schema": 1, "entries": [{"device": "a", "driver": "", "backend": "b", "version": "1", "kind": "k",'
    b' "runs": [{"run": "a", "ready_bytes": "many", "most_bytes": 1}]}]}',
    b"[" * 100_000,
)


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_is_said_and_begun_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "calibration.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="it"):
        read_measurements(path)
    taken.remember(str(path), KEY, "a", 3)
    assert [each.most_bytes for each in read_measurements(path)] == [3]


def test_no_file_is_no_measurement(tmp_path: Path) -> None:
    assert read_measurements(tmp_path / "calibration.json") == ()
    assert read_measurements(tmp_path / "a" / "calibration.json") == ()


# ── Lines of llama.cpp ─────────────────────────────────────────────────────────────────────────────────────


def test_the_buffers_that_llama_cpp_names_are_summed() -> None:
    log = Log((), question="GET ", buffers=[dataclasses.asdict(each) for each in ggml.BUFFERS])  # type: ignore[misc]
    log.feed(
        b"load_tensors:   CPU_Mapped model buffer size =   167.48 MiB\n"
        b"load_tensors:        CUDA0 model buffer size =  4455.25 MiB\n"
        b"load_tensors:        CUDA1 model buffer size =   100.00 MiB\n"
        b"llama_kv_cache:      CUDA0 KV buffer size =  4608.00 MiB\n"
        b"llama_memory_recurrent:      CUDA0 RS buffer size =    50.25 MiB\n"
        b"llama_context:  CUDA_Host  output buffer size =     2.32 MiB\n"
        b"sched_reserve:      CUDA0 compute buffer size =   304.75 MiB\n"
        b"sched_reserve:  CUDA_Host compute buffer size =    24.01 MiB\n"
        b"sched_reserve:      CUDA0 compute buffer size =   128.00 MiB\n"
    )
    assert log.buffers == {"0": (4455.25 + 4608 + 50.25 + 128) * MIB, "1": 100 * MIB}

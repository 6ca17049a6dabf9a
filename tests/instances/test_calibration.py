"""From one `aimind serve` to the next plan: what the first one held beside its buffers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fakes import nvml
from tests.instances.conftest import Home
from tests.supervisor.harness import LINUX, wait_for

MIB = 1 << 20
pytestmark = [LINUX, pytest.mark.skipif(nvml.COMPILER is None, reason="needs a C compiler")]


class Machine:
    """The home with an H200."""

    def __init__(self, home: Home) -> None:
        self.home, self.machine = home, home.folder / "machine"
        self.set()
        home.env |= nvml.environment(nvml.build(home.folder), self.machine)
        home.env["FAKE_DEVICES"] = "  CUDA0: a device"

    def set(self, **used: int) -> None:
        compute = {int(pid.removeprefix("p")): size for pid, size in used.items()}
        nvml.write(self.machine, nvml.Gpu(name="NVIDIA H200", capability=(9, 0), compute=compute))

    def plan(self, *words: str) -> tuple[int, list[str]]:
        """The planned overhead on the device, and what is said of it."""
        found = json.loads(self.home.good("plan", "demo", "--backend", "llama-server", "--json", *words))
        reasons = [each["sentence"] for each in found["reasons"] if each["field"] == "overhead_bytes"]
        return found["shards"][0]["overhead_bytes"], reasons


@pytest.fixture
def machine(home: Home) -> Machine:
    return Machine(home)


def serve_once(machine: Machine, folder: Path) -> None:
    """Serve the demo; it holds 400 MiB, of which its log names 100."""
    home, go = machine.home, folder / "go"
    named = "'load_tensors:        CUDA0 model buffer size =   100.00 MiB'"
    home.fake("--print", named, "--pids", str(folder / "pids"), "--bind-when", str(go))
    home.begin("--name", "demo")
    wait_for((folder / "pids").exists, what="the backend")
    wait_for(lambda: (folder / "pids").read_text().strip(), what="its process")
    pid = (folder / "pids").read_text().split()[0]
    machine.set(**{f"p{pid}": 400 * MIB})
    go.touch()
    home.wait_for_state("ready")
    wait_for(lambda: home.file().get("taken"), what="a look")


def test_the_next_plan_knows_what_the_last_run_held(machine: Machine, tmp_path: Path) -> None:
    before, reasons = machine.plan()
    assert before >= 612 * MIB
    assert reasons == []
    serve_once(machine, tmp_path)
    assert machine.home.status()["taken"] == {nvml.uuid(0): 400 * MIB}
    shown = machine.home.good("status", "demo")
    assert "400 MiB on device 0, planned" in " ".join(shown.split())
    machine.home.good("stop", "demo")
    after, reasons = machine.plan()
    assert after < before
    assert "earlier runs on this machine" in reasons[0]
    elsewhere, reasons = machine.plan("--hardware", "H200")
    assert elsewhere >= 612 * MIB
    assert reasons == []


def test_a_damaged_file_is_said_and_nothing_ends(machine: Machine) -> None:
    data = Path(machine.home.env["AIMIND_DATA_DIR"])
    data.mkdir(exist_ok=True)
    (data / "calibration.json").write_text("{")
    done = machine.home.run("plan", "demo", "--backend", "llama-server")
    assert done.returncode == 0
    assert "calibration.json is ignored: it is not a JSON document" in done.stderr

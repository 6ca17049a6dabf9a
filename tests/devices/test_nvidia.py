"""The probe in a process of its own, against a driver library that is compiled for the purpose."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aimind import devices
from aimind.types import Device, Host, Tenant
from tests.fakes import nvml

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="NVML is asked on Linux"),
    pytest.mark.skipif(nvml.COMPILER is None, reason="needs a C compiler"),
]

MIB = 2**20
PROGRAM = """
import json, pathlib, sys
from aimind import devices
from aimind.errors import AimindError
try:
    answer = {"host": devices.to_json(devices.probe(root=pathlib.Path(sys.argv[1])))}
except AimindError as error:
    answer = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
print(json.dumps({**answer, "pynvml": "pynvml" in sys.modules}))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nvml.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine without a sign of NVIDIA in /dev, /proc and /sys."""
    (tmp_path / "root/proc").mkdir(parents=True)
    (tmp_path / "root/proc/meminfo").write_text("MemTotal: 2048 kB\nMemAvailable: 1024 kB\n")
    return tmp_path / "root"


def ask(environment: dict[str, str], root: Path) -> dict[str, object]:
    inherited = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(root)]
    done = subprocess.run(
        command, env=inherited | environment, capture_output=True, text=True, check=True, timeout=60
    )
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def probe(library: Path, machine: Path, *, visible: str | None = None, root: Path = Path("/")) -> Host:
    environment = nvml.environment(library, machine)
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    answer = ask(environment, root)
    assert "host" in answer, answer
    return devices.from_json(answer["host"])


def fail(
    library: Path, machine: Path, *, visible: str | None = None, root: Path = Path("/")
) -> tuple[str, str]:
    """The message and the hint of the DeviceError."""
    environment = nvml.environment(library, machine)
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    answer = ask(environment, root)
    assert answer.get("error") == "DeviceError", answer
    return str(answer["message"]), str(answer["hint"])


def test_an_idle_device(library: Path, tmp_path: Path) -> None:
    host = probe(library, nvml.write(tmp_path / "machine", nvml.Gpu()))
    assert host.driver == "560.35.03"
    assert host.devices == (
        Device(
            index=0,
            uuid=nvml.uuid(0),
            vendor="nvidia",
            name="NVIDIA GeForce RTX 4090",
            total_bytes=24218 * MIB,
            free_bytes=24218 * MIB,
            capability="8.9",
        ),
    )


def test_tenants_are_named_and_counted_once(library: Path, tmp_path: Path) -> None:
    this, gone = os.getpid(), 2**22 + 1
    gpu = nvml.Gpu(free_bytes=20000 * MIB, compute={this: 512 * MIB}, graphics={gone: None, this: 512 * MIB})
    (device,) = probe(library, nvml.write(tmp_path / "machine", gpu)).devices
    name = Path("/proc/self/comm").read_text().strip()
    assert device.free_bytes == 20000 * MIB
    assert device.tenants == (
        Tenant(pid=this, name=name, used_bytes=512 * MIB),
        Tenant(pid=gone, name="unknown", used_bytes=None),
    )


def test_a_driver_that_does_not_tell_what_it_keeps(library: Path, tmp_path: Path) -> None:
    old = nvml.Gpu(errors={"nvmlDeviceGetMemoryInfo_v2": 13})
    (device,) = probe(library, nvml.write(tmp_path / "machine", old)).devices
    assert (device.total_bytes, device.free_bytes) == (24564 * MIB, 24218 * MIB)


def test_a_driver_with_the_older_list_of_processes(library: Path, tmp_path: Path) -> None:
    old = nvml.Gpu(
        compute={1: MIB},
        errors={
            "nvmlDeviceGetComputeRunningProcesses_v3": 13,
            "nvmlDeviceGetGraphicsRunningProcesses_v3": 13,
            "nvmlDeviceGetGraphicsRunningProcesses_v2": 13,
        },
    )
    (device,) = probe(library, nvml.write(tmp_path / "machine", old)).devices
    assert [tenant.pid for tenant in device.tenants] == [1]


@pytest.mark.parametrize("code", [3, 4])
def test_processes_that_nobody_may_list_are_no_tenants(library: Path, tmp_path: Path, code: int) -> None:
    gpu = nvml.Gpu(compute={1: MIB}, errors={"nvmlDeviceGetComputeRunningProcesses_v3": code})
    (device,) = probe(library, nvml.write(tmp_path / "machine", gpu)).devices
    assert device.tenants == ()


def test_a_driver_without_devices(library: Path, tmp_path: Path) -> None:
    host = probe(library, nvml.write(tmp_path / "machine"))
    assert (host.devices, host.driver) == ((), "560.35.03")


def test_visible_devices_keep_their_own_numbers(library: Path, tmp_path: Path) -> None:
    machine = nvml.write(tmp_path / "machine", nvml.Gpu(), nvml.Gpu(), nvml.Gpu())
    assert [device.index for device in probe(library, machine, visible="2,0").devices] == [2, 0]
    assert [device.index for device in probe(library, machine, visible=nvml.uuid(1)[:8]).devices] == [1]
    assert "begins with a device that does not exist" in fail(library, machine, visible="3")[0]


@pytest.mark.parametrize(
    ("code", "words"),
    [(4, "no permission"), (18, "different versions"), (999, "does not answer: Unknown Error")],
)
def test_a_driver_that_does_not_answer_is_an_error(
    library: Path, tmp_path: Path, root: Path, code: int, words: str
) -> None:
    machine = nvml.write(tmp_path / "machine", nvml.Gpu(), errors={"nvmlInitWithFlags": code})
    message, hint = fail(library, machine, root=root)
    assert words in message
    assert "CUDA_VISIBLE_DEVICES= " in hint
    assert probe(library, machine, visible="", root=root).devices == ()


def test_a_driver_that_stops_answering_is_an_error(library: Path, tmp_path: Path) -> None:
    machine = nvml.write(tmp_path / "machine", nvml.Gpu(), errors={"nvmlDeviceGetCount_v2": 999})
    assert "does not answer" in fail(library, machine)[0]


def test_a_library_without_driver_and_device_is_left_over(library: Path, tmp_path: Path, root: Path) -> None:
    machine = nvml.write(tmp_path / "machine", errors={"nvmlInitWithFlags": 9})
    sound = root / "sys/bus/pci/devices/0000:01:00.1"
    sound.mkdir(parents=True)
    (sound / "vendor").write_text("0x10de\n")
    (sound / "class").write_text("0x040300\n")
    assert probe(library, machine, root=root).devices == ()


@pytest.mark.parametrize(
    ("path", "text"), [("dev/nvidiactl", None), ("sys/bus/pci/devices/0000:01:00.0/class", "0x030200\n")]
)
def test_a_device_whose_driver_is_not_loaded_is_an_error(
    library: Path, tmp_path: Path, root: Path, path: str, text: str | None
) -> None:
    (root / path).parent.mkdir(parents=True)
    (root / path).write_text(text or "")
    (root / path).with_name("vendor").write_text("0x10de\n")
    machine = nvml.write(tmp_path / "machine", errors={"nvmlInitWithFlags": 9})
    message, hint = fail(library, machine, root=root)
    assert "driver is not loaded" in message
    assert "modprobe nvidia" in hint


@pytest.mark.parametrize("function", ["nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetMemoryInfo_v2"])
def test_a_lost_device_is_an_error_unless_it_is_hidden(library: Path, tmp_path: Path, function: str) -> None:
    machine = nvml.write(tmp_path / "machine", nvml.Gpu(), nvml.Gpu(errors={function: 15}))
    message, hint = fail(library, machine)
    assert message == "NVIDIA device 1 does not answer: GPU is lost."
    assert hint.endswith(f"CUDA_VISIBLE_DEVICES={nvml.uuid(0)}")
    shown = hint.partition("CUDA_VISIBLE_DEVICES=")[2]
    assert [device.index for device in probe(library, machine, visible=shown).devices] == [0]


def test_a_device_that_shares_the_machines_memory_is_an_error(library: Path, tmp_path: Path) -> None:
    gpu = nvml.Gpu(name="NVIDIA GB10", errors={"nvmlDeviceGetMemoryInfo_v2": 3})
    message, _ = fail(library, nvml.write(tmp_path / "machine", gpu))
    assert message.startswith("NVIDIA device 0 (NVIDIA GB10) does not report its memory")


def test_a_divided_device_is_its_instance(library: Path, tmp_path: Path) -> None:
    migs = (nvml.Mig(uuid="MIG-aaaa"), nvml.Mig(uuid="MIG-bbbb", total_gib=19.5))
    machine = nvml.write(tmp_path / "machine", nvml.Gpu(name="NVIDIA A100", capability=(8, 0), migs=migs))
    (first,) = probe(library, machine).devices
    assert (first.index, first.uuid, first.total_bytes) == (0, "MIG-aaaa", int(9.75 * 2**30))
    (second,) = probe(library, machine, visible="MIG-bb").devices
    assert (second.uuid, second.name, second.capability) == ("MIG-bbbb", "NVIDIA A100 MIG", "8.0")


def test_a_divided_device_without_an_instance_is_an_error(library: Path, tmp_path: Path) -> None:
    machine = nvml.write(tmp_path / "machine", nvml.Gpu(migs=()), nvml.Gpu())
    message, hint = fail(library, machine)
    assert message == "NVIDIA device 0 is in MIG mode and has no instance."
    assert "nvidia-smi mig" in hint
    assert [device.index for device in probe(library, machine, visible="1").devices] == [1]


def test_a_device_without_mig(library: Path, tmp_path: Path) -> None:
    gpu = nvml.Gpu(name="Tesla T4", capability=(7, 5))
    (device,) = probe(library, nvml.write(tmp_path / "machine", gpu)).devices
    assert device.capability == "7.5"


def test_a_damaged_library_is_an_error(tmp_path: Path, root: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library")
    message, hint = fail(tmp_path, tmp_path / "machine", root=root)
    assert message.startswith("The NVIDIA driver's library cannot be loaded")
    assert "CUDA_VISIBLE_DEVICES= " in hint


def test_nothing_is_imported_where_no_device_can_be_seen(library: Path, tmp_path: Path, root: Path) -> None:
    machine = nvml.write(tmp_path / "machine", nvml.Gpu())
    assert ask(nvml.environment(library, machine), root)["pynvml"] is True
    hidden = {**nvml.environment(library, machine), "CUDA_VISIBLE_DEVICES": ""}
    assert ask(hidden, root)["pynvml"] is False


def has_driver() -> bool:
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


@pytest.mark.skipif(has_driver(), reason="an NVIDIA driver is installed here")
def test_without_a_driver_there_is_no_device(root: Path) -> None:
    answer = ask({}, root)
    assert answer["pynvml"] is False
    host = devices.from_json(answer["host"])
    assert (host.devices, host.driver) == ((), None)
    assert (host.ram_total_bytes, host.ram_free_bytes) == (2 * MIB, MIB)


@pytest.mark.skipif(has_driver(), reason="an NVIDIA driver is installed here")
def test_a_driver_whose_library_is_missing_is_an_error(root: Path) -> None:
    (root / "dev").mkdir()
    (root / "dev/nvidiactl").touch()
    answer = ask({}, root)
    assert answer["error"] == "DeviceError"
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in str(answer["hint"])

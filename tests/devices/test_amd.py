"""AMD devices, by a tree of the files that the kernel's driver shows; as of Linux 6.8 and amdgpu 6.x."""

from __future__ import annotations

from pathlib import Path

import pytest

from aimind import devices
from aimind.devices import amd, hardware
from aimind.errors import DeviceError
from aimind.launchers.base import visible_devices
from aimind.types import Device, Tenant

GIB = 2**30


def node(
    root: Path,
    number: int,
    *,
    version: int,
    gib: float = 24.0,
    used_gib: float = 0.0,
    unique: int = 0,
    name: str = "",
    product: str = "",
) -> Path:
    """A node of the topology, and the render device that it names."""
    folder = root / f"sys/class/kfd/kfd/topology/nodes/{number}"
    folder.mkdir(parents=True)
    minor = 127 + number
    (folder / "properties").write_text(
        f"cpu_cores_count {0 if version else 16}\nsimd_count {304 if version else 0}\nvendor_id 4098\n"
        f"gfx_target_version {version}\ndrm_render_minor {minor if version else 0}\nunique_id {unique}\n"
    )
    (folder / "name").write_text(f"{name}\n")
    (folder / "gpu_id").write_text(f"{1000 + number if version else 0}\n")
    if version:
        render = root / f"sys/class/drm/renderD{minor}/device"
        render.mkdir(parents=True)
        (render / "mem_info_vram_total").write_text(f"{int(gib * GIB)}\n")
        (render / "mem_info_vram_used").write_text(f"{int(used_gib * GIB)}\n")
        if product:
            (render / "product_name").write_text(f"{product}\n")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with a processor and the device that programs open."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kfd").touch()
    node(tmp_path, 0, version=0)
    return tmp_path


def test_a_card_and_who_uses_it(root: Path) -> None:
    unique = 0x9DF0B9A1C7D2E355
    node(root, 1, version=90402, gib=191.69, used_gib=1.5, unique=unique, product="AMD Instinct MI300X OAM")
    used = root / "sys/class/kfd/kfd/proc/4711"
    used.mkdir(parents=True)
    (used / "vram_1001").write_text(f"{GIB}\n")
    (root / "proc/4711").mkdir(parents=True)
    (root / "proc/4711/comm").write_text("python3\n")
    total = int(191.69 * GIB)
    assert amd.probe({}, root=root) == (
        Device(
            index=0,
            uuid="GPU-9df0b9a1c7d2e355",
            vendor="amd",
            name="AMD Instinct MI300X OAM",
            total_bytes=total,
            free_bytes=total - int(1.5 * GIB),
            capability="gfx942",
            tenants=(Tenant(pid=4711, name="python3", used_bytes=GIB),),
        ),
    )


@pytest.mark.parametrize(
    ("version", "architecture"),
    [(90010, "gfx90a"), (90402, "gfx942"), (100300, "gfx1030"), (110501, "gfx1151"), (120001, "gfx1201")],
)
def test_the_architecture_is_the_compiler_s_name(root: Path, version: int, architecture: str) -> None:
    node(root, 1, version=version, name="a-chip")
    (found,) = amd.probe({}, root=root)
    assert (found.capability, found.name) == (architecture, "AMD a-chip")


def test_what_shares_the_memory_is_not_counted_and_keeps_its_number(root: Path) -> None:
    node(root, 1, version=100306, gib=0.5)
    node(root, 2, version=110000, gib=24)
    assert [device.index for device in amd.probe({}, root=root)] == [1]


@pytest.mark.parametrize(
    ("outer", "inner", "seen"),
    [
        (None, None, [(0, "GPU-0000000000000001"), (1, "GPU-0000000000000002"), (2, "GPU-0000000000000003")]),
        (None, "2,0", [(2, "GPU-0000000000000003"), (0, "GPU-0000000000000001")]),
        (None, "", []),
        (None, "-1", []),
        ("2,1", None, [(0, "GPU-0000000000000003"), (1, "GPU-0000000000000002")]),
        ("GPU-0000000000000002", "0", [(0, "GPU-0000000000000002")]),
        ("1,7,0", None, [(0, "GPU-0000000000000002")]),
    ],
)
def test_the_variables_are_read_as_rocm_reads_them(
    root: Path, outer: str | None, inner: str | None, seen: list[tuple[int, str]]
) -> None:
    for number in (1, 2, 3):
        node(root, number, version=90010, gib=64, unique=number)
    env = {amd.OUTER_VARIABLE: outer, amd.VARIABLE: inner}
    found = amd.probe({name: value for name, value in env.items() if value is not None}, root=root)
    assert [(device.index, device.uuid) for device in found] == seen
    if found:
        assert visible_devices(found) == {amd.VARIABLE: ",".join(str(index) for index, _ in seen)}


def test_no_driver_is_no_device(tmp_path: Path) -> None:
    node(tmp_path, 1, version=110000)
    assert amd.probe({}, root=tmp_path) == ()  # a container sees the tree, and has not the device


def test_a_device_that_does_not_tell_its_memory(root: Path) -> None:
    node(root, 1, version=110000)
    (root / "sys/class/drm/renderD128/device/mem_info_vram_total").unlink()
    with pytest.raises(DeviceError, match="AMD device 0 does not report its memory"):
        amd.probe({}, root=root)
    assert amd.probe({amd.VARIABLE: ""}, root=root) == ()


def test_the_version_of_rocm(root: Path) -> None:
    assert amd.rocm(root) is None
    (root / "opt/rocm/.info").mkdir(parents=True)
    (root / "opt/rocm/.info/version").write_text("7.2.1-43\n")
    assert amd.rocm(root) == "7.2.1-43"


def test_the_machine_has_them(root: Path) -> None:
    node(root, 1, version=110000)
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text("MemTotal: 1024 kB\nMemAvailable: 512 kB\n")
    found = devices.probe({"CUDA_VISIBLE_DEVICES": ""}, root=root)
    assert [device.vendor for device in found.devices] == ["amd"]
    assert devices.from_json(devices.to_json(found)) == found


@pytest.mark.parametrize(
    ("text", "name", "architecture"),
    [
        ("MI300X", "AMD MI300X 192G", "gfx942"),
        ("8xMI300X-192G", "AMD MI300X 192G", "gfx942"),
        ("AMD Radeon RX 7900 XTX", "AMD 7900XTX 24G", "gfx1100"),
        ("AI PRO R9700", "AMD R9700 32G", "gfx1201"),
    ],
)
def test_cards_are_known_by_name(text: str, name: str, architecture: str) -> None:
    found = hardware.parse(text).devices[0]
    assert (found.vendor, found.name, found.capability) == ("amd", name, architecture)

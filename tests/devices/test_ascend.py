"""Ascend devices by npu-smi: a real program that prints the tables of each generation."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from aimind import devices
from aimind.devices import ascend, hardware
from aimind.errors import DeviceError
from aimind.types import Device, Tenant
from tests.fakes import npu_smi
from tests.fakes.npu_smi import Chip

MIB = 2**20


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The description that npu-smi answers from."""
    monkeypatch.setenv("PATH", f"{npu_smi.installed(tmp_path / 'bin')}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_NPU_SMI", str(tmp_path / "machine.json"))
    monkeypatch.delenv(ascend.VARIABLE, raising=False)
    return tmp_path / "machine.json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine on which the driver has made a device."""
    (tmp_path / "root/dev").mkdir(parents=True)
    (tmp_path / "root/dev/davinci0").touch()
    return tmp_path / "root"


def test_a_server_of_eight(machine: Path) -> None:
    npu_smi.write(machine, *npu_smi.cards(8))
    found = ascend.probe()
    assert [device.index for device in found] == list(range(8))
    assert found[0] == Device(
        index=0,
        uuid="",
        vendor="ascend",
        name="Ascend 910B3",
        total_bytes=(65536 - ascend.HBM_KEPT_MIB) * MIB,
        free_bytes=(65536 - ascend.HBM_KEPT_MIB) * MIB,
    )


def test_what_others_use_is_not_free_and_they_are_named(machine: Path) -> None:
    busy = Chip(card=1, logic=1, used=40000, processes={4711: ("mindie_llm_back", 36000), 12: ("python3", 9)})
    npu_smi.write(machine, Chip(card=0, logic=0), busy)
    idle, used = ascend.probe()
    assert idle.tenants == ()
    assert used.free_bytes == (65536 - 40000) * MIB
    assert used.tenants == (
        Tenant(pid=4711, name="mindie_llm_back", used_bytes=36000 * MIB),
        Tenant(pid=12, name="python3", used_bytes=9 * MIB),
    )


def test_two_chips_a_card_and_their_own_memory(machine: Path) -> None:
    """A 310P has DDR and no HBM, and cards with numbers of their own; programs count chips."""
    chips = [
        Chip(card=32, chip=0, logic=0, name="310P3", used=1448, total=44278),
        Chip(card=32, chip=1, logic=1, name="310P3", used=1511, total=43693),
        Chip(card=32800, chip=0, logic=2, name="310P3", used=1384, total=44278),
    ]
    npu_smi.write(machine, *chips)
    found = ascend.probe()
    assert [(device.index, device.name) for device in found] == [(n, "Ascend 310P3") for n in range(3)]
    assert [device.total_bytes // MIB for device in found] == [44278, 43693, 44278]
    assert found[1].free_bytes == (43693 - 1511) * MIB


def test_two_dies_a_card(machine: Path) -> None:
    chips = [
        Chip(card=n // 2, chip=n % 2, logic=n, name="Ascend910", used=3000 + n, total=65536) for n in range(4)
    ]
    npu_smi.write(machine, *chips)
    found = ascend.probe()
    assert [device.index for device in found] == [0, 1, 2, 3]
    assert {device.name for device in found} == {"Ascend910"}


@pytest.mark.parametrize(
    ("text", "indices"),
    [("2,0", [2, 0]), ("1", [1]), ("0,1,9,2", [0, 1]), ("1,x,2", [1]), ("", []), ("-1", [])],
)
def test_the_visible_ones_are_shown(machine: Path, text: str, indices: list[int]) -> None:
    npu_smi.write(machine, *npu_smi.cards(3))
    assert [device.index for device in ascend.probe(text)] == indices
    host = devices.probe({ascend.VARIABLE: text, "CUDA_VISIBLE_DEVICES": ""})
    assert [device.index for device in host.devices] == indices
    assert devices.from_json(devices.to_json(host)) == host


@pytest.mark.parametrize(
    ("text", "words"), [("1,1", "twice"), ("7", "begins with a device that does not exist")]
)
def test_a_list_that_shows_nothing_is_an_error(machine: Path, text: str, words: str) -> None:
    npu_smi.write(machine, *npu_smi.cards(2))
    with pytest.raises(DeviceError, match=words):
        ascend.probe(text)


def test_a_device_that_is_not_well_is_an_error_unless_it_is_hidden(machine: Path) -> None:
    npu_smi.write(machine, Chip(card=0, logic=0), Chip(card=1, logic=1, health="Critical"))
    with pytest.raises(DeviceError, match=r"device 1 \(Ascend 910B3\) reports a fault: Critical"):
        ascend.probe()
    assert len(ascend.probe("0")) == 1


def test_a_driver_that_does_not_answer_is_an_error(machine: Path, root: Path) -> None:
    npu_smi.write(machine, fail="dcmi module initialize failed. ret is -8005")
    with pytest.raises(DeviceError, match="ret is -8005") as caught:
        ascend.probe(root=root)
    assert "ASCEND_RT_VISIBLE_DEVICES= " in caught.value.hint
    assert ascend.probe("", root=root) == ()


def test_a_program_without_a_device_is_left_over(machine: Path, tmp_path: Path) -> None:
    npu_smi.write(machine, fail="dcmi module initialize failed. ret is -8005")
    assert ascend.probe(root=tmp_path / "nowhere") == ()


@pytest.mark.skipif(shutil.which("npu-smi") is not None, reason="npu-smi is installed here")
def test_without_npu_smi_there_is_no_device_unless_the_driver_made_one(root: Path, tmp_path: Path) -> None:
    assert ascend.probe(root=tmp_path / "nowhere") == ()
    with pytest.raises(DeviceError, match="npu-smi is not on PATH"):
        ascend.probe(root=root)


def test_a_table_that_cannot_be_read_is_an_error(machine: Path, tmp_path: Path, root: Path) -> None:
    program = tmp_path / "bin/npu-smi"
    program.write_text(
        '#!/bin/sh\n[ "$2" = -m ] && printf "\\t0  0  0  Ascend 999\\n" || echo "| new table |"\n'
    )
    with pytest.raises(DeviceError, match="does not list Ascend device 0"):
        ascend.probe(root=root)


def test_imagined_ones() -> None:
    host = hardware.parse("8xAscend910B-64G,ram=1T")
    assert [(d.index, d.vendor, d.name, d.capability) for d in host.devices[::7]] == [
        (0, "ascend", "Ascend 910B 64G", None),
        (7, "ascend", "Ascend 910B 64G", None),
    ]
    assert hardware.parse("ascend 310p").devices[0].vendor == "ascend"

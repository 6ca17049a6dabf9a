from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimind import devices
from aimind.devices import cpu, hardware
from aimind.errors import UsageError
from aimind.types import Host

GIB = 2**30
HOSTS = Path(__file__).parents[1] / "data" / "hosts"


def shape(host: Host) -> tuple[list[float], float]:
    """GiB of each device, and of RAM."""
    return [device.total_bytes / GIB for device in host.devices], host.ram_total_bytes / GIB


@pytest.mark.parametrize(
    ("text", "device_gib", "ram_gib"),
    [
        ("24G", [24], 32),
        ("2x24G", [24, 24], 48),
        ("1x24G+1x16G", [24, 16], 40),
        ("2x24G,ram=128G", [24, 24], 128),
        ("24g, ram = 1T", [24], 1024),
        ("23.5GiB", [23.5], 32),
        ("512MB", [0.5], 32),
        ("cpu", [], 32),
        ("cpu-64G", [], 64),
        ("CPU,ram=16G", [], 16),
        ("none", [], 32),
        (" none,ram=8G ", [], 8),
    ],
)
def test_sizes(text: str, device_gib: list[float], ram_gib: float) -> None:
    host = hardware.parse(text)
    assert shape(host) == (device_gib, ram_gib)
    assert (host.os, host.arch, host.cores) == ("linux", "x86_64", 8)


@pytest.mark.parametrize(
    ("text", "count", "usable_gib", "capability"),
    [
        ("H100", 1, 79.11, "9.0"),
        ("8xH100-80G", 8, 79.11, "9.0"),
        ("H100-94G", 1, 93.0, "9.0"),
        ("A100", 1, 79.15, "8.0"),
        ("2 × a100-40g", 2, 39.39, "8.0"),
        ("4090", 1, 23.52, "8.9"),
        ("2x4090", 2, 23.52, "8.9"),
        ("RTX-4090", 1, 23.52, "8.9"),
        ("NVIDIA GeForce RTX 5090", 1, 31.36, "12.0"),
        ("RTX_PRO_6000-96G", 1, 94.97, "12.0"),
        ("T4", 1, 14.74, "7.5"),
    ],
)
def test_known_cards(text: str, count: int, usable_gib: float, capability: str) -> None:
    host = hardware.parse(text)
    assert len(host.devices) == count
    for index, device in enumerate(host.devices):
        assert device.index == index
        assert device.total_bytes / GIB == pytest.approx(usable_gib, abs=0.001)
        assert device.free_bytes == device.total_bytes
        assert device.capability == capability


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("24G", cpu.USUAL_LEVEL),
        ("cpu-64G,cpu=avx2", "avx2"),
        ("none,ram=8G,cpu=AVX-512", "avx512"),
        ("2x24G,CPU=amx,ram=64G", "amx"),
    ],
)
def test_the_processor_has_the_instruction_sets_of_a_level(text: str, level: str) -> None:
    assert hardware.parse(text).cpu_features == cpu.LEVELS[level]


def test_every_card_is_found_by_its_name_and_size() -> None:
    for card in hardware.CARDS:
        (device,) = hardware.parse(f"{card.name}-{card.size_gib}G").devices
        assert device.capability == card.capability
        assert 0.85 * card.size_gib * GIB < device.total_bytes < card.size_gib * GIB


@pytest.mark.parametrize(
    "text",
    "24;x24G;0x24G;1000x24G;24G+;+24G;0G;24G,;24G,ram=;24G,ram=x;24G,cores=4;24G,ram=1G,ram=2G;24G,cpu=;24G,cpu=sse;24G,cpu=avx2,cpu=amx;cpu-;cpu-x;"
    "cpu-8G,ram=8G;cpu+24G;none-8G;Voodoo2;-80G;1234567G;2x;".split(";"),
)
def test_nonsense_is_refused_with_the_accepted_forms(text: str) -> None:
    with pytest.raises(UsageError, match="cannot be understood") as caught:
        hardware.parse(text)
    assert "8xH100-80G" in caught.value.hint
    assert "4090" in caught.value.hint


def test_a_card_of_an_unknown_size_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="There is no H100 with 96G") as caught:
        hardware.parse("H100-96G")
    assert "H100-80G, H100-94G" in caught.value.hint


@given(st.text(alphabet="0123456789xXGgMT.,+-=ram cpunoeH²×", max_size=24))
def test_any_text_is_a_machine_or_a_usage_error(text: str) -> None:
    try:
        host = hardware.parse(text)
    except UsageError:
        return
    assert host.ram_total_bytes > 0
    assert all(device.total_bytes > 0 for device in host.devices)


def test_a_recorded_machine_reads_back(tmp_path: Path) -> None:
    host = hardware.parse("2x4090,ram=100G")
    path = tmp_path / "machine.json"
    path.write_text(json.dumps(devices.to_json(host)), encoding="utf-8")
    assert hardware.parse(str(path)) == host


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"9" * 5000], ids=range(5))
def test_a_file_that_is_not_json_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "machine.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="is not JSON"):
        hardware.parse(str(path))


@pytest.mark.parametrize("name", ["absent.json", "."])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        hardware.parse(str(tmp_path / name))


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    path.write_text('{"schema": 1}', encoding="utf-8")
    with pytest.raises(UsageError, match="no field 'os'"):
        hardware.parse(str(path))


@pytest.mark.parametrize("path", sorted(HOSTS.glob("*.json")), ids=lambda path: path.stem)
def test_the_recorded_hosts_are_readable(path: Path) -> None:
    host = hardware.parse(str(path))
    recorded = json.loads(path.read_text(encoding="utf-8"))
    recorded.setdefault("cpu_features", sorted(host.cpu_features))  # not in files of earlier versions
    assert devices.to_json(host) == recorded


@pytest.mark.parametrize("text", ["cpu-24G", "8G", "24G", "2x24G", "80G"])
def test_recorded_hosts_named_like_a_text_are_what_it_means(text: str) -> None:
    assert hardware.parse(str(HOSTS / f"{text}.json")) == hardware.parse(text)


def test_the_documentation_lists_the_known_cards() -> None:
    text = (Path(__file__).parents[2] / "docs" / "hardware.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"\| ([A-Z0-9]+-[0-9]+G) \| ([0-9.]+) ", text))
    assert listed == {f"{card.name}-{card.size_gib}G": f"{card.usable_gib:.2f}" for card in hardware.CARDS}

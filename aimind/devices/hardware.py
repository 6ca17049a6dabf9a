"""Machines that one does not have: the text of `--hardware` (docs/hardware.md).

All figures are what programs can have: nothing else runs on an imagined machine, so that everything is free.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from aimind.devices import cpu
from aimind.devices.record import from_json
from aimind.errors import UsageError
from aimind.types import Device, Host

CORES = 8
LEAST_RAM_BYTES = 32 * 2**30
CAPABILITY = "8.9"  # of a device of which only the memory is told: the middle of what is in use
_UNITS = {"M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)([MGT])(?:I?B)?", re.IGNORECASE)
_GROUP = re.compile(r"(?:([1-9][0-9]{0,2})\s*[x×*]\s*)?(.+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Card:
    """A well-known card.

    Attributes:
        name: without the maker's and the family's names, in capitals.
        size_gib: as it is sold; of a card with several chips, of each chip.
        usable_gib: as CUDA, HIP or torch_npu reports it, with what the driver and ECC keep taken off.
        capability: of its architecture, where it has such a number.
        vendor: who made it.
    """

    name: str
    size_gib: int
    usable_gib: float
    capability: str | None
    vendor: Literal["nvidia", "amd", "ascend"] = "nvidia"


# usable_gib: the "total capacity" in PyTorch 2's out-of-memory message on that card. It moves by up to
# 0.15 GiB with the driver's version; the lower of the common figures is here. capability: NVIDIA's list,
# https://developer.nvidia.com/cuda-gpus. A name alone means the first card of that name.
CARDS = (
    Card("V100", 16, 15.77, "7.0"),
    Card("V100", 32, 31.73, "7.0"),
    Card("T4", 16, 14.74, "7.5"),
    Card("A100", 80, 79.15, "8.0"),
    Card("A100", 40, 39.39, "8.0"),
    Card("A10", 24, 22.06, "8.6"),
    Card("A10G", 24, 22.06, "8.6"),
    Card("A40", 48, 44.34, "8.6"),
    Card("A6000", 48, 47.53, "8.6"),
    Card("3060", 12, 11.63, "8.6"),
    Card("3090", 24, 23.56, "8.6"),
    Card("L4", 24, 22.03, "8.9"),
    Card("L40", 48, 44.39, "8.9"),
    Card("L40S", 48, 44.39, "8.9"),
    Card("4090", 24, 23.52, "8.9"),
    Card("H100", 80, 79.11, "9.0"),
    Card("H100", 94, 93.00, "9.0"),
    Card("H200", 141, 139.72, "9.0"),
    Card("B200", 180, 178.35, "10.0"),
    Card("5080", 16, 15.46, "12.0"),
    Card("5090", 32, 31.36, "12.0"),
    Card("PRO6000", 96, 94.97, "12.0"),
    # What PyTorch for ROCm names as the capacity.
    Card("MI300X", 192, 191.69, "gfx942", "amd"),
    Card("7900XTX", 24, 23.98, "gfx1100", "amd"),
    Card("R9700", 32, 31.86, "gfx1201", "amd"),
    # Atlas 800 A2 and 300I: torch_npu's message, or where that varies what aimind.devices.ascend counts.
    Card("910B", 64, 60.5, None, "ascend"),
    Card("910B", 32, 28.5, None, "ascend"),
    Card("910C", 64, 60.5, None, "ascend"),
    Card("310P", 24, 21.02, None, "ascend"),
    Card("310P", 48, 43.24, None, "ascend"),
)


def parse(text: str) -> Host:
    """The machine that a text describes, or the one that a file recorded.

    Raises:
        UsageError: the text has none of the accepted forms, or the file cannot be read.
    """
    text = text.strip()
    if text.endswith(".json") or "/" in text or "\\" in text:
        return _recorded(Path(text).expanduser())
    devices_text, *options = (part.strip() for part in text.split(","))
    kind, dash, cpu_ram = devices_text.partition("-")
    on_cpu = kind.lower() == "cpu" or devices_text.lower() == "none"
    devices = () if on_cpu else _devices(devices_text)
    if on_cpu and dash:
        options.append(f"ram={cpu_ram}")
    values = _options(options, text)
    ram_bytes = None
    if "ram" in values:
        ram_bytes = _bytes(values["ram"])
        if ram_bytes is None:
            raise _not_understood(text)
    if ram_bytes is None:
        ram_bytes = max(LEAST_RAM_BYTES, sum(device.total_bytes for device in devices))
    return Host(
        devices=devices,
        ram_total_bytes=ram_bytes,
        ram_free_bytes=ram_bytes,
        os="linux",
        arch="x86_64",
        cores=CORES,
        cpu_features=_cpu_features(values.get("cpu", cpu.USUAL_LEVEL), text),
        elsewhere=True,
    )


def _devices(text: str) -> tuple[Device, ...]:
    devices: list[Device] = []
    for group in text.split("+"):
        match = _GROUP.fullmatch(group.strip())
        if match is None:
            raise _not_understood(text)
        devices += [_device(match[2].strip())] * int(match[1] or 1)
    return tuple(replace(device, index=index) for index, device in enumerate(devices))


def _device(text: str) -> Device:
    """Make a device of a size (`24G`), a card (`H100`), or both (`H100-80G`)."""
    size_bytes = _bytes(text)
    if size_bytes:
        return _imagined(f"GPU {text.upper().rstrip('IB')}", size_bytes, CAPABILITY)
    name, _, size = text.rpartition("-")
    size_bytes = _bytes(size) if name else None
    plain = re.sub(
        r"NVIDIA|GEFORCE|RTX|ASCEND|AMD|INSTINCT|RADEON|RX|AI ?PRO|[\s_-]",
        "",
        (name if size_bytes else text).upper(),
    )
    same_name = [card for card in CARDS if card.name == plain]
    for card in same_name:
        if size_bytes in (None, card.size_gib * 2**30):
            usable_bytes = int(card.usable_gib * 1024) * 2**20
            made = _imagined(f"{card.name} {card.size_gib}G", usable_bytes, card.capability)
            if card.vendor == "nvidia":
                return made
            maker = {"ascend": "Ascend", "amd": "AMD"}[card.vendor]
            return replace(made, vendor=card.vendor, name=f"{maker} {made.name}")
    if not same_name:
        raise _not_understood(text)
    known = ", ".join(f"{card.name}-{card.size_gib}G" for card in same_name)
    raise UsageError(f"There is no {plain} with {size}.", hint=f"Use {known}, or only the memory: {size}.")


def _imagined(name: str, memory_bytes: int, capability: str | None) -> Device:
    return Device(
        index=0,
        uuid="",
        vendor="nvidia",
        name=name,
        total_bytes=memory_bytes,
        free_bytes=memory_bytes,
        capability=capability,
    )


def _options(options: list[str], text: str) -> dict[str, str]:
    """What follows the devices, as `ram=128G` and `cpu=avx2`, each at most once."""
    values: dict[str, str] = {}
    for option in options:
        name, _, value = option.partition("=")
        name = name.strip().lower()
        if name not in ("ram", "cpu") or name in values:
            raise _not_understood(text)
        values[name] = value.strip()
    return values


def _cpu_features(level: str, text: str) -> frozenset[str]:
    level = level.lower().replace("-", "")
    if level not in cpu.LEVELS:
        raise _not_understood(text)
    return cpu.LEVELS[level]


def _bytes(text: str) -> int | None:
    match = _SIZE.fullmatch(text)
    return int(float(match[1]) * _UNITS[match[2].upper()]) or None if match else None


def _recorded(path: Path) -> Host:
    try:
        document: object = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"The hardware file {path} cannot be read: {error.strerror}.",
            hint="Record one with `aimind devices --json > machine.json`.",
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"The hardware file {path} is not JSON: {error}.",
            hint="Record one with `aimind devices --json > machine.json`.",
        ) from error
    return replace(from_json(document), elsewhere=True)


def _not_understood(text: str) -> UsageError:
    names = ", ".join(dict.fromkeys(card.name for card in CARDS))
    return UsageError(
        f"The hardware {text.strip()!r} cannot be understood.",
        hint="Use 24G, 2x24G, 1x24G+1x16G, H100, 8xH100-80G, cpu-64G or none, perhaps with ,ram=128G or "
        f",cpu={'|'.join(cpu.LEVELS)}; or a .json file recorded with `aimind devices --json`. "
        f"Known cards: {names}.",
    )

"""Ascend NPUs, asked of `npu-smi`, the program that comes with their driver.

`npu-smi info -m` maps cards and chips to the numbers that programs use (chip logic IDs). `npu-smi info` is a
table for people, of two rows a chip, whose columns differ between generations; its last fraction is the
memory that models live in: HBM on a 910, DDR on a 310P. As of versions 22.0 to 25.5 on 910B, 910C and 310P.

No `npu-smi` is no device; one that is there beside a device and does not answer is an error.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aimind.devices import visible
from aimind.errors import DeviceError
from aimind.types import Device, Tenant

VARIABLE = "ASCEND_RT_VISIBLE_DEVICES"
# The chip keeps 3 to 3.5 GiB of HBM: torch_npu's out-of-memory messages name a capacity of 60.97 GiB on cards
# of 64 GiB, and of 28.5 to 29.5 GiB on those of 32. What is told of DDR is already without it.
HBM_KEPT_MIB = 3584
_MIB = 2**20
_PATIENCE_SECONDS = 30.0
_WITHOUT = f"Look at it with npu-smi info, or set {VARIABLE}= (to nothing) to go on without Ascend devices."
_USABLE = ("OK", "Warning")
_MAPPING = re.compile(r"^[ \t]*(\d+)[ \t]+(\d+)[ \t]+(\d+)[ \t]+\S", re.MULTILINE)
_CARD = re.compile(r"\|\s*(\d+)\s+(\S*[A-Za-z]\S*)\s*\|\s*(\S+)\s*\|")
_CHIP = re.compile(r"\|\s*(\d+)(?:\s+\d+)?\s*\|\s*[\w:.-]+\s*\|(.*)\|")
_PROCESS = re.compile(r"\|\s*(\d+)\s+(\d+)\s*\|\s*(\d+)\s*\|\s*(.*?)\s*\|\s*(\d+)\s*\|")
_FRACTION = re.compile(r"(\d+)\s*/\s*(\d+)")


@dataclass(frozen=True, slots=True)
class _Chip:
    """What the table says of one chip; memory in MiB."""

    name: str
    health: str
    used: int
    total: int
    hbm: bool


def probe(asked: str | None = None, *, root: Path = Path("/")) -> tuple[Device, ...]:
    """The devices that CANN would show under this `ASCEND_RT_VISIBLE_DEVICES`, in its order.

    Raises:
        DeviceError: `npu-smi` does not answer, or a visible device cannot be used.
    """
    if visible.entries(asked) == ():
        return ()
    here = any((root / "dev").glob("davinci[0-9]*"))
    program = shutil.which("npu-smi")
    if program is None:
        if here:
            raise DeviceError(
                "There is an Ascend device, but npu-smi is not on PATH.",
                hint=f"Install its driver, or make npu-smi available in this container. {_WITHOUT}",
            )
        return ()
    try:
        mapping, table = (_run(program, *words) for words in (("info", "-m"), ("info",)))
    except DeviceError:
        if here:
            raise
        return ()  # a program that is left over
    return tuple(_devices(asked, mapping, table))


def _run(*argv: str) -> str:
    import subprocess  # where there is no npu-smi, its import is not paid for

    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        late = f"npu-smi did not answer within {error.timeout:g} seconds."
        raise DeviceError(late, hint=_WITHOUT) from error
    except OSError as error:
        raise DeviceError(f"{argv[0]} cannot be run: {error.strerror}.", hint=_WITHOUT) from error
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines() or [f"exit code {done.returncode}"]
        raise DeviceError(f"npu-smi failed: {said[-1]}.", hint=_WITHOUT)
    return done.stdout


def _devices(asked: str | None, mapping: str, table: str) -> Iterator[Device]:
    seats = {int(logic): (int(card), int(chip)) for card, chip, logic in _MAPPING.findall(mapping)}
    chips, tenants = _chips(table), _tenants(table)
    for index in _chosen(asked, tuple(seats)):
        seat = seats[index]
        if seat not in chips:
            raise DeviceError(
                f"npu-smi does not list Ascend device {index} (card {seat[0]}, chip {seat[1]}).",
                hint=_WITHOUT,
            )
        yield _device(index, chips[seat], tenants.get(seat, ()))


def _chosen(asked: str | None, there: tuple[int, ...]) -> tuple[int, ...]:
    """The visible ones in the order in which they are named, up to the first that is not there."""
    named = visible.entries(asked)
    if named is None:
        return tuple(sorted(there))
    known = [number in there for number in named]
    chosen = tuple(int(number) for number in named[: known.index(False) if False in known else None])
    if len(set(chosen)) < len(chosen):
        raise DeviceError(f"{VARIABLE}={asked} lists a device twice.", hint="Name each device once.")
    if there and not chosen:
        raise DeviceError(
            f"{VARIABLE}={asked} begins with a device that does not exist.",
            hint=f"The Ascend devices are {', '.join(map(str, sorted(there)))}.",
        )
    return chosen


def _chips(table: str) -> dict[tuple[int, int], _Chip]:
    """Card and chip -> what its two rows say."""
    found: dict[tuple[int, int], _Chip] = {}
    card: tuple[str, str, str] | None = None
    for line in table.splitlines():
        if match := _CARD.match(line):
            card = match[1], match[2], match[3]
        elif card and (match := _CHIP.match(line)) and (sizes := _FRACTION.findall(match[2])):
            number, name, health = card
            used, total = map(int, sizes[-1])
            found[int(number), int(match[1])] = _Chip(name, health, used, total, hbm=len(sizes) > 1)
            card = None
    return found


def _tenants(table: str) -> dict[tuple[int, int], tuple[Tenant, ...]]:
    """Card and chip -> the processes on it."""
    found: dict[tuple[int, int], tuple[Tenant, ...]] = {}
    _, _, processes = table.partition("Process id")
    for card, chip, pid, name, used in _PROCESS.findall(processes):
        seat = int(card), int(chip)
        tenant = Tenant(pid=int(pid), name=name or "unknown", used_bytes=int(used) * _MIB)
        found[seat] = (*found.get(seat, ()), tenant)
    return found


def _device(index: int, chip: _Chip, tenants: tuple[Tenant, ...]) -> Device:
    name = chip.name if chip.name.startswith("Ascend") else f"Ascend {chip.name}"
    if chip.health not in _USABLE:
        raise DeviceError(f"Ascend device {index} ({name}) reports a fault: {chip.health}.", hint=_WITHOUT)
    if not chip.total:
        raise DeviceError(f"Ascend device {index} ({name}) does not report its memory.", hint=_WITHOUT)
    total = max(0, chip.total - (HBM_KEPT_MIB if chip.hbm else 0))
    return Device(
        index=index,
        uuid="",
        vendor="ascend",
        name=name,
        total_bytes=total * _MIB,
        free_bytes=max(0, min(total, chip.total - chip.used)) * _MIB,
        tenants=tenants,
    )

"""`CUDA_VISIBLE_DEVICES`, read as CUDA reads it.

Sources: the CUDA Programming Guide, section "CUDA Environment Variables"; for what it leaves out (numbers are
read like strtoul, the first entry decides between numbers and UUIDs, a repeated one is an error) PyTorch 2's
torch/cuda/__init__.py, `_parse_visible_devices`; for MIG the NVIDIA Multi-Instance GPU User Guide.

Numbers are NVML's, in PCI bus order. CUDA's own default is fastest first, so that a backend must be started
with `CUDA_DEVICE_ORDER=PCI_BUS_ID`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from aimind.errors import DeviceError

Entry = int | str
_NUMBER = re.compile(r"\s*([+-]?[0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class Seat:
    """What an entry may name: a GPU, or one MIG instance of it.

    Attributes:
        index: of the GPU in NVML's order.
        gpu_uuid: `GPU-…`; empty where the driver could not tell.
        mig_uuid: `MIG-…` of the instance; empty for a whole GPU.
    """

    index: int
    gpu_uuid: str
    mig_uuid: str = ""


def entries(text: str | None) -> tuple[Entry, ...] | None:
    """The entries up to the first that can name nothing; `None` where all devices are visible."""
    if text is None:
        return None
    words = text.split(",")
    for prefix in ("GPU-", "MIG-"):
        if words[0].startswith(prefix):
            return _leading([word if word.startswith(prefix) else None for word in words])
    numbers = [int(match[1]) if (match := _NUMBER.match(word)) else -1 for word in words]
    return _leading([number if number >= 0 else None for number in numbers])


def choose(text: str | None, seats: Sequence[Seat]) -> tuple[Seat, ...]:
    """The visible ones, in the order in which they were named.

    A MIG instance is only ever used alone: CUDA shows a process one instance, and no whole GPU beside it.

    Raises:
        DeviceError: a device is named twice, or the first name is of no device, so that CUDA would show none.
    """
    named = entries(text)
    if named is None:
        whole_first = sorted(_first_of_each_gpu(seats), key=lambda seat: bool(seat.mig_uuid))
        return _usable_together(whole_first)
    chosen: list[Seat] = []
    for entry in named:
        seat = _match(entry, seats)
        if seat is None:
            break
        if seat in chosen:
            raise DeviceError(
                f"CUDA_VISIBLE_DEVICES={text} names device {seat.index} twice, so CUDA shows no device.",
                hint="Name each device once.",
            )
        chosen.append(seat)
    if named and seats and not chosen:
        there = ", ".join(f"{seat.index} ({seat.mig_uuid or seat.gpu_uuid})" for seat in seats)
        raise DeviceError(
            f"CUDA_VISIBLE_DEVICES={text} begins with a device that does not exist.",
            hint=f"The NVIDIA devices are {there}.",
        )
    return _usable_together(chosen)


def _leading(words: Sequence[Entry | None]) -> tuple[Entry, ...]:
    valid: list[Entry] = []
    for word in words:
        if word is None:
            break
        valid.append(word)
    return tuple(valid)


def _match(entry: Entry, seats: Sequence[Seat]) -> Seat | None:
    if isinstance(entry, int):
        found = [seat for seat in _first_of_each_gpu(seats) if seat.index == entry]
    elif entry.startswith("GPU-"):
        found = [seat for seat in _first_of_each_gpu(seats) if seat.gpu_uuid.startswith(entry)]
    else:
        found = [seat for seat in seats if seat.mig_uuid.startswith(entry)]
    return found[0] if len(found) == 1 else None


def _first_of_each_gpu(seats: Sequence[Seat]) -> list[Seat]:
    # dict keeps the first of each when it is filled from the end
    return list({seat.index: seat for seat in reversed(seats)}.values())[::-1]


def _usable_together(seats: Sequence[Seat]) -> tuple[Seat, ...]:
    if seats and seats[0].mig_uuid:
        return (seats[0],)
    return tuple(seat for seat in seats if not seat.mig_uuid)

"""How consecutive layers are dealt out over several devices."""

from __future__ import annotations

import math
from collections.abc import Sequence

from aimind.errors import UsageError

# How closely the fullest device is made as empty as possible: to a thousandth of its memory.
_FULLNESS_STEP = 0.001


def by_shares(shares: Sequence[float], layers: int, devices: int) -> tuple[int, ...]:
    """Layers per device as llama.cpp deals them out: layer i goes where its share of the way falls.

    Source: llama.cpp, src/llama-model.cpp, load_tensors (build b9500).

    Raises:
        UsageError: the shares are not one positive number per device.
    """
    if not (all(map(math.isfinite, shares)) and min(shares) >= 0 and sum(shares) > 0):
        raise UsageError(
            f"--tensor-split {','.join(f'{share:g}' for share in shares)} needs at least one share above 0, "
            "and no negative one",
            hint="use shares such as --tensor-split 3,1, which puts three of four layers on the first device",
        )
    if len(shares) != devices:
        raise UsageError(
            f"--tensor-split has {len(shares)} shares for {devices} devices",
            hint="give one share per device, for example --tensor-split 3,1 for two devices",
        )
    ends = [sum(shares[: index + 1]) / sum(shares) for index in range(devices)]
    counts = [0] * devices
    for layer in range(layers):
        position = layer / layers
        counts[next((i for i, end in enumerate(ends) if end > position), devices - 1)] += 1
    return tuple(counts)


def evenly(layers: int, devices: int) -> tuple[int, ...]:
    """As many layers on each device, the first ones with one more."""
    each, more = divmod(layers, devices)
    return tuple(each + (number < more) for number in range(devices))


def balanced(
    layer_bytes: Sequence[int], fixed_bytes: Sequence[int], free_bytes: Sequence[int]
) -> tuple[int, ...] | None:
    """Layers per device so that the fullest device is as empty as possible; `None` where they do not fit.

    Layers are dealt out whenever there is any way to do so, so more free memory never turns a success into a
    failure.

    Args:
        layer_bytes: of each layer, in order.
        fixed_bytes: what each device holds besides its layers.
        free_bytes: of each device; at least as many layers as devices.
    """
    low, high = 0.0, 1.0
    best = _filled(layer_bytes, fixed_bytes, free_bytes, high)
    if best is None:
        return _searched(layer_bytes, fixed_bytes, free_bytes)
    while high - low > _FULLNESS_STEP:
        level = (low + high) / 2
        counts = _filled(layer_bytes, fixed_bytes, free_bytes, level)
        if counts is None:
            low = level
        else:
            high, best = level, counts
    return best


def _filled(
    layer_bytes: Sequence[int], fixed_bytes: Sequence[int], free_bytes: Sequence[int], level: float
) -> tuple[int, ...] | None:
    """Each device in turn takes as many layers as stay below the level, but leaves one for each after it."""
    counts = []
    first = 0
    for number, (fixed, free) in enumerate(zip(fixed_bytes, free_bytes, strict=True)):
        last = len(layer_bytes) - (len(free_bytes) - 1 - number)
        room = free * level - fixed
        end = first
        while end < last and layer_bytes[end] <= room:
            room -= layer_bytes[end]
            end += 1
        if end == first:
            return None
        counts.append(end - first)
        first = end
    return tuple(counts) if first == len(layer_bytes) else None


def _searched(
    layer_bytes: Sequence[int], fixed_bytes: Sequence[int], free_bytes: Sequence[int]
) -> tuple[int, ...] | None:
    """Any way to cut the layers that fits: filling each device in turn may leave too much for a small one."""
    total = sum(layer_bytes)
    if total + sum(fixed_bytes) > sum(free_bytes):
        return None
    count = len(layer_bytes)
    # For each device: number of layers on it and on those before it -> the number on those before it.
    reached: list[dict[int, int]] = [{0: 0}]
    for fixed, free in zip(fixed_bytes, free_bytes, strict=True):
        ends: dict[int, int] = {}
        for start in reached[-1]:
            room, end = free - fixed, start
            while end < count and layer_bytes[end] <= room:
                room -= layer_bytes[end]
                end += 1
                ends[end] = start
        reached.append(ends)
    end = count
    counts: list[int] = []
    for ends in reversed(reached[1:]):
        if end not in ends:
            return None
        counts.append(end - ends[end])
        end = ends[end]
    return tuple(reversed(counts))

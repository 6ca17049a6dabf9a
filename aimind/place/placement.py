"""What every placement comes down to, and the rules that all share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from aimind.errors import DeviceError, UsageError
from aimind.phrases import here
from aimind.types import Change, Device, Estimate, Host, Metadata, Reason, Request, Shard

# Below this many tokens a chat model is of little use: more devices come before a shorter context.
CONTEXT_FLOOR = 8192
# Below this many it is of none: no plan goes there by itself.
CONTEXT_MINIMUM = 2048
CONTEXT_STEP = 256
# Of what is free, this share is planned with; the estimates were never more than 1 % too low.
SPENDABLE = 0.99
# In RAM others live too: the cache takes at most this share of what the weights leave, unless asked for more.
RAM_CACHE_SHARE = 0.5
RAM_CHECKPOINT_SHARE = 0.25
# All checkpoints together take about as much RAM as llama-server's own cache of prompts does by default
# (`--cache-ram 8192`), however much is free; two a slot even where these are larger, so that a conversation
# can go on from its last turn and from the one before.
CHECKPOINT_BYTES = 8 << 30
FEWEST_CHECKPOINTS = 2

# How much of a placement is worked out: it can take seconds for the largest models, and hints need many.
# `bound`: the result may leave out what is computed with, so that only a refusal is certain.
# `fit`: the model fits; slots and cache do not grow into the memory that one request leaves.
# `settings`: all settings are final.
# `all`: a plan also has the reasons that cost a second placement.
Detail = Literal["bound", "fit", "settings", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Settings with every decision made, what each place then holds, why, and from what that is known.

    Attributes:
        shorter: the change to the request that serves requests of 8,192 tokens in less memory, where the
            context was not asked for and is longer; `None` where there is none.
    """

    settings: Request
    shards: tuple[Shard, ...]
    host: Estimate
    kv_cache_tokens: int | None
    reasons: tuple[Reason, ...]
    sources: Mapping[str, str]
    measured_as: str = ""
    shorter: Change | None = None


def usable_devices(host: Host, request: Request, vendors: Sequence[str]) -> tuple[Device, ...]:
    """The devices that the backend can use and the user allows, the one with most free memory first.

    Raises:
        DeviceError: the user names a device that is not there, or one that the backend cannot use.
    """
    if request.devices is None:
        allowed = [device for device in host.devices if device.vendor in vendors]
        return tuple(sorted(allowed, key=lambda device: (-device.free_bytes, device.index)))
    known = {device.index: device for device in host.devices}
    for index in request.devices:
        if index not in known:
            there = ", ".join(map(str, sorted(known))) or "none"
            look = "" if host.elsewhere else " (see `aimind devices`)"
            raise DeviceError(
                f"device {index} does not exist {here(host)}",
                hint=f"choose from the devices {here(host)}: {there}{look}",
            )
        if known[index].vendor not in vendors:
            raise DeviceError(
                f"the backend cannot use device {index}, {known[index].name}",
                hint="use --device none to run on the CPU",
            )
    return tuple(known[index] for index in request.devices)


def context_limit(metadata: Metadata, request: Request) -> int:
    """The most tokens a request may have.

    Raises:
        UsageError: more are asked for than the model was made for, or too few to be of use.
    """
    limit = metadata.max_model_len or max(CONTEXT_FLOOR, request.max_model_len or 0)
    asked = request.max_model_len
    if asked is None:
        return limit
    if asked < 1:
        raise UsageError(f"--context {asked} is too small; it must be at least 1", hint="use --context 8k")
    least = min(limit, CONTEXT_MINIMUM)
    if asked < least and not metadata.pools and not request.force:
        raise UsageError(
            f"--context {asked} is too short to be useful; the minimum is {least:,} tokens",
            hint=f"use --context {_in_thousands(asked, least)}, or --force to override this check",
        )
    if asked > limit and not request.force:
        raise UsageError(
            f"a context of {asked:,} tokens exceeds the model's maximum of {limit:,} tokens",
            hint=f"use --context {limit}, or --force to override this check",
        )
    return asked


def _in_thousands(asked: int, least: int) -> str:
    """The likely intended value: `32k` for `32`."""
    return f"{asked}k if you meant thousands" if asked << 10 >= least else f"{least}"


def contexts_to_try(metadata: Metadata, request: Request, limit: int) -> tuple[int, ...]:
    """Lengths of a request that a place must hold, the preferred first; one that was asked for is alone."""
    if request.max_model_len or metadata.pools:
        return (request.max_model_len or min(limit, CONTEXT_FLOOR),)
    return tuple(dict.fromkeys((min(limit, CONTEXT_FLOOR), min(limit, CONTEXT_MINIMUM))))


def context_ladder(limit: int) -> tuple[int, ...]:
    """Lengths of a request to choose from, ascending: eight steps to each doubling, and the limit itself."""
    rungs = [min(limit, CONTEXT_MINIMUM)]
    while rungs[-1] < limit:
        octave = CONTEXT_MINIMUM << ((rungs[-1] // CONTEXT_MINIMUM).bit_length() - 1)
        rungs.append(min(limit, rungs[-1] + octave // 8))
    return tuple(rungs)

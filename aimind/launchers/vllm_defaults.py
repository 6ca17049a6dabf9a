"""The limits of a step that vLLM chooses itself, by version and device."""

from __future__ import annotations

import dataclasses

from aimind.launchers.arguments import plain
from aimind.types import BatchSizes, Device, Plan, Request, numbers

_GIB = 1 << 30
# Devices of 160 GiB have a tier of their own since some version between 0.26 and 0.32.
_LARGEST_STEPS_SINCE = (0, 27)
# The versions whose `get_batch_defaults` (vllm/engine/arg_utils.py) was read.
KNOWN_DEFAULTS = ((0, 26), (0, 32), (0, 33))


def default_batch_sizes(
    devices: tuple[Device, ...], *, ranks: int, version: str, doubled: bool
) -> BatchSizes:
    """What vLLM's API server takes for `--max-num-batched-tokens` and `--max-num-seqs`.

    Args:
        devices: of the run, the first one decides; empty for the CPU build.
        ranks: of one group (tensor times pipeline parallel), which multiply the CPU's figures.
        version: of vLLM; empty for the newest that is known.
        doubled: `--performance-mode throughput`.

    Source: get_batch_defaults in vllm/engine/arg_utils.py, 0.26.0, 0.32.0 and 0.33.0.
    """
    if not devices:
        sizes = BatchSizes(2048 * ranks, 128 * ranks)
    else:
        sizes = _device_batch_sizes(devices[0], release_of(version))
    factor = 2 if doubled else 1
    return BatchSizes(sizes.tokens * factor, sizes.sequences * factor)


def _device_batch_sizes(device: Device, release: tuple[int, ...]) -> BatchSizes:
    if device.total_bytes >= 160 * _GIB and release >= _LARGEST_STEPS_SINCE:
        return BatchSizes(16384, 1024)
    small_blackwell = device.capability == "12.1" and release >= (0, 33)  # GB10
    if device.total_bytes >= 70 * _GIB and "a100" not in device.name.lower() and not small_blackwell:
        return BatchSizes(8192, 1024)
    return BatchSizes(2048, 256)


def release_of(version: str) -> tuple[int, ...]:
    """Major and minor number; of an unknown version those of the newest that was read."""
    return numbers(version)[:2] or KNOWN_DEFAULTS[-1]


# From this version on at the latest, vLLM lets no web page of another site read its answers
# (`allowed_origins` in vllm/entrypoints/launchers/cli_args.py, 0.32.0).
_CLOSED_TO_PAGES_SINCE = (0, 32)


def without_origins(plan: Plan) -> tuple[str, ...]:
    """Keep web pages of other sites out where this version would not, and neither a key nor the user does."""
    settings = plan.settings
    chosen = any(plain(token).startswith("--allowed-origins") for token in settings.extra)
    if release_of(plan.backend.version) >= _CLOSED_TO_PAGES_SINCE or settings.api_key or chosen:
        return ()
    return ("--allowed-origins", "[]")


def without_defaults(plan: Plan) -> Request:
    """The settings, without the limits of a step that this version chooses for these devices itself."""
    settings = plan.settings
    if numbers(plan.backend.version)[:2] not in KNOWN_DEFAULTS:
        return settings
    own = default_batch_sizes(
        tuple(shard.device for shard in plan.shards),
        ranks=(settings.tensor_parallel_size or 1) * (settings.pipeline_parallel_size or 1),
        version=plan.backend.version,
        doubled=settings.performance_mode == "throughput",
    )
    sequences, tokens = settings.max_num_seqs, settings.max_num_batched_tokens
    # Where it chooses the one, it limits it by the other and by the length of a request.
    chosen_tokens = min(own.tokens, (sequences or own.sequences) * (settings.max_model_len or own.tokens))
    chosen_sequences = min(own.sequences, tokens or own.tokens)
    return dataclasses.replace(
        settings,
        max_num_batched_tokens=None if tokens == chosen_tokens else tokens,
        max_num_seqs=None if sequences == chosen_sequences else sequences,
    )


def one_server(settings: Request) -> tuple[str, ...]:
    """One process for HTTP: `vllm serve` has one for each data parallel group unless it is told otherwise."""
    return ("--api-server-count", "1") if (settings.data_parallel_size or 1) > 1 else ()

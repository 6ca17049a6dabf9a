"""Whether the KV cache of a backend can have the types that a request names."""

from __future__ import annotations

from collections.abc import Sequence

from aimind.errors import UsageError
from aimind.estimate.cache_types import CACHE_TYPES
from aimind.types import (
    Host,
    LatentAttention,
    LayeredMemory,
    MemoryPolicy,
    Metadata,
    PagedMemory,
    Request,
)


def check_cache_types(
    memory: MemoryPolicy, metadata: Metadata, host: Host, request: Request
) -> tuple[str, ...]:
    """Warnings about the cache types that `--force` lets through, as sentences.

    Raises:
        UsageError: the backend's cache cannot have a type, and it is not forced.
    """
    asked = [name for name in (request.kv_cache_dtype, request.value_cache_dtype) if name is not None]
    if isinstance(memory, LayeredMemory):
        for name in asked:
            if name not in memory.cache_dtypes:
                raise _refusal(name, memory.cache_dtypes)
        return ()
    if isinstance(memory, PagedMemory):
        return tuple(
            warning for name in asked for warning in _check_paged(name, memory, metadata, host, request)
        )
    return ()


def _check_paged(
    name: str, memory: PagedMemory, metadata: Metadata, host: Host, request: Request
) -> tuple[str, ...]:
    in_ram = not any(device.vendor in memory.vendors for device in host.devices)
    accepted = memory.cache_dtypes
    if in_ram and memory.ram_cache_dtypes is not None:
        accepted = memory.ram_cache_dtypes
    if name not in accepted and not request.force:
        raise _refusal(name, accepted, where=" in RAM" if in_ram and name in memory.cache_dtypes else "")
    needed = dict(memory.ram_cache_features).get(name, frozenset())
    if in_ram and not needed <= host.cpu_features:
        if not request.force:
            fitting = [each for each in accepted if each not in dict(memory.ram_cache_features)]
            raise _refusal(name, fitting, where=f" on a processor without {', '.join(sorted(needed))}")
        return (f"A KV cache of type {name} needs a processor with {', '.join(sorted(needed))}.",)
    kind = CACHE_TYPES.get(name)
    if kind is None:
        return (
            f"The size of a KV cache of type {name} is not known; "
            "the plan assumes the model's own data type (--dtype).",
        )
    has_latents = any(isinstance(part, LatentAttention) for layer in metadata.layers for part in layer.memory)
    stores = kind.latents if has_latents else kind.heads
    if stores:
        return ()
    sentence = f"A KV cache of type {name} supports only MLA, which this model does not use"
    if has_latents:
        sentence = f"A KV cache of type {name} does not support MLA, which this model uses"
    if request.force:
        return (f"{sentence}; the plan counts it as if it were supported.",)
    fitting = [
        each
        for each in accepted
        if each in CACHE_TYPES and (CACHE_TYPES[each].latents if has_latents else CACHE_TYPES[each].heads)
    ]
    raise UsageError(
        f"{sentence}.", hint=f"use --kv-cache-type with one of {', '.join(fitting)} for this model"
    )


def _refusal(name: str, accepted: Sequence[str], *, where: str = "") -> UsageError:
    return UsageError(
        f"This backend does not support a KV cache of type {name}{where}.",
        hint=f"use --kv-cache-type with one of {', '.join(accepted)}",
    )

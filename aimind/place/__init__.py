"""Where a model goes: the settings that fit the memory which is free, and what each device then holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aimind.types import Host, LayeredMemory, MemoryPolicy, Metadata, PagedMemory, Request

if TYPE_CHECKING:
    from aimind.place.placement import Detail, Placement


def place(
    metadata: Metadata,
    host: Host,
    request: Request,
    *,
    memory: MemoryPolicy,
    version: str = "",
    detail: Detail = "all",
) -> Placement:
    """The best placement on this machine, by the way in which the backend spends memory.

    `version`: of the backend, where its rules depend on it; empty for the newest that is known.
    `detail`: how much is worked out; only llama.cpp's placement takes so long that it depends on it.

    Raises:
        DoesNotFitError: none exists.
        UsageError: the request contradicts itself or the model.
    """
    # Of the ways to spend memory one is needed, and importing the others would take as long as planning does.
    if isinstance(memory, LayeredMemory):
        from aimind.place.layers import place_layers

        return place_layers(metadata, host, request, memory=memory, detail=detail)
    if isinstance(memory, PagedMemory):
        from aimind.place.ranks import place_ranks

        return place_ranks(metadata, host, request, memory=memory, version=version)
    from aimind.place.whole import place_whole

    return place_whole(metadata, host, request, memory=memory)

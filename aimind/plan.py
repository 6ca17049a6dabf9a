"""The decision: which backend, which devices, how much context, and why. Pure; `aimind plan` prints it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Literal

from aimind import categories, trust
from aimind.errors import DoesNotFitError, MetadataError, UnknownArchitectureError, UsageError
from aimind.launchers.arguments import check_arguments, uncounted
from aimind.launchers.base import DEFAULT_ADDRESS, Compiles, Launcher, is_local
from aimind.launchers.defaults import resolve
from aimind.launchers.flags import check_flags
from aimind.launchers.parsers import choose as choose_parsers
from aimind.launchers.values import check_values
from aimind.phrases import gib, names
from aimind.place import place
from aimind.place.cache_types import check_cache_types
from aimind.place.placement import Detail, Placement
from aimind.select import Choice, choose
from aimind.types import (
    Backend,
    Defaults,
    Host,
    LayeredMemory,
    MemoryPolicy,
    Metadata,
    Model,
    Plan,
    Reason,
    Request,
    WholeMemory,
)

DEFAULT_PORT = 8000
# A shorter context is named where it takes at most this share of what the plan takes on devices.
SMALLER_SHARE = 0.9


def make(
    model: Model,
    metadata: Metadata,
    host: Host,
    request: Request,
    launchers: Sequence[Launcher],
    *,
    detail: Detail = "all",
) -> Plan:
    """The plan for serving a model on a machine.

    `detail`: how much of it is worked out.

    Raises:
        UnsupportedError: no backend can serve it there.
        UnknownArchitectureError: nothing can be said of its memory.
        MetadataError: llama.cpp does not load the file.
        DoesNotFitError: the memory that is free does not hold it.
        UsageError: the request contradicts itself, the model or the backend.
        DeviceError: a device is named that is not there.
    """
    request = categories.expand_images_flag(request)
    metadata = categories.used_as(metadata, request.category)
    if request.max_model_len == 0:
        request = dataclasses.replace(request, max_model_len=metadata.max_model_len)
    defects = _defects(metadata, request)
    choice = choose(metadata, host, request, launchers)
    memory = _memory(metadata, choice.launcher)
    _check(metadata, memory)
    if request.served_name is not None and "served_name" not in choice.launcher.FLAGS:
        raise UsageError(
            f"{choice.backend.name} does not support --served-model-name",
            hint="omit --served-model-name, or choose another backend with --backend",
        )
    resolved = resolve(choice.launcher, request)
    request = resolved.request
    metadata = categories.used_as(
        metadata, categories.category_from_arguments(metadata, choice.launcher, request)
    )
    request = categories.set_task(metadata, choice.launcher, request)
    notes = defects + trust.check_code(model, metadata, request)
    notes += trust.check_pickles(model, metadata, choice.launcher)
    notes += check_arguments(choice.launcher, request, choice.backend)
    notes += check_flags(choice.launcher, request, choice.backend)
    notes += check_cache_types(memory, metadata, host, request)
    notes += check_values(choice.launcher, request, choice.backend)
    request, chosen = choose_parsers(choice.launcher.FLAGS, metadata, request, choice.backend)
    measured_host = _with_measurements_of(host, choice.backend)

    def placed(asked: Request) -> Placement:
        return place(
            metadata,
            measured_host,
            asked,
            memory=memory,
            version=choice.backend.version,
            detail=detail,
        )

    try:
        placement = placed(request)
    except DoesNotFitError as problem:
        problem.request = _as_planned(request, choice.backend)
        raise
    shorter = _shorter_context(placement, request, placed) if detail == "all" else ()
    projector = next((file.path for file in model.files if file.is_projector), None)
    elsewhere = request.projector if projector is None and request.projector != "none" else None
    named = name_of(model) if "served_name" in choice.launcher.FLAGS else None
    settings = dataclasses.replace(
        placement.settings,
        backend=choice.backend.name,
        backend_version=choice.backend.version,
        address=request.address or DEFAULT_ADDRESS,
        port=DEFAULT_PORT if request.port is None else request.port,
        served_name=request.served_name or named,
        projector=projector or elsewhere,
    )
    decided = Plan(
        model=model if request.trust_remote_code else trust.without_code(model),
        metadata=metadata,
        backend=choice.backend,
        settings=settings,
        refused=choice.refused,
        shards=placement.shards,
        host=placement.host,
        ram_free_bytes=host.ram_free_bytes,
        kv_cache_tokens=placement.kv_cache_tokens,
        reasons=(
            choice.reason,
            *_whose(choice.backend),
            *categories.reasons(metadata, request),
            *resolved.reasons,
            *placement.reasons,
            *shorter,
            *chosen,
            *_caveats(metadata),
        ),
        sources=_sources(placement),
        uncounted=uncounted(choice.launcher, request) + (("--mmproj",) if elsewhere else ()),
        measured_as=placement.measured_as,
        notes=notes + _idle(host, request, choice, memory),
    )
    return _with_compile_cache(decided, choice.launcher)


def warnings(plan: Plan) -> tuple[str, ...]:
    """What the user should know before it runs, as sentences."""
    found = []
    if not is_local(plan.settings) and not plan.settings.api_key:
        found.append(
            f"anyone who reaches {plan.settings.address}:{plan.settings.port} can use the model: "
            "there is no API key (--api-key-file)"
        )
    if not plan.metadata.known:
        found.append(
            f"the estimates do not cover the architecture {plan.metadata.architecture}: "
            "beyond the weights, they are an upper bound from its tensors"
        )
    if plan.uncounted:
        found.append(f"the estimates do not include the effect of {', '.join(plan.uncounted)}")
    return (*found, *plan.notes)


def _as_planned(request: Request, backend: Backend) -> Request:
    """The request for this backend alone: its fields hold all arguments and defaults already."""
    return dataclasses.replace(
        request, backend=backend.name, backend_version=backend.version, defaults=Defaults()
    )


def _defects(metadata: Metadata, request: Request) -> tuple[str, ...]:
    """A warning where `--force` takes a file that llama.cpp does not load.

    Raises:
        MetadataError: the file is one, and nothing is forced.
    """
    if not metadata.defects:
        return ()
    sentence = f"llama.cpp cannot load the damaged or incomplete file: {'; '.join(metadata.defects)}"
    if request.force:
        return (f"{sentence}.",)
    raise MetadataError(
        f"{sentence}.",
        hint="Download it again, or convert the model with a newer llama.cpp; --force overrides this check.",
    )


def _memory(metadata: Metadata, launcher: Launcher) -> MemoryPolicy:
    """How the backend spends memory on models of this kind."""
    memory = launcher.MEMORY
    if metadata.category == "image" and isinstance(memory, LayeredMemory) and memory.images is not None:
        return memory.images
    return memory


def _check(metadata: Metadata, memory: MemoryPolicy) -> None:
    if not metadata.known and not metadata.layers and not isinstance(memory, WholeMemory):
        raise UnknownArchitectureError(
            f"the architecture {metadata.architecture!r} is unknown, and its tensors form no layers",
            hint="try a newer version of aimind"
            + (", or --category image for an image model" if metadata.format == "gguf" else ""),
        )


def _with_measurements_of(host: Host, backend: Backend) -> Host:
    """The machine with those measurements that were made with this backend and this driver."""
    found = [
        each
        for each in host.measurements
        if (each.backend, each.version, each.driver) == (backend.name, backend.version, host.driver)
    ]
    return dataclasses.replace(host, measurements=tuple(found))


def _with_compile_cache(plan: Plan, launcher: Launcher) -> Plan:
    """The plan with whether it is known that its backend has compiled the model before."""
    cache = plan.backend.compile_cache
    if cache is None or not isinstance(launcher, Compiles):
        return plan
    key = launcher.compile_key(plan)
    if key is None:
        return plan
    if key in cache.keys:
        state: Literal["warm", "cold"] = "warm"
        sentence = "the backend reuses the compiled code of an earlier start"
    else:
        state = "cold"
        sentence = "the first start with these settings compiles the model, which can take minutes"
    return dataclasses.replace(
        plan, compile_cache=state, reasons=(*plan.reasons, Reason("compile_cache", sentence))
    )


def _idle(host: Host, request: Request, choice: Choice, memory: MemoryPolicy) -> tuple[str, ...]:
    """That devices are there, and the backend can use none of them."""
    vendors = {device.vendor for device in host.devices} - {"apple"}  # whose memory is RAM
    if request.devices is not None or not vendors or vendors & set(memory.vendors):
        return ()
    idle = [device for device in host.devices if device.vendor in vendors]
    others = "; --why shows why other backends were refused" if choice.refused else ""
    return (f"{choice.backend.name} cannot use {names(idle)} ({idle[0].name}) and runs on the CPU{others}",)


def _shorter_context(
    placement: Placement, request: Request, placed: Callable[[Request], Placement]
) -> tuple[Reason, ...]:
    """What a context of 8,192 tokens would take, where the plan takes much more for a longer one."""
    if placement.shorter is None or not placement.shards:
        return ()
    try:
        shorter = placed(dataclasses.replace(request, **placement.shorter))  # type: ignore[arg-type]
    except DoesNotFitError:  # the share that is free is smaller than vLLM's rounding
        return ()
    now = sum(shard.estimate.total_bytes for shard in placement.shards)
    then = sum(shard.estimate.total_bytes for shard in shorter.shards)
    if then > SMALLER_SHARE * now:
        return ()
    options = f"--context {shorter.settings.max_model_len}"
    if "gpu_memory_utilization" in placement.shorter:
        options += f" --gpu-memory-utilization {shorter.settings.gpu_memory_utilization:g}"
    return (Reason("shorter_context", f"{options} would use {gib(then)} on devices instead of {gib(now)}"),)


def _whose(backend: Backend) -> tuple[Reason, ...]:
    """From whom the build is, where that might surprise."""
    return (
        (Reason("backend_version", f"version {backend.version} is {backend.origin}"),)
        if backend.origin
        else ()
    )


def _caveats(metadata: Metadata) -> tuple[Reason, ...]:
    if metadata.known:
        return ()
    return (
        Reason(
            "shards",
            f"{metadata.architecture} is unknown: beyond the weights, the estimates are an upper bound",
        ),
    )


def _sources(placement: Placement) -> dict[str, str]:
    """From what the components that are there are known."""
    places = [shard.estimate for shard in placement.shards] + [placement.host]
    there = {name for place in places for name, size in place.components.items() if size}
    return {name: source for name, source in placement.sources.items() if name in there}


def name_of(model: Model) -> str:
    """The usual name in the API: the repository's, or a local file's or folder's without its ending."""
    name = model.reference.name
    if model.reference.source != "local":
        return name
    path = PurePath(name)
    return (path.stem if path.suffix == ".gguf" else path.name) or "model"

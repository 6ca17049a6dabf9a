"""Several plans side by side: over quantizations, over machines, over contexts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aimind.errors import AimindError
from aimind.phrases import counted, gib, names
from aimind.show.terminal import console, escape, table
from aimind.types import Plan

if TYPE_CHECKING:
    from aimind.alternatives import Option
    from aimind.exact import Exact


def candidates(options: Sequence[Option], chosen: Plan | None, *, here: Sequence[bool]) -> None:
    """The quantizations of a repository: their sizes, whether they fit, and which are `here`."""
    from aimind.alternatives import file_bytes, label

    rows = table("", "quantization", "files", "size", "fits", "context", "on devices", "in RAM", "here")
    for option, is_here in zip(options, here, strict=True):
        found = option.plan
        about = "~" if option.guessed else ""
        row = ["", "", ""]
        if found is not None:
            on_devices = sum(shard.estimate.total_bytes for shard in found.shards)
            sizes = [f"{about}{gib(size)}" if size else "" for size in (on_devices, found.host.total_bytes)]
            row = [f"{about}{found.settings.max_model_len or ''}", *sizes]
        rows.add_row(
            "→" if chosen is not None and option.plan is chosen else "",
            escape(label(option.model)),
            str(len(option.model.files)),
            gib(file_bytes(option.model)),
            fit(found),
            *row,
            "yes" if is_here else "",
        )
    console().print(rows)


def comparison(rows: Sequence[tuple[str, int | None, Plan | AimindError]]) -> None:
    """One plan per machine and context, or why there is none."""
    from aimind.alternatives import label

    shown = table("machine", "asked", "context", "at once", "file", "backend", "fits", "on devices", "in RAM")
    for machine, asked, answer in rows:
        wanted = "" if asked is None else ("max" if asked == 0 else str(asked))
        if isinstance(answer, AimindError):
            shown.add_row(escape(machine), wanted, "", "", "", "", f"no: {escape(answer.message)}")
            continue
        shown.add_row(
            escape(machine),
            wanted,
            str(answer.settings.max_model_len or ""),
            str(answer.requests_at_once),
            escape(label(answer.model)),
            answer.backend.name,
            fit(answer),
            gib(sum(shard.estimate.total_bytes for shard in answer.shards)) if answer.shards else "",
            gib(answer.host.total_bytes),
        )
    console().print(shown)


def exact(plan: Plan, asked: Sequence[Exact]) -> None:
    """What was planned beside what the installed llama.cpp says."""
    shown = table("planned / asked", "weights", "context", "compute", right=True)
    planned = [(f"device {shard.device.index}", shard.estimate) for shard in plan.shards]
    planned.append(("RAM", plan.host))
    for (place, estimate), said in zip(planned, asked, strict=True):
        context = estimate.kv_cache_bytes + estimate.state_bytes
        pairs = (
            (estimate.weights_bytes + estimate.repacked_bytes, said.weights_bytes),
            (context, said.context_bytes),
            (estimate.compute_bytes, said.compute_bytes),
        )
        shown.add_row(place, *(f"{gib(ours)} / {gib(theirs)}" for ours, theirs in pairs))
    console().print(shown)


def fit(found: Plan | None) -> str:
    """Where it fits, in a few words."""
    if found is None:
        return "no"
    if not found.shards:
        return "in RAM"
    where = names([shard.device for shard in found.shards])
    settings = found.settings
    if found.is_whole:
        return where
    if settings.cpu_moe_layers:
        return f"{where}, experts of {counted(settings.cpu_moe_layers, 'layer')} in RAM"
    return f"{settings.gpu_layers} of {len(found.metadata.layers) + 1} layers on {where}"

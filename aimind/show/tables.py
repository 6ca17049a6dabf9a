"""Several plans side by side: over quantizations, over machines, over contexts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aimind.errors import AimindError
from aimind.phrases import counted, gib, names
from aimind.show.columns import Cell, Column, Row, print_table
from aimind.show.terminal import note
from aimind.types import Estimate, Plan

if TYPE_CHECKING:
    from aimind.alternatives import Option
    from aimind.exact import Exact

_CANDIDATES = (
    Column(""),
    Column("QUANTIZATION"),
    Column("SIZE", right=True),
    Column("FITS"),
    Column("CONTEXT", rank=1, right=True),
    Column("ON DEVICES", rank=2, right=True),
    Column("IN RAM", rank=3, right=True),
    Column("HERE", rank=1),
    Column("FILES", rank=4, right=True),
)
_COMPARISON = (
    Column("MACHINE"),
    Column("ASKED", rank=2, right=True),
    Column("CONTEXT", right=True),
    Column("AT ONCE", rank=3, right=True),
    Column("FILE", rank=4),
    Column("BACKEND", rank=1),
    Column("FITS"),
    Column("ON DEVICES", rank=1, right=True),
    Column("IN RAM", rank=2, right=True),
)
_EXACT = (
    Column("PLANNED / REPORTED"),
    Column("WEIGHTS", right=True),
    Column("CONTEXT", right=True),
    Column("COMPUTE", right=True),
)


def candidates(options: Sequence[Option], chosen: Plan | None, *, here: Sequence[bool]) -> None:
    """Print the quantizations of a repository: their sizes, whether they fit, and which are `here`."""
    rows = [
        _candidate(option, is_chosen=chosen is not None and option.plan is chosen, is_here=is_here)
        for option, is_here in zip(options, here, strict=True)
    ]
    print_table(_CANDIDATES, rows)


def _candidate(option: Option, *, is_chosen: bool, is_here: bool) -> Row:
    from aimind.alternatives import file_bytes, label

    plan, about = option.plan, "~" if option.guessed else ""
    row: list[str | Cell] = [
        "→" if is_chosen else "",
        Cell(label(option.model), "bold" if is_chosen else ""),
        gib(file_bytes(option.model)),
        _fit_cell(plan),
    ]
    if plan is None:
        row += ["", "", ""]
    else:
        row += [
            about + _tokens(plan.settings.max_model_len),
            _about(about, sum(shard.estimate.total_bytes for shard in plan.shards)),
            _about(about, plan.host.total_bytes),
        ]
    return [*row, "yes" if is_here else "", str(len(option.model.files))]


def comparison(rows: Sequence[tuple[str, int | None, Plan | AimindError]]) -> None:
    """Print one plan for each machine and context, or why there is none."""
    print_table(_COMPARISON, [_compared(machine, asked, answer) for machine, asked, answer in rows])
    for machine, asked, answer in rows:
        if isinstance(answer, AimindError):
            context = "" if asked is None else f", context {_context_text(asked)}"
            note(f"{machine}{context}: {answer.message}")


def _compared(machine: str, asked: int | None, answer: Plan | AimindError) -> Row:
    from aimind.alternatives import label

    wanted = _context_text(asked)
    if isinstance(answer, AimindError):
        return [machine, wanted, *[""] * 4, _fit_cell(None), "", ""]
    on_devices = sum(shard.estimate.total_bytes for shard in answer.shards)
    return [
        machine,
        wanted,
        _tokens(answer.settings.max_model_len),
        str(answer.requests_at_once),
        label(answer.model),
        answer.backend.name,
        _fit_cell(answer),
        _about("", on_devices),
        _about("", answer.host.total_bytes),
    ]


def exact(plan: Plan, asked: Sequence[Exact]) -> None:
    """Print what was planned beside what the installed llama.cpp reports."""
    places = [(f"device {shard.device.index}", shard.estimate) for shard in plan.shards]
    places.append(("RAM", plan.host))
    rows = [_beside(place, estimate, real) for (place, estimate), real in zip(places, asked, strict=True)]
    print_table(_EXACT, rows)


def _beside(place: str, estimate: Estimate, real: Exact) -> Row:
    context = estimate.kv_cache_bytes + estimate.state_bytes
    pairs = (
        (estimate.weights_bytes + estimate.repacked_bytes, real.weights_bytes),
        (context, real.context_bytes),
        (estimate.compute_bytes, real.compute_bytes),
    )
    return [place, *(f"{gib(planned)} / {gib(reported)}" for planned, reported in pairs)]


def _context_text(tokens: int | None) -> str:
    if tokens is None:
        return ""
    return "max" if tokens == 0 else _tokens(tokens)


def _tokens(number: int | None) -> str:
    return f"{number:,}" if number else ""


def _about(about: str, size_bytes: int) -> str:
    return f"{about}{gib(size_bytes)}" if size_bytes else ""


def _fit_cell(plan: Plan | None) -> Cell:
    if plan is None:
        return Cell("no", "red")
    return Cell(fit(plan), "green" if plan.is_whole or not plan.shards else "yellow")


def fit(found: Plan) -> str:
    """Name where a plan places the model, in a few words."""
    if not found.shards:
        return "in RAM"
    where = names([shard.device for shard in found.shards])
    settings = found.settings
    if found.is_whole:
        return where
    if settings.cpu_moe_layers:
        return f"{where}, experts of {counted(settings.cpu_moe_layers, 'layer')} in RAM"
    return f"{settings.gpu_layers} of {len(found.metadata.layers) + 1} layers on {where}"

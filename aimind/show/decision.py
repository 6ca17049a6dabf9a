"""A plan as a person reads it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from aimind.phrases import gib, shell_join, shell_quote
from aimind.reference import unparse
from aimind.show.terminal import console, escape, grid, is_quiet, table
from aimind.types import API_KEY_VARIABLE, Command, Estimate, Metadata, Model, Plan

if TYPE_CHECKING:
    from rich.table import Table

COMPONENTS = (
    ("weights", "weights_bytes"),
    ("repacked", "repacked_bytes"),
    ("KV cache", "kv_cache_bytes"),
    ("state", "state_bytes"),
    ("checkpoints", "checkpoint_bytes"),
    ("prompt cache", "prompt_cache_bytes"),
    ("compute", "compute_bytes"),
    ("outputs", "output_bytes"),
    ("graphs", "graphs_bytes"),
    ("projector", "projector_bytes"),
    ("overhead", "overhead_bytes"),
    ("total", "total_bytes"),
)


def plan(plan: Plan, command: Command, *, err: bool = False) -> None:
    """The plan as a person reads it: what, with what, where, why, and how it is started.

    On stderr it is a note beside what is done.
    """
    if err and is_quiet():
        return
    screen = console(err=err)
    settings, backend = plan.settings, plan.backend
    screen.print(f"[bold]{escape(unparse(plan.model.reference))}[/]  {_describe(plan.metadata)}")
    screen.print()
    facts = grid()
    state = "" if backend.installed else " [dim](is installed on first use)[/]"
    if backend.assumed:
        state = " [dim](assumed to be installed there)[/]"
    facts.add_row("backend", f"{backend.name} {backend.version}{state}")
    if settings.max_model_len:  # a model of speech has none
        cached = f", {plan.kv_cache_tokens} tokens cached" if plan.kv_cache_tokens else ""
        at_once = f"{plan.requests_at_once} of that length at once, {settings.max_num_seqs} at most{cached}"
        facts.add_row("context", f"{settings.max_model_len} tokens a request; {at_once}")
    facts.add_row("files", _files(plan.model))
    screen.print(facts)
    screen.print()
    screen.print(_memory(plan))
    screen.print()
    reasons = grid()
    for reason in plan.reasons:
        reasons.add_row(reason.field, escape(reason.sentence))
    for refusal in plan.refused:
        reasons.add_row(f"not {refusal.backend}", f"[dim]{escape(refusal.sentence)}[/]")
    screen.print(reasons)
    screen.print()
    screen.print(_sources(plan))
    screen.print()
    screen.print(escape(command_line(command)), soft_wrap=True)


def command_line(command: Command) -> str:
    """The command as a line for a shell, which has the secrets: those that are here, and `AIMIND_API_KEY`."""
    words = [word for name in sorted(filter(command.removes, os.environ)) for word in ("-u", name)]
    words += [f"{name}={value}" for name, value in command.env.items()]
    secrets = "".join(
        f'{name}="${name if os.environ.get(name) == value else API_KEY_VARIABLE}" '
        for name, value in command.secret_env.items()
    )
    prefix = f"env {shell_join(words)} " if words else ("env " if secrets else "")
    change = f"cd {shell_quote(command.cwd)} && " if command.cwd else ""
    return f"{change}{prefix}{secrets}{shell_join(command.argv)}"


def model(model: Model, metadata: Metadata) -> None:
    """What a model is, as a person reads it."""
    screen = console()
    screen.print(f"[bold]{escape(unparse(model.reference))}[/]  {_describe(metadata)}")
    screen.print()
    facts = grid()
    if model.root is not None:
        facts.add_row("directory", escape(model.root))
    if model.commit is not None:
        facts.add_row("commit", escape(model.commit))
    facts.add_row("format", metadata.format)
    if metadata.max_model_len:
        facts.add_row("context", f"{metadata.max_model_len:,} tokens at most")
    if metadata.layers:
        facts.add_row("layers", str(len(metadata.layers)))
    if metadata.modalities:
        facts.add_row("reads", escape(", ".join(("text", *sorted(metadata.modalities)))))
    if metadata.remote_code:
        facts.add_row("code", "the repository has Python code of its own (--trust-remote-code)")
    facts.add_row("files", _files(model))
    screen.print(facts)
    screen.print()


def _describe(metadata: Metadata) -> str:
    parts = [
        metadata.category,
        metadata.architecture,
        metadata.quantization or metadata.dtype or metadata.format,
    ]
    if metadata.parameters:
        parts.append(_count(metadata.parameters) + " parameters")
    return escape(" · ".join(parts))


def _count(number: int) -> str:
    for unit, size in (("billion", 10**9), ("million", 10**6)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)


def _files(model: Model) -> str:
    files = model.files
    size = gib(sum(file.size_bytes for file in files))
    names = ", ".join(file.path for file in files[:2]) + (", …" if len(files) > 2 else "")
    return escape(f"{size} in {len(files)} file{'s' if len(files) != 1 else ''}: {names}")


def _memory(plan: Plan) -> Table:
    places: list[tuple[str, Estimate, int]] = [
        (f"device {shard.device.index}", shard.estimate, shard.device.free_bytes) for shard in plan.shards
    ]
    places.append(("RAM", plan.host, plan.ram_free_bytes))
    shown = [(title, field) for title, field in COMPONENTS if any(getattr(e, field) for _, e, _ in places)]
    rows = table("memory", *(title for title, _ in shown), "of free", right=True)
    for name, estimate, free in places:
        sizes = [_size(estimate, field) for _, field in shown]
        rows.add_row(name, *sizes, gib(free))
    return rows


def _sources(plan: Plan) -> Table:
    """How the bytes are known: to the byte or about, and from what."""
    titles = {field: title for title, field in COMPONENTS}
    places = [shard.estimate for shard in plan.shards] + [plan.host]
    rows = grid()
    for name, source in plan.sources.items():
        about = any(name in place.approximate and place.components[name] for place in places)
        rows.add_row(titles[name], ("~ about: " if about else "exact: ") + escape(source))
    return rows


def _size(estimate: Estimate, component: str) -> str:
    """A size as the table has it: `~` where it is approximate."""
    size: int = getattr(estimate, component)
    exact = estimate.exact if component == "total_bytes" else component not in estimate.approximate
    return ("" if exact else "~") + gib(size) if size else ""

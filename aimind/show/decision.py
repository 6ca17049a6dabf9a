"""A plan as a person reads it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import typer

from aimind.phrases import counted, gib, shell_join, shell_quote, visible
from aimind.reference import unparse
from aimind.show.columns import Cell, Column, print_facts, print_table
from aimind.show.start import devices, summary
from aimind.show.terminal import look
from aimind.supervisor.screen import BOLD, columns
from aimind.types import API_KEY_VARIABLE, Command, Estimate, Metadata, Model, Plan

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
MOST_COLUMNS = 5  # places side by side at 80 columns
# Reasons that a plan shows without --why: they tell what else could be had.
SHOWN_REASONS = ("shorter_context", "devices")
# Reasons whose field has another name on the command line.
_LABELS = {
    "max_model_len": "context",
    "shorter_context": "shorter context",
    "max_num_seqs": "parallel",
    "kv_cache_tokens": "KV cache",
    "context_checkpoints": "checkpoints",
    "tensor_parallel_size": "tensor-parallel",
    "gpu_layers": "gpu-layers",
    "cpu_moe_layers": "experts in RAM",
    "gpu_memory_utilization": "gpu-memory-utilization",
    "devices": "device",
}


def plan(plan: Plan, *, why: bool, err: bool = False) -> None:
    """Print a plan: the model, the devices, the context and a table of memory.

    Args:
        plan: the plan.
        why: add the reason for each choice, why other backends were refused, and where each size comes from.
        err: print it on stderr.
    """
    stream = sys.stderr if err else sys.stdout
    shown = look(stream)
    width = columns(stream.fileno()) if stream.isatty() else None
    for line in summary(plan, name=unparse(plan.model.reference), look=shown, width=width):
        typer.echo(shown.plain(line), err=err, color=shown.color)
    typer.echo(err=err)
    _print_memory(plan, err=err)
    if why:
        _print_reasons(plan, err=err)
        return
    hints = [reason.sentence for reason in plan.reasons if reason.field in SHOWN_REASONS]
    if hints:
        typer.echo(err=err)
        print_facts([("note", hint) for hint in hints], err=err)


def _print_reasons(plan: Plan, *, err: bool) -> None:
    blocks: list[list[tuple[str, str | Cell]]] = [
        [(_LABELS.get(each.field, each.field), each.sentence) for each in plan.reasons],
        [(f"not {each.backend}", Cell(each.sentence, "dim")) for each in plan.refused],
        list(_sources(plan)),
    ]
    for block in filter(None, blocks):
        typer.echo(err=err)
        print_facts(block, err=err)


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
    """Print what a model is: its category, size, format, limits and files."""
    name = visible(unparse(model.reference))
    typer.echo(f"{look(sys.stdout).paint(name, BOLD)}  {visible(_describe(metadata))}", color=True)
    modalities = ", ".join(("text", *sorted(metadata.modalities))) if metadata.modalities else ""
    has_code = "the repository contains Python code (--trust-remote-code)"
    print_facts(
        [
            ("directory", model.root or ""),
            ("commit", model.commit or ""),
            ("format", metadata.format),
            ("context", f"{metadata.max_model_len:,} tokens at most" if metadata.max_model_len else ""),
            ("layers", str(len(metadata.layers) or "")),
            ("reads", modalities),
            ("code", has_code if metadata.remote_code else ""),
            ("files", _files(model)),
        ]
    )
    typer.echo()


def _describe(metadata: Metadata) -> str:
    quantization = metadata.quantization or metadata.dtype or metadata.format
    parts = [metadata.category, metadata.architecture, quantization]
    if metadata.parameters:
        parts.append(_count(metadata.parameters) + " parameters")
    return " · ".join(parts)


def _count(number: int) -> str:
    for unit, size in (("billion", 10**9), ("million", 10**6)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)


def _files(model: Model) -> str:
    size = gib(sum(file.size_bytes for file in model.files))
    names = ", ".join(file.path for file in model.files[:2]) + (", …" if len(model.files) > 2 else "")
    return f"{size} in {counted(len(model.files), 'file')}: {names}"


def _print_memory(plan: Plan, *, err: bool) -> None:
    """Print what each place holds: a row for each component, or for each place where there are many."""
    places = [(name, estimate, free_bytes) for name, estimate, free_bytes, _ in devices(plan)]
    shown = [(title, field) for title, field in COMPONENTS if any(getattr(e, field) for _, e, _ in places)]
    matrix = [["MEMORY", *(title for title, _ in shown), "free"]]
    for name, estimate, free_bytes in places:
        matrix.append([name, *(_size(estimate, field) for _, field in shown), gib(free_bytes)])
    if len(places) <= MOST_COLUMNS:
        matrix = [list(column) for column in zip(*matrix, strict=True)]
    head, *body = matrix
    print_table([Column(title, right=at > 0) for at, title in enumerate(head)], body, err=err)


def _sources(plan: Plan) -> Iterator[tuple[str, str | Cell]]:
    """The source of each size, and whether it is exact or approximate."""
    titles = {field: title for title, field in COMPONENTS}
    places = [shard.estimate for shard in plan.shards] + [plan.host]
    for name, source in plan.sources.items():
        is_about = any(name in place.approximate and place.components[name] for place in places)
        yield titles[name], f"{'approximate' if is_about else 'exact'}: {source}"


def _size(estimate: Estimate, component: str) -> str:
    """A size as the table has it: `~` where it is approximate."""
    size: int = getattr(estimate, component)
    exact = estimate.exact if component == "total_bytes" else component not in estimate.approximate
    return ("" if exact else "~") + gib(size) if size else ""

"""All that a person reads: plans, tables, errors, hints. Data goes to stdout, the rest to stderr."""

from __future__ import annotations

import json
import os
import shlex
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from aimind import __version__
from aimind.errors import AimindError
from aimind.launchers.base import Launcher
from aimind.place.placement import gib
from aimind.reference import unparse
from aimind.types import API_KEY_VARIABLE, Command, Estimate, Host, Metadata, Plan, Program

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID
    from rich.table import Table

COMPONENTS = (
    ("weights", "weights_bytes"),
    ("KV cache", "kv_cache_bytes"),
    ("state", "state_bytes"),
    ("compute", "compute_bytes"),
    ("graphs", "graphs_bytes"),
    ("projector", "projector_bytes"),
    ("overhead", "overhead_bytes"),
    ("total", "total_bytes"),
)


def error(problem: AimindError) -> None:
    """What happened, and what to do."""
    note(f"error: {problem.message}")
    note(f"hint: {problem.hint}")


def note(line: str) -> None:
    """One line for the person, on stderr."""
    click.echo(line, err=True)


def data(value: Mapping[str, object]) -> None:
    """A document, on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def plan(plan: Plan, command: Command, *, err: bool = False) -> None:
    """The plan as a person reads it: what, with what, where, why, and how it is started."""
    console = _console(err=err)
    settings, backend = plan.settings, plan.backend
    console.print(f"[bold]{_escape(unparse(plan.model.reference))}[/]  {_describe(plan)}")
    console.print()
    facts = _grid()
    state = "" if backend.installed else " [dim](is installed on first use)[/]"
    facts.add_row("backend", f"{backend.name} {backend.version}{state}")
    cached = f", {plan.kv_cache_tokens} tokens cached" if plan.kv_cache_tokens else ""
    facts.add_row(
        "context",
        f"{settings.max_model_len} tokens a request, {settings.max_num_seqs} requests at once{cached}",
    )
    facts.add_row("files", _files(plan))
    console.print(facts)
    console.print()
    console.print(_memory(plan))
    console.print()
    reasons = _grid()
    for reason in plan.reasons:
        reasons.add_row(reason.field, _escape(reason.sentence))
    for refusal in plan.refused:
        reasons.add_row(f"not {refusal.backend}", f"[dim]{_escape(refusal.sentence)}[/]")
    console.print(reasons)
    console.print()
    console.print(_escape(command_line(command)), soft_wrap=True)


def command_line(command: Command) -> str:
    """The command as a line for a shell; a secret is taken from `AIMIND_API_KEY` there."""
    words = [word for name in sorted(filter(command.removes, os.environ)) for word in ("-u", name)]
    words += [f"{name}={value}" for name, value in command.env.items()]
    secrets = "".join(f'{name}="${API_KEY_VARIABLE}" ' for name in command.secret_env)
    prefix = f"env {shlex.join(words)} " if words else ("env " if secrets else "")
    change = f"cd {shlex.quote(command.cwd)} && " if command.cwd else ""
    return f"{change}{prefix}{secrets}{shlex.join(command.argv)}"


def devices(host: Host) -> None:
    """What this machine has, and who uses it."""
    console = _console()
    table = _table("device", "name", "total", "free", "compute", "used by")
    for device in host.devices:
        users = ", ".join(
            f"{tenant.name} ({tenant.pid}" + (f", {gib(tenant.used_bytes)})" if tenant.used_bytes else ")")
            for tenant in device.tenants
        )
        table.add_row(
            str(device.index),
            device.name,
            gib(device.total_bytes),
            gib(device.free_bytes),
            device.capability or "",
            users,
        )
    table.add_row(
        "RAM",
        f"{host.os} {host.arch}, {host.cores} cores",
        gib(host.ram_total_bytes),
        gib(host.ram_free_bytes),
        "",
        "",
    )
    console.print(table)


def backends(launchers: Sequence[Launcher], host: Host) -> None:
    """Each backend and version: what is here, what can be, and how."""
    table = _table("backend", "version", "state", "for")
    for launcher in launchers:
        rows = [backend for backend in host.backends if backend.name == launcher.NAME]
        for backend in rows:
            state = backend.executable if backend.installed else f"aimind backends install {backend.name}"
            table.add_row(backend.name, backend.version, _escape(state), launcher.SUMMARY)
        source = launcher.source(host)
        if not rows and isinstance(source, Program):
            state = f"[dim]not on PATH: {_escape(source.remedy)}[/]"
            table.add_row(launcher.NAME, "", state, launcher.SUMMARY)
    _console().print(table)


def bug(problem: BaseException) -> None:
    """An error that should not be: one line, and a file with the rest."""
    import tempfile
    import traceback

    text = "".join(traceback.format_exception(problem))
    with tempfile.NamedTemporaryFile("w", prefix="aimind-", suffix=".log", delete=False) as file:
        file.write(f"aimind {__version__}, Python {sys.version}\n{text}")
    note(f"error: this is a bug in aimind: {type(problem).__name__}: {problem}")
    note(f"hint: please report it with {file.name}")


def announcement(plan: Plan, command: Command) -> str:
    """What is said when the server answers: where, and a line to try it with."""
    return f"ready: {command.url}\ntry:   {_curl(plan, command)}"


class Progress:
    """How a download goes on: a bar on a terminal, elsewhere a line every few seconds (`hub.Progress`)."""

    LINE_SECONDS = 5.0

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._total_bytes = self._done_bytes = 0
        self._next_line = 0.0

    def start(self, total_bytes: int, files: int) -> None:
        """Say what will come."""
        self._total_bytes, self._done_bytes = total_bytes, 0
        what = f"downloading {gib(total_bytes)} in {files} file{'s' if files != 1 else ''}"
        if not sys.stderr.isatty():
            note(what)
            self._next_line = time.monotonic() + self.LINE_SECONDS
            return
        from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn
        from rich.progress import Progress as Bar

        columns = (
            "{task.description}",
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Bar(*columns, console=_console(err=True), transient=True)
        self._task = self._bar.add_task(what, total=total_bytes)
        self._bar.start()

    def advance(self, path: str, count_bytes: int) -> None:  # noqa: ARG002 - one bar for all files
        """Count what came."""
        with self._lock:
            self._done_bytes += count_bytes
            if self._bar is not None and self._task is not None:
                self._bar.update(self._task, completed=self._done_bytes)
            elif time.monotonic() >= self._next_line:
                self._next_line = time.monotonic() + self.LINE_SECONDS
                note(f"downloaded {gib(self._done_bytes)} of {gib(self._total_bytes)}")

    def finish(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()


def _curl(plan: Plan, command: Command) -> str:
    name = plan.settings.served_name
    path, body = {
        "embedding": ("embeddings", {"model": name, "input": "Hello"}),
        "reranker": ("rerank", {"model": name, "query": "Hello", "documents": ["Hi", "Bye"]}),
    }.get(
        plan.metadata.category,
        ("chat/completions", {"model": name, "messages": [{"role": "user", "content": "Hello"}]}),
    )
    if path == "chat/completions" and not plan.metadata.chat_template:
        path, body = "completions", {"model": name, "prompt": "Hello"}
    key = f' -H "Authorization: Bearer ${API_KEY_VARIABLE}"' if plan.settings.api_key else ""
    text = shlex.quote(json.dumps(body, ensure_ascii=False))
    return f"curl {command.url}/v1/{path} -H 'Content-Type: application/json'{key} -d {text}"


def _describe(plan: Plan) -> str:
    metadata: Metadata = plan.metadata
    parts = [
        metadata.category,
        metadata.architecture,
        metadata.quantization or metadata.dtype or metadata.format,
    ]
    if metadata.parameters:
        parts.append(_count(metadata.parameters) + " parameters")
    return _escape(" · ".join(parts))


def _count(number: int) -> str:
    for unit, size in (("billion", 10**9), ("million", 10**6)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)


def _files(plan: Plan) -> str:
    files = plan.model.files
    size = gib(sum(file.size_bytes for file in files))
    names = ", ".join(file.path for file in files[:2]) + (", …" if len(files) > 2 else "")
    return _escape(f"{size} in {len(files)} file{'s' if len(files) != 1 else ''}: {names}")


def _memory(plan: Plan) -> Table:
    places: list[tuple[str, Estimate, int]] = [
        (f"device {shard.device.index}", shard.estimate, shard.device.free_bytes) for shard in plan.shards
    ]
    places.append(("RAM", plan.host, plan.ram_free_bytes))
    shown = [(title, field) for title, field in COMPONENTS if any(getattr(e, field) for _, e, _ in places)]
    table = _table("memory", *(title for title, _ in shown), "of free", right=True)
    for name, estimate, free in places:
        sizes = [gib(getattr(estimate, field)) if getattr(estimate, field) else "" for _, field in shown]
        table.add_row(name, *sizes, gib(free))
    return table


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _console(*, err: bool = False) -> Console:
    """Rich's console; a pipe gets lines as long as they are."""
    from rich.console import Console

    stream = sys.stderr if err else sys.stdout
    return Console(stderr=err, highlight=False, width=None if stream.isatty() else 200)


def _grid() -> Table:
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    return grid


def _table(*titles: str, right: bool = False) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for number, title in enumerate(titles):
        table.add_column(title, justify="right" if right and number else "left", no_wrap=right)
    return table

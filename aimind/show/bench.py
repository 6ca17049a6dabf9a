"""Measurements as a table and a plot for a terminal of 80 columns, and as a JSON document."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from aimind.show.terminal import is_quiet, look, warn
from aimind.supervisor.screen import FULL

if TYPE_CHECKING:
    from aimind.bench import Result

BAR = 56  # characters of the longest bar
_HEAD = (
    "                                   first token, ms    further tokens, ms",
    "at once  requests/s   tokens/s     median      p99        median      p99",
)


def bench_progress(at_once: int, done: int, count: int) -> None:
    """How far a measurement is, in a line that the next one replaces; only in a terminal."""
    if not is_quiet() and sys.stderr.isatty():
        text = "" if done == count else f"{at_once} at once: {done} of {count} requests answered"
        typer.echo(f"\r\x1b[K{text}", nl=False, err=True)


def bench(results: Sequence[Result], *, title: str) -> None:
    """A table, and the tokens per second as bars."""
    for line in (title, "", *_HEAD, *map(_row, results), "", *_bars(results)):
        typer.echo(line)
    for result in results:
        if result.failed:
            at_once = result.max_concurrency
            warn(f"{result.failed} of {result.num_prompts} requests failed with {at_once} at once")


def bench_document(results: Sequence[Result], **facts: object) -> dict[str, object]:
    """The facts of the run, and one result as of `vllm bench serve` for each number of requests at once."""
    return {"schema": 1, **facts, "results": [dataclasses.asdict(result) for result in results]}


def _row(result: Result) -> str:
    return (
        f"{result.max_concurrency:>7}  {result.request_throughput:>10,.2f}  {result.output_throughput:>9,.1f}"
        f"  {result.median_ttft_ms:>9,.1f}{result.p99_ttft_ms:>9,.1f}"
        f"     {result.median_tpot_ms:>9,.1f}{result.p99_tpot_ms:>9,.1f}"
    )


def _bars(results: Sequence[Result]) -> list[str]:
    most = max(result.output_throughput for result in results)
    shown = look(sys.stdout)
    lines = ["tokens/s"]
    for result in results:
        filled = max(1, round(BAR * result.output_throughput / most))
        bar = shown.sign(FULL) * filled
        lines.append(f"{result.max_concurrency:>7}  {bar} {result.output_throughput:,.1f}")
    return lines

"""`aimind lock`: how a model is served, written down."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import click

from aimind import show, steps
from aimind.cli.configured import ARGV, Configured, defaults
from aimind.cli.group import cli, complete_model
from aimind.errors import UsageError
from aimind.options import Tokens, request_options, wanted
from aimind.types import File, Model

NAME = "aimind.lock"


@cli.command("lock", cls=Configured)
@click.argument("model", shell_complete=complete_model)
@request_options
@click.option("--context", type=Tokens(), help="Tokens per request: 8192, 8k, max.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path(NAME),
    help=f"The file to write; {NAME} unless said otherwise.",
)
@click.pass_context
def lock_command(context: click.Context, /, model: str, *, output: Path, **options: object) -> None:
    """Write down how MODEL is served here, for `aimind serve --frozen`: commit, hashes, backend, flags.

    Weights are not downloaded where the hub tells their hashes.

    \b
    aimind lock unsloth/Qwen3-0.6B-GGUF:Q4_K_M --context 8k
    aimind serve --frozen aimind.lock
    """
    from aimind import instances
    from aimind.cli.frozen import locked
    from aimind.lock import text

    asked = wanted(model, options, context.obj, defaults(context))
    offer = steps.offer(asked)
    host = steps.this_machine(asked.request, instances.living())
    plan = steps.decided(steps.answer(steps.ask(offer, asked, host)))
    found = locked(plan, asked.request, files=_hashed(plan.model))
    typed = ("aimind", "lock", *context.meta[ARGV], *(("--", *context.obj) if context.obj else ()))
    try:
        output.write_text(text(found, made_by=shlex.join(typed)), "utf-8")
    except OSError as problem:
        raise UsageError(f"{output} cannot be written: {problem.strerror}", hint="--output PATH") from problem
    show.note(f"{output} is written: `aimind serve --frozen {shlex.quote(str(output))}`")


def _hashed(model: Model) -> tuple[File, ...]:
    """The model's files with their hashes: the hub's, or those of their contents."""
    from aimind import hub
    from aimind.cli.frozen import sha256

    return tuple(
        file if file.sha256 else dataclasses.replace(file, sha256=sha256(hub.open_file(model, file)))
        for file in model.files
    )

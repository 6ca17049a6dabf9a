"""`aimind lock`: record how a model is served."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Annotated

import typer

from aimind import show, steps
from aimind.cli.asking import ask
from aimind.cli.configured import ARGV, Configured, defaults
from aimind.cli.declare import OUTPUT, option
from aimind.cli.options import Context, Model, RequestOptions, with_options
from aimind.errors import UsageError
from aimind.types import File
from aimind.types import Model as ModelFiles

NAME = "aimind.lock"
app = typer.Typer(add_completion=False)


@app.command("lock", cls=Configured)
@with_options
def lock_command(
    ctx: typer.Context,
    model: Model,
    *,
    context: Context = None,
    asked: RequestOptions,
    output: Annotated[
        Path,
        option(
            "-o",
            "--output",
            panel=OUTPUT,
            metavar="FILE",
            dir_okay=False,
            help=f"File to write (default: {NAME}).",
        ),
    ] = Path(NAME),
) -> None:
    """Record how a model is served, for `aimind serve --frozen`.

    The lock has the commit, the hashes of the files, the backend with its version, and its flags. Weights are
    downloaded only where the hub does not know their hashes.

    Examples:
      aimind lock unsloth/Qwen3-0.6B-GGUF:Q4_K_M --context 8k
      aimind serve --frozen aimind.lock
    """
    from aimind import instances
    from aimind.cli.frozen import locked
    from aimind.lock import text

    replaced = _is_replaced(output)
    wanted = ask(model, asked, context=context, backend_argv=ctx.obj, defaults=defaults(ctx))
    offer = steps.offer(wanted)
    host = steps.this_machine(wanted.request, instances.living())
    plan = steps.require_plan(steps.answer(steps.ask(offer, wanted, host)))
    found = locked(plan, wanted.request, files=_hashed(plan.model))
    typed = ("aimind", "lock", *ctx.meta[ARGV], *(("--", *ctx.obj) if ctx.obj else ()))
    try:
        output.write_text(text(found, made_by=shlex.join(typed)), "utf-8")
    except OSError as problem:
        raise UsageError(
            f"{output} cannot be written: {problem.strerror}", hint="use --output PATH"
        ) from problem
    what = "replaced" if replaced else "written"
    show.note(f"{output} is {what}: `aimind serve --frozen {shlex.quote(str(output))}`")


def _is_replaced(output: Path) -> bool:
    """Whether there is a lock already, which is then replaced.

    Raises:
        UsageError: there is a file that is no lock.
    """
    from aimind import lock
    from aimind.cli.frozen import LONGEST_BYTES

    if not output.exists():
        return False
    try:
        with output.open("rb") as file:
            lock.read(file.read(LONGEST_BYTES))
    except (OSError, UsageError):
        raise UsageError(
            f"{output} exists and is not a lock, so it was not replaced",
            hint="--output PATH writes the lock to another file",
        ) from None
    return True


def _hashed(model: ModelFiles) -> tuple[File, ...]:
    """The model's files with their hashes: the hub's, or those of their contents."""
    from aimind import hub
    from aimind.cli.frozen import sha256

    return tuple(
        file if file.sha256 else dataclasses.replace(file, sha256=sha256(hub.open_file(model, file)))
        for file in model.files
    )

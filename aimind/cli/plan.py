"""`aimind plan`: how a model would be served, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from aimind import show, steps
from aimind.cli.asking import ask
from aimind.cli.configured import Configured, defaults
from aimind.cli.declare import OUTPUT, PLACEMENT, option
from aimind.cli.options import Json, Model, RequestOptions, with_options
from aimind.errors import AimindError, UsageError
from aimind.parameters import TokenCounts, parse_token_counts
from aimind.phrases import shell_quote
from aimind.types import Plan

if TYPE_CHECKING:
    from aimind.alternatives import Question

app = typer.Typer(add_completion=False)


@app.command("plan", cls=Configured)
@with_options
def plan_command(  # noqa: PLR0913 - one per option
    ctx: typer.Context,
    model: Model,
    *,
    contexts: Annotated[
        TokenCounts | None,
        option(
            "--context",
            panel=PLACEMENT,
            metavar="TOKENS",
            parser=parse_token_counts,
            help="Maximum tokens per request: 8192, 8k, or max for the model's own limit (default: what "
            "fits). Several, such as 8k,32k,max, print a table.",
        ),
    ] = None,
    hardware: Annotated[
        list[str] | None,
        option(
            "--hardware",
            panel=PLACEMENT,
            metavar="SPEC",
            help="Plan for another machine: 24G, 2x24G, 8xH100-80G, or a file of `aimind devices --json` "
            "(default: this machine). Several print a table.",
        ),
    ] = None,
    asked: RequestOptions,
    with_files: Annotated[
        bool,
        option("--files", panel=OUTPUT, help="Show all quantizations, as `aimind files` does."),
    ] = False,
    why: Annotated[
        bool,
        option("--why", panel=OUTPUT, help="Explain each choice, and where each size comes from."),
    ] = False,
    exact: Annotated[
        bool,
        option("--exact", panel=OUTPUT, help="Ask the installed llama.cpp for its sizes too, and show both."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show how a model would be served, and why.

    The plan has the backend, the devices, the memory of each kind and the command line. Nothing is
    downloaded, installed or started.

    Examples:
      aimind plan Qwen/Qwen2-0.5B-Instruct
      aimind plan ./model.gguf --hardware 24G --hardware 2x24G --context 8k,32k
      aimind plan unsloth/Qwen3-0.6B-GGUF --files
    """
    from aimind import hub

    if exact and hardware:
        raise UsageError(
            "--exact cannot be combined with --hardware: it asks the llama.cpp of this machine",
            hint="leave --hardware out",
        )
    wanted = ask(model, asked, backend_argv=ctx.obj, defaults=defaults(ctx))
    machines = steps.machines(tuple(hardware or ()), wanted)
    offer = steps.offer(wanted)
    questions = [
        (machine, steps.ask(offer, wanted, host, context=tokens))
        for machine, host in machines.items()
        for tokens in contexts or (None,)
    ]
    if len(questions) > 1:
        if with_files or exact:
            raise UsageError(
                "--files and --exact need a single plan", hint="use one --hardware and one --context"
            )
        _compare(questions, as_json=as_json)
    question = questions[0][1]
    answer = steps.answer(question)
    found = answer if isinstance(answer, Plan) else None
    options_here = steps.survey(question, found) if with_files else ()
    if with_files and not as_json:
        show.candidates(options_here, found, here=[hub.is_complete(each.model) for each in options_here])
    if isinstance(answer, AimindError):
        steps.point_to_gguf(answer, question)
    decided = steps.hinted(steps.require_plan(answer), wanted)
    command = steps.command(decided)
    steps.note_unchecked(decided)
    sizes = steps.exact_sizes(decided, command) if exact else ()
    if as_json:
        from aimind.document import document

        show.data(document(decided, command, options=options_here, asked=sizes))
        return
    if not with_files:
        show.plan(decided, why=why)
    if sizes:
        show.exact(decided, sizes)
    if not (why or with_files):
        show.note(_next(model, is_here=not hardware))


def _compare(questions: Sequence[tuple[str, Question]], *, as_json: bool) -> NoReturn:
    """Print a plan for each machine and context, and end with the exit code of the table."""
    answers = [(machine, each.request.max_model_len, steps.answer(each)) for machine, each in questions]
    if as_json:
        from aimind.document import comparison

        show.data(comparison(answers))
    else:
        show.comparison(answers)
    raise typer.Exit(steps.table_exit_code([found for _, _, found in answers]))


def _next(model: str, *, is_here: bool) -> str:
    """What can be typed after a plan."""
    command = f"; `aimind serve {shell_quote(model)} --dry-run` prints the command" if is_here else ""
    return f"--why explains each choice{command}."

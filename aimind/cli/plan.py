"""`aimind plan`: what would be done, and why."""

from __future__ import annotations

import click

from aimind import show, steps
from aimind.cli.configured import Configured, defaults
from aimind.cli.group import cli, complete_model
from aimind.errors import AimindError, UsageError
from aimind.options import Several, request_options, wanted
from aimind.types import Plan


@cli.command("plan", cls=Configured)
@click.argument("model", shell_complete=complete_model)
@request_options
@click.option("--context", "contexts", type=Several(), help="Tokens per request; 8k,32k,max: a table.")
@click.option(
    "--hardware",
    metavar="SPEC",
    multiple=True,
    help="Of another machine: 24G, 2x24G, 8xH100-80G, or a file; again: a table.",
)
@click.option("--files", "with_files", is_flag=True, help="Show all quantizations, as `aimind files`.")
@click.option("--exact", is_flag=True, help="Ask the installed llama.cpp, too, and show both.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@click.pass_context
def plan_command(  # noqa: PLR0913 - one per option
    context: click.Context,
    /,
    model: str,
    *,
    contexts: tuple[int, ...] | None,
    hardware: tuple[str, ...],
    with_files: bool,
    exact: bool,
    as_json: bool,
    **options: object,
) -> None:
    """Say how MODEL would be served: backend, devices, bytes, command, and why. Nothing is downloaded.

    \b
    aimind plan Qwen/Qwen2-0.5B-Instruct
    aimind plan ./model.gguf --hardware 24G --hardware 2x24G --context 8k,32k
    aimind plan unsloth/Qwen3-0.6B-GGUF --files
    """
    from aimind import hub

    if exact and hardware:
        raise UsageError("--exact asks a llama.cpp about this machine", hint="leave --hardware out")
    asked = wanted(model, {**options, "context": None}, context.obj, defaults(context))
    machines = steps.machines(hardware, asked)
    offer = steps.offer(asked)
    questions = [
        (machine, steps.ask(offer, asked, host, context=tokens))
        for machine, host in machines.items()
        for tokens in contexts or (None,)
    ]
    if len(questions) > 1:
        if with_files or exact:
            raise UsageError("--files and --exact are about one plan", hint="one --hardware, one --context")
        answers = [(machine, each.request.max_model_len, steps.answer(each)) for machine, each in questions]
        if as_json:
            from aimind.document import comparison

            show.data(comparison(answers))
        else:
            show.comparison(answers)
        return
    question = questions[0][1]
    answer = steps.answer(question)
    found = answer if isinstance(answer, Plan) else None
    options_here = steps.survey(question, found) if with_files else ()
    if with_files and not as_json:
        show.candidates(options_here, found, here=[hub.is_complete(each.model) for each in options_here])
    if isinstance(answer, AimindError):
        steps.point_to_gguf(answer, question)
    decided = steps.hinted(steps.decided(answer), asked)
    command = steps.command(decided)
    steps.note_unchecked(decided)
    sizes = steps.exact_sizes(decided, command) if exact else ()
    if as_json:
        from aimind.document import document

        show.data(document(decided, command, options=options_here, asked=sizes))
        return
    if not with_files:
        show.plan(decided, command)
    if sizes:
        show.exact(decided, sizes)

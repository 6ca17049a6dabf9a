"""Commands about models: `search`, `files`, `pull` and `models`, and what `remove` does with models."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from aimind import show, steps
from aimind.cli.app import Command
from aimind.cli.asking import ask
from aimind.cli.configured import Configured, defaults, use_configured_hub
from aimind.cli.declare import MODEL, OUTPUT, PLACEMENT, RUNNING, argument, option
from aimind.cli.options import (
    Context,
    HfTokenFile,
    Hub,
    Json,
    Mmproj,
    Model,
    Offline,
    Quant,
    RequestOptions,
    Revision,
    with_options,
)
from aimind.errors import AimindError, BadReferenceError, InstanceError, ModelNotFoundError, UsageError
from aimind.options import BEST
from aimind.phrases import gib
from aimind.types import Cached, Category, Found, Plan, Reference, Source

if TYPE_CHECKING:
    from aimind.alternatives import Offer, Option, Question
    from aimind.hub.removal import Removal
    from aimind.hub.search import Query
    from aimind.instances import Sight
    from aimind.options import Wanted
    from aimind.rough import Guess
    from aimind.types import Model as ModelFiles

app = typer.Typer(add_completion=False)
_HUBS: Mapping[str, tuple[Source, ...]] = {
    "hf": ("huggingface",),
    "huggingface": ("huggingface",),
    "ms": ("modelscope",),
    "modelscope": ("modelscope",),
    "both": ("huggingface", "modelscope"),
}


# ── On the hubs ────────────────────────────────────────────────────────────────────────────────────────────


@app.command("search", cls=Command)
def search_command(
    text: Annotated[list[str] | None, argument("TEXT", "Words of the model's name.")] = None,
    *,
    gguf: Annotated[
        bool, option("--gguf", panel=MODEL, help="Find only models with weights in GGUF (default: all).")
    ] = False,
    category: Annotated[
        Category | None,
        option(
            "--category",
            panel=MODEL,
            metavar="NAME",
            help=f"Find only models for this use: {', '.join(get_args(Category))} (default: all).",
        ),
    ] = None,
    hub: Annotated[
        Literal["hf", "huggingface", "ms", "modelscope", "both"] | None,
        option(
            "--hub",
            panel=MODEL,
            metavar="HUB",
            help="Search huggingface, modelscope or both (default: huggingface).",
        ),
    ] = None,
    limit: Annotated[
        int,
        option(
            "--limit",
            panel=OUTPUT,
            metavar="N",
            min=1,
            max=200,
            help="Show at most this many models, up to 200 (default: 20).",
        ),
    ] = 20,
    as_json: Json = False,
) -> None:
    """Search Hugging Face or ModelScope for models.

    The models with the most downloads come first.

    Examples:
      aimind search qwen3 8b --gguf
      aimind search --category embedding --hub both
    """
    from aimind.hub.search import Query
    from aimind.reference import default_hub

    if not (text or gguf or category):
        raise UsageError(
            "the search has no words", hint="search for words of its name: `aimind search qwen3`"
        )
    use_configured_hub()
    query = Query(text=" ".join(text or ()), gguf=gguf, category=category, limit=limit)
    results = _with_guesses(_search(_HUBS[hub] if hub else (default_hub(),), query))
    if as_json:
        show.data(show.found_document(results))
    else:
        show.found(results)


def _search(sources: Sequence[Source], query: Query) -> tuple[Found, ...]:
    """What the hubs find; where one of several finds nothing, or cannot be asked, what the other does."""
    from aimind.hub.search import search

    found: list[Found] = []
    problems = []
    for source in sources:
        try:
            found += search(source, query)
        except AimindError as problem:
            problems.append(problem)
    if not found:
        raise max(problems, key=lambda problem: problem.exit_code)  # unreachable rather than nothing there
    for each in problems:
        show.note(f"note: {each.message}")
    return tuple(sorted(found, key=lambda each: -(each.downloads or 0))[: query.limit])


def _with_guesses(found: Sequence[Found]) -> list[tuple[Found, Guess | None]]:
    from aimind import devices, instances, rough

    host = instances.without_promises(devices.probe(), instances.living())
    return [(each, rough.guess(each, host)) for each in found]


@app.command("files", cls=Configured)
@with_options
def files_command(
    ctx: typer.Context,
    model: Model,
    *,
    context: Context = None,
    hardware: Annotated[
        str | None,
        option(
            "--hardware",
            panel=PLACEMENT,
            metavar="SPEC",
            help="Plan for another machine: 24G, 2x24G, 8xH100-80G, or a file of `aimind devices --json` "
            "(default: this machine).",
        ),
    ] = None,
    asked: RequestOptions,
    as_json: Json = False,
) -> None:
    """Show the quantizations of a model, and which of them fit.

    The largest comes first. The arrow marks the one that `aimind serve MODEL` would use.

    Examples:
      aimind files unsloth/Qwen3-8B-GGUF
      aimind files unsloth/Qwen3-8B-GGUF --hardware 2x24G --context 32k
    """

    wanted = ask(model, asked, backend_argv=ctx.obj, defaults=defaults(ctx))
    (host,) = steps.machines((hardware,) if hardware else (), wanted).values()
    question = steps.ask(steps.offer(wanted), wanted, host, context=context)
    _show_quantizations(wanted, question, as_json=as_json, of=None)


@app.command("show", cls=Configured)
@with_options
def show_command(ctx: typer.Context, model: Model, *, asked: RequestOptions, as_json: Json = False) -> None:
    """Show what a model is, and which of its quantizations fit.

    Only the headers of its files are read. The arrow marks what `aimind serve MODEL` would use.

    Examples:
      aimind show Qwen/Qwen2-0.5B-Instruct
      aimind show ./model.gguf
    """
    wanted = ask(model, asked, backend_argv=ctx.obj, defaults=defaults(ctx))
    offer = steps.offer(wanted)
    (host,) = steps.machines((), wanted).values()
    question = steps.ask(offer, wanted, host)
    _show_quantizations(wanted, question, as_json=as_json, of=offer.candidates[0])


def _show_quantizations(wanted: Wanted, question: Question, *, as_json: bool, of: ModelFiles | None) -> None:
    """All quantizations of a model, with `of` below what this model is."""
    from aimind import hub

    answer = steps.answer(question)
    found = answer if isinstance(answer, Plan) else None
    listed = (*steps.survey(question, found), *_ggufs_beside(wanted, question))
    chosen = found.model if found is not None else of
    metadata = question.offer.read(chosen) if of is not None and chosen is not None else None
    if as_json:
        from aimind.document import candidates, model_document

        facts = {} if chosen is None or metadata is None else {"model": model_document(chosen, metadata)}
        show.data({**facts, "candidates": candidates(listed, found)})
    else:
        if chosen is not None and metadata is not None:
            show.model(chosen, metadata)
        show.candidates(listed, found, here=[hub.is_complete(each.model) for each in listed])
    if isinstance(answer, AimindError):
        show.note(f"note: {answer.message}")
        show.note(f"hint: {answer.hint}")


def _ggufs_beside(asked: Wanted, question: Question) -> tuple[Option, ...]:
    """The GGUF files of a repository that would be served by its safetensors."""
    reference = question.offer.candidates[0].reference
    shaped = reference.quantization or reference.file
    if shaped or question.offer.candidates[0].files[0].is_gguf:
        return ()
    try:
        offer = steps.offer(dataclasses.replace(asked, quantization="GGUF"))
    except ModelNotFoundError:
        return ()
    beside = dataclasses.replace(question, offer=offer)
    answer = steps.answer(beside)
    return steps.survey(beside, answer if isinstance(answer, Plan) else None)


@app.command("pull", cls=Configured)
def pull_command(  # noqa: PLR0913 - one per option
    model: Model,
    *,
    quant: Quant = None,
    mmproj: Mmproj = None,
    revision: Revision = None,
    hub: Hub = None,
    hf_token_file: HfTokenFile = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Download the files that serving a model needs.

    The directory of the files is printed. No backend is needed, and nothing is started. The files lie in the
    cache of the hub's own tools, which find them too.

    Examples:
      aimind pull unsloth/Qwen3-8B-GGUF
      aimind pull Qwen/Qwen3-8B
    """
    from aimind import reference
    from aimind.hub import fetch

    options = RequestOptions(
        quant=quant,
        mmproj=mmproj,
        revision=revision,
        hub=hub,
        hf_token_file=hf_token_file,
        offline=offline,
    )
    wanted = ask(model, options)
    offer = steps.offer(wanted)
    if offer.candidates[0].root is not None:
        raise UsageError(f"{model} is already on this machine", hint=f"`aimind serve {model}`")
    chosen = _chosen(offer, wanted)
    folder = fetch(chosen, show.Progress())
    if as_json:
        show.data(
            {
                "reference": reference.unparse(chosen.reference),
                "commit": chosen.commit,
                "folder": str(folder),
                "files": [{"path": file.path, "size_bytes": file.size_bytes} for file in chosen.files],
            }
        )
        return
    count = len(chosen.files)
    size = sum(file.size_bytes for file in chosen.files)
    show.note(f"{count} file{'s' if count > 1 else ''}, {gib(size)}")
    show.path(str(folder))


def _chosen(offer: Offer, asked: Wanted) -> ModelFiles:
    """The files that `aimind serve` would take here; the usual ones where it would take none."""
    from aimind import instances

    usual = offer.candidates[0]
    if len(offer.candidates) == 1:
        return usual
    host = steps.this_machine(asked.request, instances.living())
    answer = steps.answer(steps.ask(offer, asked, host))
    if isinstance(answer, AimindError):
        show.note(f"note: {answer.message}; the default files are downloaded anyway")
        return usual
    for reason in answer.reasons:
        if reason.field == "model":
            show.note(reason.sentence)
    return answer.model


# ── In the caches ──────────────────────────────────────────────────────────────────────────────────────────


@app.command("models", cls=Command)
def models_command(
    *,
    prune: Annotated[
        bool,
        option(
            "--prune", panel=RUNNING, help="Remove the files of interrupted downloads, and show no models."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the models in the caches of this machine.

    These are the caches of Hugging Face and ModelScope, which their own tools use too.
    """
    from aimind.hub import inventory, leftovers

    use_configured_hub()
    if prune:
        removed = leftovers.prune()
        for each in removed:
            show.note(f"removed {each.path}, {gib(each.size_bytes)}")
        if as_json:
            show.data(show.pruned_document(removed))
        else:
            typer.echo(f"{gib(sum(each.size_bytes for each in removed))} freed")
        return
    models, left, total = _with_uses(inventory.models()), leftovers.find(), inventory.disk_bytes()
    if as_json:
        show.data(show.cached_document(models, left, total))
    else:
        show.cached(models, left, total)


def _with_uses(models: Sequence[Cached]) -> list[Cached]:
    """Add when instances last used each model: file systems may not record that."""
    from aimind import instances

    used = [(each, _reference_of(each)) for each in instances.everything()]
    now = time.time()
    found = []
    for model in models:
        times = [
            now if sight.running else sight.state.since
            for sight, reference in used
            if sight.state is not None and reference is not None and _is_same(model.reference, reference)
        ]
        found.append(dataclasses.replace(model, last_used=max([model.last_used, *times])))
    return found


def _is_same(one: Reference, other: Reference) -> bool:
    """Whether both may be the same files: any quantization if none is said; Q4_K_XL finds a UD- one."""
    shapes = {(each.quantization or "GGUF").removeprefix("UD-") for each in (one, other)} - {"GGUF"}
    return (one.source, one.name) == (other.source, other.name) and len(shapes) < 2


def _reference_of(sight: Sight) -> Reference | None:
    """What an instance serves, a bare name on Hugging Face; `None` where that cannot be told any more."""
    from aimind.reference import parse

    if sight.instance is None:
        return None
    argv = sight.instance.argv
    shape = _typed_value("--quant", argv)
    try:
        return parse(sight.instance.model, quantization=None if shape == BEST else shape, hub="huggingface")
    except BadReferenceError:
        return None


def _typed_value(option: str, argv: Sequence[str]) -> str | None:
    for at, word in enumerate(argv):
        if word == option:
            return next(iter(argv[at + 1 :]), None)
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None


# ── Removing, for `aimind remove` ──────────────────────────────────────────────────────────────────────────


def is_model(word: str) -> bool:
    """Whether a word is a model's name rather than an instance's, which has no such characters."""
    return "/" in word or ":" in word or "\\" in word


def removals(words: Sequence[str]) -> dict[str, tuple[Removal, ...]]:
    """What goes by these names in the caches.

    Raises:
        UsageError: that is none of a hub.
        ModelNotFoundError: it is not here.
        InstanceError: an instance uses it.
        AimindError: it is being downloaded.
    """
    from aimind.hub import removal
    from aimind.reference import parse

    found = {}
    for word in words:
        reference = parse(word)
        if reference.source not in ("huggingface", "modelscope"):
            raise UsageError(
                f"{word} is not a model in the cache of a hub",
                hint="aimind removes only cached models; delete other files with rm",
            )
        found[word] = removal.select(reference)
        _check_unused(reference, found[word])
    return found


def _check_unused(reference: Reference, removals_: Sequence[Removal]) -> None:
    from aimind import instances
    from aimind.hub import leftovers

    for sight in instances.living():
        used = _reference_of(sight)
        if sight.instance is None or used is None:
            continue
        if used.source == "local":
            path = sight.instance.cwd / Path(used.name).expanduser()
            uses = any(each.concerns(path) for each in removals_)
        else:
            uses = _is_same(reference, used)
        if uses:
            raise InstanceError(
                f"instance {sight.name} uses {sight.instance.model}", hint=f"`aimind stop {sight.name}` first"
            )
    if leftovers.is_busy(reference):
        raise AimindError(
            f"another program is downloading {reference.name}, or another revision of it",
            hint="wait until it is done, or stop it",
        )


def confirm(found: Mapping[str, Sequence[Removal]]) -> None:
    """Ask whether that shall really be removed.

    Raises:
        UsageError: there is nobody to ask.
        SystemExit: no.
    """
    from aimind.hub import removal

    if not sys.stdin.isatty():
        raise UsageError("stdin is not a terminal, so aimind cannot ask for confirmation", hint="add --yes")
    for word, removals_ in found.items():
        show.note(f"{word}: {gib(sum(map(removal.size_bytes, removals_)))}")
        for path in (path for each in removals_ for path in each.doomed):
            show.note(f"  {path}")
    if not typer.confirm("Remove this?", err=True):
        show.note("nothing was removed")
        raise SystemExit(1)


def remove(found: Mapping[str, Sequence[Removal]]) -> int:
    """Remove models while no instance can begin to use them; the bytes that are free then."""
    from aimind import instances
    from aimind.hub import removal
    from aimind.reference import parse

    total = 0
    with instances.claims(wait=lambda: show.note("waiting for another aimind process that is starting")):
        for word, removals_ in found.items():
            _check_unused(parse(word), removals_)
            freed = sum(map(removal.remove, removals_))
            show.note(f"{word} is removed: {gib(freed)} freed")
            total += freed
    return total

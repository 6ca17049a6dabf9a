"""Models before they are served: `search`, `files`, `pull`, and what is in the caches: `models`."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from aimind import show, steps
from aimind.cli.configured import Configured, defaults, hear_hub
from aimind.cli.group import cli, complete_model, quiet_option
from aimind.errors import AimindError, BadReferenceError, InstanceError, ModelNotFoundError, UsageError
from aimind.options import BEST, Tokens, hub_option, offline_option, request_options, wanted
from aimind.phrases import gib
from aimind.types import Cached, Category, Found, Model, Plan, Reference, Source

if TYPE_CHECKING:
    from aimind.alternatives import Offer, Option, Question
    from aimind.hub.removal import Removal
    from aimind.hub.search import Query
    from aimind.instances import Sight
    from aimind.options import Wanted
    from aimind.rough import Guess

JSON = click.option("--json", "as_json", is_flag=True, help="As one JSON document: docs/models.md.")
MODEL = click.argument("model", shell_complete=complete_model)
_HUBS: Mapping[str, tuple[Source, ...]] = {
    "hf": ("huggingface",),
    "huggingface": ("huggingface",),
    "ms": ("modelscope",),
    "modelscope": ("modelscope",),
    "both": ("huggingface", "modelscope"),
}


# ── On the hubs ────────────────────────────────────────────────────────────────────────────────────────────


@cli.command("search")
@click.argument("text", nargs=-1)
@click.option("--gguf", is_flag=True, help="Only with weights in GGUF.")
@click.option("--category", type=click.Choice(get_args(Category)), help="Only of this kind.")
@click.option("--hub", type=click.Choice([*_HUBS]), help="Where to look; else the default hub.")
@click.option("--limit", type=click.IntRange(1, 200), default=20, metavar="N", help="At most so many; 20.")
@JSON
def search_command(
    *,
    text: tuple[str, ...],
    gguf: bool,
    category: Category | None,
    hub: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Find models on Hugging Face or ModelScope, those with the most downloads first.

    \b
    aimind search qwen3 8b --gguf
    aimind search --category embedding --hub both
    """
    from aimind.hub.search import Query
    from aimind.reference import default_hub

    if not (text or gguf or category):
        raise UsageError("say what to look for", hint="`aimind search qwen3`, or a --category")
    hear_hub()
    query = Query(text=" ".join(text), gguf=gguf, category=category, limit=limit)
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


@cli.command("files", cls=Configured)
@MODEL
@request_options
@click.option("--context", type=Tokens(), help="Tokens per request: 8192, 8k, max.")
@click.option("--hardware", metavar="SPEC", help="Of another machine: 24G, 2x24G, 8xH100-80G, or a file.")
@JSON
@click.pass_context
def files_command(
    ctx: click.Context,
    /,
    model: str,
    *,
    context: int | None,
    hardware: str | None,
    as_json: bool,
    **options: object,
) -> None:
    """Show the quantizations of MODEL, the largest first: size, whether each fits, and how.

    The arrow is at what `aimind serve MODEL` would take.

    \b
    aimind files unsloth/Qwen3-8B-GGUF
    aimind files unsloth/Qwen3-8B-GGUF --hardware 2x24G --context 32k
    """
    from aimind import hub

    asked = wanted(model, {**options, "context": None}, ctx.obj, defaults(ctx))
    (host,) = steps.machines((hardware,) if hardware else (), asked).values()
    question = steps.ask(steps.offer(asked), asked, host, context=context)
    answer = steps.answer(question)
    found = answer if isinstance(answer, Plan) else None
    listed = (*steps.survey(question, found), *_ggufs_beside(asked, question))
    if as_json:
        from aimind.document import candidates

        show.data({"candidates": candidates(listed, found)})
    else:
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


@cli.command("pull", cls=Configured)
@MODEL
@hub_option
@click.option("--quant", metavar="NAME", help="Q4_K_M, as MODEL:Q4_K_M; best: the largest that fits.")
@click.option("--mmproj", metavar="PATH", help="File of the repository for pictures or sound; none.")
@click.option("--revision", metavar="REV", help="Branch, tag or commit; the same as MODEL@REV.")
@click.option(
    "--hf-token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The token for Hugging Face; else the variable HF_TOKEN.",
)
@offline_option
@quiet_option
@JSON
def pull_command(*, model: str, as_json: bool, **options: object) -> None:
    """Download what serving MODEL needs, and print where it is.

    No backend is needed, and nothing is started. Other tools of that hub find the files, too.

    \b
    aimind pull unsloth/Qwen3-8B-GGUF
    aimind pull Qwen/Qwen3-8B
    """
    from aimind import hub, reference

    asked = wanted(model, {**options, "api_key_file": None, "env": ()}, ())
    offer = steps.offer(asked)
    if offer.candidates[0].root is not None:
        raise UsageError(f"{model} is on this machine already", hint=f"`aimind serve {model}`")
    chosen = _chosen(offer, asked)
    folder = hub.fetch(chosen, show.Progress())
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
    click.echo(str(folder))


def _chosen(offer: Offer, asked: Wanted) -> Model:
    """The files that `aimind serve` would take here; the usual ones where it would take none."""
    from aimind import instances

    usual = offer.candidates[0]
    if len(offer.candidates) == 1:
        return usual
    host = steps.this_machine(asked.request, instances.living())
    answer = steps.answer(steps.ask(offer, asked, host))
    if isinstance(answer, AimindError):
        show.note(f"note: {answer.message}; the usual files are downloaded all the same")
        return usual
    for reason in answer.reasons:
        if reason.field == "model":
            show.note(reason.sentence)
    return answer.model


# ── In the caches ──────────────────────────────────────────────────────────────────────────────────────────


@cli.command("models")
@click.option("--prune", is_flag=True, help="Remove what broken downloads have left; never of one that runs.")
@JSON
def models_command(*, prune: bool, as_json: bool) -> None:
    """Show the models that are here, in the caches of Hugging Face and ModelScope."""
    from aimind.hub import inventory, leftovers

    hear_hub()
    if prune:
        removed = leftovers.prune()
        for each in removed:
            show.note(f"removed {each.path}, {gib(each.size_bytes)}")
        if as_json:
            show.data(show.pruned_document(removed))
        else:
            click.echo(f"{gib(sum(each.size_bytes for each in removed))} freed")
        return
    models, left, total = _with_uses(inventory.models()), leftovers.find(), inventory.disk_bytes()
    if as_json:
        show.data(show.cached_document(models, left, total))
    else:
        show.cached(models, left, total)


def _with_uses(models: Sequence[Cached]) -> list[Cached]:
    """With what instances know of when a model was last used: file systems may not keep that."""
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
    shape = _said("--quant", argv)
    try:
        return parse(sight.instance.model, quantization=None if shape == BEST else shape, hub="huggingface")
    except BadReferenceError:
        return None


def _said(option: str, argv: Sequence[str]) -> str | None:
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
            raise UsageError(f"{word} is in no hub's cache", hint="remove your own files yourself")
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
            f"another program is downloading {reference.name}, or something beside it",
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
        raise UsageError("nobody is here to ask whether to remove it", hint="--yes, if it shall be")
    for word, removals_ in found.items():
        show.note(f"{word}: {gib(sum(map(removal.size_bytes, removals_)))}")
        for path in (path for each in removals_ for path in each.doomed):
            show.note(f"  {path}")
    if not click.confirm("Remove this?", err=True):
        show.note("nothing is removed")
        raise SystemExit(1)


def remove(found: Mapping[str, Sequence[Removal]]) -> int:
    """Remove models while no instance can begin to use them; the bytes that are free then."""
    from aimind import instances
    from aimind.hub import removal
    from aimind.reference import parse

    total = 0
    with instances.claims(wait=lambda: show.note("waiting for another aimind, which is starting")):
        for word, removals_ in found.items():
            _check_unused(parse(word), removals_)
            freed = sum(map(removal.remove, removals_))
            show.note(f"{word} is removed: {gib(freed)} freed")
            total += freed
    return total

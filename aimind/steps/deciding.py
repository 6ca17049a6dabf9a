"""Turns a model's name into a plan: the files on offer, the question, and its answer."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from aimind import show
from aimind.errors import (
    AimindError,
    BadReferenceError,
    DoesNotFitError,
    MetadataError,
    UnsupportedError,
    WrongFileError,
)
from aimind.types import INDEX_NAME, File, Host, Metadata, Model, Plan, Reader, Reason, Reference

if TYPE_CHECKING:
    from aimind.alternatives import Offer, Option, Question
    from aimind.options import Wanted


Result = TypeVar("Result")


def offer(asked: Wanted) -> Offer:
    """Find the files that could be served, and how to read them."""
    from aimind import files, hub, metadata, reference
    from aimind.alternatives import Offer

    text = asked.text
    for warning in asked.warnings:
        show.warn(warning)
    _prepare_hub(asked)
    try:
        parsed = reference.parse(text, revision=asked.revision, quantization=asked.quantization)
    except BadReferenceError as problem:
        if text and os.path.exists(text):  # noqa: PTH110 - any text, also what no path can be made of
            raise BadReferenceError(
                problem.message, hint=f"a path begins with ./, as in ./{text}"
            ) from problem
        raise
    twin = hub.local_twin(parsed)
    if twin is not None and os.path.isfile(twin):  # noqa: PTH113 - any text, also what no path can be made of
        raise BadReferenceError(
            f"{twin} is a file on this machine; without ./ it names a file of a repository",
            hint=f"Write ./{twin} for the file here, or {_on_hub(parsed)} for the repository's.",
        )
    if twin is not None:
        show.note(f"note: {text} is a model on {hub.hub_of(parsed.source).title}; the folder is ./{twin}")
    model = hub.resolve(parsed)
    open_file = _opener(model)
    indexed = _indexed(model, open_file)
    read = functools.cache(lambda narrowed: metadata.read(narrowed, open_file))
    while True:
        candidates = files.candidates(model, projector=asked.projector, indexed=indexed)
        wrong = _wrong_file(candidates[0], read)
        if wrong is None:
            siblings = files.siblings(model, candidates[0], projector=asked.projector)
            return Offer(candidates=candidates, siblings=siblings, read=read)
        if wrong.path in (model.reference.file, asked.projector):
            raise wrong
        show.note(f"note: {wrong.message}; this file is skipped")
        model = _without(model, wrong)


def _wrong_file(candidate: Model, read: Callable[[Model], Metadata]) -> WrongFileError | None:
    """What is wrong with the choice of files; other errors are raised where the metadata is needed."""
    try:
        read(candidate)
    except WrongFileError as problem:
        return problem
    except (MetadataError, UnsupportedError):
        return None
    return None


def _without(model: Model, problem: WrongFileError) -> Model:
    """The model's files but the wrong one.

    Raises:
        WrongFileError: no file would be left that could be a model.
    """
    left = tuple(file for file in model.files if file.path != problem.path)
    if not any(file.is_gguf and not file.is_projector for file in left):
        raise problem
    return dataclasses.replace(model, files=left)


def _on_hub(parsed: Reference) -> str:
    from aimind.reference import unparse

    return unparse(parsed, anywhere=True)


def _opener(model: Model) -> Callable[[File], Reader]:
    """Opens the model's files; the index only once, since it is read to choose files and again for sizes."""
    from aimind import hub

    opened: list[Reader] = []

    def open_file(file: File) -> Reader:
        if file.path != INDEX_NAME:
            return hub.open_file(model, file)
        if not opened:
            opened.append(hub.open_file(model, file))
        return opened[0]

    return open_file


def _indexed(model: Model, open_file: Callable[[File], Reader]) -> frozenset[str] | None:
    """The files that the model's index names; `None` where one file or a quantization is asked for."""
    from aimind import metadata

    reference = model.reference
    if reference.file is not None or reference.quantization not in (None, "SAFETENSORS"):
        return None
    return metadata.indexed_files(model, open_file)


def only(model: Model, asked: Wanted) -> Offer:
    """Narrow the offer to these files."""
    from aimind import metadata
    from aimind.alternatives import Offer

    _prepare_hub(asked)
    open_file = _opener(model)
    read = functools.cache(lambda narrowed: metadata.read(narrowed, open_file))
    return Offer(candidates=(model,), siblings=(), read=read)


def _prepare_hub(asked: Wanted) -> None:
    from aimind import hub

    if asked.offline:
        hub.go_offline()
    if asked.token_file is not None:
        hub.use_token(asked.token_file)


class _UnreadError(Exception):
    """The headers of this candidate are needed, and have not been read."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.model = model


def without_reading(offered: Offer, attempt: Callable[[Offer], Result]) -> Result:
    """What the attempt comes to, with an offer of which nothing is read while it runs.

    It ends where it asks for headers that were not read yet; then they are read, and it is made again. So
    nobody waits for a hub while the attempt keeps others from something.
    """
    known: dict[Model, Metadata] = {}

    def read(model: Model) -> Metadata:
        if model not in known:
            raise _UnreadError(model)
        return known[model]

    wanted = offered.candidates[0]  # which is always asked for
    while True:
        known[wanted] = offered.read(wanted)
        try:
            return attempt(dataclasses.replace(offered, read=read))
        except _UnreadError as missing:
            wanted = missing.model


def ask(offered: Offer, asked: Wanted, host: Host, *, context: int | None = None) -> Question:
    """What shall be served on which machine (`equipped`)."""
    from aimind.alternatives import Question
    from aimind.launchers import LAUNCHERS

    request = asked.request
    if context is not None:
        request = dataclasses.replace(request, max_model_len=context)
    return Question(
        offer=offered,
        host=host,
        request=request,
        launchers=LAUNCHERS,
        prefer_quality=asked.prefer_quality,
    )


def answer(question: Question) -> Plan | AimindError:
    """The plan, or why there is none; nothing is downloaded but headers, nothing installed."""
    from aimind import alternatives

    promised = question.host.promised
    try:
        found = alternatives.best(question)
    except DoesNotFitError as problem:
        if not promised:
            return problem
        return DoesNotFitError(problem.message, hint="; ".join([problem.hint, *promised]))
    except AimindError as problem:
        return problem
    reasons = tuple(Reason("promised", sentence) for sentence in promised)
    return dataclasses.replace(found, reasons=found.reasons + reasons)


def table_exit_code(answers: Sequence[Plan | AimindError]) -> int:
    """0 if a row of a table has a plan, else 8 if memory is missing in one, else the code of the first."""
    codes = [found.exit_code for found in answers if isinstance(found, AimindError)]
    if len(codes) < len(answers):
        return 0
    return DoesNotFitError.exit_code if DoesNotFitError.exit_code in codes else codes[0]


def survey(question: Question, found: Plan | None) -> tuple[Option, ...]:
    """Every quantization, the largest first, and whether it fits; none does where no backend can serve it."""
    from aimind import alternatives

    try:
        return alternatives.survey(question, found)
    except AimindError:  # which the answer says, too
        offered = (question.offer.candidates[0], *question.offer.siblings)
        return tuple(
            alternatives.Option(model, None, guessed=True) for model in alternatives.by_size(offered)
        )


def require_plan(found: Plan | AimindError) -> Plan:
    """Return the plan, after printing its warnings.

    Raises:
        AimindError: there is none.
    """
    from aimind import plan

    if isinstance(found, AimindError):
        raise found
    for warning in plan.warnings(found):
        show.warn(warning)
    return found


def point_to_gguf(problem: AimindError, question: Question) -> None:
    """Name the same model in GGUF where the hub has it, and this one cannot be served for want of a GPU."""
    from aimind import hub

    if not isinstance(problem, DoesNotFitError | UnsupportedError):
        return
    model = question.offer.candidates[0]
    if question.host.devices or question.request.backend or any(file.is_gguf for file in model.files):
        return
    if repository := hub.in_gguf(model):
        problem.hint += f"; llama.cpp needs no GPU for the same model in GGUF: aimind plan {repository}"


def hinted(found: Plan, asked: Wanted) -> Plan:
    """The plan, with a hint where it is on a CPU for want of a GPU and the hub has the model in GGUF, too."""
    from aimind import hub

    on_cpu = not found.shards and found.metadata.format in ("safetensors", "pickle")
    if not on_cpu or found.backend.name not in ("vllm", "transformers") or asked.request.backend is not None:
        return found
    repository = hub.in_gguf(found.model)
    if repository is None:
        return found
    sentence = f"llama.cpp serves GGUF files far faster without a GPU: aimind serve {repository}"
    return dataclasses.replace(found, reasons=(*found.reasons, Reason("hint", sentence)))


def served_name(found: Plan) -> str:
    """The name of the model in the API, or its own where the backend gives it none."""
    from aimind import plan

    return found.settings.served_name or plan.name_of(found.model)

"""Choose among the quantizations of a model, and list what would fit when none does (remedies.py).

Every candidate is tried with `plan.make`. The sizes of quantizations whose headers have not been read are
scaled from the one that was read, by file size; only the headers of promising candidates are read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from aimind import plan
from aimind.errors import DoesNotFitError
from aimind.files import quantization
from aimind.launchers.base import Launcher
from aimind.phrases import gib
from aimind.place.placement import CONTEXT_FLOOR, Detail
from aimind.remedies import Remedies
from aimind.types import Host, Metadata, Model, Plan, Reason, Request, Tensor

# The hint where neither an option, a smaller file nor hardware of a usual size was found to fit.
NOTHING_FITS = "choose a smaller model: no option, quantization or common device size makes this one fit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """The files that could be served.

    Attributes:
        candidates: the ways to narrow the model (`files.candidates`), the preferred one first.
        siblings: the model's other quantizations, also where one was named, the largest first.
        read: reads the headers of one of them.
    """

    candidates: Sequence[Model]
    siblings: Sequence[Model]
    read: Callable[[Model], Metadata]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The model to serve and the machine; `prefer_quality` selects the largest quantization that fits."""

    offer: Offer
    host: Host
    request: Request
    launchers: Sequence[Launcher]
    prefer_quality: bool = False

    def ask(self, model: Model, metadata: Metadata, *, detail: Detail = "all") -> Plan | DoesNotFitError:
        """The plan of one candidate, or why there is none; `detail` as in `plan.make`."""
        try:
            return plan.make(model, metadata, self.host, self.request, self.launchers, detail=detail)
        except DoesNotFitError as problem:
            return problem

    def fits(self, model: Model, metadata: Metadata, *, detail: Detail = "all") -> Plan | None:
        """The plan of one candidate, if there is one; `detail` as in `plan.make`."""
        answer = self.ask(model, metadata, detail=detail)
        return answer if isinstance(answer, Plan) else None


@dataclass(frozen=True, slots=True)
class Option:
    """One candidate, and its plan here.

    Attributes:
        model: narrowed to its files.
        plan: `None` where it does not fit.
        guessed: its bytes are scaled from those of another one, by the sizes of the files.
    """

    model: Model
    plan: Plan | None
    guessed: bool


def best(question: Question) -> Plan:
    """The preferred candidate if all of it fits where it runs fast; else the largest one that does.

    Where none does, the preferred one in part; where that does not fit, the largest that fits at all.

    Raises:
        DoesNotFitError: none fits; the hint names what would.
        AimindError: as `plan.make`.
    """
    candidates = question.offer.candidates
    first = candidates[0]
    described = question.offer.read(first)
    answer = question.ask(first, described)
    preferred = answer if isinstance(answer, Plan) else None
    if len(candidates) > 1:
        found = _largest(question, described, preferred, fast=True)
        if found is None and preferred is None:
            found = _largest(question, described, preferred, fast=False)
        if found is not None:
            return found if found is preferred else _with_reason(found, question)
    if isinstance(answer, Plan):
        return answer
    raise _refusal(question, described, answer)


def survey(question: Question, chosen: Plan | None) -> tuple[Option, ...]:
    """Every candidate, the largest first, and whether it fits; `chosen` is what `best` gave, if anything."""
    first = question.offer.candidates[0]
    described = question.offer.read(first)
    options = []
    for model in by_size((first, *question.offer.siblings)):
        if chosen is not None and model.files == chosen.model.files:
            options.append(Option(model, chosen, guessed=False))
        elif model is first:
            found = question.fits(model, described, detail="settings")
            options.append(Option(model, found, guessed=False))
        else:
            guess = question.fits(model, _scaled(described, first, model), detail="settings")
            options.append(Option(model, guess, guessed=True))
    return tuple(options)


def label(model: Model) -> str:
    """Name a candidate for the user: its quantization, or else its largest file."""
    path = max((file for file in model.files if not file.is_projector), key=lambda file: file.size_bytes).path
    return quantization(path) or path


def file_bytes(model: Model) -> int:
    """Total size of the model's files, excluding the projector."""
    return sum(file.size_bytes for file in model.files if not file.is_projector)


def by_size(models: Sequence[Model]) -> list[Model]:
    """Sort models by size, largest first."""
    return sorted(models, key=lambda model: (-file_bytes(model), label(model)))


# ── Which quantization ─────────────────────────────────────────────────────────────────────────────────────


def _largest(question: Question, described: Metadata, preferred: Plan | None, *, fast: bool) -> Plan | None:
    """The largest candidate that fits, wholly if it is to be fast; larger than the first only for quality."""
    first = question.offer.candidates[0]

    def good(found: Plan | None) -> bool:
        return found is not None and (not fast or _is_fast(found, question))

    for model in by_size(question.offer.candidates):
        found = preferred if model is first else None
        allowed = question.prefer_quality or file_bytes(model) < file_bytes(first)
        if model is not first and allowed:
            guess = question.fits(model, _scaled(described, first, model), detail="fit")
            if good(guess):
                found = question.fits(model, question.offer.read(model))
        if good(found):
            return found
    return None


def _is_fast(found: Plan, question: Question) -> bool:
    """Whether all layers are on devices with a useful context, or the user placed the layers."""
    request = question.request
    if request.gpu_layers is not None:
        return True
    floor = min(CONTEXT_FLOOR, found.metadata.max_model_len or CONTEXT_FLOOR)
    enough = request.max_model_len is not None or (found.settings.max_model_len or 0) >= floor
    return enough and (found.is_whole or not question.host.devices)


def _scaled(metadata: Metadata, of: Model, to: Model) -> Metadata:
    """The metadata of another quantization of the same model: every tensor smaller as the files are."""
    ratio = file_bytes(to) / max(1, file_bytes(of))

    def scaled(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(dataclasses.replace(t, size_bytes=int(t.size_bytes * ratio)) for t in tensors)

    layers = tuple(dataclasses.replace(each, tensors=scaled(each.tensors)) for each in metadata.layers)
    return dataclasses.replace(metadata, layers=layers, others=scaled(metadata.others))


def _with_reason(found: Plan, question: Question) -> Plan:
    usual, count = question.offer.candidates[0], len(question.offer.candidates)
    sizes = [f"{label(model)} ({gib(file_bytes(model))})" for model in (found.model, usual)]
    sentence = (
        f"{sizes[0]} is the largest of {count} quantizations that fits; the default would be {sizes[1]}"
    )
    return dataclasses.replace(found, reasons=(Reason("model", sentence), *found.reasons))


# ── What would fit ─────────────────────────────────────────────────────────────────────────────────────────


def _refusal(question: Question, described: Metadata, problem: DoesNotFitError) -> DoesNotFitError:
    """The error that nothing fits; its hint names only changes that were planned and fit."""
    first = question.offer.candidates[0]
    ways = Remedies(
        model=first,
        metadata=described,
        host=question.host,
        launchers=question.launchers,
        problem=problem,
    )
    found = (*ways.by_request(), *_smaller(question, described), *ways.by_hardware())
    hint = f"to make it fit, try {'; or '.join(found)}" if found else NOTHING_FITS
    return DoesNotFitError(problem.message, hint=hint, changes=problem.changes, request=problem.request)


def _smaller(question: Question, described: Metadata) -> Iterator[str]:
    """The largest smaller quantization that fits."""
    first = question.offer.candidates[0]
    for model in by_size((first, *question.offer.siblings)):
        smaller = file_bytes(model) < file_bytes(first)
        if smaller and question.fits(model, _scaled(described, first, model), detail="fit"):
            yield f"{label(model)} ({gib(file_bytes(model))})"
            return

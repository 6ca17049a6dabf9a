"""Decide what a model is used for: the category of its files, or a requested one that the files support."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from aimind.errors import UsageError
from aimind.launchers.base import Launcher
from aimind.launchers.vllm_models import SCORERS
from aimind.types import Attention, Category, Metadata, Reason, Request

_GENERATES = frozenset({"llm", "vision-language"})
# Names of the head that gives words a probability, and of those that give a text a score.
_HEAD = re.compile(r"(^|\.)lm_head\.|^output\.weight$")
_SCORES = re.compile(r"(^|\.)(score|classifier)\.|^cls\.")
# Architectures of config.json that generate; bare models and encoders have no such ending.
_GENERATORS = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")
_IMAGES = "--images"
# What vLLM makes a model into (`--runner`, `--convert`).
_CONVERSIONS = {
    "embedding": {"runner": "pooling", "convert": "embed"},
    "reranker": {"runner": "pooling", "convert": "classify"},
}


def used_as(metadata: Metadata, wanted: Category | None) -> Metadata:
    """Change the model's category to the requested one; `made_for` keeps the category of its files.

    Raises:
        UsageError: the files do not support the requested category.
    """
    if wanted in (None, metadata.category):
        return metadata
    if (why := _contradiction(metadata, wanted)) is not None:
        raise UsageError(
            f"the model cannot serve --category {wanted}: {why}",
            hint=f"omit --category to serve it as {metadata.category}",
        )
    changed = dataclasses.replace(metadata, category=wanted, made_for=metadata.category)
    if metadata.format == "gguf":
        return changed
    if wanted == "embedding":  # its backends leave the head out
        others = tuple(tensor for tensor in metadata.others if not _HEAD.search(tensor.name))
        return dataclasses.replace(changed, others=others, tied=False)
    return dataclasses.replace(changed, tied=not any(_HEAD.search(each.name) for each in metadata.others))


def expand_images_flag(request: Request) -> Request:
    """Replace llama-box's `--images` with the category `image`, which the choice of the backend depends on.

    Raises:
        UsageError: `--category` names another category.
    """
    if _IMAGES not in request.extra:
        return request
    if request.category not in (None, "image"):
        raise UsageError(
            f"{_IMAGES} is for image models and conflicts with --category {request.category}",
            hint=f"omit {_IMAGES} or --category",
        )
    extra = tuple(word for word in request.extra if word != _IMAGES)
    return dataclasses.replace(request, category="image", extra=extra)


def category_from_arguments(metadata: Metadata, launcher: Launcher, request: Request) -> Category | None:
    """Return the category that the user's backend arguments imply, after they were read into the request.

    Raises:
        UsageError: `--category` names another category.
    """
    found = next(_implied_categories(metadata, launcher, request), None)
    if found is not None and request.category not in (None, found):
        raise UsageError(
            f"the arguments for {launcher.NAME} select {found}, which conflicts with --category "
            f"{request.category}",
            hint=f"omit these arguments, or use --category {found}",
        )
    return found


def reasons(metadata: Metadata, request: Request) -> tuple[Reason, ...]:
    """Explain the category where it was requested or is ambiguous."""
    if metadata.made_for is not None:
        sentence = f"{metadata.category} was requested; the model's files are for {metadata.made_for}"
    elif request.category is not None:
        sentence = f"{metadata.category} was requested, and the model's files agree"
    elif metadata.category == "reranker" and metadata.architecture in SCORERS:
        sentence = (
            "the model's name or its accompanying files mark it as a reranker; use --category llm to override"
        )
    else:
        return ()
    return (Reason("category", sentence),)


def set_task(metadata: Metadata, launcher: Launcher, request: Request) -> Request:
    """Set the fields of the request by which this backend selects its task."""
    found: dict[str, str | bool] = {"embedding": True} if metadata.category == "embedding" else {}
    if metadata.made_for is not None:
        # In a causal model only the last token attends to the whole text; encoders are trained to collect it
        # in the first token.
        if metadata.category == "embedding":
            found |= {"pooling": "last" if _is_causal(metadata) else "cls"}
        found |= _CONVERSIONS.get(metadata.category, {"runner": "generate"})
    missing = {name: word for name, word in found.items() if name in launcher.FLAGS}
    return dataclasses.replace(
        request,
        **{name: word for name, word in missing.items() if getattr(request, name) is None},  # type: ignore[arg-type]
    )


def _implied_categories(metadata: Metadata, launcher: Launcher, request: Request) -> Iterator[Category]:
    if request.reranking or request.convert == "classify":
        yield "reranker"
    flag = launcher.FLAGS.get("embedding")
    # A server with a switch for embeddings serves nothing else once it is set.
    if request.embedding and flag is not None and flag.kind == "switch":
        yield "embedding"
    if request.convert == "embed" or (request.runner == "pooling" and not metadata.pools):
        yield "embedding"


def _contradiction(metadata: Metadata, wanted: Category) -> str | None:
    """Why the files do not support this category, as a clause; `None` if they do."""
    made_for = metadata.category
    if wanted == "image" and metadata.format == "gguf" and not metadata.known:
        return None  # tensor names of diffusion models in GGUF differ by converter
    speech = ("speech-to-text", "text-to-speech")
    if {wanted, made_for} & {"image", *speech}:
        return f"{metadata.architecture} is a model of the category {made_for}"
    if wanted == "vision-language":
        return "it has no vision encoder"
    if wanted == "llm":
        generates = metadata.architecture.endswith(_GENERATORS) or metadata.format == "gguf"
        return None if generates and _is_causal(metadata) else "it does not generate text"
    if wanted == "reranker":
        scores = metadata.architecture in SCORERS or any(
            _SCORES.search(tensor.name) for tensor in metadata.others
        )
        return None if scores else "it has no classification head"
    if made_for in _GENERATES or metadata.format == "gguf":
        return None
    return "its head returns a score instead of a vector"


def _is_causal(metadata: Metadata) -> bool:
    attentions = [each for layer in metadata.layers for each in layer.memory if isinstance(each, Attention)]
    return all(each.causal for each in attentions)

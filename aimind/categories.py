"""What a model is used for: what its files say, or what the user wants instead, where they allow that."""

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
    """The model in the category that is wanted; `made_for` then says which one its files name.

    Raises:
        UsageError: its files cannot be that.
    """
    if wanted in (None, metadata.category):
        return metadata
    if (why := _contradiction(metadata, wanted)) is not None:
        raise UsageError(
            f"the model cannot be used for {wanted}: {why}",
            hint=f"its files are those of a model for {metadata.category}; else it is served as that",
        )
    changed = dataclasses.replace(metadata, category=wanted, made_for=metadata.category)
    if metadata.format == "gguf":
        return changed
    if wanted == "embedding":  # its backends leave the head out
        others = tuple(tensor for tensor in metadata.others if not _HEAD.search(tensor.name))
        return dataclasses.replace(changed, others=others, tied=False)
    return dataclasses.replace(changed, tied=not any(_HEAD.search(each.name) for each in metadata.others))


def heard(request: Request) -> Request:
    """The request with llama-box's `--images` as what it stands for, since that decides which backend serves.

    Raises:
        UsageError: `--category` says another.
    """
    if _IMAGES not in request.extra:
        return request
    if request.category not in (None, "image"):
        raise UsageError(
            f"{_IMAGES} is for models that paint, and --category says {request.category}", hint="say it once"
        )
    extra = tuple(word for word in request.extra if word != _IMAGES)
    return dataclasses.replace(request, category="image", extra=extra)


def said(metadata: Metadata, launcher: Launcher, request: Request) -> Category | None:
    """The category that the user's backend arguments stand for, once they are read into the request.

    Raises:
        UsageError: `--category` says another.
    """
    found = next(_said(metadata, launcher, request), None)
    if found is not None and request.category not in (None, found):
        raise UsageError(
            f"the arguments of {launcher.NAME} are those for {found}, and --category says {request.category}",
            hint="say it once",
        )
    return found


def reasons(metadata: Metadata, request: Request) -> tuple[Reason, ...]:
    """Why the category is what it is, where that was not left to the files."""
    if metadata.made_for is not None:
        sentence = f"{metadata.category}: asked for; its files are those of a model for {metadata.made_for}"
    elif request.category is not None:
        sentence = f"{metadata.category}: asked for, and what its files say"
    elif metadata.category == "reranker" and metadata.architecture in SCORERS:
        sentence = (
            "reranker: by its name or its files beside; --category llm serves it as what its layers are"
        )
    else:
        return ()
    return (Reason("category", sentence),)


def told(metadata: Metadata, launcher: Launcher, request: Request) -> Request:
    """The request with the task as the backend has to be told of it."""
    found: dict[str, str | bool] = {"embedding": True} if metadata.category == "embedding" else {}
    if metadata.made_for is not None:
        # How one vector is made of those of all tokens: one that sees only those before it knows the whole
        # text when it is the last; encoders are trained to gather it in the first.
        if metadata.category == "embedding":
            found |= {"pooling": "last" if _is_causal(metadata) else "cls"}
        found |= _CONVERSIONS.get(metadata.category, {"runner": "generate"})
    missing = {name: word for name, word in found.items() if name in launcher.FLAGS}
    return dataclasses.replace(
        request,
        **{name: word for name, word in missing.items() if getattr(request, name) is None},  # type: ignore[arg-type]
    )


def _said(metadata: Metadata, launcher: Launcher, request: Request) -> Iterator[Category]:
    if request.reranking or request.convert == "classify":
        yield "reranker"
    flag = launcher.FLAGS.get("embedding")
    # A server that is told to embed by a switch then does nothing else.
    if request.embedding and flag is not None and flag.kind == "switch":
        yield "embedding"
    if request.convert == "embed" or (request.runner == "pooling" and not metadata.pools):
        yield "embedding"


def _contradiction(metadata: Metadata, wanted: Category) -> str | None:
    """Why its files cannot be a model of this category, as half a sentence; `None` where they can."""
    made_for = metadata.category
    if wanted == "image" and metadata.format == "gguf" and not metadata.known:
        return None  # diffusion models in GGUF have names that differ with who has made them
    speech = ("speech-to-text", "text-to-speech")
    if {wanted, made_for} & {"image", *speech}:
        return f"{metadata.architecture} is a model for {made_for}"
    if wanted == "vision-language":
        return "it has no part that sees"
    if wanted == "llm":
        generates = metadata.architecture.endswith(_GENERATORS) or metadata.format == "gguf"
        return None if generates and _is_causal(metadata) else "it generates no text"
    if wanted == "reranker":
        scores = metadata.architecture in SCORERS or any(
            _SCORES.search(tensor.name) for tensor in metadata.others
        )
        return None if scores else "it has no head that gives a text a score"
    if made_for in _GENERATES or metadata.format == "gguf":
        return None
    return "its head gives a score in place of a vector"


def _is_causal(metadata: Metadata) -> bool:
    attentions = [each for layer in metadata.layers for each in layer.memory if isinstance(each, Attention)]
    return all(each.causal for each in attentions)

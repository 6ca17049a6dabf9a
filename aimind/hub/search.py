"""What a hub finds: names, downloads, formats and sizes, with one request for each page of its answer.

Hugging Face: `GET /api/models` as `HfApi.list_models` of huggingface_hub 2.4 calls it. ModelScope:
`GET /openapi/v1/models` as `OpenAPIClient.list_models` of modelscope_hub 0.5 does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from aimind import files
from aimind.errors import AimindError, BadReferenceError, HubError, ModelNotFoundError
from aimind.hub import REMOTE, hub_of
from aimind.hub.base import is_offline
from aimind.hub.failures import explain, retried
from aimind.hub.http import NonsenseError, Remote
from aimind.reference import parse
from aimind.types import Category, File, Found, Model, Reference, Source

# Hugging Face gives 1,000 at once, but the chat templates of GGUF files come along: some 20 KiB for each.
MOST_MODELS = 200
# The most that ModelScope gives at once.
PAGE_MODELS = 50
FORMATS = ("gguf", "safetensors", "pytorch", "mlx", "onnx")
# The references that stand for a search in error messages.
_ASKED = {source: Reference(source=source, name="its search") for source in REMOTE}

# A category of ours, and the tasks that each hub files such models under: `pipeline_tag` of Hugging Face,
# `filter.task` of ModelScope (`Tasks` in modelscope's utils/constant.py).
TASKS: Mapping[Source, Mapping[Category, tuple[str, ...]]] = {
    "huggingface": {
        "llm": ("text-generation",),
        "vision-language": ("image-text-to-text",),
        "embedding": ("feature-extraction", "sentence-similarity"),
        "reranker": ("text-ranking",),
        "image": ("text-to-image",),
        "speech-to-text": ("automatic-speech-recognition",),
        "text-to-speech": ("text-to-speech",),
    },
    "modelscope": {
        "llm": ("text-generation",),
        "vision-language": ("image-text-to-text", "visual-question-answering"),
        "embedding": ("sentence-embedding", "feature-extraction"),
        "reranker": ("text-ranking",),
        "image": ("text-to-image-synthesis",),
        "speech-to-text": ("auto-speech-recognition",),
        "text-to-speech": ("text-to-speech",),
    },
}
_EXPANDED = ("downloads", "gated", "gguf", "safetensors", "siblings", "tags")
# Bytes of an element of a safetensors file, by the names of its header.
_ELEMENT_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8.0),
    **dict.fromkeys(("F32", "I32", "U32"), 4.0),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2.0),
    **dict.fromkeys(("F4", "F4_E2M1"), 0.5),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What is looked for.

    Attributes:
        text: words of names; none for any.
        gguf: only with weights in GGUF.
        category: only of this kind.
        limit: so many, those with the most downloads; `MOST_MODELS` at most.
    """

    text: str = ""
    gguf: bool = False
    category: Category | None = None
    limit: int = 20


def search(source: Source, query: Query) -> tuple[Found, ...]:
    """What a hub finds, those with the most downloads first.

    Raises:
        ModelNotFoundError: nothing.
        HubError: the hub is unreachable, refuses, or answers nonsense; or there shall be no network.
    """
    if is_offline():
        raise HubError(
            "search needs the network, and HF_HUB_OFFLINE or AIMIND_OFFLINE is set",
            hint="Unset it; `aimind models` lists the cached models.",
        )
    pages = _hugging_face if source == "huggingface" else _modelscope
    tasks: Sequence[str | None] = TASKS[source][query.category] if query.category else (None,)
    found = {each.reference.name: each for task in tasks for each in pages(query, task)}
    if not found:
        raise ModelNotFoundError(
            f"{hub_of(source).title} finds nothing for {_words(query)}",
            hint="Use fewer or other words, leave out --gguf and --category, or try the other hub (--hub).",
        )
    return tuple(sorted(found.values(), key=lambda each: -(each.downloads or 0))[: query.limit])


def _words(query: Query) -> str:
    parts = [repr(query.text)] if query.text else []
    parts += ["--gguf"] if query.gguf else []
    parts += [f"--category {query.category}"] if query.category else []
    return " ".join(parts) or "anything"


# ── Hugging Face ───────────────────────────────────────────────────────────────────────────────────────────


def _hugging_face(query: Query, task: str | None) -> Iterator[Found]:
    asked = [("sort", "downloads"), ("limit", str(query.limit)), *(("expand", each) for each in _EXPANDED)]
    asked += [("search", query.text)] if query.text else []
    asked += [("filter", "gguf")] if query.gguf else []
    asked += [("pipeline_tag", task)] if task else []
    answer = _get("huggingface", f"/api/models?{urlencode(asked)}")
    with _sensible("huggingface"):
        yield from filter(None, map(_of_hugging_face, answer))


def _of_hugging_face(told: Any) -> Found | None:
    reference = _reference("huggingface", told["id"])
    if reference is None:
        return None
    tags = {str(tag) for tag in told.get("tags") or ()}
    gguf, safetensors = told.get("gguf") or {}, told.get("safetensors") or {}
    tags |= {name for name, known in (("gguf", gguf), ("safetensors", safetensors)) if known}
    return Found(
        reference=reference,
        downloads=_count(told.get("downloads")),
        formats=tuple(name for name in FORMATS if name in tags),
        parameters=_count(safetensors.get("total")) or _count(gguf.get("total")),
        weights_bytes=_weights_bytes(safetensors.get("parameters") or {}),
        quantizations=_quantizations(each["rfilename"] for each in told.get("siblings") or ()),
        gated=bool(told.get("gated")),
    )


def _weights_bytes(elements: Mapping[str, Any]) -> int | None:
    """The size of the weights, from the number of elements of each type."""
    sizes = [(_count(number) or 0) * _ELEMENT_BYTES.get(name, 1.0) for name, number in elements.items()]
    return int(sum(sizes)) or None


def _quantizations(paths: Iterator[str]) -> tuple[str, ...]:
    """The quantizations of the repository's model in GGUF, without projectors and importance matrices."""
    listed = tuple(File(str(path), 0) for path in paths if str(path).lower().endswith(".gguf"))
    model = Model(reference=Reference(source="huggingface", name="", quantization="GGUF"), files=listed)
    try:
        candidates = files.candidates(model, projector="none")
    except AimindError:  # several models, or one in parts of which some are missing
        return ()
    names = (files.quantization(each.files[0].path) for each in candidates)
    return tuple(dict.fromkeys(filter(None, names)))


# ── ModelScope ─────────────────────────────────────────────────────────────────────────────────────────────


def _modelscope(query: Query, task: str | None) -> Iterator[Found]:
    size = min(query.limit, PAGE_MODELS)
    asked = {"sort": "downloads", "page_size": str(size)}
    asked |= {"search": query.text} if query.text else {}
    asked |= {"filter.library": "gguf"} if query.gguf else {}
    asked |= {"filter.task": task} if task else {}
    for page in range(1, -(-query.limit // size) + 1):
        query_text = urlencode(asked | {"page_number": str(page)})
        answer = _get("modelscope", f"/openapi/v1/models?{query_text}")
        with _sensible("modelscope"):
            if answer.get("success") is False:
                raise HubError(
                    f"ModelScope cannot search: {str(answer.get('message'))[:200]!r}",
                    hint="Try other words, or --hub hf.",
                )
            listed = answer["data"]["models"]
            yield from filter(None, map(_of_modelscope, listed))
            if len(listed) < size:
                return


def _of_modelscope(told: Any) -> Found | None:
    reference = _reference("modelscope", told["id"])
    if reference is None:
        return None
    libraries = {str(tag).removeprefix("library:") for tag in told.get("tags") or ()}
    formats = tuple(name for name in FORMATS if name in libraries)
    # The size of all files: in a GGUF repository, of all quantizations together.
    size = None if "gguf" in formats else _count(told.get("file_size"))
    return Found(
        reference=reference,
        downloads=_count(told.get("downloads")),
        formats=formats,
        parameters=_count(told.get("params")) or None,
        weights_bytes=size or None,
        gated=bool(told.get("gated")),
    )


# ── What both share ────────────────────────────────────────────────────────────────────────────────────────


def _reference(source: Source, name: Any) -> Reference | None:
    """The name, where it can be typed; very old models have no owner, and nobody can serve a name of lies."""
    try:
        found = parse(f"{hub_of(source).prefix}{name}")
    except BadReferenceError:
        return None
    return found if found.name == name else None


def _count(told: Any) -> int | None:
    if told is None:
        return None
    if not isinstance(told, int | float) or isinstance(told, bool) or not 0 <= told < 2**63:
        raise ValueError(told)
    return int(told)


def _get(source: Source, path: str) -> Any:
    """The answer.

    Raises:
        HubError: there is none that makes sense.
    """
    hub = hub_of(source)
    remote = Remote(hub.site().endpoint + path, "a search", hub.secrets(), lambda *_: "other")
    return retried(remote.read_json, lambda error: explain(error, _ASKED[source], hub.site()))


@contextlib.contextmanager
def _sensible(source: Source) -> Iterator[None]:
    """Explain an answer that is not as it should be."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = NonsenseError("did not answer with a list of models")
        raise explain(problem, _ASKED[source], hub_of(source).site()) from error

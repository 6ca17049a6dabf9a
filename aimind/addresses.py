"""Addresses that people paste from a browser or another tool, in the short form that `reference` reads."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from aimind.errors import BadReferenceError

_HUGGING_FACE = frozenset({"huggingface.co", "www.huggingface.co", "hf.co", "hf-mirror.com"})
_MODELSCOPE = frozenset({"modelscope.cn", "www.modelscope.cn", "modelscope.ai", "www.modelscope.ai"})
_OLLAMA = frozenset({"ollama.com", "www.ollama.com", "registry.ollama.ai"})
# What Hugging Face puts between a repository's name and a revision, and whether a file's path follows.
_VIEWS = {"tree": False, "blob": True, "resolve": True, "raw": True}
_OLLAMA_NAME = re.compile(
    r"(?:ollama://)?(?:library/)?(?!(?:hf|ms|file|demo):)"
    r"(?P<name>[a-z0-9][a-z0-9._-]*)(?::(?P<tag>[\w.-]+))?"
)
_OTHER_KINDS = frozenset({"datasets", "spaces", "buckets", "collections", "papers", "docs", "studios"})


def short_form(text: str) -> str:
    """`hf:owner/name@revision/file` for the address of a page or file on a hub; other texts as they are.

    Raises:
        BadReferenceError: it is the address of something that is not a model, or a name in Ollama's library.
    """
    if text.startswith("ollama://"):
        raise _of_ollama(text, text)
    if text.startswith("hf://"):
        return _repository(text, "hf:", text.removeprefix("hf://").removeprefix("models/"))
    has_scheme = text.lower().startswith(("http://", "https://"))
    try:
        address = urlsplit(text if has_scheme else f"https://{text}")
    except ValueError:  # such as half of an address in brackets
        return text
    host, path = address.netloc.lower(), address.path.strip("/")
    if host in _HUGGING_FACE:
        return _hugging_face(text, path)
    if host in _MODELSCOPE:
        return _modelscope(text, path)
    if host in _OLLAMA:
        raise _of_ollama(text, path)
    if has_scheme:
        raise BadReferenceError(
            f"{_shown(text)} is not an address on Hugging Face or ModelScope",
            hint="Download the file and use its path, for example ./model.gguf",
        )
    return text


def begins_with_site(text: str) -> bool:
    """Whether `short_form` would read the text as an address: an owner can be called `hf.co`, too."""
    return text.split("/", maxsplit=1)[0].lower() in _HUGGING_FACE | _MODELSCOPE | _OLLAMA


def refuse_ollama(text: str) -> None:
    """Raise for a name without an owner, as in Ollama's library: `llama3`, `qwen3:0.6b`."""
    if _OLLAMA_NAME.fullmatch(text) and not text.endswith((".gguf", ".safetensors", ".bin")):
        raise _of_ollama(text, text)


def _hugging_face(text: str, path: str) -> str:
    """Read `owner/name`, optionally followed by a view: `owner/name/blob/main/sub/model.gguf`."""
    parts = path.removeprefix("models/").split("/")
    if parts[0] in _OTHER_KINDS or len(parts) < 2:
        raise _not_a_model(text)
    if len(parts) < 4 or parts[2] not in _VIEWS:
        return _repository(text, "hf:", "/".join(parts[:2]))
    return _viewed(text, "hf:", "/".join(parts[:2]), parts[3:], has_file=_VIEWS[parts[2]])


def _modelscope(text: str, path: str) -> str:
    """Read `models/owner/name`, optionally with a view: `…/file/view/master/model.gguf`, `…/summary`."""
    parts = path.removeprefix("models/").split("/")
    if parts[0] in _OTHER_KINDS or len(parts) < 2:
        raise _not_a_model(text)
    name, view = "/".join(parts[:2]), parts[2:]
    if view[:2] == ["file", "view"]:
        view = ["blob", *view[2:]]
    if len(view) < 2 or view[0] not in _VIEWS:
        return _repository(text, "ms:", name)
    return _viewed(text, "ms:", name, view[1:], has_file=_VIEWS[view[0]])


def _viewed(text: str, hub: str, name: str, behind: list[str], *, has_file: bool) -> str:
    """Read the revision and the file, if any, of a view; `refs/pr/3` is a revision of three parts."""
    decoded = [unquote(part) for part in behind]
    is_special = decoded[0] == "refs" and len(decoded) >= 3
    size = 3 if is_special else 1
    revision, file = "/".join(decoded[:size]), "/".join(decoded[size:])
    if file and not has_file:
        raise BadReferenceError(
            f"{_shown(text)} is a folder inside a repository", hint=f"Name the repository: {hub}{name}"
        )
    short = f"{hub}{name}@{revision}" if is_special else f"{hub}{name}@{_encoded(revision)}"
    return f"{short}/{file}" if file else short


def _repository(text: str, hub: str, name: str) -> str:
    if name.split("/", maxsplit=1)[0] in _OTHER_KINDS:
        raise _not_a_model(text)
    return hub + name


def _encoded(revision: str) -> str:
    return revision.replace("%", "%25").replace("/", "%2F")


def _not_a_model(text: str) -> BadReferenceError:
    return BadReferenceError(
        f"{_shown(text)} is not the address of a model",
        hint="A model's address ends in owner/name; `aimind search WORDS` finds models.",
    )


def _of_ollama(text: str, path: str) -> BadReferenceError:
    match = _OLLAMA_NAME.fullmatch(path)
    words = " ".join(filter(None, (match["name"], match["tag"]))) if match else "WORDS"
    return BadReferenceError(
        f"{_shown(text)} looks like a name from Ollama's library; aimind serves models from "
        "Hugging Face, ModelScope and local files",
        hint=f"run `aimind search {words} --gguf`",
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 120 else text[:120] + "…")

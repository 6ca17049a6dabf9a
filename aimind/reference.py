r"""Parse a model reference as the user typed it: one grammar, which depends on the text alone.

    reference    = hub | local | "demo" [":" quantization]
    hub          = ["hf:" | "ms:"] owner "/" name ["@" revision] ["/" file | ":" quantization]
    local        = path [":" shape] | "file:" literal path
    path         = begins with "./" "../" "/" "~" or "C:\" (also "." and ".." alone)
    file         = a path in the repository that ends like a file of weights (.gguf, .safetensors, …)
    revision     = branch, tag, commit, "refs/pr/N" or "refs/convert/NAME"; any other "/" in it is "%2F"
    quantization = letters, digits, "_" and "-": as in file names, in either case; "gguf" and "safetensors"
                   choose a format
    shape        = a quantization as llama.cpp names them (Q4_K_M, UD-Q2_K_XL, F16, …), or a format

A bare `owner/name` is on Hugging Face, or on the hub that `AIMIND_HUB` names; files in the current folder do
not change that. Slashes in revisions follow the `hf://` addresses of huggingface_hub 2.4
(`utils/_hf_uris.py`); names follow its `utils/_validators.py`. A local path is used literally, except for a
final `:` with a shape; after `file:` there is no exception.

Law: `parse(unparse(r)) == r` for every `r` that `parse` returned.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import replace
from typing import Literal

from aimind import addresses
from aimind.errors import BadReferenceError, UsageError
from aimind.types import Reference, Source

FORMS = (
    "Use owner/name, owner/name@revision, owner/name:QUANTIZATION or owner/name/file.gguf (with the prefix "
    "ms: for ModelScope or hf: for Hugging Face), a path such as ./folder, ./file.gguf, ~/… or /…, "
    "file:PATH, or demo."
)
LONGEST = 4096

_WORD = r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}"
_DEMO = re.compile(rf"demo(?::({_WORD}))?")
_LOCAL = re.compile(r"(?:\.{1,2}(?:[/\\]|\Z)|[~/\\]|[A-Za-z]:[/\\])")
_SHAPE = r"(?:UD-)?(?:I?Q[1-8]_\w+|TQ[12]_0|BF16|F16|F32|MXFP4\w*|NVFP4)|GGUF|SAFETENSORS"
_SUFFIXED = re.compile(rf"(.+):({_SHAPE})", re.IGNORECASE | re.DOTALL | re.ASCII)
_WEIGHTS = re.compile(r".*\.(?:gguf|safetensors|bin|pt|pth)", re.IGNORECASE)
_HUB = re.compile(
    r"(?:(?P<hub>hf|ms):)?(?P<name>[^/@:]+/[^/@:]+)"
    r"(?:@(?P<revision>refs/(?:pr|convert)/[^/:]+|[^/:]+))?"
    rf"(?:/(?P<file>[^:]+)|:(?P<quantization>{_WORD}))?"
)
_SPECIAL_REVISION = re.compile(r"refs/(?:pr|convert)/[^/:%]+")
# Word characters at both ends, at most 96, as the hub's own rule for each half of a name.
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")
_HUBS: dict[str, Source] = {"hf": "huggingface", "ms": "modelscope"}
HUB_VARIABLE = "AIMIND_HUB"
HubName = Literal["hf", "huggingface", "modelscope", "ms"]  # values of HUB_VARIABLE


def parse(
    text: str, *, revision: str | None = None, quantization: str | None = None, hub: Source | None = None
) -> Reference:
    """Parse a reference; `revision` and `quantization` come from `--revision` and `--quant`.

    `hub`: the hub of a bare `owner/name`, instead of `default_hub`.

    Raises:
        BadReferenceError: the text has none of the forms, or names two revisions or two quantizations.
    """
    if len(text) > LONGEST or "\0" in text:
        raise _bad(text, "is too long" if len(text) > LONGEST else "contains a NUL")
    parsed = _demo(text) or _local(text) or _hub(addresses.short_form(text), hub)
    if parsed is None:
        if text.isalpha() and difflib.get_close_matches(text.lower(), ["demo"]):
            raise BadReferenceError(f"{text!r} is not a model", hint="Did you mean demo?")
        addresses.refuse_ollama(text)
        raise _bad(text, "is not a model reference")
    if quantization is not None:
        parsed = _with_quantization(text, parsed, quantization)
    if revision is None or revision == parsed.revision:
        return parsed
    if parsed.source in {"local", "demo"}:
        raise _bad(text, f"is local and has no revision {revision!r}")
    if parsed.revision is not None:
        raise _bad(text, f"contradicts the revision {revision!r}")
    _check_revision(text, revision)
    return replace(parsed, revision=revision)


def _with_quantization(text: str, parsed: Reference, quantization: str) -> Reference:
    if re.fullmatch(_WORD, quantization) is None:
        raise _bad(quantization, "is not a quantization")
    if parsed.file is not None or parsed.quantization not in {None, quantization.upper()}:
        raise _bad(text, f"contradicts the quantization {quantization!r}")
    return replace(parsed, quantization=quantization.upper())


def default_hub() -> Source:
    """The hub of a bare `owner/name`: the value of `AIMIND_HUB`, a name or a prefix.

    Raises:
        UsageError: the value is not a hub.
    """
    name = os.environ.get(HUB_VARIABLE, "").strip().lower() or "huggingface"
    for prefix, source in _HUBS.items():
        if name in {prefix, source}:
            return source
    raise UsageError(
        f"{HUB_VARIABLE} is {name!r}, which is not a hub", hint="set it to huggingface or modelscope"
    )


def unparse(reference: Reference, *, anywhere: bool = False) -> str:
    """The shortest text that `parse` reads as this reference; without the `file` of a local one.

    With `anywhere` the text does not depend on `AIMIND_HUB`.
    """
    if reference.source == "local":
        return _unparse_local(reference)
    anywhere = anywhere or addresses.begins_with_site(reference.name)
    prefixes = {
        source: f"{prefix}:" for prefix, source in _HUBS.items() if anywhere or source != default_hub()
    }
    text = prefixes.get(reference.source, "") + reference.name
    if reference.revision is not None:
        text += "@" + _encode(reference.revision)
    if reference.file is not None:
        text += "/" + reference.file
    return text + _shape(reference)


def _shape(reference: Reference) -> str:
    """The suffix after the name: a quantization in upper case, or a format in lower case."""
    shape = reference.quantization
    if shape is None:
        return ""
    return ":" + (shape.lower() if shape in ("GGUF", "SAFETENSORS") else shape)


def _demo(text: str) -> Reference | None:
    match = _DEMO.fullmatch(text)
    if match is None:
        return None
    return Reference(source="demo", name="demo", quantization=match[1] and match[1].upper())


def _local(text: str) -> Reference | None:
    if text.startswith("file:"):
        path = text.removeprefix("file:")
        if not path or path.startswith("-"):
            raise _bad(text, "does not name a path")
        return Reference(source="local", name=path)
    match = _SUFFIXED.fullmatch(text)
    path = match[1] if match else text
    if not _LOCAL.match(path):
        return None
    if match is None:
        return Reference(source="local", name=path)
    if _WEIGHTS.fullmatch(path):
        raise _bad(text, "names a quantization of a single file, which has only one")
    return Reference(source="local", name=path, quantization=match[2].upper())


def _unparse_local(reference: Reference) -> str:
    name = reference.name
    if reference.quantization is not None:
        return name + _shape(reference)
    if _LOCAL.match(name) and not _SUFFIXED.fullmatch(name):
        return name
    return f"file:{name}"


def _hub(text: str, hub: Source | None) -> Reference | None:
    match = _HUB.fullmatch(text)
    if match is None:
        return None
    name, file, quantization = match["name"], match["file"], match["quantization"]
    _check_name(text, name)
    revision = match["revision"]
    if revision is not None:
        revision = _decode(revision)
        _check_revision(text, revision)
    if file is not None:
        _check_file(text, file)
    return Reference(
        source=_HUBS[match["hub"]] if match["hub"] else hub or default_hub(),
        name=name,
        revision=revision,
        file=file,
        quantization=quantization and quantization.upper(),
    )


def _check_name(text: str, name: str) -> None:
    for part in name.split("/"):
        if not _NAME.fullmatch(part):
            raise _bad(
                text,
                f"contains {part[:100]!r}: an owner or a name has at most 96 letters, digits, `_`, `-` "
                "and `.`, and neither begins nor ends with `-` or `.`",
            )
    if "--" in name or ".." in name or name.endswith(".git"):
        raise _bad(text, "is not a valid name on a hub: `--`, `..` and a final `.git` are not allowed")


def _check_revision(text: str, revision: str) -> None:
    """Git's rules (git-check-ref-format), and no leading `-`, which commands would read as an option."""
    if (
        not 0 < len(revision) <= 255
        or not revision.isprintable()
        or any(character in " ~^:?*[\\" for character in revision)
        or any(word in revision for word in ("..", "//", "@{"))
        or revision.startswith(("-", "/", "."))
        or revision.endswith(("/", ".", ".lock"))
    ):
        raise _bad(text, f"has a revision that Git does not allow: {revision[:100]!r}")


def _check_file(text: str, file: str) -> None:
    if not _WEIGHTS.fullmatch(file):
        raise _bad(
            text, f"ends in {file[:100]!r}, which is not a weights file (in a revision, write / as %2F)"
        )
    for part in file.split("/"):
        if not 0 < len(part) <= 255 or part in {".", ".."} or part.startswith("-"):
            raise _bad(text, "does not name a valid file of a repository")
    if not file.isprintable() or "\\" in file:
        raise _bad(text, "does not name a valid file of a repository")


def _encode(revision: str) -> str:
    if _SPECIAL_REVISION.fullmatch(revision):
        return revision
    return revision.replace("%", "%25").replace("/", "%2F")


def _decode(revision: str) -> str:
    return revision.replace("%2F", "/").replace("%2f", "/").replace("%25", "%")


def _bad(text: str, why: str) -> BadReferenceError:
    shown = text if len(text) <= 120 else text[:120] + "…"
    return BadReferenceError(f"{shown!r} {why}", hint=FORMS)

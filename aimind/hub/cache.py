"""Hugging Face's settings and its cache on this disk, read without its client, which takes long to import.

The layout is documented in "Understand caching" of huggingface_hub: `models--owner--name` with `refs` (the
commit of each branch), `snapshots/<commit>` (links, under the names in the repository) and `blobs` (the
contents, under their sha256 for large files). A link is made once its content is complete, so what is there
is whole.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from aimind.hub.base import checked_path
from aimind.types import File, Model, Reference

COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
ENDPOINT = "https://huggingface.co"
DEFAULT_REVISION = "main"
_TRUE = {"1", "ON", "YES", "TRUE"}


def is_offline() -> bool:
    """Whether the user wants no network (`HF_HUB_OFFLINE`, `TRANSFORMERS_OFFLINE`)."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in _TRUE


def endpoint() -> str:
    """The hub's address (`HF_ENDPOINT`, for a mirror)."""
    return (os.environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")


def folder() -> Path:
    """The cache: `HF_HUB_CACHE`, or else below `HF_HOME`, as the client finds it (its `constants.py`)."""
    found = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return Path(os.path.expandvars(found)).expanduser() if found else home() / "hub"


def home() -> Path:
    """The client's folder: `HF_HOME`, or else in the user's cache."""
    found = os.environ.get("HF_HOME") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    return Path(os.path.expandvars(found)).expanduser()


def snapshot(model: Model) -> Path:
    """The folder in which the model's files lie, or will lie, under their names in the repository."""
    return _repository(model.reference) / "snapshots" / str(model.commit)


def complete(model: Model, file: File) -> Path | None:
    """Where the whole content of a file is: in this snapshot, or in an older one of the same content."""
    for path in places(model, file):
        if path.is_file() and path.stat().st_size == file.size_bytes:
            return path
    return None


def places(model: Model, file: File) -> list[Path]:
    """Where the content of a file would be."""
    link = snapshot(model) / file.path
    return [link] if file.sha256 is None else [link, _repository(model.reference) / "blobs" / file.sha256]


def resolve(reference: Reference) -> Model | None:
    """The model as far as it is in the cache, or `None` where nothing of this revision is."""
    commit = _commit(reference)
    if commit is None:
        return None
    model = Model(reference=reference, files=(), commit=commit)
    files = tuple(_files(snapshot(model)))
    return Model(reference=reference, files=files, commit=commit) if files else None


def remember(model: Model) -> None:
    """Write down the commit of the revision, so that it is found offline, as the client does.

    Raises:
        OSError: the cache cannot be written.
    """
    path = _ref(model.reference)
    commit = str(model.commit)
    if model.reference.revision == commit or (path.is_file() and path.read_text() == commit):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    unfinished.write_text(commit)
    unfinished.replace(path)


def _repository(reference: Reference) -> Path:
    return folder() / f"models--{checked_path(reference.name, of='The reference').replace('/', '--')}"


def _ref(reference: Reference) -> Path:
    revision = checked_path(reference.revision or DEFAULT_REVISION, of="The reference")
    return _repository(reference) / "refs" / revision


def _commit(reference: Reference) -> str | None:
    if reference.revision is not None and COMMIT.fullmatch(reference.revision):
        return reference.revision
    path = _ref(reference)
    commit = path.read_text().strip() if path.is_file() else ""
    return commit if COMMIT.fullmatch(commit) else None


def _files(root: Path) -> Iterator[File]:
    for path in sorted(root.rglob("*")):
        if path.is_file():
            blob = path.resolve().name
            sha256 = blob if SHA256.fullmatch(blob) else None
            yield File(path.relative_to(root).as_posix(), path.stat().st_size, sha256)

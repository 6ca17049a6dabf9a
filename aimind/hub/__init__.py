"""Where models come from: this machine, Hugging Face, ModelScope; with the same verbs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from aimind import reference as references
from aimind.errors import HubError
from aimind.hub import local
from aimind.hub.base import Progress, go_offline, is_offline
from aimind.hub.local import local_twin
from aimind.types import File, Model, Reader, Reference, Source

if TYPE_CHECKING:
    from aimind.hub.remote import RemoteHub

__all__ = [
    "REMOTE",
    "Progress",
    "fetch",
    "go_offline",
    "here",
    "hub_of",
    "in_gguf",
    "is_complete",
    "is_offline",
    "local_twin",
    "location",
    "open_file",
    "resolve",
    "token_file",
    "use_token",
]

REMOTE: tuple[Source, ...] = ("huggingface", "modelscope")


@functools.cache
def hub_of(source: Source) -> RemoteHub:
    """Hugging Face or ModelScope; neither is imported for a model on this machine."""
    if source == "modelscope":
        from aimind.hub.modelscope import ModelScope

        return ModelScope()
    from aimind.hub.huggingface import HuggingFace

    return HuggingFace()


def use_token(file: Path) -> None:
    """Take the token for Hugging Face from this file."""
    from aimind.hub import huggingface

    huggingface.use_token(file)


def token_file() -> Path:
    """Where Hugging Face's client keeps the token of who has logged in."""
    from aimind.hub import huggingface

    return huggingface.token_file()


def resolve(reference: Reference, *, waits: Sequence[float] | None = None) -> Model:
    """What the reference means: the commit, and the names, sizes and hashes of all files; no weights.

    `waits`: seconds before each further try.

    Raises:
        ModelNotFoundError: there is no such model or revision.
        HubError: the hub is unreachable, refuses, or answers nonsense.
        UnsupportedError: there is something, but no model.
    """
    if reference.source == "local":
        return local.resolve(reference)
    if reference.source == "demo":
        return local.resolve_demo(reference)
    from aimind.hub.failures import is_unreachable

    try:
        return hub_of(reference.source).resolve(reference, waits=waits)
    except HubError as problem:
        if is_unreachable(problem.__cause__):
            raise HubError(problem.message, hint=problem.hint + _other_hub(reference)) from problem
        raise


def open_file(model: Model, file: File, *, waits: Sequence[float] | None = None) -> Reader:
    """Random access to one file of a model that was resolved.

    Raises:
        ModelNotFoundError: it cannot be read any more.
        HubError: also from the reader, for each range that cannot be had.
    """
    if model.root is not None:
        return local.FileReader(Path(model.root) / file.path)
    return hub_of(model.reference.source).open_file(model, file, waits=waits)


def in_gguf(model: Model) -> str | None:
    """A repository with GGUF files of the same model, where the hub has one; it never fails."""
    if model.reference.source not in REMOTE:
        return None
    found = hub_of(model.reference.source).in_gguf(model.reference)
    return None if found is None else references.unparse(found)


def location(model: Model) -> Path:
    """The folder in which the model's files lie under their paths, or will lie once they are fetched."""
    return (
        Path(model.root) if model.root is not None else hub_of(model.reference.source).cache.snapshot(model)
    )


def strays(model: Model) -> tuple[str, ...]:
    """Safetensors in the model's folder that are not among its files, as paths below it.

    Another program may have fetched them, or they are copies that serving does not need. A folder that is not
    there yet, or cannot be read, has none.
    """
    if any(file.is_gguf for file in model.files):
        return ()
    folder = location(model)
    planned = {file.path for file in model.files}
    found = {path.relative_to(folder).as_posix() for path in local.readable_files(folder)}
    return tuple(sorted(path for path in found - planned if path.endswith(".safetensors")))


def here(model: Model, file: File) -> Path | None:
    """Where the file is on this machine, under its name or under its hash; `None`: not here, or not whole."""
    if model.root is not None:
        return Path(model.root) / file.path
    return hub_of(model.reference.source).cache.complete(model, file)


def is_complete(model: Model) -> bool:
    """Whether all files are here and whole, so that nothing would be fetched."""
    return all(here(model, file) is not None for file in model.files)


def fetch(
    model: Model,
    progress: Progress,
    *,
    waits: Sequence[float] | None = None,
    small_bytes: int | None = None,
    chunk_bytes: int | None = None,
) -> Path:
    """Bring the model's files, and only those, to this machine; the folder that holds them.

    `waits`: seconds before each further try that follows one which brought nothing; `small_bytes`: files up
    to this size come first.

    Raises:
        HubError: a download failed, or brought something else.
        DoesNotFitError: the disk is too full; found out before the first byte, or when it fills up.
    """
    if model.root is not None:
        return location(model)
    return hub_of(model.reference.source).fetch(
        model, progress, waits=waits, small_bytes=small_bytes, chunk_bytes=chunk_bytes
    )


def _other_hub(reference: Reference) -> str:
    """A sentence about the other hub, where that has a repository of the same name."""
    for source in REMOTE:
        hub = hub_of(source)
        if source != reference.source and hub.has(reference.name):
            there = references.unparse(replace(reference, source=source, revision=None))
            there = there if there.startswith(hub.prefix) else hub.prefix + there
            return f" {hub.title} has a model of this name, too: {there}."
    return ""

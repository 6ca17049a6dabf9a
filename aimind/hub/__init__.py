"""Where models come from: this machine, Hugging Face, and in time ModelScope; with the same verbs."""

from __future__ import annotations

import os
from pathlib import Path

from aimind.errors import UnsupportedError
from aimind.hub import cache, local
from aimind.hub.base import Progress
from aimind.hub.local import local_twin
from aimind.types import TOKEN_VARIABLES, File, Model, Reader, Reference

__all__ = [
    "Progress",
    "fetch",
    "in_gguf",
    "local_twin",
    "location",
    "open_file",
    "resolve",
    "token_file",
    "use_token",
]


def use_token(file: Path) -> None:
    """Take the hub's token from this file; for Hugging Face's client, before it is imported."""
    os.environ["HF_TOKEN_PATH"] = str(file.absolute())
    for name in TOKEN_VARIABLES:  # the client would prefer these
        os.environ.pop(name, None)


def token_file() -> Path:
    """Where Hugging Face's client keeps the token of who has logged in."""
    return Path(os.environ.get("HF_TOKEN_PATH") or cache.home() / "token")


def resolve(reference: Reference) -> Model:
    """What the reference means: the commit, and the names, sizes and hashes of all files; no weights.

    Raises:
        ModelNotFoundError: there is no such model or revision.
        HubError: the hub is unreachable, refuses, or answers nonsense.
        UnsupportedError: there is something, but no model; or the hub is not supported yet.
    """
    match reference.source:
        case "local":
            return local.resolve(reference)
        case "demo":
            return local.resolve_demo(reference)
        case "huggingface":
            from aimind.hub import huggingface

            return huggingface.resolve(reference)
        case "modelscope":
            raise UnsupportedError(
                "ModelScope is not supported yet",
                hint="Most models are on Hugging Face too: leave `ms:` away.",
            )


def open_file(model: Model, file: File) -> Reader:
    """Random access to one file of a model that was resolved.

    Raises:
        ModelNotFoundError: it cannot be read any more.
        HubError: also from the reader, for each range that cannot be had.
    """
    if model.root is not None:
        return local.FileReader(Path(model.root) / file.path)
    from aimind.hub import huggingface

    return huggingface.open_file(model, file)


def in_gguf(model: Model) -> str | None:
    """A repository with GGUF files of the same model, where the hub has one; it never fails."""
    if model.reference.source != "huggingface":
        return None
    from aimind.hub import huggingface

    return huggingface.in_gguf(model.reference.name)


def location(model: Model) -> Path:
    """The folder in which the model's files lie under their paths, or will lie once they are fetched."""
    return Path(model.root) if model.root is not None else cache.snapshot(model)


def fetch(model: Model, progress: Progress) -> Path:
    """Bring the model's files, and only those, to this machine; the folder that holds them.

    Raises:
        HubError: a download failed, or brought something else.
        DoesNotFitError: the disk is too full; found out before the first byte.
    """
    if model.root is not None:
        return location(model)
    from aimind.hub import huggingface

    return huggingface.fetch(model, progress)

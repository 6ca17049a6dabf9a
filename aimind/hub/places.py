"""Where the caches of both hubs are, and the repositories in them.

Both keep `REPOSITORY/snapshots/REVISION/PATH` with contents in `REPOSITORY/blobs`. Hugging Face ("Understand
caching" of huggingface_hub): `models--owner--name`; revisions are commits, `refs/BRANCH` says at which one a
branch is. ModelScope (`_download.py` of modelscope_hub 0.5): `models/owner--name`; revisions are branches.
Its versions before that have the files alone, in `models/owner/name` or `hub/models/owner/name`, or without
`models`, with `___` for a dot of the name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from aimind.errors import BadReferenceError
from aimind.hub import REMOTE, hub_of
from aimind.reference import parse, unparse
from aimind.types import Reference, Source

# Beside the models, in ModelScope's cache.
_NO_OWNERS = frozenset({"hub", "models", "datasets", "studios", "mcps", "skills", "blobs"})


def folder(source: Source) -> Path:
    """The cache of a hub."""
    return hub_of(source).cache.folder()


def names() -> Iterator[str]:
    """The names of all repositories, as they can be typed; from the names of folders alone."""
    for source in REMOTE:
        for reference, _ in repositories(source):
            yield unparse(reference)


def repositories(source: Source) -> Iterator[tuple[Reference, Path]]:
    """The repositories of a cache and their folders; one of ModelScope's may be in several places."""
    root = folder(source)
    if source == "huggingface":
        for path in entries(root):
            if path.name.startswith("models--"):
                yield from _with_reference("hf", path.name.removeprefix("models--").replace("--", "/"), path)
        return
    for path in entries(root / "models"):
        if "--" in path.name:
            yield from _with_reference("ms", path.name.replace("--", "/"), path)
    for start in ("models", "hub/models", ".", "hub"):
        for owner in entries(root / start):
            for path in entries(owner) if owner.name not in _NO_OWNERS else ():
                if not path.is_symlink():  # newer versions make one with the dots, to the other
                    yield from _with_reference("ms", f"{owner.name}/{path.name.replace('___', '.')}", path)


def is_old(reference: Reference, where: Path) -> bool:
    """Whether this is a folder of ModelScope's older versions: the files alone."""
    return reference.source == "modelscope" and "--" not in where.name


def locks(source: Source, reference: Reference | None) -> list[Path]:
    """The locks, one of which a program holds that downloads from this repository (ModelScope: from any)."""
    root = folder(source)
    if source == "modelscope":
        return sorted((root / ".lock").glob("*"))
    name = "*" if reference is None else f"models--{reference.name.replace('/', '--')}"
    return sorted((root / ".locks").glob(f"{name}/*.lock"))


def entries(where: Path) -> list[Path]:
    """The folders in a folder."""
    try:
        return sorted(path for path in where.iterdir() if path.is_dir())
    except OSError:  # there is none, or it is not for us
        return []


def _with_reference(prefix: str, name: str, path: Path) -> Iterator[tuple[Reference, Path]]:
    """The folder with its reference, if its name is one that a hub allows."""
    try:
        reference = parse(f"{prefix}:{name}")
    except BadReferenceError:
        return
    if reference.name == name:
        yield reference, path

"""The models in the caches of both hubs: whole ones, and what is only begun. No file of them is read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aimind import files
from aimind.errors import ModelNotFoundError, UnsupportedError
from aimind.hub import REMOTE, hub_of, leftovers, places
from aimind.hub.cache import COMMIT
from aimind.types import Cached, File, Leftover, Model, Reference, Source, split_of

HALF = "only the first part of a file is here"
NO_WEIGHTS = "no weights are here"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


@dataclass(frozen=True, slots=True)
class Revision:
    """The files of one revision. `name`: of its folder; `branches`: that are at it."""

    name: str
    folder: Path
    branches: tuple[str, ...]
    files: tuple[File, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """What could be served of a revision, narrowed to its files; `missing`: what of it is not there."""

    model: Model
    missing: str | None


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository in a cache.

    Attributes:
        reference: its name alone.
        folder: all that is there of it.
        revisions: in it; of an old folder of ModelScope one without a name.
    """

    reference: Reference
    folder: Path
    revisions: tuple[Revision, ...]


def repositories(sources: Iterable[Source] = REMOTE) -> tuple[Repository, ...]:
    """All that are in the caches, by name."""
    found = [
        Repository(reference, where, tuple(_revisions(reference, where)))
        for source in sources
        for reference, where in places.repositories(source)
    ]
    return tuple(sorted(found, key=lambda each: (each.reference.name.lower(), each.reference.source)))


def models() -> tuple[Cached, ...]:
    """All models in the caches; of a GGUF repository each quantization is one."""
    halves: dict[Reference, list[Leftover]] = {}
    for each in leftovers.find():
        if each.reference is not None and each.half:
            halves.setdefault(each.reference, []).append(each)
    found: list[Cached] = []
    for repository in repositories():
        inside = [each for each in halves.get(repository.reference, ()) if _is_in(each, repository.folder)]
        found += _models(repository, inside)
    return tuple(found)


def disk_bytes() -> int:
    """What all that takes on the disk, with what repositories have in common once."""
    folders = [each.folder for each in repositories()]
    return sum(map(leftovers.size_of, [*folders, places.folder("huggingface") / "blobs"]))


def _is_in(leftover: Leftover, where: Path) -> bool:
    return Path(leftover.path).is_relative_to(where)


def _models(repository: Repository, halves: Sequence[Leftover]) -> Iterator[Cached]:
    """The models of one repository, including those whose download has only begun."""
    reference, busy = repository.reference, any(each.busy for each in halves)
    begun: dict[str, File] = {}
    for revision in repository.revisions:
        named = replace(reference, revision=revision_of(reference, revision))
        commit = revision.name if COMMIT.fullmatch(revision.name) else None
        for part in parts(Model(reference=named, files=revision.files, root=str(revision.folder))):
            if part.missing == NO_WEIGHTS and halves:
                begun |= {file.path: file for file in part.model.files}
            else:
                yield _cached(part.model, commit, part.missing, downloading=busy)
    if halves:
        size = sum(file.size_bytes for file in begun.values()) + sum(each.size_bytes for each in halves)
        yield Cached(
            reference=reference,
            commit=None,
            files=tuple(begun.values()),
            folder=str(repository.folder),
            size_bytes=size,
            last_used=max(_last_used(Path(each.path)) for each in halves),
            missing=HALF,
            downloading=busy,
        )


def _cached(model: Model, commit: str | None, missing: str | None, *, downloading: bool) -> Cached:
    root = Path(model.root or "")
    return Cached(
        reference=model.reference,
        commit=commit,
        files=model.files,
        folder=str(root),
        size_bytes=sum(file.size_bytes for file in model.files),
        last_used=max((_last_used(root / file.path) for file in model.files), default=0.0),
        missing=missing,
        downloading=downloading,
    )


def revision_of(reference: Reference, revision: Revision) -> str | None:
    """What to type for a revision: nothing for the usual branch, the commit where none is there any more."""
    usual = hub_of(reference.source).cache.default_revision
    if revision.name in {"", usual} or usual in revision.branches:
        return None
    return revision.branches[0] if revision.branches else revision.name


# ── What could be served ───────────────────────────────────────────────────────────────────────────────────


def parts(model: Model) -> tuple[Part, ...]:
    """All that could be served of these files, whole or not; one without weights where there are none."""
    found = list(_ggufs(model))
    weights = tuple(file for file in model.files if file.path.endswith(_WEIGHTS))
    if weights or not found:
        safe = replace(model, reference=replace(model.reference, quantization="SAFETENSORS"))
        part = _part(safe, weights or model.files)
        found.append(replace(part, model=replace(part.model, reference=model.reference)))
    return tuple(found)


def _ggufs(model: Model) -> Iterator[Part]:
    """Each model in GGUF, with all its parts and its projector, and with what to type for it."""
    groups: dict[str, list[File]] = {}
    for file in model.files:
        if file.is_gguf and not file.is_projector:
            split = split_of(file.path)
            name = file.path if split is None else f"{split.stem}.gguf"
            groups.setdefault(name, []).append(file)
    shapes = Counter(files.quantization(path) for path in groups)
    for path, pieces in groups.items():
        part = _part(replace(model, reference=replace(model.reference, file=pieces[0].path)), pieces)
        shape = files.quantization(path)
        alone = shape is not None and shapes[shape] == 1
        named = replace(
            model.reference, quantization=shape if alone else None, file=None if alone else pieces[0].path
        )
        yield replace(part, model=replace(part.model, reference=named))


def _part(model: Model, pieces: Sequence[File]) -> Part:
    """What would be served; where some of it is missing, its pieces."""
    try:
        return Part(files.choose(model), None)
    except ModelNotFoundError as problem:
        return Part(replace(model, files=tuple(pieces)), problem.message)
    except UnsupportedError:
        return Part(replace(model, files=tuple(pieces)), NO_WEIGHTS)


# ── Folders ────────────────────────────────────────────────────────────────────────────────────────────────


def _revisions(reference: Reference, where: Path) -> Iterator[Revision]:
    if places.is_old(reference, where):
        listed = tuple(_files(reference.source, where, where))
        if listed:
            yield Revision("", where, (), listed)
        return
    branches = dict(_branches(where / "refs"))
    root = where / "snapshots"
    deep = [branch for branch in branches if "/" in branch and (root / branch).is_dir()]  # of ModelScope
    tops = {branch.partition("/")[0] for branch in deep}
    for name in (*(path.name for path in places.entries(root) if path.name not in tops), *deep):
        at = tuple(branch for branch, commit in branches.items() if commit == name)
        yield Revision(name, root / name, at, tuple(_files(reference.source, where, root / name)))


def _branches(refs: Path) -> Iterator[tuple[str, str]]:
    """Each branch, and the commit that it was at when somebody looked."""
    for path in sorted(refs.rglob("*")):
        if path.is_file() and not path.name.endswith(".tmp"):
            yield path.relative_to(refs).as_posix(), path.read_text(errors="replace").strip()


def _files(source: Source, where: Path, root: Path) -> Iterator[File]:
    """All files that are there whole: no links to nowhere, nothing hidden, nothing half."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            whole = not name.startswith(".") and leftovers.kind(source, where, path) is None
            if whole and path.is_file():
                yield File(path.relative_to(root).as_posix(), path.stat().st_size)


def _last_used(path: Path) -> float:
    try:
        found = path.stat()
    except OSError:  # it has just gone
        return 0.0
    return max(found.st_atime, found.st_mtime)

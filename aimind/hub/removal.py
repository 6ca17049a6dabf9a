"""Removing models from the caches: what was chosen, and the contents that nothing else shows then."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from aimind import files
from aimind.errors import AimindError, ModelNotFoundError
from aimind.hub import leftovers, places
from aimind.hub.inventory import Part, Repository, Revision, parts, repositories
from aimind.reference import unparse
from aimind.types import Model, Reference

_SHORTEST_COMMIT = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What shall be removed of one repository in a cache.

    Attributes:
        repository: it is of.
        whole: all of it.
        revisions: whole ones.
        paths: single files in snapshots.
    """

    repository: Repository
    whole: bool = False
    revisions: tuple[Revision, ...] = ()
    paths: tuple[Path, ...] = ()

    @property
    def doomed(self) -> tuple[Path, ...]:
        """The folders and files that will be gone."""
        if self.whole:
            return (self.repository.folder,)
        return (*(revision.folder for revision in self.revisions), *self.paths)

    def concerns(self, path: Path) -> bool:
        """Whether a file or folder will be gone, or something in it: this name, or what it leads to."""
        found = {path.absolute(), path.resolve()}
        mine = {each for doomed in self.doomed for each in (doomed.absolute(), doomed.resolve())}
        return any(
            each == other or other in each.parents or each in other.parents
            for each in found
            for other in mine
        )


def select(reference: Reference) -> tuple[Removal, ...]:
    """What goes by this name: a repository in all its places, a revision, one quantization, or one file.

    Raises:
        ModelNotFoundError: nothing in the cache does.
    """
    here = [each for each in repositories((reference.source,)) if each.reference.name == reference.name]
    if not here:
        raise ModelNotFoundError(
            f"{reference.name} is not in {places.folder(reference.source)}",
            hint="`aimind models` lists the cached models.",
        )
    narrow = any((reference.revision, reference.quantization, reference.file))
    found = [each for repository in here if (each := _select(repository, reference, narrow=narrow))]
    if not found:
        has = ", ".join(dict.fromkeys(_labels(here))) or "no complete files"
        raise ModelNotFoundError(f"{unparse(reference)} is not in the cache", hint=f"The cache has {has}.")
    return tuple(found)


def size_bytes(removal: Removal) -> int:
    """What will be free on the disk: contents that are shown elsewhere, too, are not."""
    if removal.whole:
        return leftovers.size_of(removal.repository.folder)
    gone = set(removal.paths) | {path for each in removal.revisions for path in _paths(each)}
    stay = {
        leftovers.key(path)
        for each in removal.repository.revisions
        for path in _paths(each)
        if path not in gone
    }
    sizes = {leftovers.key(path): path.stat().st_size for path in gone}
    return sum(size for key, size in sizes.items() if key not in stay)


def remove(removal: Removal) -> int:
    """Remove it; the bytes that are free then. Nothing may be downloading of it (`leftovers.is_busy`).

    Raises:
        AimindError: something could not be removed.
    """
    reference, where = removal.repository.reference, removal.repository.folder
    # Newer clients keep contents that several repositories have in common in one more folder.
    measured = [where, places.folder(reference.source) / "blobs"]
    before = sum(map(leftovers.size_of, measured))
    if reference.source == "huggingface":
        _remove_by_client(removal)
    else:
        _remove_files(removal)
    for path in removal.doomed:
        if path.exists() or path.is_symlink():
            raise AimindError(
                f"{path} could not be removed",
                hint="Check the permissions of the cache, and whether its disk can be written.",
            )
    return before - sum(map(leftovers.size_of, measured))


# ── Choosing ───────────────────────────────────────────────────────────────────────────────────────────────


def _select(repository: Repository, reference: Reference, *, narrow: bool) -> Removal | None:
    if not narrow:
        return Removal(repository=repository, whole=True)
    wanted = [each for each in repository.revisions if _is_at(each, reference.revision)]
    if reference.quantization is None and reference.file is None:
        revisions, paths = wanted, list[Path]()
    else:
        revisions, paths = _select_files(repository, wanted, reference)
    if not revisions and not paths:
        return None
    whole = len(revisions) == len(repository.revisions)
    return Removal(repository=repository, whole=whole, revisions=tuple(revisions), paths=tuple(paths))


def _select_files(
    repository: Repository, wanted: Sequence[Revision], reference: Reference
) -> tuple[list[Revision], list[Path]]:
    """Whole revisions where no other model is in them, else the files that the others do not need."""
    revisions, paths = [], []
    for revision in wanted:
        all_parts = parts(_model(repository, revision))
        chosen = [part for part in all_parts if _is_meant(part, reference)]
        others = [part for part in all_parts if part not in chosen]
        if chosen and not others:
            revisions.append(revision)
        elif chosen:
            needed = {file.path for part in others for file in part.model.files}
            gone = {file.path for part in chosen for file in part.model.files} - needed
            paths += [revision.folder / path for path in sorted(gone)]
    return revisions, paths


def _is_at(revision: Revision, wanted: str | None) -> bool:
    if wanted is None or wanted == revision.name or wanted in revision.branches:
        return True
    return len(wanted) >= _SHORTEST_COMMIT and revision.name.startswith(wanted)


def _is_meant(part: Part, reference: Reference) -> bool:
    paths = [file.path for file in part.model.files]
    gguf = any(path.lower().endswith(".gguf") for path in paths)
    if reference.file is not None:
        return reference.file in paths
    if reference.quantization in ("GGUF", "SAFETENSORS"):
        return gguf == (reference.quantization == "GGUF")
    shapes = {files.quantization(path) for path in paths if "mmproj" not in path.lower()}
    return gguf and not shapes.isdisjoint({reference.quantization, f"UD-{reference.quantization}"})


def _model(repository: Repository, revision: Revision) -> Model:
    return Model(reference=repository.reference, files=revision.files, root=str(revision.folder))


def _labels(repositories_: Iterable[Repository]) -> Iterator[str]:
    for repository in repositories_:
        for revision in repository.revisions:
            branches = ", ".join(revision.branches) or revision.name
            for part in parts(_model(repository, revision)):
                shape = part.model.reference.quantization or part.model.reference.file
                yield f"{shape} of {branches}" if shape else f"revision {branches}"


def _paths(revision: Revision) -> list[Path]:
    return [revision.folder / file.path for file in revision.files]


# ── Removing ───────────────────────────────────────────────────────────────────────────────────────────────


def _remove_by_client(removal: Removal) -> None:
    """Remove with Hugging Face's client, which also knows of contents that repositories share."""
    from huggingface_hub import scan_cache_dir

    root = removal.repository.folder.parent
    info = scan_cache_dir(root)
    repo = next(
        (each for each in info.repos if each.repo_path == root.resolve() / removal.repository.folder.name),
        None,
    )
    if repo is None:  # too damaged for it
        _remove_files(removal)
        return
    # Copies of a repository have the same commits: of all others it shall know nothing.
    alone = dataclasses.replace(info, repos=frozenset({repo}))
    revisions = {revision.name for revision in removal.revisions}
    commits = [each.commit_hash for each in repo.revisions if removal.whole or each.commit_hash in revisions]
    if commits:
        alone.delete_revisions(*commits).execute()
    if removal.paths:
        paths = set(map(_without_link, removal.paths))
        gone = [file for each in repo.revisions for file in each.files if file.file_path in paths]
        alone.delete_files(*gone).execute()
    if removal.whole and removal.repository.folder.exists():
        _remove_files(removal)


def _without_link(path: Path) -> Path:
    """The path with its folder resolved, as the client names it, but the link itself kept."""
    return path.parent.resolve() / path.name


def _remove_files(removal: Removal) -> None:
    """Remove the names first, then the contents, so that a kill leaves no dangling link."""
    repository = removal.repository
    try:
        if removal.whole:
            for alias in repository.folder.parent.iterdir():  # ModelScope's, with the dots of the name
                if alias.is_symlink() and alias.resolve() == repository.folder.resolve():
                    alias.unlink()
            for part in ("refs", "snapshots"):
                shutil.rmtree(repository.folder / part, ignore_errors=True)
            shutil.rmtree(repository.folder)
            return
        for revision in removal.revisions:
            shutil.rmtree(revision.folder)
            with contextlib.suppress(OSError):  # of feature/x, unless there is another one in it
                revision.folder.parent.rmdir()
            (repository.folder / "refs" / revision.name).unlink(missing_ok=True)
        for path in removal.paths:
            path.unlink(missing_ok=True)
        for blob in leftovers.unshown(repository.folder):
            blob.unlink(missing_ok=True)
    except OSError as error:
        raise leftovers.unremovable(Path(error.filename or repository.folder), error) from error

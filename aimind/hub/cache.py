"""A hub's cache on this disk, laid out as the hub's own tools do: each finds what the other fetched.

Of both hubs `REPOSITORY/snapshots/NAME/PATH` is a file, and `REPOSITORY/blobs/HASH` its content, under its
sha256 or, where the hub tells none, the sha1 of the Git blob; `blobs/HASH.incomplete` is the first part of
it. A file comes into a snapshot once its content is whole and right.

Hugging Face ("Understand caching" of huggingface_hub): `NAME` is a commit, `refs/BRANCH` holds the commit of
each branch, and files are symbolic links to blobs. So what is there is what was listed.

ModelScope (`_download.py` of modelscope_hub 0.5): `NAME` is a branch, and files are what they are, so that
they may be those of an older commit. We make them hard links of blobs: a file that is the same inode as the
blob of its hash has been checked. Its tools leave blobs and refs alone.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import uuid
from collections.abc import Iterator
from pathlib import Path

from aimind.hub.base import checked_path
from aimind.types import File, Model, Reference

COMMIT = re.compile(r"[0-9a-f]{40}")
SHA1 = COMMIT
SHA256 = re.compile(r"[0-9a-f]{64}")
INCOMPLETE = ".incomplete"


class Cache:
    """What both hubs' caches have in common; a subclass says where the folders are."""

    default_revision = "main"
    # Whether snapshots are named after commits, and their files are links that say which content they have.
    by_commit = True

    def folder(self) -> Path:
        """The whole cache."""
        raise NotImplementedError

    def repository(self, reference: Reference) -> Path:
        """The folder of a repository."""
        raise NotImplementedError

    def locks(self, model: Model, file: File) -> tuple[Path, ...]:
        """The files to lock, in this order, while a file is fetched; the first is that of the hub's tools."""
        raise NotImplementedError

    def snapshot(self, model: Model) -> Path:
        """The folder in which the model's files lie, or will lie, under their names in the repository."""
        name = str(model.commit) if self.by_commit else self._revision(model.reference)
        return self.repository(model.reference) / "snapshots" / name

    def blob(self, reference: Reference, digest: str) -> Path:
        """Where the content of this hash is, or will be."""
        return self.repository(reference) / "blobs" / digest

    def complete(self, model: Model, file: File) -> Path | None:
        """Where the whole content of a file is: in this snapshot, or among the blobs."""
        path, digest = self.snapshot(model) / file.path, file.sha256 or file.git_sha1
        blob = None if digest is None else self.blob(model.reference, digest)
        if _has_size(path, file) and (self.by_commit or blob is None or _same(path, blob)):
            return path
        return blob if blob is not None and _has_size(blob, file) else None

    def settle(self, model: Model, file: File) -> bool:
        """Have the file in the snapshot, if its content is here; it is looked for wherever it may be.

        Raises:
            OSError: the cache cannot be written.
        """
        found = self.complete(model, file)
        target = self.snapshot(model) / file.path
        if found == target:
            return True
        if found is None:
            found = next((path for path in self.elsewhere(model, file) if _is(path, file)), None)
            if found is None:
                return False
            digest = file.sha256 or file.git_sha1
            blob = self.blob(model.reference, digest) if digest else None
            if blob is None or not _hard_link(found, blob):
                return found == target
            found = blob
        self.publish(found, model, file)
        return True

    def elsewhere(self, model: Model, file: File) -> Iterator[Path]:
        """Where the file may lie besides, not yet checked."""
        if not self.by_commit:
            yield self.snapshot(model) / file.path

    def publish(self, blob: Path, model: Model, file: File) -> None:
        """Show a content in the snapshot, in the place of what may be there.

        Raises:
            OSError: the cache cannot be written.
        """
        target = self.snapshot(model) / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        made = target.parent / f".{uuid.uuid4().hex}{INCOMPLETE}"
        try:
            if self.by_commit:
                made.symlink_to(os.path.relpath(blob, target.parent))
            else:
                made.hardlink_to(blob)
        except OSError:  # a file system without links
            blob.replace(target)
            return
        made.replace(target)
        made.unlink(missing_ok=True)  # which is still there where both were the same file already

    def resolve(self, reference: Reference) -> Model | None:
        """The model as far as it is in the cache, or `None` where nothing of this revision is."""
        commit = self._commit(reference)
        if self.by_commit and commit is None:
            return None
        model = Model(reference=reference, files=(), commit=commit)
        files = tuple(self._files(model))
        return Model(reference=reference, files=files, commit=commit) if files else None

    def remember(self, model: Model) -> None:
        """Write down the commit of the revision, so that it is found offline, as Hugging Face's client does.

        Raises:
            OSError: the cache cannot be written.
        """
        path, commit = self._ref(model.reference), model.commit
        if commit is None or model.reference.revision == commit or _text(path) == commit:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        # Process ids are not unique where containers share a cache.
        unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
        unfinished.write_text(commit)
        unfinished.replace(path)

    def _revision(self, reference: Reference) -> str:
        return checked_path(reference.revision or self.default_revision, of="The reference")

    def _ref(self, reference: Reference) -> Path:
        return self.repository(reference) / "refs" / self._revision(reference)

    def _commit(self, reference: Reference) -> str | None:
        if reference.revision is not None and COMMIT.fullmatch(reference.revision):
            return reference.revision
        commit = _text(self._ref(reference))
        return commit if COMMIT.fullmatch(commit) else None

    def _files(self, model: Model) -> Iterator[File]:
        """Add the hashes that the cache knows: the name of a blob is its hash."""
        root, blobs = self.snapshot(model), self.repository(model.reference) / "blobs"
        names = {} if self.by_commit else {path.stat().st_ino: path.name for path in _listed(blobs)}
        for file in files_in(root):
            path = root / file.path
            name = path.resolve().name if self.by_commit else names.get(path.stat().st_ino, "")
            sha256, sha1 = (name if known.fullmatch(name) else None for known in (SHA256, SHA1))
            yield File(file.path, file.size_bytes, sha256, sha1)


def files_in(folder: Path) -> Iterator[File]:
    """All that lies in a folder and is whole."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.endswith(INCOMPLETE):
            yield File(path.relative_to(folder).as_posix(), path.stat().st_size)


def digest_of(file: File) -> hashlib._Hash:
    """What will be the file's hash once all its bytes went in: of the kind that the hub tells."""
    if file.sha256 is not None:
        return hashlib.sha256()
    return hashlib.sha1(f"blob {file.size_bytes}\0".encode(), usedforsecurity=False)


def _is(path: Path, file: File) -> bool:
    """Whether a file is the one that was listed: its size, and its hash (at 2 GB/s on one core of 2024)."""
    expected = file.sha256 or file.git_sha1
    if not _has_size(path, file):
        return False
    if expected is None:
        return True
    digest = digest_of(file)
    with path.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == expected


def _has_size(path: Path, file: File) -> bool:
    try:
        return path.is_file() and path.stat().st_size == file.size_bytes
    except OSError:
        return False


def _same(path: Path, blob: Path) -> bool:
    return blob.exists() and path.samefile(blob)


def _hard_link(path: Path, blob: Path) -> bool:
    blob.parent.mkdir(parents=True, exist_ok=True)
    try:
        blob.unlink(missing_ok=True)
        blob.hardlink_to(path.resolve())
    except OSError:  # a file system without links, or another one
        return False
    return True


def _listed(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _text(path: Path) -> str:
    return path.read_text(errors="replace").strip() if path.is_file() else ""

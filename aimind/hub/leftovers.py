"""What downloads that were broken off have left in the caches, and how it is removed.

Nothing of a download that runs is taken: the hubs' tools, and aimind, hold a lock as long as they write.
Hugging Face names the lock after the content (`.locks/models--owner--name/HASH.lock`), so that it can be held
while its first part is removed. ModelScope's are named after a hash of the path (`.lock/*.lock`), which
cannot be turned back: while any of them is held, nothing of that cache is taken.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from aimind.errors import AimindError
from aimind.hub import REMOTE, places
from aimind.types import Leftover, Reference, Source

# What has no lock of its own is left alone for so long: whoever makes such a file is done with it at once.
QUIET_SECONDS = 3600.0
# Hugging Face's client, until 0.16, wrote into its cache itself; ModelScope's beside the files.
_OLD_FILE = re.compile(r"tmp[a-z0-9_]{8}")
_OLD_FOLDER = "._____temp"
# A link that is being made, ours and that of Hugging Face's client.
_LINK = re.compile(r"\.[0-9a-f]{32}\.incomplete")
_SHARED_LINK = re.compile(r"\..+\.[0-9a-f]{8}\.shared")


def kind(source: Source, where: Path, path: Path) -> Literal["half", "short"] | None:
    """What a file in a repository's folder is, by its name, if it is none of the repository's.

    `half`: the first part of a file, with which the next download goes on; `short`: there for an instant.
    """
    name, top = path.name, path.relative_to(where).parts[0]
    if top == "blobs":
        return "half" if name.endswith(".incomplete") else "short" if _SHARED_LINK.fullmatch(name) else None
    if top in ("refs", "trees"):
        return "short" if name.endswith(".tmp") else None
    if _LINK.fullmatch(name):
        return "short"
    if source == "modelscope":
        return "half" if name.endswith(".incomplete") else "short" if name.endswith(".parallel_tmp") else None
    return None


def find() -> tuple[Leftover, ...]:
    """All that is there."""
    return tuple(leftover for leftover, _ in _found())


def prune() -> tuple[Leftover, ...]:
    """Remove what no download that runs may want; what was removed.

    Raises:
        AimindError: something cannot be removed.
    """
    removed = []
    for leftover, lock in _found():
        if leftover.busy:
            continue
        with _holding(lock) as ours:
            if ours:
                _remove(Path(leftover.path))
                removed.append(leftover)
    return tuple(removed)


def is_busy(reference: Reference) -> bool:
    """Whether another program is downloading of this repository; of ModelScope's, of any."""
    return any(map(is_held, places.locks(reference.source, reference)))


def is_held(lock: Path) -> bool:
    """Whether another program holds this lock."""
    with _holding(lock if lock.exists() else None) as ours:
        return not ours


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; each content once, however many names it has."""
    found = [path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]
    sizes = {}
    for each in found:
        with contextlib.suppress(OSError):  # it has just gone
            status = each.lstat()
            if not each.is_dir() and not each.is_symlink():
                sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values())


def unshown(where: Path) -> Iterator[Path]:
    """The contents of a repository that no snapshot shows, by a link of either kind: nobody finds them."""
    shown = {key(path) for path in (where / "snapshots").rglob("*") if path.is_file()}
    for path in _listed(where / "blobs"):
        if (
            not path.is_symlink()
            and path.is_file()
            and not path.name.endswith(".incomplete")
            and key(path) not in shown
        ):
            yield path


# ── Looking ────────────────────────────────────────────────────────────────────────────────────────────────


def _found() -> Iterator[tuple[Leftover, Path | None]]:
    """Each leftover, and the lock under which it was written, if there is one of its own."""
    for source in REMOTE:
        for reference, where in places.repositories(source):
            yield from _of_repository(reference, where)
        for path in _listed(places.folder(source)):
            old = source == "huggingface" and _OLD_FILE.fullmatch(path.name) and path.is_file()
            if old or path.name == _OLD_FOLDER:
                yield _leftover(path, source, None), None


def _of_repository(reference: Reference, where: Path) -> Iterator[tuple[Leftover, Path | None]]:
    unseen = set(unshown(where))
    for folder, folders, names in os.walk(where):
        at = Path(folder)
        for name in [each for each in folders if each == _OLD_FOLDER]:
            folders.remove(name)
            yield _leftover(at / name, reference.source, reference), None
        for name in sorted(names):
            path = at / name
            lock = _lock_of(reference, where, path)
            what = kind(reference.source, where, path)
            if what == "half":
                yield _leftover(path, reference.source, reference, half=True, lock=lock), lock
            elif what == "short":
                yield _leftover(path, reference.source, reference), None
            elif path in unseen:
                yield _leftover(path, reference.source, reference, lock=lock), lock


def _leftover(
    path: Path, source: Source, reference: Reference | None, *, half: bool = False, lock: Path | None = None
) -> Leftover:
    """`lock`: that of this very file; otherwise all count."""
    young = lock is None and not half and time.time() - _changed(path) < QUIET_SECONDS
    busy = young or any(map(is_held, [lock] if lock is not None else places.locks(source, reference)))
    return Leftover(path=str(path), size_bytes=size_of(path), half=half, busy=busy, reference=reference)


def key(path: Path) -> tuple[int, int]:
    """What is the same for all names of one content."""
    found = path.stat()
    return found.st_dev, found.st_ino


def _changed(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return time.time()


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


# ── Locks ──────────────────────────────────────────────────────────────────────────────────────────────────


def _lock_of(reference: Reference, where: Path, path: Path) -> Path | None:
    """The lock of a content of Hugging Face: of `HASH`, `HASH.incomplete` and `HASH.12345678.incomplete`."""
    if reference.source != "huggingface" or path.parent != where / "blobs":
        return None
    return where.parent / ".locks" / where.name / f"{path.name.partition('.')[0]}.lock"


@contextlib.contextmanager
def _holding(path: Path | None) -> Iterator[bool]:
    """Hold a lock for the block; `False` where somebody else has it, or it cannot be had."""
    if path is None:
        yield True
        return
    from filelock import FileLock, Timeout

    lock = FileLock(path, mode=0o664)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except (Timeout, OSError, NotImplementedError):  # the last two: a disk without locks, or not ours
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise unremovable(path, error) from error


def unremovable(path: Path, error: OSError) -> AimindError:
    """The error for a path that cannot be removed."""
    return AimindError(
        f"{path} cannot be removed: {error.strerror or error}",
        hint="Check the permissions of the cache, and whether its disk can be written.",
    )

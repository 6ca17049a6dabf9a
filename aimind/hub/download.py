"""Downloads into a hub's cache: over several connections, going on where an earlier one ended, and checked.

Each file has a connection of its own, and large ones have those that no file needs (`transfer.py`). The
first part of a content is kept in its `.incomplete` file, also when this program is killed; the next one
asks for the rest. What has the wrong size or hash is thrown away, and fetched once more.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from aimind.errors import DoesNotFitError, HubError
from aimind.hub.base import Progress, same_on_this_disk
from aimind.hub.cache import INCOMPLETE, digest_of
from aimind.hub.http import Remote, failures
from aimind.hub.parallel import in_parallel
from aimind.hub.transfer import CONNECTIONS, Sink, StoppedError, Transfer
from aimind.types import File, Model

if TYPE_CHECKING:
    from aimind.hub.remote import RemoteHub

# Configurations and tokenizers are fetched before the weights: where the weights are, all is there.
SMALL_BYTES = 16 << 20
# Before each try that follows one which brought nothing.
WAITS_SECONDS = (0.5, 1.0, 2.0, 4.0)
# Left on the disk, for everybody else.
RESERVE_BYTES = 256 << 20
_BLOCK_BYTES = 1 << 20
_LOCK_POLL_SECONDS = 0.1
_IDLE_SECONDS = 0.05


@dataclass(frozen=True)
class How:
    """Patience, which files are fetched first, and what a further connection for one file fetches at once."""

    waits_seconds: Sequence[float]
    small_bytes: int
    chunk_bytes: int


def download(hub: RemoteHub, model: Model, missing: Sequence[File], progress: Progress, how: How) -> None:
    """Bring these files into the cache: the small ones first, then the weights.

    Raises:
        HubError: a download failed, or brought something else.
        DoesNotFitError: the disk is too full; nothing was downloaded.
        OSError: the cache cannot be written.
    """
    _check_names(hub, missing)
    contents: dict[Path, list[File]] = {}  # several files may have one
    for file in missing:
        contents.setdefault(_unfinished(hub, model, file), []).append(file)
    to_come = (
        files[0].size_bytes - min(_size(begun), files[0].size_bytes) for begun, files in contents.items()
    )
    _check_space(hub, model, sum(to_come))
    job = _Job(hub, model, progress, how)

    progress.start({file.path: file.size_bytes for file in missing})
    try:
        small = [files for files in contents.values() if files[0].size_bytes <= how.small_bytes]
        large = [files for files in contents.values() if files[0].size_bytes > how.small_bytes]
        in_parallel(job.fetch, small, job.stop, limit=CONNECTIONS)
        job.fetch_large(large)
    finally:
        progress.finish()


@dataclass
class _Job:
    """All files of one download."""

    hub: RemoteHub
    model: Model
    progress: Progress
    how: How
    stop: threading.Event = field(default_factory=threading.Event)
    transfers: list[Transfer] = field(default_factory=list)

    def fetch(self, files: Sequence[File]) -> None:
        """Fetch these, which have one content."""
        for file in files:
            _Download(self, file).run()

    def fetch_large(self, contents: Sequence[Sequence[File]]) -> None:
        """Fetch each, one thread for one; threads that have none help where the most is left."""
        is_worth_help = any(files[0].size_bytes >= 2 * self.how.chunk_bytes for files in contents)
        if not is_worth_help:
            in_parallel(self.fetch, contents, self.stop, limit=CONNECTIONS)
            return
        waiting = list(reversed(contents))
        finished: list[Sequence[File]] = []

        def work(_number: int) -> None:
            while not self.stop.is_set() and len(finished) < len(contents):
                try:
                    files = waiting.pop()
                except IndexError:
                    if not self._help():
                        self.stop.wait(_IDLE_SECONDS)
                    continue
                self.fetch(files)
                finished.append(files)

        in_parallel(work, range(CONNECTIONS), self.stop, limit=CONNECTIONS)

    def _help(self) -> bool:
        by_size = sorted(self.transfers, key=lambda each: each.left_bytes, reverse=True)
        return any(transfer.help() for transfer in by_size)


class _Download:
    """The download of one file."""

    def __init__(self, job: _Job, file: File) -> None:
        self._hub, self._model, self._file = job.hub, job.model, file
        self._progress, self._stop, self._job = job.progress, job.stop, job
        self._unfinished = _unfinished(job.hub, job.model, file)
        self._told_bytes = 0
        self._digest = digest_of(file)

    def run(self) -> None:
        with contextlib.ExitStack() as held:
            for lock in self._hub.cache.locks(self._model, self._file):
                held.enter_context(_locked(lock, self._stop, lambda: self._progress.wait(self._file.path)))
            if self._hub.cache.settle(self._model, self._file):
                self._tell(self._file.size_bytes)
                return
            try:
                self._bring()
            except failures() as error:
                raise self._hub.explain(error, self._model.reference) from error

    def _bring(self) -> None:
        remote = self._hub.remote(self._model, self._file)
        for last in (False, True):
            self._resume()
            self._receive_all(remote)
            wrong = self._wrong()
            if wrong is None:
                break
            self._unfinished.unlink(missing_ok=True)
            if last:
                raise HubError(
                    f"{self._file.path} of {self._model.reference.name} was received with {wrong}",
                    hint="Try again; if that fails too, the hub or a proxy in between is broken.",
                )
        self._unfinished.touch()  # where there was nothing to fetch
        blob = self._hub.cache.blob(self._model.reference, self._digest.hexdigest())
        self._unfinished.replace(blob)
        self._hub.cache.publish(blob, self._model, self._file)

    def _resume(self) -> None:
        """Have what is there already in the hash."""
        self._digest = digest_of(self._file)
        self._unfinished.parent.mkdir(parents=True, exist_ok=True)
        if _size(self._unfinished) > self._file.size_bytes or not self._has_hash:
            self._unfinished.unlink(missing_ok=True)
        if self._unfinished.exists():
            with self._unfinished.open("rb") as content:
                while block := content.read(_BLOCK_BYTES):
                    self._digest.update(block)
        self._tell(_size(self._unfinished))

    def _receive_all(self, remote: Remote) -> None:
        """Append what is missing, by as many connections as there are to help."""
        with self._unfinished.open("ab", buffering=0) as content:

            def write(piece: bytes) -> None:
                _write(content, piece)
                self._digest.update(piece)

            transfer = Transfer(
                remote,
                self._file,
                start=_size(self._unfinished),
                sink=Sink(write, self._advance, self._stop),
                chunk_bytes=self._job.how.chunk_bytes,
            )
            self._job.transfers.append(transfer)
            try:
                transfer.run(self._job.how.waits_seconds)
            finally:
                self._job.transfers.remove(transfer)

    def _wrong(self) -> str | None:
        expected = self._file.sha256 or self._file.git_sha1
        digest = self._digest.hexdigest()
        if expected in {None, digest}:
            return None
        return f"the {'sha256' if self._file.sha256 else 'Git sha1'} {digest} instead of {expected}"

    @property
    def _has_hash(self) -> bool:
        return (self._file.sha256 or self._file.git_sha1) is not None

    def _tell(self, here_bytes: int) -> None:
        self._advance(here_bytes - self._told_bytes)

    def _advance(self, count_bytes: int) -> None:
        self._told_bytes += count_bytes
        self._progress.advance(self._file.path, count_bytes)


def _unfinished(hub: RemoteHub, model: Model, file: File) -> Path:
    """Where the first part of the content is; of one without a hash, under the name of the file."""
    name = file.sha256 or file.git_sha1 or f"{file.path.replace('/', '--')[-200:]}"
    return hub.cache.blob(model.reference, name + INCOMPLETE)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _write(content: object, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[content.write(view) :]  # type: ignore[attr-defined]  # a disk that fills up takes a part


@contextlib.contextmanager
def _locked(path: Path, stop: threading.Event, wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock that the hub's own tools respect; `wait` is told once, where another program has it."""
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, mode=0o664)
    told = False
    while True:
        try:
            lock.acquire(timeout=_LOCK_POLL_SECONDS if told else 0)
            break
        except Timeout:
            if not told:
                wait()
            told = True
            if stop.is_set():
                raise StoppedError from None
    try:
        yield
    finally:
        lock.release()


def _check_names(hub: RemoteHub, files: Sequence[File]) -> None:
    """Find out whether this disk can tell the names apart.

    Raises:
        HubError: it cannot.
    """
    same = same_on_this_disk(files)
    if same is None:
        return
    folder = _existing(hub.cache.folder())
    if folder.with_name(folder.name.swapcase()).exists():
        raise HubError(
            f"the disk of {folder} cannot store both {same[0]} and {same[1]}, which differ only in case",
            hint=f"Set {hub.site().home_variable} to a folder on a case-sensitive disk.",
        )


def _check_space(hub: RemoteHub, model: Model, needed_bytes: int) -> None:
    folder = _existing(hub.cache.folder())
    free = shutil.disk_usage(folder).free - RESERVE_BYTES
    if needed_bytes and needed_bytes > free:
        raise DoesNotFitError(
            f"{model.reference.name} needs {needed_bytes / 2**30:.1f} GiB more of disk, "
            f"but {folder} has only {max(free, 0) / 2**30:.1f} GiB to spare",
            hint=f"Make room, or set {hub.site().home_variable} to a folder on a larger disk.",
        )


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder

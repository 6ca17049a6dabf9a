"""Downloads from Hugging Face into its cache, several files at once, checked when they are here."""

from __future__ import annotations

import hashlib
import queue
import shutil
import threading
from collections.abc import Callable, Sequence

from aimind.errors import DoesNotFitError, HubError
from aimind.hub import cache
from aimind.hub.base import Progress
from aimind.hub.failures import explainer
from aimind.types import File, Model

PARALLEL_DOWNLOADS = 8
# Configurations and tokenizers are fetched before the weights: where the weights are, all is there.
SMALL_BYTES = 16 << 20
# Left on the disk, for everybody else.
RESERVE_BYTES = 256 << 20
# For the other downloads to stop and tidy up, once one has failed or the user gave up.
GRACE_SECONDS = 1.0


class _StoppedError(Exception):
    """Another file failed, or the user gave up: this download ends too."""


def download(model: Model, missing: Sequence[File], progress: Progress) -> None:
    """Bring these files into the cache: the small ones first, then the weights.

    What was downloaded is checked against its size and sha256 (at 2 GB/s on one core of a server of 2024),
    and taken out again if it is wrong.

    Raises:
        HubError: a download failed, or brought something else.
        DoesNotFitError: the disk is too full; nothing was downloaded.
    """
    absent = {file for file in missing if cache.complete(model, file) is None}
    total = sum(file.size_bytes for file in absent)
    _check_space(model, total)
    stop = threading.Event()

    def fetch(file: File) -> None:
        damaged = file in absent and any(path.exists() for path in cache.places(model, file))
        _download_one(model, file, _bar(file.path, progress, stop), force=damaged)
        if file in absent:
            _verify(model, file)

    progress.start(total, len(absent))
    try:
        small = [file for file in missing if file.size_bytes <= SMALL_BYTES]
        large = [file for file in missing if file.size_bytes > SMALL_BYTES]
        for files in (small, large):
            _in_parallel(fetch, files, stop)
    finally:
        progress.finish()


def _download_one(model: Model, file: File, bar: type, *, force: bool) -> None:
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(
            model.reference.name,
            file.path,
            revision=model.commit,
            cache_dir=cache.folder(),
            endpoint=cache.endpoint(),
            force_download=force,
            tqdm_class=bar,
        )
    except _StoppedError:
        raise
    except Exception as error:  # also those of hf_xet, which have no base of their own
        raise explainer(model.reference)(error) from error


def _verify(model: Model, file: File) -> None:
    """Check what was downloaded; what is wrong is taken out of the cache again."""
    path = cache.snapshot(model) / file.path
    size = path.stat().st_size
    wrong = "" if size == file.size_bytes else f"{size:,} bytes instead of {file.size_bytes:,}"
    if not wrong and file.sha256 is not None:
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        wrong = "" if digest == file.sha256 else f"the sha256 {digest} instead of {file.sha256}"
    if wrong:
        if path.is_symlink():
            (path.parent / path.readlink()).unlink(missing_ok=True)
        path.unlink()
        raise HubError(
            f"{file.path} of {model.reference.name} arrived with {wrong}",
            hint="Try again; if it stays so, the hub or a proxy on the way is broken.",
        )


def _in_parallel(work: Callable[[File], None], files: Sequence[File], stop: threading.Event) -> None:
    """Do the work for each file, several at once; the first failure ends the others.

    In daemon threads, not in an executor: that would keep an interrupted program until all are done.
    """
    waiting: queue.SimpleQueue[File] = queue.SimpleQueue()
    for file in files:
        waiting.put(file)
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    threads = [
        threading.Thread(target=lambda: ended.put(_failure(work, waiting, stop)), daemon=True)
        for _ in range(min(PARALLEL_DOWNLOADS, len(files)))
    ]
    try:
        for thread in threads:
            thread.start()
        failure = next(filter(None, (ended.get() for _ in threads)), None)
    except BaseException as interruption:  # noqa: BLE001 - raised below
        failure = interruption
    if failure is not None:
        stop.set()
        for thread in threads:
            thread.join(GRACE_SECONDS)
        raise failure


def _failure(
    work: Callable[[File], None], waiting: queue.SimpleQueue[File], stop: threading.Event
) -> BaseException | None:
    """Do the work for the files that wait, until there are none; what went wrong."""
    try:
        while not stop.is_set():
            work(waiting.get_nowait())
    except queue.Empty:
        return None
    except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
        return error
    return None


def _bar(path: str, progress: Progress, stop: threading.Event) -> type:
    """The client's idea of a progress bar (tqdm), that passes on what it is told."""

    class Bar:
        def __init__(self, *args: object, **options: object) -> None:
            """Nothing to draw."""

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *args: object) -> None:
            """Nothing to tidy."""

        def update(self, count: float | None = 1) -> None:
            if stop.is_set():
                raise _StoppedError
            progress.advance(path, int(count or 0))

        def update_transfer(self, count: float | None = 1) -> None:
            """Bytes on the wire, of a compressed transfer: `update` tells those of the file."""

        def set_postfix_str(self, *args: object, **options: object) -> None:
            """The speed is told by who draws."""

        set_transfer_postfix_str = set_postfix_str

        def close(self) -> None:
            """Nothing to tidy."""

    return Bar


def _check_space(model: Model, needed_bytes: int) -> None:
    folder = cache.folder()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free - RESERVE_BYTES
    if needed_bytes and needed_bytes > free:
        raise DoesNotFitError(
            f"{model.reference.name} needs {needed_bytes / 2**30:.1f} GiB more of disk, "
            f"but {folder} has only {max(free, 0) / 2**30:.1f} GiB to spare",
            hint="Make room, or set HF_HOME to a folder on a larger disk.",
        )

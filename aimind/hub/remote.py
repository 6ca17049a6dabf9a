"""What every hub does alike; what differs (addresses, answers, words) is in one class for each.

The commit that a reference resolved to is read and fetched from then on, whatever is pushed in between.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from aimind import files
from aimind.errors import AimindError, HubError, ModelNotFoundError, UnsupportedError
from aimind.hub.base import Progress, checked_files, checked_path, is_offline
from aimind.hub.cache import SHA1, SHA256, Cache
from aimind.hub.failures import Site, explain, is_unreachable, retried
from aimind.hub.http import Facts, NonsenseError, RefusedError, Remote, Why, failures
from aimind.hub.local import FileReader
from aimind.hub.parallel import in_parallel
from aimind.types import File, Model, Reader, Reference

if TYPE_CHECKING:
    import httpx2

# The time to ask the other hub for a model, while an error waits to be shown.
GLANCE_SECONDS = 3.0
# Converts most models that are much used, under their own names.
CONVERTER = "unsloth"
# What its name ends in where a repository has the same model in other weights than the first ones.
QUANTIZED = re.compile(r"(?i)(-(FP8|NVFP4|MXFP4|AWQ|GPTQ|INT[48]|BNB-4BIT|W\d+A\d+|DYNAMIC))+$")

# Limits for files whose size is not listed: how many are asked for at once, and in all.
UNMEASURED = -1
PARALLEL_QUESTIONS = 8
MOST_UNMEASURED = 3000
# Beside weights that are not GGUF there is always one of these.
_DESCRIPTIONS = (".json", ".yaml", ".yml")

_log = logging.getLogger(__name__)


class RemoteHub:
    """A hub, with the verbs of `aimind.hub`."""

    title = ""
    prefix = ""
    cache: Cache
    _made_up: dict[
        str, str
    ]  # names of contents of which no commit is known, and the revision that they are of
    _is_away = False  # it did not answer: what can be done without is not asked

    def __init__(self) -> None:
        self._made_up = {}

    # ── What differs ────────────────────────────────────────────────────────────────────────────────────────

    def site(self) -> Site:
        """The hub as sentences name it."""
        raise NotImplementedError

    def secrets(self) -> Mapping[str, str]:
        """The headers that carry the user's token, if there is one."""
        raise NotImplementedError

    def repository_url(self, name: str) -> str:
        """What answers, if there is this repository."""
        raise NotImplementedError

    def list_url(self, reference: Reference) -> str:
        """What answers with all files of this revision."""
        raise NotImplementedError

    def file_url(self, model: Model, file: File) -> str:
        """What answers with the content of a file."""
        raise NotImplementedError

    def listed(self, reference: Reference, answer: object) -> Model:
        """The model in the answer from `list_url`; raises anything where that is not as it should be."""
        raise NotImplementedError

    def why(self, response: httpx2.Response, body: bytes) -> Why:
        """What a refusal means."""
        raise NotImplementedError

    # ── What does not ───────────────────────────────────────────────────────────────────────────────────────

    def resolve(self, reference: Reference, *, waits: Sequence[float] | None = None) -> Model:
        """The repository's commit and files, with one request; from the cache when there is no network.

        Raises:
            ModelNotFoundError: no such repository or revision.
            HubError: unreachable, refused, or an answer that makes no sense.
        """
        self._is_away = False
        if is_offline():
            return self._resolve_offline(reference)
        try:
            return retried(lambda: self._ask(reference), lambda error: self.explain(error, reference), waits)
        except HubError as error:
            if not is_unreachable(error.__cause__):
                raise
            cached = self.cache.resolve(reference)
            if cached is None:
                raise
            if not _can_be_served(cached):
                hint = f"{error.hint} The cache has only some files of {reference.name}."
                raise HubError(error.message, hint=hint) from error.__cause__
            self._is_away = True
            _log.warning("%s: using what the cache has of %s", error.message, reference.name)
            return cached

    def open_file(self, model: Model, file: File, *, waits: Sequence[float] | None = None) -> Reader:
        """Random access to one file: from the cache where it is complete, else by ranges over the network."""
        from aimind.hub.ranges import RangeReader

        path = self.cache.complete(model, file)
        if path is not None:
            return FileReader(path)
        if is_offline():
            raise _offline(model.reference)

        def explain(error: Exception) -> AimindError:
            return self.explain(error, model.reference)

        return RangeReader(self.remote(model, file), file.size_bytes, explain=explain, waits=waits)

    def fetch(
        self,
        model: Model,
        progress: Progress,
        *,
        waits: Sequence[float] | None,
        small_bytes: int | None,
        chunk_bytes: int | None,
    ) -> Path:
        """Download what is missing of the model's files; the folder that then holds them all."""
        from aimind.hub import download
        from aimind.hub.transfer import CHUNK_BYTES

        folder = self.cache.snapshot(model)
        missing = [file for file in model.files if self.cache.complete(model, file) != folder / file.path]
        try:
            missing = [file for file in missing if not self.cache.settle(model, file)]
            if missing and is_offline():
                raise _offline(model.reference)
            if missing:
                how = download.How(
                    waits_seconds=download.WAITS_SECONDS if waits is None else waits,
                    small_bytes=download.SMALL_BYTES if small_bytes is None else small_bytes,
                    chunk_bytes=CHUNK_BYTES if chunk_bytes is None else chunk_bytes,
                )
                download.download(self, model, missing, progress, how)
            _try_to_remember(self.cache, model, must=bool(missing))
        except OSError as error:
            raise self.explain(error, model.reference) from error
        return folder

    def has(self, name: str) -> bool:
        """Whether this hub has a public repository of this name; `False` where that cannot be told soon."""
        remote = Remote(self.repository_url(name), name, {}, self.why)
        try:
            remote.read_json(timeout=GLANCE_SECONDS)
        except failures():
            return False
        return True

    def in_gguf(self, reference: Reference) -> Reference | None:
        """A repository with GGUF files of this model, by its usual names: two requests at most.

        It is a courtesy: where the hub is slow, refuses or cannot be reached there is none.
        """
        if is_offline() or self._is_away:
            return None
        name = QUANTIZED.sub("", reference.name)
        expected: tuple[type[Exception], ...] = (AimindError, *failures())
        for other in dict.fromkeys((f"{name}-GGUF", f"{CONVERTER}/{name.rpartition('/')[2]}-GGUF")):
            candidate = Reference(source=reference.source, name=other)
            try:
                found = self._ask(candidate, timeout=GLANCE_SECONDS, measure=False)
            except RefusedError as refusal:
                if refusal.status not in (401, 403, 404):  # it is not there, or not for us
                    return None
            except expected:
                return None
            else:
                if any(file.is_gguf for file in found.files):
                    return candidate
        return None

    def remote(self, model: Model, file: File) -> Remote:
        """A file on this hub."""
        return Remote(self.file_url(model, file), file.path, self.secrets(), self.why)

    def explain(self, error: Exception, reference: Reference) -> AimindError:
        """The error to show for what went wrong with a repository."""
        return explain(error, reference, self.site())

    def _ask(self, reference: Reference, *, timeout: float | None = None, measure: bool = True) -> Model:
        """The model as the hub lists it; `measure`: with the sizes and the commit that a list may lack."""
        remote = Remote(self.list_url(reference), "the list of its files", self.secrets(), self.why)
        answer = remote.read_json(timeout=timeout)
        try:
            model = self.listed(reference, answer)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise NonsenseError("answered with an invalid list of files") from error
        checked_files(model.files, of=reference.name)
        return self._measured(model) if measure else model

    def _measured(self, model: Model) -> Model:
        """Add what mirrors leave out of their lists, from the headers of the files themselves.

        What is listed and not there is left out. A cache by commits gets a name made of the contents where no
        commit is known.
        """
        unknown = [file for file in model.files if file.size_bytes == UNMEASURED]
        wants_commit = self.cache.by_commit and model.commit is None
        if wants_commit and not model.files:
            raise NonsenseError("answered with an invalid list of files")
        if wants_commit and not unknown:
            unknown = list(model.files[:1])
        if not unknown:
            return model
        if len(unknown) > MOST_UNMEASURED:
            raise NonsenseError(f"lists {len(unknown):,} files without their sizes")
        found: dict[str, Facts | None] = {}

        def ask(file: File) -> None:
            found[file.path] = self._facts(model, file)

        in_parallel(ask, unknown, threading.Event(), limit=PARALLEL_QUESTIONS)
        measured = [self._with_facts(model, file, found) for file in model.files]
        listed = [file for file in measured if file is not None]
        commits = {facts.commit for facts in found.values() if facts is not None and facts.commit is not None}
        commit = model.commit or (commits.pop() if len(commits) == 1 else None)
        if wants_commit and commit is None:
            commit = self._made_up_commit(model.reference, listed)
        return replace(model, commit=commit, files=tuple(listed))

    def _with_facts(self, model: Model, file: File, found: Mapping[str, Facts | None]) -> File | None:
        """The file with its size; `None` where it is not there."""
        if file.size_bytes != UNMEASURED:
            return file
        facts = found[file.path]
        if facts is None:
            _log.warning("%s lists %s of %s, which is not there", self.title, file.path, model.reference.name)
            return None
        if facts.size_bytes is None:
            raise NonsenseError(f"does not report the size of {file.path}")
        sha256 = facts.sha256 or file.sha256
        sha1 = None if sha256 else facts.git_sha1 or file.git_sha1
        return File(file.path, facts.size_bytes, sha256, sha1)

    def _facts(self, model: Model, file: File) -> Facts | None:
        try:
            return self.remote(model, file).facts()
        except RefusedError as refusal:
            if refusal.why == "file" or refusal.status == 404:
                return None
            raise

    def _made_up_commit(self, reference: Reference, listed: Sequence[File]) -> str:
        """A name for these contents where the hub names no commit; files are then fetched of the revision."""
        contents = [[file.path, file.size_bytes, file.sha256, file.git_sha1] for file in listed]
        digest = hashlib.sha1(json.dumps(contents).encode(), usedforsecurity=False).hexdigest()
        self._made_up[digest] = reference.revision or self.cache.default_revision
        return digest

    def _resolve_offline(self, reference: Reference) -> Model:
        model = self.cache.resolve(reference)
        if model is None or not _can_be_served(model):
            raise _offline(reference)
        return model


def _can_be_served(cached: Model) -> bool:
    """Whether the cache has all that the reference asks for, as far as names of files say that.

    A download that was broken off, or of another quantization, must not be taken for the whole repository.
    """
    try:
        candidates = files.candidates(cached)
    except (ModelNotFoundError, UnsupportedError):
        return False
    found = candidates[0].files
    return any(file.is_gguf for file in found) or any(
        file.path.endswith(_DESCRIPTIONS) for file in cached.files
    )


def checked_file(
    reference: Reference, path: object, size: object, sha256: object, sha1: object = None
) -> File:
    """A file as a hub lists it, once all of it is known to be safe; without a size it is `UNMEASURED`.

    Raises:
        ValueError: a size or a hash that is none.
        HubError: an unsafe name.
    """
    if size is None:
        size = UNMEASURED
    elif not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ValueError(size)
    for known, told in ((SHA256, sha256), (SHA1, sha1)):
        if told is not None and not (isinstance(told, str) and known.fullmatch(told)):
            raise ValueError(told)
    return File(checked_path(path, of=reference.name), size, sha256, sha1)  # type: ignore[arg-type]  # checked


def _try_to_remember(cache: Cache, model: Model, *, must: bool) -> None:
    try:
        cache.remember(model)
    except OSError:
        if must:  # a cache that was only read may well be read-only
            raise


def _offline(reference: Reference) -> HubError:
    return HubError(
        f"{reference.name} is not complete in the cache, and aimind is offline",
        hint="Run it once without --offline and HF_HUB_OFFLINE to download it.",
    )

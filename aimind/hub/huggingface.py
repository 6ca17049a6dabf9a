"""Models on Hugging Face, by its own client and in its own cache, where other tools find them too.

`HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`, `HF_HUB_CACHE` and `HF_HUB_OFFLINE` mean what they mean there. The
commit that a reference resolved to is read and fetched from then on, whatever is pushed in between.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from aimind.errors import HubError
from aimind.hub import cache
from aimind.hub.base import Progress, checked_path
from aimind.hub.download import download
from aimind.hub.failures import explainer, is_unreachable, retried
from aimind.hub.local import FileReader
from aimind.hub.ranges import RangeReader
from aimind.types import File, Model, Reader, Reference

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo
    from huggingface_hub.hf_api import RepoSibling

TIMEOUT_SECONDS = 10.0
HINT_SECONDS = 3.0
# Converts most models that are much used, under their own names.
_CONVERTER = "unsloth"

_log = logging.getLogger(__name__)


def resolve(reference: Reference) -> Model:
    """The repository's commit and files, with one request; from the cache when there is no network.

    Raises:
        ModelNotFoundError: no such repository or revision.
        HubError: unreachable, refused, or an answer that makes no sense.
    """
    if cache.is_offline():
        return _resolve_offline(reference)
    _prepare()
    try:
        return _model(reference, retried(lambda: _info(reference), explainer(reference)))
    except HubError as error:
        cached = cache.resolve(reference) if is_unreachable(error.__cause__) else None
        if cached is None:
            raise
        _log.warning("%s: using commit %s of %s from the cache", error.message, cached.commit, reference.name)
        return cached


def open_file(model: Model, file: File) -> Reader:
    """Random access to one file: from the cache where it is complete, else by ranges over the network."""
    path = cache.complete(model, file)
    if path is not None:
        return FileReader(path)
    if cache.is_offline():
        raise _offline(model.reference)
    _prepare()
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # lazy, but public

    url = hf_hub_url(model.reference.name, file.path, revision=model.commit, endpoint=cache.endpoint())
    return RangeReader(url, file.size_bytes, headers=build_hf_headers(), explain=explainer(model.reference))


def in_gguf(name: str) -> str | None:
    """A repository with GGUF files of the model `owner/name`, by their usual names: two requests at most.

    It is a courtesy: where the hub is slow, refuses or cannot be reached there is none.
    """
    if cache.is_offline():
        return None
    _prepare()
    import httpx2
    from huggingface_hub import HfApi, errors

    hub = HfApi(endpoint=cache.endpoint())
    model = name.rpartition("/")[2]
    for candidate in dict.fromkeys((f"{name}-GGUF", f"{_CONVERTER}/{model}-GGUF")):
        try:
            found = hub.model_info(candidate, expand=["siblings"], timeout=HINT_SECONDS)
            paths = [str(sibling.rfilename).lower() for sibling in found.siblings or ()]
        except errors.HfHubHTTPError as refusal:
            if refusal.response.status_code not in (401, 403, 404):  # it is not there, or not for us
                return None
        except (
            httpx2.HTTPError,
            httpx2.InvalidURL,
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
        ):
            return None
        else:
            if any(path.endswith(".gguf") for path in paths):
                return candidate
    return None


def fetch(model: Model, progress: Progress) -> Path:
    """Download what is missing of the model's files into the cache; the folder that then holds them all.

    Raises:
        HubError: a download failed, or brought something else.
        DoesNotFitError: the disk is too full.
    """
    folder = cache.snapshot(model)
    missing = [file for file in model.files if cache.complete(model, file) != folder / file.path]
    if missing:
        if cache.is_offline():
            raise _offline(model.reference)
        _prepare()
        download(model, missing, progress)
    try:
        cache.remember(model)
    except OSError as error:
        if missing:  # a cache that was only read may well be read-only
            raise explainer(model.reference)(error) from error
    return folder


def _resolve_offline(reference: Reference) -> Model:
    model = cache.resolve(reference)
    if model is None:
        raise _offline(reference)
    return model


def _info(reference: Reference) -> ModelInfo:
    from huggingface_hub import HfApi

    try:
        return HfApi(endpoint=cache.endpoint()).model_info(
            reference.name, revision=reference.revision, files_metadata=True, timeout=TIMEOUT_SECONDS
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _nonsense(f"about {reference.name}") from error


def _model(reference: Reference, info: ModelInfo) -> Model:
    if not cache.COMMIT.fullmatch(str(info.sha)):
        raise _nonsense(f"about the commit of {reference.name}")
    files = tuple(_file(reference, sibling) for sibling in info.siblings or ())
    return Model(reference=reference, commit=str(info.sha), files=files)


def _file(reference: Reference, sibling: RepoSibling) -> File:
    path = checked_path(sibling.rfilename, of=reference.name)
    lfs = sibling.lfs
    size = lfs.size if lfs else sibling.size
    if not isinstance(size, int) or size < 0:
        raise _nonsense(f"about the size of {path} in {reference.name}")
    sha256 = lfs.sha256 if lfs else None
    if sha256 is not None and not cache.SHA256.fullmatch(str(sha256)):
        raise _nonsense(f"about the hash of {path} in {reference.name}")
    return File(path, size, sha256)


# ── The client ─────────────────────────────────────────────────────────────────────────────────────────────


def _prepare() -> None:
    """Import the client so that it makes no calls home, and no warnings beside our errors."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub.utils import logging as client_logging

    client_logging.set_verbosity(logging.ERROR)


def _offline(reference: Reference) -> HubError:
    return HubError(
        f"{reference.name} is not complete in the cache, and HF_HUB_OFFLINE forbids to fetch it",
        hint="Unset HF_HUB_OFFLINE once to download it.",
    )


def _nonsense(what: str) -> HubError:
    return HubError(
        f"{cache.endpoint()} answered something that makes no sense {what}",
        hint="Check HF_ENDPOINT, and proxies on the way.",
    )

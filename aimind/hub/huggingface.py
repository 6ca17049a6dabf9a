"""Hugging Face, with the settings and the cache of its own client, which takes long to import.

`HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HOME`, `HF_HUB_CACHE` and `HF_HUB_OFFLINE` mean what they
mean there (`constants.py` of huggingface_hub 2.4). Only who has logged in needs it, to refresh tokens.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from aimind.errors import HubError
from aimind.hub.base import checked_token
from aimind.hub.cache import COMMIT, Cache
from aimind.hub.failures import Site
from aimind.hub.http import Why
from aimind.hub.remote import RemoteHub, checked_file
from aimind.redaction import quoted
from aimind.types import TOKEN_VARIABLES, File, Model, Reference

if TYPE_CHECKING:
    import httpx2

ENDPOINT = "https://huggingface.co"
_LOGIN = "log in with `hf auth login` or set HF_TOKEN"
_ALTERNATIVE = (
    " Where Hugging Face is blocked, set HF_ENDPOINT to a mirror such as https://hf-mirror.com, or download "
    "from ModelScope, as ms:owner/name."
)
_WHY: Mapping[str, Why] = {
    "RevisionNotFound": "revision",
    "EntryNotFound": "file",
    "GatedRepo": "gated",
    "RepoNotFound": "repository",
}


class HuggingFaceCache(Cache):
    """The cache of huggingface_hub."""

    def folder(self) -> Path:
        """`HF_HUB_CACHE`, or else below `HF_HOME`."""
        found = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
        return Path(os.path.expandvars(found)).expanduser() if found else home() / "hub"

    def repository(self, reference: Reference) -> Path:
        """`models--owner--name`."""
        return self.folder() / _folder_of(reference)

    def locks(self, model: Model, file: File) -> tuple[Path, ...]:
        """Named after the content, as there."""
        name = file.sha256 or file.git_sha1 or file.path.replace("/", "--")
        return (self.folder() / ".locks" / _folder_of(model.reference) / f"{name}.lock",)


class HuggingFace(RemoteHub):
    """huggingface.co, or a mirror of it."""

    title = "Hugging Face"
    prefix = "hf:"
    cache = HuggingFaceCache()

    def site(self) -> Site:
        """The hub as sentences name it."""
        return Site(
            endpoint=_endpoint(),
            page=f"{_endpoint()}/{{}}",
            default_revision=self.cache.default_revision,
            login=_LOGIN,
            endpoint_variable="HF_ENDPOINT",
            home_variable="HF_HOME",
            alternative=_ALTERNATIVE,
        )

    def secrets(self) -> Mapping[str, str]:
        """The token of the environment, or of who has logged in."""
        found = _token()
        return {"Authorization": f"Bearer {found}"} if found else {}

    def repository_url(self, name: str) -> str:
        """A summary of it."""
        return f"{_endpoint()}/api/models/{name}"

    def list_url(self, reference: Reference) -> str:
        """The same, with sizes and hashes."""
        revision = f"/revision/{quote(reference.revision, safe='')}" if reference.revision else ""
        return f"{self.repository_url(reference.name)}{revision}?blobs=true"

    def file_url(self, model: Model, file: File) -> str:
        """The address of a file at the commit, or at the revision where the commit is unknown."""
        commit = model.commit or model.reference.revision or self.cache.default_revision
        revision = quote(self._made_up.get(commit, commit), safe="")
        return f"{_endpoint()}/{model.reference.name}/resolve/{revision}/{quote(file.path)}"

    def listed(self, reference: Reference, answer: Any) -> Model:
        """The commit is `sha`; the names are in `siblings`, with the sha256 of what is in LFS or Xet.

        Mirrors may leave out the commit, sizes and hashes.
        """
        commit = answer.get("sha")
        if commit is not None and not COMMIT.fullmatch(commit):
            raise ValueError(commit)
        files = []
        for each in answer["siblings"]:
            stored = each.get("lfs") or {}
            size = stored["size"] if stored else each.get("size")
            hashes = (stored["sha256"], None) if stored else (None, each.get("blobId"))
            files.append(checked_file(reference, each["rfilename"], size, *hashes))
        return Model(reference=reference, commit=commit, files=tuple(files))

    def why(self, response: httpx2.Response, body: bytes) -> Why:  # noqa: ARG002 - the headers say it
        """What a refusal means, by the client's rules: 401 is for private and for missing repositories."""
        why = _WHY.get(response.headers.get("X-Error-Code", ""), "other")
        wrong = response.headers.get("X-Error-Message") == "Invalid credentials in Authorization header"
        return "repository" if why == "other" and response.status_code == 401 and not wrong else why


def home() -> Path:
    """The client's folder: `HF_HOME`, or else in the user's cache."""
    found = os.environ.get("HF_HOME") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    return Path(os.path.expandvars(found)).expanduser()


def token_file() -> Path:
    """Where the client keeps the token of who has logged in."""
    return Path(os.environ.get("HF_TOKEN_PATH") or home() / "token")


def use_token(file: Path) -> None:
    """Take the token from this file."""
    os.environ["HF_TOKEN_PATH"] = str(file.absolute())
    for name in TOKEN_VARIABLES:  # the client would prefer these
        os.environ.pop(name, None)


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")


def _token() -> str | None:
    """The token for requests.

    Raises:
        HubError: it cannot be read, or no header can hold it.
    """
    if os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return None
    if not os.environ.get("HF_OIDC_RESOURCE"):
        for name in TOKEN_VARIABLES:
            if from_environment := os.environ.get(name, "").strip():
                return checked_token(from_environment, where=name, login=_LOGIN)
        if not _is_logged_in():
            return None
    return _token_of_client()


def _is_logged_in() -> bool:
    """Whether there is a file with a token, and it can be read."""
    path = token_file()
    try:
        text = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise HubError(
            f"the token in {path} cannot be read: {quoted(error)}",
            hint=f"Repair or remove that file; then {_LOGIN}.",
        ) from error
    if text:
        checked_token(text, where=str(path), login=_LOGIN)
    return bool(text)


def _token_of_client() -> str | None:
    """The token from the client, which may refresh or exchange it."""
    from huggingface_hub import get_token

    try:
        token = get_token()
    except Exception as error:
        raise HubError(
            f"Hugging Face's client has no token for us: {quoted(error)}",
            hint=f"{_LOGIN[0].upper()}{_LOGIN[1:]}.",
        ) from error
    return checked_token(token, where=str(token_file()), login=_LOGIN) if token else None


def _folder_of(reference: Reference) -> str:
    return "models--" + reference.name.replace("/", "--")

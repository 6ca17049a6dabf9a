"""ModelScope, with the settings and the cache of its own client (modelscope_hub 0.5, modelscope 1.40).

`MODELSCOPE_ENDPOINT`, `MODELSCOPE_API_TOKEN`, `MODELSCOPE_CACHE` and `MODELSCOPE_HOME` mean what they mean
there. The hub tells the sha256 of every file. It names the commit of a list by its first digits at least, and
in full with the files that this commit changed.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import pickle
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from aimind.errors import ModelNotFoundError
from aimind.hub.base import checked_path, checked_token
from aimind.hub.cache import COMMIT, Cache, files_in
from aimind.hub.failures import Site
from aimind.hub.http import RefusedError, Why
from aimind.hub.remote import RemoteHub, checked_file
from aimind.redaction import quoted
from aimind.types import File, Model, Reference

if TYPE_CHECKING:
    import httpx2

ENDPOINT = "https://modelscope.cn"
TOKEN_VARIABLE = "MODELSCOPE_API_TOKEN"
_LOGIN = f"log in with `modelscope login` or set {TOKEN_VARIABLE}"
# The hub leaves out what comes behind (`REPO_FILES_TRUNCATION_LIMIT` of modelscope_hub).
MOST_LISTED = 3000
_COOKIE = "m_session_id"

_log = logging.getLogger(__name__)


class ModelScopeCache(Cache):
    """The cache of modelscope_hub, and those that older versions left."""

    default_revision = "master"
    by_commit = False

    def folder(self) -> Path:
        """`MODELSCOPE_CACHE`, or else the user's."""
        return Path(os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope").expanduser()

    def repository(self, reference: Reference) -> Path:
        """`models/owner--name`."""
        return self.folder() / "models" / reference.name.replace("/", "--")

    def locks(self, model: Model, file: File) -> tuple[Path, ...]:
        """Named after hashes: of the path, as there (`_lock_path`), and of the content, which is ours."""
        name = model.reference.name
        keys = [("modelscope-hub-download-lock-v2", "file", "model", name, file.path)]
        if file.sha256 is not None:
            keys.append(("aimind", "blob", "model", name, file.sha256))
        digests = [hashlib.sha256("\0".join(key).encode()).hexdigest() for key in keys]
        return tuple(self.folder() / ".lock" / f"file_{digest}.lock" for digest in digests)

    def elsewhere(self, model: Model, file: File) -> Iterator[Path]:
        """Also look in the folders of older versions, which have no revisions."""
        yield from super().elsewhere(model, file)
        for folder in self._older(model.reference):
            yield folder / file.path

    def resolve(self, reference: Reference) -> Model | None:
        """Also resolve from the folder of an older version, as a local model."""
        found = super().resolve(reference)
        if found is not None or reference.revision is not None:
            return found
        for folder in self._older(reference):
            files = tuple(files_in(folder))
            if files:
                return Model(reference=reference, files=files, root=str(folder.absolute()))
        return None

    def _older(self, reference: Reference) -> Iterator[Path]:
        """`models/owner/name` with `___` for `.`, with and without `hub/`, and without `models/`."""
        owner, _, name = checked_path(reference.name, of="The reference").partition("/")
        for start in ("models", "hub/models", ".", "hub"):
            for spelled in dict.fromkeys((name.replace(".", "___"), name)):
                folder = self.folder() / start / owner / spelled
                if folder.is_dir():
                    yield folder


class ModelScope(RemoteHub):
    """modelscope.cn, or another site of it."""

    title = "ModelScope"
    prefix = "ms:"
    cache = ModelScopeCache()

    def site(self) -> Site:
        """The hub as sentences name it."""
        return Site(
            endpoint=_endpoint(),
            page=f"{_endpoint()}/models/{{}}",
            default_revision=self.cache.default_revision,
            login=_LOGIN,
            endpoint_variable="MODELSCOPE_ENDPOINT",
            home_variable="MODELSCOPE_CACHE",
        )

    def secrets(self) -> Mapping[str, str]:
        """The token as older and newer parts of the hub want it."""
        found = _token()
        return {"Authorization": f"Bearer {found}", "Cookie": f"{_COOKIE}={found}"} if found else {}

    def repository_url(self, name: str) -> str:
        """A summary of it."""
        return f"{_endpoint()}/api/v1/models/{name}"

    def list_url(self, reference: Reference) -> str:
        """Its files, those in folders, too."""
        revision = quote(reference.revision or self.cache.default_revision, safe="")
        return f"{self.repository_url(reference.name)}/repo/files?Revision={revision}&Recursive=True"

    def file_url(self, model: Model, file: File) -> str:
        """The address of a file at the commit, or at the revision where the commit is unknown."""
        revision = model.commit or model.reference.revision or self.cache.default_revision
        query = f"Revision={quote(revision, safe='')}&FilePath={quote(file.path, safe='')}"
        return f"{self.repository_url(model.reference.name)}/repo?{query}"

    def listed(self, reference: Reference, answer: Any) -> Model:
        """The names are in `Files`, folders among them."""
        if answer.get("Code", 200) != 200:  # a refusal may come with the status 200
            code = answer["Code"]
            raise RefusedError(code if code in range(400, 600) else 404, "repository")
        data = answer["Data"]
        if len(data["Files"]) >= MOST_LISTED:
            _log.warning("%s lists only the first %d files of %s", self.title, MOST_LISTED, reference.name)
        entries = [each for each in data["Files"] if each.get("Type") != "tree"]
        files = tuple(
            checked_file(
                reference, each["Path"], each.get("Size"), (each.get("Sha256") or "").lower() or None
            )
            for each in entries
        )
        return Model(reference=reference, commit=_commit(reference, data, entries), files=files)

    def why(self, response: httpx2.Response, body: bytes) -> Why:
        """What a refusal means: 403 is for gated repositories, and some refusals have a code of their own."""
        try:
            code = json.loads(body).get("Code")
        except (ValueError, AttributeError, RecursionError):
            code = None
        if code == 10010103009:  # the token is invalid or has expired
            return "other"
        if response.status_code == 404:
            return "file" if response.request.url.path.endswith("/repo") else "repository"
        known: dict[int, Why] = {401: "repository", 403: "gated"}
        return known.get(response.status_code, "other")

    def resolve(self, reference: Reference, *, waits: Sequence[float] | None = None) -> Model:
        """Resolve as other hubs do; where nothing is found, check whether only the revision is missing."""
        try:
            return super().resolve(reference, waits=waits)
        except ModelNotFoundError:
            if reference.revision is not None and self.has(reference.name):
                raise self.explain(RefusedError(404, "revision"), reference) from None
            raise


def _endpoint() -> str:
    told = os.environ.get("MODELSCOPE_ENDPOINT") or os.environ.get("MODELSCOPE_DOMAIN") or ENDPOINT
    told = told.strip().rstrip("/")
    return told if "://" in told else f"https://{told}"


def _commit(
    reference: Reference, data: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]
) -> str | None:
    """The commit of the list, where that can be told."""
    latest = data.get("LatestCommitter") or {}
    start = latest.get("Id") or latest.get("ShortId")
    told = (reference.revision, latest.get("Id"), *(each.get("Revision") for each in entries))
    for each in told:
        if (
            isinstance(each, str)
            and COMMIT.fullmatch(each)
            and (each == reference.revision or _begins(each, start))
        ):
            return each
    return None


def _begins(commit: str, start: object) -> bool:
    return isinstance(start, str) and len(start) >= 7 and commit.startswith(start)


# ── The token ──────────────────────────────────────────────────────────────────────────────────────────────


def _token() -> str | None:
    """The token for requests.

    Raises:
        HubError: no header can hold it.
    """
    from_environment = os.environ.get(TOKEN_VARIABLE)
    if from_environment is None:
        where, token = "the cookies of ModelScope's client", _token_of_who_logged_in()
    else:
        where, token = TOKEN_VARIABLE, from_environment.strip()
    return checked_token(token, where=where, login=_LOGIN) if token else None


def _token_of_who_logged_in() -> str | None:
    """Read the token from the client's cookies, unless they have expired."""
    home = Path(os.environ.get("MODELSCOPE_HOME") or "~/.modelscope").expanduser()
    try:
        jar = _Inert.read(home / "credentials" / "cookies")
        cookies = [
            cookie for paths in jar._cookies.values() for each in paths.values() for cookie in each.values()
        ]
        found = next(cookie for cookie in cookies if cookie.name == _COOKIE)
        return str(found.value) if found.expires is None or found.expires > time.time() else None
    except (OSError, StopIteration):
        return None
    except Exception as error:  # noqa: BLE001 - a damaged pickle raises anything
        _log.warning("the ModelScope client's cookies cannot be read: %s", quoted(error))
        return None


class _Inert:
    """Stands for every object of a pickle, so that nothing in it is run."""

    def __init__(self, *args: object) -> None:
        """Take what the real one would take."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    @classmethod
    def read(cls, path: Path) -> _Inert:
        class Unpickler(pickle.Unpickler):
            def find_class(self, module: str, name: str) -> type:  # noqa: ARG002 - none of them
                return cls

        found = Unpickler(io.BytesIO(path.read_bytes())).load()
        if not isinstance(found, cls):
            raise TypeError(type(found))
        return found

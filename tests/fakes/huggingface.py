"""Hugging Face's API for the fake hub, as huggingface_hub 2.4 uses it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from tests.fakes.hub import Handler, Repository


def answer(handler: Handler, rest: str) -> None:
    """Answer a request below `/api/models/`."""
    match = re.fullmatch(r"([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", rest)
    repository = match and _open(handler, unquote(match[1]), unquote(match[3] or "main"))
    if not match or repository is None:
        return handler.refuse(404, None) if not match else None
    if match[2] == "tree":
        return handler.json(
            [
                {"type": "file", "path": path, "oid": sha1, "size": size}
                | ({"lfs": {"oid": sha256, "size": size, "pointerSize": 130}} if lfs else {})
                for path, size, sha1, sha256, lfs in handler.list(repository)
            ]
        )
    listed: list[dict[str, object]] = [
        {"rfilename": path, "size": size, "blobId": sha1}
        | ({"lfs": {"sha256": sha256, "size": size, "pointerSize": 130}} if lfs else {})
        for path, size, sha1, sha256, lfs in handler.list(repository)
    ]
    name = repository.name
    siblings = handler.server.hub.siblings.get(name, listed)
    commit = {"sha": repository.commit} if handler.server.hub.names_commits else {}
    return handler.json({"id": name, "modelId": name, **commit, "private": False, "siblings": siblings})


def resolve(handler: Handler, name: str, revision: str, path: str) -> None:
    """Answer a request for a file."""
    hub = handler.server.hub
    repository = _open(handler, name, revision)
    if repository is None:
        return
    if name in hub.gated and handler.seen.authorization != f"Bearer {hub.token}":
        handler.refuse(403 if handler.seen.authorization else 401, "GatedRepo")
        return
    file = repository.files.get(path)
    headers = {"X-Repo-Commit": repository.commit} if hub.names_commits else {}
    if file is None:
        handler.refuse(404, "EntryNotFound", headers)
        return
    sha1, sha256 = hub.hashes(file)
    if not handler.is_large(path):
        handler.file(file, headers | {"ETag": f'"{sha1}"'})
        return
    size = str(file.stat().st_size)
    headers |= {"X-Linked-Size": size, "X-Linked-Etag": f'"{sha256}"', "Location": handler.cdn(file)}
    handler.send(302, b"", headers)


def _open(handler: Handler, name: str, revision: str) -> Repository | None:
    """The repository, or `None` once it was refused; a private one as if it were not there."""
    hub = handler.server.hub
    repository = hub.repository(name, revision)
    known = handler.seen.authorization == f"Bearer {hub.token}"
    if repository is None or (name in hub.private and not known):
        handler.refuse(404 if known else 401, "RepoNotFound" if known else None)
        return None
    if not repository.commit:
        handler.refuse(404, "RevisionNotFound")
        return None
    return repository

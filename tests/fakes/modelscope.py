"""ModelScope's API for the fake hub, as modelscope_hub 0.5 uses it.

The branch `master` is the hub's `main`. As on the real one: every file has a sha256; the commit of a list is
named by its first digits, and in full with one file at least; large files are redirected, small ones come at
once and whole, whatever range is asked for; a refusal has a code and a sentence of its own.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.fakes.hub import Handler, Repository

OLDER_COMMIT = "1" * 40
NOT_FOUND, FORBIDDEN = 10010205001, 10010101003


def answer(handler: Handler, path: str, query: dict[str, str]) -> None:
    """Answer a request below `/api/v1/models/`."""
    owner, name, *rest = path.split("/")
    revision = query.get("Revision", "master")
    repository = handler.server.hub.repository(
        f"{owner}/{name}", "main" if revision == "master" else revision
    )
    if repository is None or (repository.name in handler.server.hub.private and not _knows(handler)):
        refuse(handler, 404, NOT_FOUND, "模型不存在")
    elif not rest:
        handler.json(_told({"Name": name, "Path": owner, "Revision": "master"}))
    elif not repository.commit:
        refuse(handler, 404, NOT_FOUND, "revision not found")
    elif rest == ["repo", "files"]:
        handler.json(_told(_listed(handler, repository)))
    elif rest == ["repo"]:
        _content(handler, repository, query.get("FilePath", ""))
    else:
        refuse(handler, 404, NOT_FOUND, "not found")


def refuse(handler: Handler, status: int, code: int, message: str) -> None:
    """As the hub does."""
    handler.json({"Code": code, "Message": message, "Success": False}, status)


def _told(data: object) -> dict[str, object]:
    return {"Code": 200, "Data": data, "Message": "success", "Success": True}


def _listed(handler: Handler, repository: Repository) -> dict[str, object]:
    files = [
        {
            "Name": PurePosixPath(path).name,
            "Path": path,
            "Type": "blob",
            "Size": size,
            "Sha256": sha256,
            "IsLFS": lfs,
            "Revision": OLDER_COMMIT,
        }
        for path, size, _, sha256, lfs in handler.list(repository)
    ]
    for each in files[-1:]:
        each["Revision"] = repository.commit
    folders = {str(each) for path in repository.files for each in PurePosixPath(path).parents} - {"."}
    files += [{"Name": PurePosixPath(path).name, "Path": path, "Type": "tree", "Size": 0} for path in folders]
    instead = handler.server.hub.siblings.get(repository.name)
    if instead is not None:
        files = [
            {"Path": each.get("rfilename"), "Type": "blob", "Size": each.get("size")} for each in instead
        ]
    return {"Files": files, "LatestCommitter": {"Id": "", "ShortId": repository.commit[:8]}}


def _content(handler: Handler, repository: Repository, path: str) -> None:
    file = repository.files.get(path)
    if repository.name in handler.server.hub.gated and not _knows(handler):
        refuse(handler, 403, FORBIDDEN, "apply for access first")
    elif file is None:
        refuse(handler, 404, NOT_FOUND, "file not found")
    elif handler.is_large(path):
        handler.send(302, b"", {"Location": handler.cdn(file)})
    else:
        handler.seen.range = None
        handler.file(file, {})


def _knows(handler: Handler) -> bool:
    token = handler.server.hub.token
    cookie = handler.headers.get("Cookie", "")
    return handler.seen.authorization == f"Bearer {token}" or f"m_session_id={token}" in cookie

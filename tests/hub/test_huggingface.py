"""What is Hugging Face's alone."""

from __future__ import annotations

import hashlib

import pytest

from aimind.errors import HubError
from aimind.types import File, Reference
from tests.fakes.hub import Fault, Hub
from tests.hub.samples import CONFIG, NAME, WEIGHTS, Progress, fetch, open_file, publish_model, resolve

REFERENCE = Reference(source="huggingface", name=NAME)


def test_hashes_of_both_kinds(hub: Hub) -> None:
    publish_model(hub)
    assert resolve(REFERENCE).files == (
        File("config.json", len(CONFIG), git_sha1=hub.hashes(hub.folder / NAME / "config.json")[0]),
        File("model.safetensors", len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest()),
    )
    assert [(seen.method, seen.path) for seen in hub.requests] == [("GET", f"/api/models/{NAME}?blobs=true")]


@pytest.mark.parametrize("status", [401, 403])
def test_refused_token(hub: Hub, status: int) -> None:
    publish_model(hub)
    model = resolve(REFERENCE)
    hub.faults.append(
        Fault("/resolve/", status=status, message="Invalid credentials in Authorization header")
    )
    with pytest.raises(HubError, match=rf"refused access to owner/model \(HTTP {status}\)") as caught:
        open_file(model, model.files[0]).read(0, 8)
    assert "hf auth login" in caught.value.hint


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b"{}",
        b'{"id": "a/b", "sha": null, "siblings": []}',
        b'{"id": "a/b", "sha": "../../etc", "siblings": []}',
        b'{"id": "a/b", "sha": "%s", "siblings": [{"rfilename": "x", "size": -1}]}' % (b"0" * 40),
        b'{"id": "a/b", "sha": "%s", "siblings": [{"rfilename": "x", "size": "1"}]}' % (b"0" * 40),
        b'{"id": "a/b", "sha": "%s", "siblings": [{"size": 1}]}' % (b"0" * 40),
        b'{"id": "a/b", "sha": "%s", "siblings": [{"rfilename": 7, "size": 1}]}' % (b"0" * 40),
        b'{"id": "a/b", "sha": "%s", "siblings": [{"rfilename": "x", "size": 1,'
        b' "lfs": {"size": 1, "sha256": "../x", "pointerSize": 1}}]}' % (b"0" * 40),
    ],
)
def test_nonsense(hub: Hub, body: bytes) -> None:
    hub.faults.append(Fault("/api/", body=body))
    with pytest.raises(HubError, match=r"JSON|invalid list|unsafe name"):
        resolve(REFERENCE)


def test_offline_with_the_commit(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_model(hub)
    online = resolve(REFERENCE)
    fetch(online, Progress())
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = resolve(Reference(source="huggingface", name=NAME, revision=online.commit))
    assert model.files == online.files

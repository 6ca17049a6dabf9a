"""Resolving and reading, with the real client against a hub on loopback."""

from __future__ import annotations

import hashlib
import socket

import pytest

from aimind import hub as source
from aimind.errors import HubError, ModelNotFoundError
from aimind.types import File, Reference
from tests.fakes.hub import Fault, Hub
from tests.hub.samples import CONFIG, NAME, WEIGHTS, Progress, publish, publish_model

REFERENCE = Reference(source="huggingface", name=NAME)


def test_one_request_lists_sizes_and_hashes(hub: Hub) -> None:
    publish_model(hub)
    model = source.resolve(REFERENCE)
    assert model.commit == hub.commit(NAME)
    assert model.reference == REFERENCE
    assert model.root is None
    assert model.files == (
        File("config.json", len(CONFIG)),
        File("model.safetensors", len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest()),
    )
    assert [(seen.method, seen.path) for seen in hub.requests] == [("GET", f"/api/models/{NAME}?blobs=true")]


@pytest.mark.parametrize("revision", ["v1", "feature/x", "refs/pr/3"])
def test_revisions(hub: Hub, revision: str) -> None:
    publish_model(hub)
    publish(hub, {"old.gguf": b"old"}, f"{NAME}@{revision.replace('/', '%2F')}")
    model = source.resolve(Reference(source="huggingface", name=NAME, revision=revision))
    assert [file.path for file in model.files] == ["old.gguf"]
    assert model.commit == hub.commit(NAME, revision) != hub.commit(NAME)
    pinned = source.resolve(Reference(source="huggingface", name=NAME, revision=model.commit))
    assert pinned.files == model.files


def test_missing_revision(hub: Hub) -> None:
    publish_model(hub)
    with pytest.raises(ModelNotFoundError, match="owner/model has no revision v9") as caught:
        source.resolve(Reference(source="huggingface", name=NAME, revision="v9"))
    assert f"{hub.url}/{NAME}/tree/main" in caught.value.hint


def test_missing_repository(hub: Hub) -> None:
    with pytest.raises(
        ModelNotFoundError, match=f"there is no nobody/nothing on {hub.url}, or it is private"
    ):
        source.resolve(Reference(source="huggingface", name="nobody/nothing"))


def test_private_repository(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_model(hub)
    hub.private.add(NAME)
    with pytest.raises(ModelNotFoundError, match="or it is private") as caught:
        source.resolve(REFERENCE)
    assert "hf auth login" in caught.value.hint
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert source.resolve(REFERENCE).commit == hub.commit(NAME)


def test_gated_repository(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_model(hub)
    hub.gated.add(NAME)
    model = source.resolve(REFERENCE)
    with pytest.raises(HubError, match="owner/model is gated") as caught:
        source.open_file(model, model.files[1]).read(0, 8)
    assert f"{hub.url}/{NAME}" in caught.value.hint
    with pytest.raises(HubError, match="owner/model is gated"):
        source.fetch(model, Progress())
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert source.open_file(model, model.files[1]).read(0, 8) == WEIGHTS[:8]


@pytest.mark.parametrize("status", [401, 403])
def test_refused_token(hub: Hub, status: int) -> None:
    publish_model(hub)
    model = source.resolve(REFERENCE)
    hub.faults.append(
        Fault("/resolve/", status=status, message="Invalid credentials in Authorization header")
    )
    with pytest.raises(HubError, match=rf"refused access to owner/model \(HTTP {status}\)") as caught:
        source.open_file(model, model.files[0]).read(0, 8)
    assert "hf auth login" in caught.value.hint


def test_too_many_requests(hub: Hub) -> None:
    publish_model(hub)
    hub.faults.append(Fault("/api/", status=429))
    with pytest.raises(HubError, match="too many requests"):
        source.resolve(REFERENCE)


def test_a_hub_that_is_busy_for_a_moment_is_asked_again(hub: Hub) -> None:
    publish_model(hub)
    hub.faults.append(Fault("/api/", status=503, times=1))
    assert source.resolve(REFERENCE).commit == hub.commit(NAME)
    assert hub.count() == 2


def test_a_hub_that_is_down(hub: Hub) -> None:
    hub.faults.append(Fault("/api/", status=500))
    with pytest.raises(HubError, match=r"is out of order \(HTTP 500\)"):
        source.resolve(REFERENCE)


def test_an_unreachable_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        with pytest.raises(HubError, match=f"{endpoint} cannot be reached: .*refused") as caught:
            source.resolve(REFERENCE)
    assert "HF_ENDPOINT" in caught.value.hint


@pytest.mark.parametrize("endpoint", ["nonsense", "http://", "ftp://127.0.0.1"])
def test_an_endpoint_that_is_no_address(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(HubError, match="cannot be reached") as caught:
        source.resolve(REFERENCE)
    assert "HF_ENDPOINT" in caught.value.hint


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
        b'{"id": "a/b", "sha": "%s", "siblings": [{"rfilename": "x"}]}' % (b"0" * 40),
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
    with pytest.raises(HubError, match=r"makes no sense|unsafe name"):
        source.resolve(REFERENCE)


@pytest.mark.parametrize(
    "path",
    [
        "../escape",
        "a/../../escape",
        "/etc/passwd",
        "a//b",
        "./a",
        "a/.",
        "a\0b",
        "a\nb",
        "a\x1b[31mb",
        "a\\b",
        "C:windows",
        "C:/windows",
        "",
        "a/",
        "x" * 5000,
        "x" * 256,
        "é" * 128,
    ],
)
def test_hostile_names(hub: Hub, path: str) -> None:
    publish_model(hub)
    hub.siblings[NAME] = [{"rfilename": path, "size": 1}]
    with pytest.raises(HubError, match="owner/model lists a file with an unsafe name") as caught:
        source.resolve(REFERENCE)
    assert len(caught.value.message) < 250
    assert caught.value.message.isprintable()


def test_usual_names_are_safe(hub: Hub) -> None:
    publish_model(hub)
    usual = ["a b (1)+2.gguf", "1_Pooling/config.json", "模型.gguf", "...x", ".gitattributes", "x" * 255]
    hub.siblings[NAME] = [{"rfilename": path, "size": 1} for path in usual]
    assert [file.path for file in source.resolve(REFERENCE).files] == usual


# ── Without a network ──────────────────────────────────────────────────────────────────────────────────────


def test_offline_from_the_cache(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_model(hub)
    online = source.resolve(REFERENCE)
    folder = source.fetch(online, Progress())
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = source.resolve(REFERENCE)
    assert model == online
    assert source.open_file(model, model.files[1]).read(0, 8) == WEIGHTS[:8]
    assert source.fetch(model, Progress()) == folder
    assert hub.requests == []


def test_offline_with_the_commit(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_model(hub)
    online = source.resolve(REFERENCE)
    source.fetch(online, Progress())
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = source.resolve(Reference(source="huggingface", name=NAME, revision=online.commit))
    assert model.files == online.files


def test_offline_without_it(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_model(hub)
    model = source.resolve(REFERENCE)
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for use in (
        lambda: source.resolve(REFERENCE),
        lambda: source.open_file(model, model.files[1]),
        lambda: source.fetch(model, Progress()),
    ):
        with pytest.raises(HubError, match="not complete in the cache") as caught:
            use()
        assert "HF_HUB_OFFLINE" in caught.value.hint
    assert hub.requests == []


@pytest.mark.parametrize("status", [None, 503])
def test_the_cache_stands_in_for_a_hub_that_does_not_answer(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, status: int | None
) -> None:
    publish_model(hub)
    online = source.resolve(REFERENCE)
    source.fetch(online, Progress())
    if status is None:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    else:
        hub.faults.append(Fault("/", status=status))
    assert source.resolve(REFERENCE) == online
    assert f"using commit {online.commit} of {NAME} from the cache" in caplog.text


def test_the_cache_does_not_stand_in_for_a_refusal(hub: Hub) -> None:
    publish_model(hub)
    source.fetch(source.resolve(REFERENCE), Progress())
    hub.private.add(NAME)
    with pytest.raises(ModelNotFoundError):
        source.resolve(REFERENCE)
    hub.private.clear()
    hub.faults.append(Fault("/api/", status=403))
    with pytest.raises(HubError, match="refused access"):
        source.resolve(REFERENCE)


def test_half_a_download_is_listed_as_far_as_it_goes(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_model(hub)
    source.fetch(source.resolve(REFERENCE), Progress())
    [link] = (hub.folder.parent / "home").rglob("config.json")
    link.resolve().unlink()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert [file.path for file in source.resolve(REFERENCE).files] == ["model.safetensors"]

"""What both hubs tell, refuse, and do not answer; with a hub on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from aimind import hub as source
from aimind.errors import HubError, ModelNotFoundError
from aimind.hub.cache import files_in
from tests.fakes.hub import Fault, Hub
from tests.hub.samples import (
    CONFIG,
    HUGGING_FACE,
    KINDS,
    MODELSCOPE,
    NAME,
    WEIGHTS,
    Kind,
    Progress,
    fetch,
    open_file,
    publish,
    publish_model,
    resolve,
)


@pytest.fixture
def closed() -> Iterator[str]:
    """An address at which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def test_one_request_lists_sizes_and_hashes(hub: Hub, kind: Kind) -> None:
    publish_model(hub)
    publish(hub, {"1_Pooling/config.json": b"{}"})
    model = resolve(kind.reference)
    assert model.commit == hub.commit(NAME)
    assert model.reference == kind.reference
    assert model.root is None
    sizes = {file.path: file.size_bytes for file in model.files}
    assert sizes == {
        "1_Pooling/config.json": 2,
        "config.json": len(CONFIG),
        "model.safetensors": len(WEIGHTS),
    }
    assert model.files[-1].sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert all(file.sha256 or file.git_sha1 for file in model.files)
    assert hub.count() == 1


@pytest.mark.parametrize("revision", ["v1", "feature/x", "refs/pr/3"])
def test_revisions(hub: Hub, kind: Kind, revision: str) -> None:
    publish_model(hub)
    publish(hub, {"old.gguf": b"old"}, f"{NAME}@{revision.replace('/', '%2F')}")
    model = resolve(replace(kind.reference, revision=revision))
    assert [file.path for file in model.files] == ["old.gguf"]
    assert model.commit == hub.commit(NAME, revision) != hub.commit(NAME)
    pinned = resolve(replace(kind.reference, revision=model.commit))
    assert pinned.files == model.files
    assert (fetch(pinned, Progress()) / "old.gguf").read_bytes() == b"old"
    assert (fetch(model, Progress()) / "old.gguf").read_bytes() == b"old"


def test_missing_revision(hub: Hub, kind: Kind) -> None:
    publish_model(hub)
    with pytest.raises(ModelNotFoundError, match="owner/model has no revision v9") as caught:
        resolve(replace(kind.reference, revision="v9"))
    assert f"{hub.url}/{kind.page}" in caught.value.hint


def test_missing_repository(hub: Hub, kind: Kind) -> None:
    for revision in (None, "v9"):
        with pytest.raises(
            ModelNotFoundError, match=f"there is no nobody/nothing on {hub.url}, or it is private"
        ):
            resolve(replace(kind.reference, name="nobody/nothing", revision=revision))


def test_private_repository(hub: Hub, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_model(hub)
    hub.private.add(NAME)
    with pytest.raises(ModelNotFoundError, match="or it is private") as caught:
        resolve(kind.reference)
    assert kind.login in caught.value.hint
    monkeypatch.setenv(kind.token, hub.token)
    assert resolve(kind.reference).commit == hub.commit(NAME)


def test_gated_repository(hub: Hub, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_model(hub)
    hub.gated.add(NAME)
    model = resolve(kind.reference)
    for use in (lambda: open_file(model, model.files[1]).read(0, 8), lambda: fetch(model, Progress())):
        with pytest.raises(HubError, match="owner/model is gated") as caught:
            use()
        assert f"{hub.url}/{kind.page}" in caught.value.hint
        assert kind.login in caught.value.hint
    monkeypatch.setenv(kind.token, hub.token)
    assert open_file(model, model.files[1]).read(0, 8) == WEIGHTS[:8]
    assert (fetch(model, Progress()) / "model.safetensors").read_bytes() == WEIGHTS


def test_the_token_goes_to_the_hub_alone(hub: Hub, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kind.token, hub.token)
    publish_model(hub)
    model = resolve(kind.reference)
    open_file(model, model.files[1]).read(0, 8)
    fetch(model, Progress())
    sent = {(seen.host, seen.authorization, seen.cookie is not None) for seen in hub.requests}
    cookie = kind == MODELSCOPE
    assert sent == {("hub", f"Bearer {hub.token}", cookie), ("cdn", None, False)}


def test_without_a_token_none_is_sent(hub: Hub, kind: Kind) -> None:
    publish_model(hub)
    resolve(kind.reference)
    assert {seen.authorization for seen in hub.requests} == {None}


def test_a_hub_that_is_busy_for_a_moment_is_asked_again(hub: Hub, kind: Kind) -> None:
    publish_model(hub)
    hub.faults.append(Fault(kind.lists, status=503, times=1))
    assert resolve(kind.reference).commit == hub.commit(NAME)
    assert hub.count() == 2


def test_an_unreachable_hub(kind: Kind, monkeypatch: pytest.MonkeyPatch, closed: str) -> None:
    monkeypatch.setenv(kind.endpoint, closed)
    with pytest.raises(HubError, match=f"{closed} cannot be reached: .*refused") as caught:
        resolve(kind.reference)
    assert kind.endpoint in caught.value.hint
    assert ("mirror" in caught.value.hint, "ModelScope" in caught.value.hint) == (
        kind.source == "huggingface",
        kind.source == "huggingface",
    )
    assert "has a model of this name" not in caught.value.hint


def test_the_other_hub_has_it(hub: Hub, kind: Kind, monkeypatch: pytest.MonkeyPatch, closed: str) -> None:
    publish_model(hub)
    monkeypatch.setenv(kind.endpoint, closed)
    monkeypatch.setenv("AIMIND_HUB", kind.source)
    with pytest.raises(HubError) as caught:
        resolve(replace(kind.reference, revision="v1", quantization="Q4_K_M"))
    there = f"hf:{NAME}" if kind == MODELSCOPE else f"ms:{NAME}"
    assert f"has a model of this name, too: {there}:Q4_K_M." in caught.value.hint


@pytest.mark.parametrize("endpoint", ["http://", "ftp://127.0.0.1", "http://[::1"])
def test_an_endpoint_that_is_no_address(kind: Kind, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv(kind.endpoint, endpoint)
    with pytest.raises(HubError, match="cannot be reached") as caught:
        resolve(kind.reference)
    assert kind.endpoint in caught.value.hint


# ── Mirrors that leave something out ───────────────────────────────────────────────────────────────────────


def names_alone(hub: Hub) -> None:
    """As mirrors list that were made for clients that ask for each file's headers anyway."""
    hub.siblings[NAME] = [{"rfilename": path} for path in ("config.json", "model.safetensors")]


def test_a_list_without_sizes(hub: Hub, kind: Kind) -> None:
    """Sizes and hashes come from the headers of the files."""
    publish_model(hub)
    complete = resolve(kind.reference)
    names_alone(hub)
    hub.requests.clear()
    model = resolve(kind.reference)
    assert [file.size_bytes for file in model.files] == [file.size_bytes for file in complete.files]
    if kind == HUGGING_FACE:
        assert model == complete
        assert hub.count("GET") == 1
        assert hub.count("HEAD") == 2  # the large one is told by the redirect
        assert hub.count(path="/cdn/") == 0
    folder = fetch(model, Progress())
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "config.json").read_bytes() == CONFIG


def test_a_list_with_some_sizes(hub: Hub, kind: Kind) -> None:
    publish_model(hub)
    names_alone(hub)
    hub.siblings[NAME][0]["size"] = len(CONFIG)
    model = resolve(kind.reference)
    assert [file.size_bytes for file in model.files] == [len(CONFIG), len(WEIGHTS)]
    assert hub.count("HEAD", "config.json") == 0


@pytest.mark.parametrize("status", [405, 501, 403])
def test_a_mirror_that_does_not_answer_head(hub: Hub, kind: Kind, status: int) -> None:
    publish_model(hub)
    names_alone(hub)
    hub.faults.append(Fault("/", status=status, method="HEAD"))
    model = resolve(kind.reference)
    assert [file.size_bytes for file in model.files] == [len(CONFIG), len(WEIGHTS)]
    assert (fetch(model, Progress()) / "model.safetensors").read_bytes() == WEIGHTS


def test_a_mirror_that_lists_what_it_has_not(hub: Hub, kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    publish_model(hub)
    names_alone(hub)
    hub.siblings[NAME].append({"rfilename": "README.md"})
    assert [file.path for file in resolve(kind.reference).files] == ["config.json", "model.safetensors"]
    assert f"lists README.md of {NAME}, which is not there" in caplog.text


def test_a_mirror_that_is_busy_with_headers(hub: Hub, kind: Kind) -> None:
    publish_model(hub)
    names_alone(hub)
    hub.faults.append(Fault(kind.files, status=503, times=2))
    assert [file.size_bytes for file in resolve(kind.reference).files] == [len(CONFIG), len(WEIGHTS)]
    hub.faults.append(Fault(kind.files, status=503))
    with pytest.raises(HubError, match="HTTP 50"):
        resolve(kind.reference)


@pytest.mark.parametrize("sizes", [True, False])
def test_a_list_without_a_commit(hub: Hub, sizes: bool) -> None:
    """The headers of a file name it, too."""
    publish_model(hub)
    complete = resolve(HUGGING_FACE.reference)
    if not sizes:
        names_alone(hub)
    listed = hub.siblings.get(NAME) or [
        {"rfilename": file.path, "size": file.size_bytes, "blobId": file.git_sha1 or "0" * 40}
        | ({"lfs": {"sha256": file.sha256, "size": file.size_bytes}} if file.sha256 else {})
        for file in complete.files
    ]
    hub.faults.append(Fault(HUGGING_FACE.lists, body=json.dumps({"siblings": listed}).encode()))
    model = resolve(HUGGING_FACE.reference)
    assert model == complete
    assert (fetch(model, Progress()) / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("sizes", [True, False])
@pytest.mark.parametrize("revision", [None, "v1"])
def test_a_mirror_that_names_no_commit_at_all(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, revision: str | None, sizes: bool
) -> None:
    """The contents have a name made of them, so that they are found again, and others are kept apart."""
    publish_model(hub)
    publish(hub, {"config.json": b"{}", "model.safetensors": WEIGHTS[:99]}, f"{NAME}@v1")
    hub.names_commits = False
    if not sizes:
        names_alone(hub)
    reference = replace(HUGGING_FACE.reference, revision=revision)
    model = resolve(reference)
    weights = WEIGHTS[:99] if revision else WEIGHTS
    folder = fetch(model, Progress())
    assert (folder / "model.safetensors").read_bytes() == weights
    assert {seen.path.split("/")[4] for seen in hub.requests if "/resolve/" in seen.path} == {
        revision or "main"
    }
    assert resolve(reference) == model
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert source.location(resolve(reference)) == folder


# ── Without a network ──────────────────────────────────────────────────────────────────────────────────────


def test_offline_from_the_cache(hub: Hub, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_model(hub)
    online = resolve(kind.reference)
    folder = fetch(online, Progress())
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = resolve(kind.reference)
    assert model.commit == online.commit
    assert [replace(file, git_sha1=None) for file in model.files] == [
        replace(file, git_sha1=None) for file in online.files
    ]
    assert source.is_complete(model)
    assert open_file(model, model.files[1]).read(0, 8) == WEIGHTS[:8]
    assert fetch(model, Progress()) == folder == source.location(model)
    assert hub.requests == []


def test_offline_without_it(hub: Hub, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_model(hub)
    model = resolve(kind.reference)
    assert not source.is_complete(model)
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for use in (
        lambda: resolve(kind.reference),
        lambda: open_file(model, model.files[1]),
        lambda: fetch(model, Progress()),
    ):
        with pytest.raises(HubError, match="not complete in the cache") as caught:
            use()
        assert "--offline" in caught.value.hint
    assert hub.requests == []


@pytest.mark.parametrize("status", [None, 503])
def test_the_cache_stands_in_for_a_hub_that_does_not_answer(
    hub: Hub,
    kind: Kind,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    status: int | None,
    closed: str,
) -> None:
    publish_model(hub)
    online = resolve(kind.reference)
    fetch(online, Progress())
    if status is None:
        monkeypatch.setenv(kind.endpoint, closed)
    else:
        hub.faults.append(Fault("/", status=status))
    assert resolve(kind.reference).commit == online.commit
    assert f"using what the cache has of {NAME}" in caplog.text


def test_the_cache_does_not_stand_in_for_a_refusal(hub: Hub, kind: Kind) -> None:
    publish_model(hub)
    fetch(resolve(kind.reference), Progress())
    hub.private.add(NAME)
    with pytest.raises(ModelNotFoundError):
        resolve(kind.reference)


PARTIAL = {
    "no configuration": ({"model.safetensors": WEIGHTS}, None),
    "no weights": ({"config.json": CONFIG, "tokenizer.json": b"{}"}, None),
    "not all shards": ({"config.json": CONFIG, "model-00001-of-00002.safetensors": WEIGHTS}, None),
    "not all parts": ({"m-Q4_K_M-00002-of-00002.gguf": WEIGHTS}, None),
    "another quantization": ({"m-Q8_0.gguf": WEIGHTS}, "Q4_K_M"),
}


@pytest.mark.parametrize("what", PARTIAL)
@pytest.mark.parametrize("away", ["closed", "503", "offline"])
def test_a_part_of_a_model_does_not_stand_in_for_it(
    hub: Hub, kind: Kind, monkeypatch: pytest.MonkeyPatch, closed: str, what: str, away: str
) -> None:
    """A hub that is away is what is wrong: the repository may well have what the cache has not."""
    contents, quantization = PARTIAL[what]
    publish(hub, contents)
    fetch(resolve(kind.reference), Progress())
    if away == "closed":
        monkeypatch.setenv(kind.endpoint, closed)
    elif away == "503":
        hub.faults.append(Fault("/", status=503))
    else:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError) as caught:
        resolve(replace(kind.reference, quantization=quantization))
    if away == "offline":
        assert "not complete in the cache" in caught.value.message
    else:
        assert "The cache has only some files of owner/model." in caught.value.hint


# ── Without its client ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.source)
def test_no_client_is_imported(hub: Hub, kind: Kind) -> None:
    """It would take longer than all else that planning does."""
    publish_model(hub)
    program = (
        "import sys; from aimind import hub; from aimind.types import Reference\n"
        f"model = hub.resolve(Reference(source={kind.source!r}, name={NAME!r}))\n"
        "print(hub.open_file(model, model.files[0]).read(0, 99))\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=dict(os.environ)
    )
    assert str(CONFIG) in done.stdout
    assert not {"huggingface_hub", "modelscope_hub", "requests", "tqdm"} & set(done.stdout.split())


def test_who_has_logged_in(hub: Hub, tmp_path: Path) -> None:
    """The client's own way to tell its token, in a process of its own."""
    publish_model(hub)
    hub.private.add(NAME)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "token").write_text(hub.token)
    program = (
        "from aimind import hub; from aimind.types import Reference\n"
        f"print(hub.resolve(Reference(source='huggingface', name={NAME!r})).commit)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == hub.commit(NAME)


def test_files_are_where_the_other_hub_does_not_look(hub: Hub, tmp_path: Path) -> None:
    publish_model(hub)
    folders = [fetch(resolve(kind.reference), Progress()) for kind in (HUGGING_FACE, MODELSCOPE)]
    assert len(set(folders)) == 2
    assert [file.path for file in files_in(folders[1])] == ["config.json", "model.safetensors"]


def test_a_hub_that_has_just_not_answered_is_not_asked_for_more(hub: Hub, kind: Kind) -> None:
    """Who has no network waits for that once, not twice."""
    publish_model(hub)
    fetch(resolve(kind.reference), Progress())
    hub.faults.append(Fault(kind.lists, status=503))
    model = resolve(kind.reference)
    hub.requests.clear()
    assert source.in_gguf(model) is None
    assert hub.requests == []
    hub.faults.clear()
    model = resolve(kind.reference)
    hub.requests.clear()
    assert source.in_gguf(model) is None
    assert len(hub.requests) == 2

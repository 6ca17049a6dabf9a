"""What is ModelScope's alone, and its real client on what we fetched, and we on what it did."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from aimind import hub as source
from aimind.errors import HubError
from tests.fakes.hub import Fault, Hub
from tests.hub.samples import (
    CONFIG,
    MODELSCOPE,
    NAME,
    WEIGHTS,
    Progress,
    fetch,
    open_file,
    publish,
    publish_model,
    resolve,
)

REFERENCE = MODELSCOPE.reference
OTHER = bytes(reversed(WEIGHTS))


def client(program: str) -> str:
    """What a program of the real client's prints, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", f"from modelscope_hub.compat import snapshot_download\n{program}"],
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().rpartition("\n")[2]


def theirs() -> Path:
    return Path(client(f"print(snapshot_download({NAME!r}))"))


def test_its_client_finds_what_we_fetched(hub: Hub) -> None:
    publish_model(hub)
    folder = fetch(resolve(REFERENCE), Progress())
    hub.requests.clear()
    assert client(f"print(snapshot_download({NAME!r}, local_files_only=True))") == str(folder)
    assert hub.requests == []
    assert theirs() == folder
    assert hub.count(path="/repo?") == hub.count(path="/cdn/") == 0


def test_we_find_what_its_client_fetched(hub: Hub) -> None:
    publish_model(hub)
    folder = theirs()
    hub.requests.clear()
    progress = Progress()
    model = resolve(REFERENCE)
    assert fetch(model, progress) == folder == source.location(model)
    assert progress.started == []
    assert hub.count() == 1  # the list
    assert source.is_complete(model)


def test_what_its_client_fetched_serves_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_model(hub)
    folder = theirs()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = resolve(REFERENCE)
    assert [file.path for file in model.files] == ["config.json", "model.safetensors"]
    assert fetch(model, Progress()) == folder
    assert open_file(model, model.files[1]).read(0, 8) == WEIGHTS[:8]


@pytest.mark.parametrize("fetched", [theirs, lambda: fetch(resolve(REFERENCE), Progress())])
def test_other_weights_of_the_same_size_are_seen(hub: Hub, fetched: Callable[[], Path]) -> None:
    """A branch goes on: what lies here under its name is an older state of it."""
    publish_model(hub)
    folder = fetched()
    publish(hub, {"model.safetensors": OTHER})
    model = resolve(REFERENCE)
    assert open_file(model, model.files[1]).read(0, 8) == OTHER[:8]
    progress = Progress()
    fetch(model, progress)
    assert progress.started == [{"model.safetensors": len(OTHER)}]
    assert (folder / "model.safetensors").read_bytes() == OTHER
    assert (folder / "config.json").read_bytes() == CONFIG


def test_an_older_commit_is_not_fetched_twice(hub: Hub) -> None:
    """Contents are kept; the branch's folder shows one of them."""
    publish_model(hub)
    publish(hub, {"config.json": b"{}", "model.safetensors": WEIGHTS}, f"{NAME}@v1")
    fetch(resolve(REFERENCE), Progress())
    hub.requests.clear()
    folder = fetch(resolve(replace(REFERENCE, revision="v1")), Progress())
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.count(path="/cdn/") == 0


@pytest.mark.parametrize(
    "older", ["models/owner/model", "hub/models/owner/model", "hub/owner/model", "owner/model"]
)
def test_folders_of_older_versions(hub: Hub, monkeypatch: pytest.MonkeyPatch, older: str) -> None:
    publish_model(hub)
    folder = Path(os.environ["MODELSCOPE_CACHE"]) / older
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(CONFIG)
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = resolve(REFERENCE)
    assert source.location(model) == folder
    monkeypatch.delenv("HF_HUB_OFFLINE")
    progress = Progress()
    found = fetch(resolve(REFERENCE), progress)
    assert progress.started == []
    assert (found / "model.safetensors").samefile(folder / "model.safetensors")


def test_an_older_version_writes_dots_otherwise(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(os.environ["MODELSCOPE_CACHE"]) / "models" / "Qwen" / "Qwen3___5-0___8B"
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(CONFIG)
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert source.location(resolve(replace(REFERENCE, name="Qwen/Qwen3.5-0.8B"))) == folder


# ── The token ──────────────────────────────────────────────────────────────────────────────────────────────


def test_who_has_logged_in(hub: Hub) -> None:
    """The client's own cookies, which are a pickle."""
    publish_model(hub)
    hub.private.add(NAME)
    client(f"from modelscope_hub.config import HubConfig\nHubConfig().save_token({hub.token!r})\nprint()")
    assert resolve(REFERENCE).commit == hub.commit(NAME)


def test_a_login_that_has_expired(hub: Hub) -> None:
    publish_model(hub)
    client(
        "import time\n"
        "from modelscope_hub.config import HubConfig\nconfig = HubConfig()\n"
        f"config.save_token({hub.token!r})\n"
        "jar = config.load_cookies()\n"
        "for cookie in jar: cookie.expires = int(time.time()) - 1\n"
        "config.save_cookies(jar)\nprint()"
    )
    resolve(REFERENCE)
    assert {seen.authorization for seen in hub.requests} == {None}


@pytest.mark.parametrize(
    "content",
    [b"", b"nonsense", b"cos\nsystem\n(S'touch PWNED'\ntR.", b"\x80\x04]\x94.", b"\x80\x04N."],
)
def test_cookies_that_are_none(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """Nothing in them is run."""
    monkeypatch.chdir(tmp_path)
    publish_model(hub)
    folder = Path(os.environ["MODELSCOPE_HOME"]) / "credentials"
    folder.mkdir(parents=True)
    (folder / "cookies").write_bytes(content)
    assert resolve(REFERENCE).commit == hub.commit(NAME)
    assert {seen.authorization for seen in hub.requests} == {None}
    assert not list(tmp_path.rglob("PWNED"))


# ── Answers ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_refused_token(hub: Hub) -> None:
    publish_model(hub)
    body = b'{"Code": 10010103009, "Message": "AccessToken is invalid", "Success": false}'
    hub.faults.append(Fault(MODELSCOPE.lists, status=401, body=body))
    with pytest.raises(HubError, match=r"refused access to owner/model \(HTTP 401\)") as caught:
        resolve(REFERENCE)
    assert "modelscope login" in caught.value.hint


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b"{}",
        b'{"Code": 200, "Data": null}',
        b'{"Code": 200, "Data": {"Files": null}}',
        b'{"Code": 200, "Data": {"Files": [7]}}',
        b'{"Code": 200, "Data": {"Files": [{"Path": "x", "Size": -1}]}}',
        b'{"Code": 200, "Data": {"Files": [{"Path": "x", "Size": true}]}}',
        b'{"Code": 200, "Data": {"Files": [{"Path": "x", "Size": 1.5}]}}',
        b'{"Code": 200, "Data": {"Files": [{"Path": 7, "Size": 1}]}}',
        b'{"Code": 200, "Data": {"Files": [{"Path": "x", "Size": 1, "Sha256": "../x"}]}}',
        b'{"Code": 200, "Data": {"Files": [{"Path": "x", "Size": 1, "Sha256": 7}]}}',
        b'{"Code": 200, "Data": {"Files": [{"Path": "x", "Size": 1}], "LatestCommitter": 7}}',
    ],
)
def test_nonsense(hub: Hub, body: bytes) -> None:
    hub.faults.append(Fault(MODELSCOPE.lists, body=body))
    with pytest.raises(HubError, match=r"JSON|invalid list|unsafe name"):
        resolve(REFERENCE)


def test_a_commit_that_is_not_told(hub: Hub) -> None:
    """Then the branch is fetched, and the hashes say whether it is what was listed."""
    publish_model(hub)
    hub.siblings[NAME] = [{"rfilename": "config.json", "size": len(CONFIG)}]
    model = resolve(REFERENCE)
    assert model.commit is None
    assert (fetch(model, Progress()) / "config.json").read_bytes() == CONFIG

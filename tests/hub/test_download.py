"""Downloads into the client's own cache, with the real client against a hub on loopback."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from types import FrameType

import pytest

from aimind import hub as source
from aimind.errors import DoesNotFitError, HubError
from aimind.types import Model, Reference
from tests.fakes.hub import Fault, Hub
from tests.hub.samples import CONFIG, NAME, WEIGHTS, Progress, publish, publish_model

REFERENCE = Reference(source="huggingface", name=NAME)


def resolved(hub: Hub) -> Model:
    """The sample repository; the hub has seen no request yet."""
    publish_model(hub)
    model = source.resolve(REFERENCE)
    hub.requests.clear()
    return model


def left_over(hub: Hub) -> list[Path]:
    """Contents in the cache that no link leads to, and unfinished ones."""
    home = hub.folder.parent / "home"
    links = {path.resolve() for path in home.rglob("snapshots/*/**/*")}
    return [path for path in home.rglob("blobs/*") if path not in links]


def test_only_the_files_of_the_model(hub: Hub) -> None:
    publish(hub, {"pytorch_model.bin": b"not wanted", "1_Pooling/config.json": b"{}"})
    model = resolved(hub)
    model = replace(model, files=tuple(file for file in model.files if not file.path.startswith("pytorch")))
    folder = source.fetch(model, Progress())
    assert folder == source.location(model)
    assert (folder / "config.json").read_bytes() == CONFIG
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "1_Pooling/config.json").read_bytes() == b"{}"
    assert hub.count(path="pytorch_model.bin") == 0


def test_other_tools_find_it(hub: Hub) -> None:
    """The folder is the one that huggingface_hub itself returns, without a download."""
    from huggingface_hub import hf_hub_download

    model = resolved(hub)
    folder = source.fetch(model, Progress())
    hub.requests.clear()
    found = hf_hub_download(
        NAME, "config.json", cache_dir=folder.parents[2], endpoint=hub.url, local_files_only=True
    )
    assert Path(found) == folder / "config.json"
    assert hub.count() == 0


def test_progress_adds_up(hub: Hub) -> None:
    model = resolved(hub)
    progress = Progress()
    source.fetch(model, progress)
    assert progress.started == [(len(CONFIG) + len(WEIGHTS), 2)]
    assert progress.bytes == {"config.json": len(CONFIG), "model.safetensors": len(WEIGHTS)}
    assert progress.finished == 1


def test_a_second_time_there_is_nothing_to_do(hub: Hub) -> None:
    model = resolved(hub)
    source.fetch(model, Progress())
    hub.requests.clear()
    progress = Progress()
    source.fetch(model, progress)
    assert hub.requests == []
    assert progress.started == []


def test_the_commit_is_pinned(hub: Hub) -> None:
    model = resolved(hub)
    source.fetch(model, Progress())
    assert {seen.path.split("/")[4] for seen in hub.requests if seen.host == "hub"} == {model.commit}


def test_a_new_commit_with_the_same_weights_fetches_the_rest(hub: Hub) -> None:
    source.fetch(resolved(hub), Progress())
    publish(hub, {"config.json": b"{}"})
    model = source.resolve(REFERENCE)
    hub.requests.clear()
    progress = Progress()
    folder = source.fetch(model, progress)
    assert progress.started == [(2, 1)]
    assert hub.count("GET", "/cdn/") == 0
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "config.json").read_bytes() == b"{}"


def test_small_files_are_here_before_the_weights(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aimind.hub.download.SMALL_BYTES", 1000)
    model = resolved(hub)
    model = replace(model, files=tuple(reversed(model.files)))
    source.fetch(model, Progress())
    paths = [seen.path for seen in hub.requests]
    last = max(index for index, path in enumerate(paths) if "config.json" in path)
    assert last < min(index for index, path in enumerate(paths) if "model.safetensors" in path)


def test_other_bytes_are_refused_and_not_kept(hub: Hub) -> None:
    model = resolved(hub)
    hub.faults.append(Fault("/cdn/", flip=True, times=1))
    with pytest.raises(HubError, match=r"model\.safetensors of owner/model arrived with the sha256"):
        source.fetch(model, Progress())
    assert not (source.location(model) / "model.safetensors").exists()
    assert left_over(hub) == []
    assert (source.fetch(model, Progress()) / "model.safetensors").read_bytes() == WEIGHTS


def test_a_file_that_is_not_as_long_as_it_was_listed(hub: Hub) -> None:
    publish_model(hub)
    hub.siblings[NAME] = [{"rfilename": "config.json", "size": 5}]
    model = source.resolve(REFERENCE)
    with pytest.raises(HubError, match=f"{len(CONFIG)} bytes instead of 5"):
        source.fetch(model, Progress())
    assert left_over(hub) == []


def test_a_damaged_file_in_the_cache_is_fetched_again(hub: Hub) -> None:
    model = resolved(hub)
    folder = source.fetch(model, Progress())
    for name in ("model.safetensors", "config.json"):
        (folder / name).resolve().write_bytes(b"damaged")
    assert source.open_file(model, model.files[1]).read(0, 8) == WEIGHTS[:8]
    source.fetch(model, Progress())
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "config.json").read_bytes() == CONFIG


def test_a_connection_that_breaks_goes_on_where_it_was(hub: Hub) -> None:
    content = WEIGHTS * 64
    publish(hub, {"model.safetensors": content})
    model = source.resolve(REFERENCE)
    hub.faults.append(Fault("/cdn/", method="GET", cut_after=len(content) - 1, times=1))
    progress = Progress()
    folder = source.fetch(model, progress)
    assert progress.bytes == {"model.safetensors": len(content)}
    assert (folder / "model.safetensors").read_bytes() == content
    # The client writes 10 MB at a time.
    assert [seen.range for seen in hub.requests if seen.host == "cdn"] == [None, "bytes=10485760-"]


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (Fault("/cdn/", status=500), "is out of order"),
        (Fault("/cdn/", status=403), "refused access"),
        (Fault("/resolve/", status=404, code="EntryNotFound"), "no longer has a file"),
    ],
)
def test_a_download_that_fails(hub: Hub, fault: Fault, sentence: str) -> None:
    model = resolved(hub)
    hub.faults.append(fault)
    progress = Progress()
    with pytest.raises(Exception, match=sentence) as caught:
        source.fetch(model, progress)
    assert type(caught.value).__module__ == "aimind.errors"
    assert progress.finished == 1
    assert not (source.location(model) / "model.safetensors").exists()
    assert left_over(hub) == []


def test_a_full_disk_is_found_out_before_the_first_byte(hub: Hub) -> None:
    publish_model(hub)
    hub.siblings[NAME] = [{"rfilename": "model.safetensors", "size": 1 << 60}]
    model = source.resolve(REFERENCE)
    hub.requests.clear()
    with pytest.raises(DoesNotFitError, match=r"needs 1073741824\.0 GiB more of disk") as caught:
        source.fetch(model, Progress())
    assert "HF_HOME" in caught.value.hint
    assert hub.requests == []


def test_a_cache_that_cannot_be_written(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    model = resolved(hub)
    (hub.folder.parent / "file").write_bytes(b"")
    monkeypatch.setenv("HF_HOME", str(hub.folder.parent / "file"))
    with pytest.raises(HubError, match=r"could not be fetched: .*Not a directory"):
        source.fetch(model, Progress())


def test_an_interruption_leaves_nothing_behind(hub: Hub) -> None:
    """Ctrl-C in the middle of a download ends it at once, though other threads do the work."""
    publish(hub, {"model.safetensors": bytes(32 << 20)})
    model = source.resolve(REFERENCE)

    class Interrupting(Progress):
        def advance(self, path: str, count_bytes: int) -> None:
            super().advance(path, count_bytes)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            interrupted.wait()

    interrupted = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        interrupted.set()
        signal.default_int_handler(number, frame)

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            source.fetch(model, Interrupting())
    finally:
        signal.signal(signal.SIGINT, previous)
    assert hub.sent_bytes() < 32 << 20
    assert not (source.location(model) / "model.safetensors").exists()
    assert left_over(hub) == []


def test_two_at_once_fetch_it_once(hub: Hub) -> None:
    model = resolved(hub)
    threads = [threading.Thread(target=source.fetch, args=(model, Progress())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert hub.count("GET", "/cdn/") == 1
    assert (source.location(model) / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_the_branch_is_remembered(hub: Hub) -> None:
    folder = source.fetch(resolved(hub), Progress())
    assert (folder.parents[1] / "refs" / "main").read_text() == folder.name

"""Downloads into the hubs' own caches, from a hub on loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import FrameType

import pytest

from aimind import hub as source
from aimind.errors import DoesNotFitError, HubError
from aimind.types import Model
from tests.fakes.hub import Fault, Hub
from tests.hub.samples import (
    CONFIG,
    HUGGING_FACE,
    KINDS,
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

MIB = 1 << 20
LARGE = WEIGHTS * 64  # 16 MiB
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="a second client writes links otherwise")


def resolved(hub: Hub, kind: Kind) -> Model:
    """The sample repository; the hub has seen no request yet."""
    publish_model(hub)
    model = resolve(kind.reference)
    hub.requests.clear()
    return model


def begun(hub: Hub) -> list[Path]:
    """The first parts of contents in the cache."""
    return sorted((hub.folder.parent / "home").rglob("*.incomplete"))


def test_only_the_files_of_the_model(hub: Hub, kind: Kind) -> None:
    publish(hub, {"pytorch_model.bin": b"not wanted", "1_Pooling/config.json": b"{}", "empty.txt": b""})
    model = resolved(hub, kind)
    model = replace(model, files=tuple(file for file in model.files if not file.path.startswith("pytorch")))
    folder = fetch(model, Progress())
    assert folder == source.location(model)
    assert source.is_complete(model)
    assert (folder / "config.json").read_bytes() == CONFIG
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "1_Pooling/config.json").read_bytes() == b"{}"
    assert (folder / "empty.txt").read_bytes() == b""
    assert hub.count(path="pytorch_model.bin") == 0
    assert begun(hub) == []


def test_one_request_each_but_for_redirects(hub: Hub, kind: Kind) -> None:
    fetch(resolved(hub, kind), Progress())
    assert (hub.count("GET"), hub.count("HEAD"), hub.count(path="/cdn/")) == (3, 0, 1)


def test_other_tools_find_it(hub: Hub) -> None:
    """The folder is the one that huggingface_hub itself returns, without a download."""
    from huggingface_hub import snapshot_download

    folder = fetch(resolved(hub, HUGGING_FACE), Progress())
    hub.requests.clear()
    found = snapshot_download(NAME, cache_dir=folder.parents[2], endpoint=hub.url, local_files_only=True)
    assert Path(found) == folder
    assert hub.count() == 0
    snapshot_download(NAME, cache_dir=folder.parents[2], endpoint=hub.url)
    assert hub.count(path="/cdn/") == 0


def test_we_find_what_other_tools_fetched(hub: Hub) -> None:
    from huggingface_hub import snapshot_download

    model = resolved(hub, HUGGING_FACE)
    snapshot_download(NAME, cache_dir=source.location(model).parents[2], endpoint=hub.url)
    progress = Progress()
    fetch(model, progress)
    assert progress.started == []


def test_progress_adds_up(hub: Hub, kind: Kind) -> None:
    model = resolved(hub, kind)
    progress = Progress()
    fetch(model, progress)
    sizes = {"config.json": len(CONFIG), "model.safetensors": len(WEIGHTS)}
    assert progress.started == [sizes]
    assert progress.bytes == sizes
    assert progress.finished == 1


def test_a_second_time_there_is_nothing_to_do(hub: Hub, kind: Kind) -> None:
    model = resolved(hub, kind)
    fetch(model, Progress())
    hub.requests.clear()
    progress = Progress()
    fetch(model, progress)
    assert hub.requests == []
    assert progress.started == []


def test_the_commit_is_pinned(hub: Hub, kind: Kind) -> None:
    model = resolved(hub, kind)
    fetch(model, Progress())
    asked = [seen.path for seen in hub.requests if seen.host == "hub"]
    assert len(asked) == 2
    assert all(str(model.commit) in path for path in asked)


def test_a_new_commit_with_the_same_weights_fetches_the_rest(hub: Hub, kind: Kind) -> None:
    fetch(resolved(hub, kind), Progress())
    publish(hub, {"config.json": b"{}"})
    model = resolve(kind.reference)
    hub.requests.clear()
    progress = Progress()
    folder = fetch(model, progress)
    assert progress.started == [{"config.json": 2}]
    assert hub.count("GET", "/cdn/") == 0
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "config.json").read_bytes() == b"{}"


def test_small_files_are_here_before_the_weights(hub: Hub, kind: Kind) -> None:
    model = resolved(hub, kind)
    model = replace(model, files=tuple(reversed(model.files)))
    fetch(model, Progress(), small_bytes=1000)
    paths = [seen.path for seen in hub.requests]
    last = max(index for index, path in enumerate(paths) if "config.json" in path)
    assert last < min(index for index, path in enumerate(paths) if "model.safetensors" in path)


def test_a_damaged_file_in_the_cache_is_fetched_again(hub: Hub, kind: Kind) -> None:
    model = resolved(hub, kind)
    folder = fetch(model, Progress())
    for name in ("model.safetensors", "config.json"):
        (folder / name).resolve().write_bytes(b"damaged")
    assert open_file(model, model.files[1]).read(0, 8) == WEIGHTS[:8]
    fetch(model, Progress())
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "config.json").read_bytes() == CONFIG


def test_what_an_earlier_one_left_is_gone_on_with(hub: Hub, kind: Kind) -> None:
    publish(hub, {"model.safetensors": LARGE})
    model = resolve(kind.reference)
    hub.faults.append(Fault("/cdn/", cut_after=10 * MIB))
    hub.faults.append(Fault("/cdn/", status=500))
    hub.faults[0].times = 1
    progress = Progress()
    with pytest.raises(HubError, match="HTTP 50"):
        fetch(model, progress)
    (part,) = begun(hub)
    here = part.stat().st_size
    assert 9 * MIB <= here == progress.bytes["model.safetensors"]
    hub.faults.clear()
    hub.requests.clear()
    progress = Progress()
    folder = fetch(model, progress)
    assert (folder / "model.safetensors").read_bytes() == LARGE
    assert progress.bytes["model.safetensors"] == len(LARGE)
    assert [seen.range for seen in hub.requests if seen.host == "cdn"] == [f"bytes={here}-{len(LARGE) - 1}"]


def test_a_first_part_that_is_longer_than_the_file(hub: Hub, kind: Kind) -> None:
    model = resolved(hub, kind)
    blob = source.hub_of(kind.source).cache.blob(kind.reference, str(model.files[1].sha256))
    blob.parent.mkdir(parents=True)
    blob.with_name(blob.name + ".incomplete").write_bytes(WEIGHTS + b"x")
    assert (fetch(model, Progress()) / "model.safetensors").read_bytes() == WEIGHTS


def test_a_cache_that_cannot_be_written(hub: Hub, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    model = resolved(hub, kind)
    (hub.folder.parent / "file").write_bytes(b"")
    monkeypatch.setenv(kind.home, str(hub.folder.parent / "file"))
    with pytest.raises(HubError, match=r"could not be downloaded: .*Not a directory") as caught:
        fetch(model, Progress())
    assert kind.home in caught.value.hint


def test_a_full_disk_is_found_out_before_the_first_byte(hub: Hub, kind: Kind) -> None:
    publish_model(hub)
    hub.siblings[NAME] = [{"rfilename": "model.safetensors", "size": 1 << 60}]
    model = resolve(kind.reference)
    hub.requests.clear()
    with pytest.raises(DoesNotFitError, match=r"needs 1073741824\.0 GiB more of disk") as caught:
        fetch(model, Progress())
    assert kind.home in caught.value.hint
    assert hub.requests == []


def test_an_interruption_ends_it_at_once(hub: Hub, kind: Kind) -> None:
    """Ctrl-C in the middle of a download, though other threads do the work; the next one goes on."""
    publish(hub, {"model.safetensors": LARGE})
    model = resolve(kind.reference)
    hub.faults.append(Fault("/cdn/", hold_after=4 * MIB, times=1))

    class Interrupting(Progress):
        def advance(self, path: str, count_bytes: int) -> None:
            super().advance(path, count_bytes)
            if self.bytes[path] >= 2 * MIB and not interrupted.is_set():
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                interrupted.wait()
                hub.go_on.set()

    interrupted = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        interrupted.set()
        signal.default_int_handler(number, frame)

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            fetch(model, Interrupting())
    finally:
        signal.signal(signal.SIGINT, previous)
    assert not (source.location(model) / "model.safetensors").exists()
    (part,) = begun(hub)
    assert LARGE.startswith(part.read_bytes())
    assert (fetch(model, Progress()) / "model.safetensors").read_bytes() == LARGE


class Waiting(Progress):
    """Lets the hub go on with what it holds as soon as one waits for another."""

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        self._hub = hub

    def wait(self, path: str) -> None:
        super().wait(path)
        self._hub.go_on.set()


def test_two_at_once_fetch_it_once(hub: Hub, kind: Kind) -> None:
    publish(hub, {"model.safetensors": LARGE})
    model = resolve(kind.reference)
    hub.faults.append(Fault("/cdn/", hold_after=MIB, times=1))

    both = [Waiting(hub), Waiting(hub)]
    threads = [threading.Thread(target=fetch, args=(model, progress)) for progress in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert hub.count("GET", "/cdn/") == 1
    assert sorted(progress.waited for progress in both) == [[], ["model.safetensors"]]
    assert [progress.bytes["model.safetensors"] for progress in both] == [len(LARGE)] * 2
    assert (source.location(model) / "model.safetensors").read_bytes() == LARGE


def test_files_of_one_content_are_fetched_once(hub: Hub, kind: Kind) -> None:
    """SDXL has its vocabulary twice: nobody waits for himself, and nobody writes what another one writes."""
    publish(hub, {f"text_encoder_{number}/model.safetensors": LARGE for number in range(4)})
    model, progress = resolve(kind.reference), Progress()
    hub.requests.clear()
    folder = fetch(model, progress)
    assert [(folder / file.path).read_bytes() == LARGE for file in model.files] == [True] * 4
    assert hub.count("GET", "/cdn/") == 1
    assert progress.waited == []
    assert {progress.bytes[file.path] for file in model.files} == {len(LARGE)}
    assert begun(hub) == []


def test_two_at_once_of_files_of_one_content(hub: Hub, kind: Kind) -> None:
    """Of which they want different ones."""
    publish(hub, {"one/model.safetensors": LARGE, "two/model.safetensors": LARGE})
    model = resolve(kind.reference)
    hub.faults.append(Fault("/cdn/", hold_after=MIB, times=1))

    both = {file: Waiting(hub) for file in model.files}
    threads = [
        threading.Thread(target=fetch, args=(replace(model, files=(file,)), progress))
        for file, progress in both.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert hub.count("GET", "/cdn/") == 1
    assert sum(len(progress.waited) for progress in both.values()) == 1
    for file in model.files:
        assert (source.location(model) / file.path).read_bytes() == LARGE


CLIENTS = {
    "huggingface": "from huggingface_hub import snapshot_download",
    "modelscope": "from modelscope_hub.compat import snapshot_download",
}


@ON_LINUX
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.source)
def test_the_hub_s_own_client_at_the_same_time(hub: Hub, kind: Kind) -> None:
    """It holds its lock while it downloads: we wait for it, and then there is nothing left to do."""
    publish(hub, {"model.safetensors": LARGE})
    model = resolve(kind.reference)
    hub.faults.append(Fault("/cdn/", method="GET", hold_after=MIB, times=1))
    program = f"{CLIENTS[kind.source]}\nsnapshot_download({NAME!r})"
    theirs = subprocess.Popen(
        [sys.executable, "-c", program], env=dict(os.environ), stderr=subprocess.DEVNULL
    )
    while not hub.sent_bytes() >= MIB:
        assert theirs.poll() is None

    progress = Waiting(hub)
    folder = fetch(model, progress)
    assert theirs.wait() == 0
    assert progress.waited == ["model.safetensors"]
    assert hub.count("GET", "/cdn/") == 1
    assert (folder / "model.safetensors").read_bytes() == LARGE


def test_the_branch_is_remembered(hub: Hub, kind: Kind) -> None:
    model = resolved(hub, kind)
    folder = fetch(model, Progress())
    branch = "main" if kind == HUGGING_FACE else "master"
    assert (folder.parents[1] / "refs" / branch).read_text() == model.commit

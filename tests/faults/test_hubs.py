"""What hubs, networks and disks do to a download, and what a hostile hub lists; `make faults-hub`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from aimind.errors import AimindError
from tests.fakes.hub import Fault, Hub
from tests.faults.table import HUGGING_FACE, MODELSCOPE, Seen, fault
from tests.hub.samples import (
    CONFIG,
    KINDS,
    NAME,
    WEIGHTS,
    Kind,
    Progress,
    fetch,
    publish,
    publish_model,
    resolve,
)
from tests.supervisor.harness import wait_for

MIB = 1 << 20
LARGE = WEIGHTS * 64  # 16 MiB
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
ON = {"huggingface": HUGGING_FACE, "modelscope": MODELSCOPE}
REFUSED = "one error; nothing is written"


def on_both(title: str, expected: str) -> pytest.MarkDecorator:
    """A row for each hub."""
    return pytest.mark.parametrize("kind", [_row(kind, title, expected) for kind in KINDS])


def _row(kind: Kind, title: str, expected: str, *values: object) -> object:
    return pytest.param(kind, *values, marks=fault(title, expected, on=ON[kind.source]))


@pytest.fixture(autouse=True)
def hub(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Both hubs, at one address; whose caches are the folder `home`."""
    for name in ("AIMIND_HUB", "HF_TOKEN", "HF_HUB_CACHE", "MODELSCOPE_API_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HF_HOME", "MODELSCOPE_CACHE", "MODELSCOPE_HOME"):
        monkeypatch.setenv(name, str(home / "cache"))
    folder = tmp_path / "repositories"
    folder.mkdir()
    with Hub(folder) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", running.url)
        yield running


def refused(use: Callable[[], object], home: Path) -> str:
    """What the one error says; no file of a model may be in a snapshot."""
    with pytest.raises(AimindError) as caught:
        use()
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 300
    shown = {path.name for path in home.rglob("snapshots/**/*") if path.is_file()}
    assert "model.safetensors" not in shown
    return f"“{caught.value.message}”"


def pulled(kind: Kind) -> Path:
    return fetch(resolve(kind.reference), Progress())


# ── What a hostile hub lists ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        _row(kind, title, REFUSED, path)
        for title, path in (
            ("a file named `../escape`", "../escape"),
            ("a file named `a/../../escape`", "a/../../escape"),
            ("a file with an absolute path", "/etc/passwd"),
            ("a file named after a device", "/dev/sda"),
            ("a file with a path of Windows", "C:\\windows"),
            ("a file with a NUL in its name", "a\0b"),
            ("a file with a control sequence in its name", "a\x1b[31mb"),
            ("a file with a name of 5,000 characters", "x" * 5000),
            ("a file with a name of 256 bytes", "é" * 128),
        )
        for kind in KINDS
    ],
)
def test_names(hub: Hub, home: Path, kind: Kind, path: str, seen: Seen) -> None:
    publish_model(hub)
    hub.siblings[NAME] = [{"rfilename": path, "size": 1}]
    seen(refused(lambda: pulled(kind), home))
    assert not (home / "cache").exists()


@pytest.mark.parametrize(
    ("kind", "paths"),
    [
        _row(kind, title, REFUSED, paths)
        for title, paths in (
            ("two files of one name", ("config.json", "config.json")),
            ("a file that is the folder of another", ("config.json", "config.json/x")),
        )
        for kind in KINDS
    ],
)
def test_names_that_contradict_each_other(
    hub: Hub, home: Path, kind: Kind, paths: tuple[str, ...], seen: Seen
) -> None:
    publish_model(hub)
    hub.siblings[NAME] = [{"rfilename": path, "size": 1} for path in paths]
    seen(refused(lambda: pulled(kind), home))
    assert not (home / "cache").exists()


@on_both("two names that differ in case only", "two files, on a disk that tells them apart")
def test_case(hub: Hub, kind: Kind, seen: Seen) -> None:
    publish(hub, {"Model.txt": b"1", "model.txt": b"2"})
    folder = pulled(kind)
    assert [(folder / name).read_bytes() for name in ("Model.txt", "model.txt")] == [b"1", b"2"]
    seen("two files")


@on_both("a symbolic link in the repository", "a file with its text")
def test_symbolic_link(hub: Hub, kind: Kind, seen: Seen) -> None:
    publish(hub, {"passwords": b"../../../../../../../../etc/passwd"})  # what Git keeps of a link
    assert (pulled(kind) / "passwords").read_bytes().startswith(b"../")
    seen("a file with its text")


@on_both("a list of a million files", "one error, before all of it is read")
def test_a_million_files(hub: Hub, home: Path, kind: Kind, seen: Seen) -> None:
    entry = b'{"rfilename": "%d", "Path": "%d", "size": 1, "Size": 1}'
    files = b",".join(entry % (number, number) for number in range(1_000_000))
    body = b'{"sha": "%s", "siblings": [%s], "Code": 200, "Data": {"Files": []}}' % (b"0" * 40, files)
    if kind.source == "modelscope":
        body = b'{"Code": 200, "Data": {"Files": [%s]}}' % files
    hub.faults.append(Fault(kind.lists, body=body))
    seen(refused(lambda: pulled(kind), home))


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        _row(kind, title, "one error", body)
        for title, body in (
            ("an empty answer", b""),
            ("a page of HTML", b"<html>sign in first</html>"),
            ("JSON of another kind", b'{"sha": 7, "siblings": {}, "Code": 200, "Data": [7]}'),
            ("JSON, 100,000 levels deep", b"[" * 100_000),
        )
        for kind in KINDS
    ],
)
def test_answers(hub: Hub, home: Path, kind: Kind, body: bytes, seen: Seen) -> None:
    hub.faults.append(Fault(kind.lists, body=body))
    seen(refused(lambda: pulled(kind), home))


@on_both("a list of names alone, without sizes", "each file is asked for its size; whole")
def test_no_sizes(hub: Hub, kind: Kind, seen: Seen) -> None:
    publish_model(hub)
    hub.siblings[NAME] = [{"rfilename": path} for path in ("config.json", "model.safetensors")]
    assert (pulled(kind) / "model.safetensors").read_bytes() == WEIGHTS
    seen("whole")


@fault("a mirror that names no commit, and no sizes", "whole, and found again", on=HUGGING_FACE)
def test_no_commit(hub: Hub, monkeypatch: pytest.MonkeyPatch, seen: Seen) -> None:
    (kind,) = (each for each in KINDS if each.source == "huggingface")
    publish_model(hub)
    hub.names_commits = False
    hub.siblings[NAME] = [{"rfilename": path} for path in ("config.json", "model.safetensors")]
    folder = pulled(kind)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert pulled(kind) == folder
    seen("whole", "found offline")


@on_both("a token with a line break in it", "one error, which does not show it; nothing is sent")
def test_odd_token(hub: Hub, home: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch, seen: Seen) -> None:
    publish_model(hub)
    monkeypatch.setenv(kind.token, "hf_canary0123\nx")
    said = refused(lambda: pulled(kind), home)
    assert "canary" not in said
    assert hub.requests == []
    seen(said)


@on_both("a hub that is down, and a cache with one shard of two", "one error about the hub")
def test_down_and_partial(hub: Hub, home: Path, kind: Kind, seen: Seen) -> None:
    publish(hub, {"config.json": CONFIG, "model-00001-of-00002.safetensors": WEIGHTS})
    pulled(kind)
    hub.faults.append(Fault("/", status=503))
    seen(refused(lambda: pulled(kind), home))


# ── Redirects ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kind", "what", "location"),
    [
        _row(kind, f"{title} redirected to {where}", "one error", what, location)
        for title, what in (("a list", "lists"), ("a file", "files"))
        for where, location in (
            ("a file URL", "file:///etc/passwd"),
            ("itself, for ever", "?again"),
            ("no address at all", "http://[::1"),
        )
        for kind in KINDS
    ],
)
def test_redirects(hub: Hub, home: Path, kind: Kind, what: str, location: str, seen: Seen) -> None:
    publish_model(hub)
    hub.faults.append(Fault(getattr(kind, what), location=location))
    seen(refused(lambda: pulled(kind), home))


@on_both("a list redirected to another host", "it gets no token; one error where it has no such list")
def test_another_host(hub: Hub, home: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch, seen: Seen) -> None:
    publish_model(hub)
    monkeypatch.setenv(kind.token, hub.token)
    hub.faults += [Fault(kind.lists, location=f"{hub.cdn_url}/stolen"), Fault("/stolen", status=404)]
    said = refused(lambda: pulled(kind), home)
    assert [(each.authorization, each.cookie) for each in hub.requests if each.host == "cdn"] == [
        (None, None)
    ]
    seen("no token", said)


@on_both("a server of files that asks for a token", "it gets none; one error")
def test_servers_of_files(
    hub: Hub, home: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    publish_model(hub)
    monkeypatch.setenv(kind.token, hub.token)
    hub.faults.append(Fault("/cdn/", status=401))
    said = refused(lambda: pulled(kind), home)
    assert {(each.authorization, each.cookie) for each in hub.requests if each.host == "cdn"} == {
        (None, None)
    }
    seen("no token", said)


# ── Downloads that break ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kind", "at", "times"),
    [
        _row(kind, f"a connection cut {title}", "goes on from there", at, times)
        for title, at, times in (
            ("after the first byte", 1, 1),
            ("in the middle", len(LARGE) // 2, 1),
            ("before the last byte", len(LARGE) - 1, 1),
            ("every 3 MiB", 3 * MIB, 99),
        )
        for kind in KINDS
    ],
)
def test_cuts(hub: Hub, kind: Kind, at: int, times: int, seen: Seen) -> None:
    publish(hub, {"model.safetensors": LARGE})
    hub.faults.append(Fault("/cdn/", cut_after=at, times=times))
    assert (pulled(kind) / "model.safetensors").read_bytes() == LARGE
    twice = hub.sent_bytes() - len(LARGE)
    assert twice < (hub.count(path="/cdn/") - 1) * MIB + 100_000  # the list is sent, too
    seen("whole; at most 1 MiB fetched twice for each cut")


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        _row(kind, title, expected, broken)
        for title, expected, broken in (
            ("a connection cut at once, each time", "five tries, one error", Fault("/cdn/", cut_after=0)),
            ("100 bytes fewer than listed", "one error", Fault("/cdn/", longer=-100)),
            ("100 bytes more than listed", "one error", Fault("/cdn/", longer=100)),
            ("other bytes than listed, each time", "fetched twice, one error", Fault("/cdn/", flip=True)),
            ("500, each time", "five tries, one error", Fault("/cdn/", status=500)),
            ("404 from the server of files", "one error", Fault("/cdn/", status=404)),
            (
                "429 with `Retry-After: 3600`",
                "one error, which says so",
                Fault("/cdn/", status=429, headers={"Retry-After": "3600"}),
            ),
        )
        for kind in KINDS
    ],
)
def test_broken_for_ever(hub: Hub, home: Path, kind: Kind, broken: Fault, seen: Seen) -> None:
    publish_model(hub)
    hub.faults.append(replace(broken))
    said = refused(lambda: pulled(kind), home)
    seen(f"tries: {hub.count(path='/cdn/')}", said.replace(str(len(WEIGHTS)), "…"))
    hub.faults.clear()
    assert (pulled(kind) / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        _row(kind, title, "asked again, and whole", broken)
        for title, broken in (
            ("other bytes than listed, once", Fault("/cdn/", flip=True, times=1)),
            ("503 three times", Fault("/cdn/", status=503, times=3)),
            ("429 with `Retry-After: 1`", Fault("/cdn/", status=429, headers={"Retry-After": "1"}, times=1)),
        )
        for kind in KINDS
    ],
)
def test_broken_for_a_while(hub: Hub, kind: Kind, broken: Fault, seen: Seen) -> None:
    publish_model(hub)
    hub.faults.append(replace(broken))
    assert (pulled(kind) / "model.safetensors").read_bytes() == WEIGHTS
    seen(f"whole; tries: {hub.count(path='/cdn/')}")


def _drips(what: str, expected: str) -> list[object]:
    """A row for each way to drip, on each hub."""
    titles = {
        "header": "a byte of a header comes",
        "body": "a byte of the body comes",
        "1xx": "an interim answer (102) comes",
    }
    return [
        _row(kind, f"{what} of which {title} now and then", expected, drip)
        for drip, title in titles.items()
        for kind in KINDS
    ]


@pytest.mark.parametrize(
    ("kind", "drip"),
    _drips("a list", "one error in time, which says so"),
)
def test_lists_that_drip(
    hub: Hub,
    home: Path,
    kind: Kind,
    drip: Literal["header", "body", "1xx"],
    monkeypatch: pytest.MonkeyPatch,
    seen: Seen,
) -> None:
    publish_model(hub)
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "0.5")
    hub.faults.append(Fault(kind.lists, drip=drip, longer=1000))
    said = refused(lambda: pulled(kind), home)
    seen(f"tries: {hub.count(path=kind.lists)}", said)


@pytest.mark.parametrize(
    ("kind", "drip"),
    _drips("a file", "five tries, one error, which says so"),
)
def test_files_that_drip(
    hub: Hub,
    home: Path,
    kind: Kind,
    drip: Literal["header", "body", "1xx"],
    monkeypatch: pytest.MonkeyPatch,
    seen: Seen,
) -> None:
    publish_model(hub)
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "0.25")
    hub.faults.append(Fault("/cdn/", drip=drip, longer=len(WEIGHTS)))
    said = refused(lambda: pulled(kind), home)
    seen(f"tries: {hub.count(path='/cdn/')}", re.sub(r"\d+ bytes", "… bytes", said))
    hub.faults.clear()
    assert (pulled(kind) / "model.safetensors").read_bytes() == WEIGHTS


@on_both("a file that changes between list and read", "one error, which says so; then whole")
def test_changed(hub: Hub, home: Path, kind: Kind, seen: Seen) -> None:
    publish_model(hub)
    hub.siblings[NAME] = [
        {"rfilename": "config.json", "size": 5},
        {"rfilename": "model.safetensors", "size": 7},
    ]
    seen(refused(lambda: pulled(kind), home))
    hub.siblings.clear()
    assert (pulled(kind) / "config.json").read_bytes() == CONFIG


@pytest.fixture
def disk(home: Path) -> Iterator[Path]:
    """A disk of 290 MiB for the cache, of which 256 are for everybody else."""
    folder = home / "cache"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=290m", "none", folder], stderr=subprocess.PIPE
    )
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@ROOT
@on_both("a disk that fills up", "one error, which says so; goes on once there is room")
def test_full(hub: Hub, home: Path, disk: Path, kind: Kind, seen: Seen) -> None:
    publish(hub, {"model.safetensors": LARGE})
    hub.faults.append(Fault("/cdn/", hold_after=4 * MIB, times=1))
    model = resolve(kind.reference)
    ballast = disk / "ballast"

    class Filling(Progress):
        def advance(self, path: str, count_bytes: int) -> None:
            super().advance(path, count_bytes)
            if not ballast.exists() and self.bytes[path] >= MIB:
                with ballast.open("wb") as file:
                    os.posix_fallocate(
                        file.fileno(), 0, os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
                    )
                hub.go_on.set()

    seen(refused(lambda: fetch(model, Filling()), home))
    ballast.unlink()
    hub.requests.clear()
    assert (fetch(model, Progress()) / "model.safetensors").read_bytes() == LARGE
    assert hub.sent_bytes() < len(LARGE)


# ── Programs ───────────────────────────────────────────────────────────────────────────────────────────────


def pull(kind: Kind) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "tests.hub.pull", kind.source, NAME]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@on_both("KILL of aimind at half", "the next one goes on; at most 1 MiB of each file is fetched twice")
def test_kill(hub: Hub, home: Path, kind: Kind, seen: Seen) -> None:
    names = [f"model-{number}.safetensors" for number in range(3)]
    publish(hub, {name: LARGE[number:] for number, name in enumerate(names)})
    half = len(LARGE) // 2 + 12345
    hub.faults.append(Fault("/cdn/", hold_after=half, times=3))
    with pull(kind) as first:
        wait_for(lambda: sum(part.stat().st_size >= half - MIB for part in parts(home)) == 3, what="half")
        first.send_signal(signal.SIGKILL)
    here = sorted(part.stat().st_size for part in parts(home))
    assert not list(home.rglob("snapshots/**/*.safetensors"))
    hub.requests.clear()
    with pull(kind) as second:
        folder = Path(second.communicate()[0].strip())
    assert [(folder / name).read_bytes() for name in names] == [LARGE, LARGE[1:], LARGE[2:]]
    asked = [str(each.range) for each in hub.requests if each.host == "cdn"]
    assert sorted(int(each.removeprefix("bytes=").partition("-")[0]) for each in asked) == here
    assert all(half - start <= MIB for start in here)
    assert not parts(home)
    seen("whole; at most 1 MiB of each fetched twice")


@on_both(
    "KILL of aimind while one file comes by several connections",
    "the next one goes on; at most one chunk for each connection is fetched twice",
)
def test_kill_of_several_connections(hub: Hub, home: Path, kind: Kind, seen: Seen) -> None:
    content = LARGE * 3
    chunk, connections = MIB, 8
    publish(hub, {"model.safetensors": content})
    hub.bytes_per_second = 4e6
    argv = [sys.executable, "-m", "tests.hub.pull", kind.source, NAME, str(chunk)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        wait_for(
            lambda: sum(part.stat().st_size for part in parts(home)) > len(content) // 2, what="a half of it"
        )
        first.send_signal(signal.SIGKILL)
    (part,) = parts(home)
    here = part.read_bytes()
    assert content.startswith(here)
    assert hub.count(path="/cdn/") > connections
    ends = [
        int(str(each.range).rpartition("-")[2]) for each in hub.requests if each.host == "cdn" and each.range
    ]
    assert max(ends) < len(here) + connections * chunk
    hub.requests.clear()
    hub.bytes_per_second = None
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert (Path(done.stdout.strip()) / "model.safetensors").read_bytes() == content
    starts = [int(str(each.range)[6:].partition("-")[0]) for each in hub.requests if each.host == "cdn"]
    assert min(starts) == len(here)
    seen("whole; at most one chunk for each connection fetched twice")


@on_both("two of aimind at once, for one model", "one downloads; the other waits and says so")
def test_two(hub: Hub, kind: Kind, seen: Seen) -> None:
    publish(hub, {"model.safetensors": LARGE})
    hub.faults.append(Fault("/cdn/", hold_after=MIB, times=1))
    with pull(kind) as first:
        wait_for(lambda: hub.sent_bytes() >= MIB, what="the first download")
        with pull(kind) as second:
            assert second.stderr is not None
            said = next(line for line in second.stderr if "waiting" in line)
            hub.go_on.set()
            folders = {each.communicate()[0].strip() for each in (first, second)}
    (folder,) = folders
    assert (Path(folder) / "model.safetensors").read_bytes() == LARGE
    assert hub.count("GET", "/cdn/") == 1
    seen(f"“{said.strip().removeprefix('aimind: ')}”", "fetched once")


def parts(home: Path) -> list[Path]:
    return list(home.rglob("*.incomplete"))

"""Reading headers over HTTP: few requests, few bytes, and no secret to strangers."""

from __future__ import annotations

import random

import pytest

from aimind.errors import HubError
from aimind.types import Reader
from tests.fakes.hub import Fault, Hub
from tests.hub.samples import Kind, open_file, publish, resolve

MIB = 1 << 20
FILES = {"huggingface": "/resolve/", "modelscope": "/repo?"}
CONTENT = random.Random(0).randbytes(12 * MIB)


def opened(hub: Hub, kind: Kind, content: bytes = CONTENT, path: str = "model.gguf") -> Reader:
    """A reader of the file; the hub has seen no request yet."""
    publish(hub, {path: content})
    model = resolve(kind.reference)
    hub.requests.clear()
    return open_file(model, model.files[0])


def test_a_long_header_read_in_small_pieces(hub: Hub, kind: Kind) -> None:
    """A vocabulary of 8 MB, walked through: one redirect, then ever larger ranges."""
    reader = opened(hub, kind)
    read = b"".join(reader.read(at, 1000) for at in range(0, 8 * MIB, 1000))
    assert read == CONTENT[: len(read)]
    assert hub.count("GET", FILES[kind.source]) == 1
    assert hub.count("GET", "/cdn/") == 4
    assert hub.sent_bytes() < 9 * MIB


def test_a_short_header_is_one_range(hub: Hub, kind: Kind) -> None:
    reader = opened(hub, kind)
    assert reader.size_bytes == len(CONTENT)
    assert reader.read(0, 8) + reader.read(8, 20_000) == CONTENT[:20_008]
    assert hub.count("GET", "/cdn/") == 1
    assert hub.sent_bytes() == 64 << 10


def test_what_is_jumped_over_is_not_fetched(hub: Hub, kind: Kind) -> None:
    reader = opened(hub, kind)
    assert reader.read(0, 8) == CONTENT[:8]
    assert reader.read(10 * MIB, 8) == CONTENT[10 * MIB :][:8]
    assert hub.sent_bytes() < MIB


@pytest.mark.parametrize("path", ["model.gguf", "config.json"])
def test_any_reads_give_the_bytes_of_the_file(hub: Hub, kind: Kind, path: str) -> None:
    """Forward, backward, overlapping, over the end: always the slice."""
    content = CONTENT[: MIB + 7]
    reader = opened(hub, kind, content, path)
    choose = random.Random(1)
    for _ in range(200):
        offset, length = choose.randrange(len(content) + 100), choose.choice([0, 1, 8, 4096, 70_000, 2 * MIB])
        assert reader.read(offset, length) == content[offset : offset + length]


def test_a_small_file_is_one_request(hub: Hub, kind: Kind) -> None:
    reader = opened(hub, kind, b"{}", "config.json")
    assert reader.read(0, 1 << 30) == b"{}"
    assert hub.count() == 1


def test_an_empty_file_is_no_request(hub: Hub, kind: Kind) -> None:
    assert opened(hub, kind, b"").read(0, 8) == b""
    assert hub.count() == 0


def test_an_address_that_expired_is_asked_for_again(hub: Hub, kind: Kind) -> None:
    reader = opened(hub, kind)
    reader.read(0, 8)
    hub.faults.append(Fault("/cdn/", status=403, times=1))
    assert reader.read(MIB, 8) == CONTENT[MIB:][:8]
    assert hub.count("GET", FILES[kind.source]) == 2


def test_an_address_that_is_refused_at_once(hub: Hub, kind: Kind) -> None:
    reader = opened(hub, kind)
    hub.faults.append(Fault("/cdn/", status=403))
    with pytest.raises(HubError, match="refused access"):
        reader.read(0, 8)


def test_a_server_without_ranges_is_heard_no_longer_than_needed(hub: Hub, kind: Kind) -> None:
    reader = opened(hub, kind, bytes(48 * MIB))
    hub.faults.append(Fault("/cdn/", ignore_range=True))
    assert reader.read(0, 8) == bytes(8)
    assert reader.read(MIB, 8) == bytes(8)
    # What the two connections buffer comes on top.
    assert hub.sent_bytes() < 32 * MIB
    with pytest.raises(HubError, match="cannot send parts of a file"):
        reader.read(40 * MIB, 8)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (
            Fault("/(resolve|repo$)", location="file:///etc/passwd"),
            "redirects to an address with the scheme 'file'",
        ),
        (
            Fault("/(resolve|repo$)", location="ftp://127.0.0.1/x"),
            "redirects to an address with the scheme 'ftp'",
        ),
        (Fault("/(resolve|repo$)", location="?again"), "redirects more than"),
        (Fault("/cdn/", body=b"short"), "model.gguf has 5 bytes, where 12,582,912 were listed"),
        (Fault("/cdn/", status=206), "a part of a file that was not requested"),
    ],
)
def test_a_hostile_server(hub: Hub, kind: Kind, fault: Fault, sentence: str) -> None:
    reader = opened(hub, kind)
    hub.faults.append(fault)
    with pytest.raises(HubError, match=sentence):
        reader.read(0, 8)


def test_a_connection_that_breaks_is_made_again(hub: Hub, kind: Kind) -> None:
    reader = opened(hub, kind)
    hub.faults.append(Fault("/cdn/", cut_after=1000, times=1))
    assert reader.read(0, 8) == CONTENT[:8]


def test_a_connection_that_always_breaks(hub: Hub, kind: Kind) -> None:
    reader = opened(hub, kind)
    hub.faults.append(Fault("/cdn/", cut_after=1000))
    with pytest.raises(HubError, match="cannot be reached"):
        reader.read(0, 8)
    assert hub.count("GET", "/cdn/") == 3


def test_a_server_that_drips(hub: Hub, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte is in time, and the whole would take for ever."""
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "0.2")
    reader = opened(hub, kind)
    hub.faults.append(Fault("/cdn/", drip="header"))
    with pytest.raises(HubError, match="too slow for owner/model: it did not finish its answer within"):
        reader.read(0, 8)
    assert hub.count("GET", "/cdn/") == 1

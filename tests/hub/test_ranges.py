"""Reading headers over HTTP: few requests, few bytes, and no secret to strangers."""

from __future__ import annotations

import random

import pytest

from aimind import hub as source
from aimind.errors import HubError
from aimind.types import Reader, Reference
from tests.fakes.hub import Fault, Hub
from tests.hub.samples import NAME, publish

REFERENCE = Reference(source="huggingface", name=NAME)
MIB = 1 << 20
CONTENT = random.Random(0).randbytes(12 * MIB)


def opened(hub: Hub, content: bytes = CONTENT, path: str = "model.gguf") -> Reader:
    """A reader of the file; the hub has seen no request yet."""
    publish(hub, {path: content})
    model = source.resolve(REFERENCE)
    hub.requests.clear()
    return source.open_file(model, model.files[0])


def test_a_long_header_read_in_small_pieces(hub: Hub) -> None:
    """A vocabulary of 8 MB, walked through: one redirect, then ever larger ranges."""
    reader = opened(hub)
    read = b"".join(reader.read(at, 1000) for at in range(0, 8 * MIB, 1000))
    assert read == CONTENT[: len(read)]
    assert hub.count("GET", "/resolve/") == 1
    assert hub.count("GET", "/cdn/") == 4
    assert hub.sent_bytes() < 9 * MIB


def test_a_short_header_is_one_range(hub: Hub) -> None:
    reader = opened(hub)
    assert reader.size_bytes == len(CONTENT)
    assert reader.read(0, 8) + reader.read(8, 20_000) == CONTENT[:20_008]
    assert hub.count("GET", "/cdn/") == 1
    assert hub.sent_bytes() == 64 << 10


def test_what_is_jumped_over_is_not_fetched(hub: Hub) -> None:
    reader = opened(hub)
    assert reader.read(0, 8) == CONTENT[:8]
    assert reader.read(10 * MIB, 8) == CONTENT[10 * MIB :][:8]
    assert hub.sent_bytes() < MIB


@pytest.mark.parametrize("path", ["model.gguf", "config.json"])
def test_any_reads_give_the_bytes_of_the_file(hub: Hub, path: str) -> None:
    """Forward, backward, overlapping, over the end: always the slice."""
    content = CONTENT[: MIB + 7]
    reader = opened(hub, content, path)
    choose = random.Random(1)
    for _ in range(200):
        offset, length = choose.randrange(len(content) + 100), choose.choice([0, 1, 8, 4096, 70_000, 2 * MIB])
        assert reader.read(offset, length) == content[offset : offset + length]


def test_a_small_file_is_one_request(hub: Hub) -> None:
    reader = opened(hub, b"{}", "config.json")
    assert reader.read(0, 1 << 30) == b"{}"
    assert hub.count() == 1


def test_an_empty_file_is_no_request(hub: Hub) -> None:
    assert opened(hub, b"").read(0, 8) == b""
    assert hub.count() == 0


def test_the_token_goes_to_the_hub_alone(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    opened(hub).read(0, 8)
    sent = {seen.host: seen.authorization for seen in hub.requests}
    assert sent == {"hub": f"Bearer {hub.token}", "cdn": None}


def test_without_a_token_none_is_sent(hub: Hub) -> None:
    opened(hub).read(0, 8)
    assert {seen.authorization for seen in hub.requests} == {None}


def test_an_address_that_expired_is_asked_for_again(hub: Hub) -> None:
    reader = opened(hub)
    reader.read(0, 8)
    hub.faults.append(Fault("/cdn/", status=403, times=1))
    assert reader.read(MIB, 8) == CONTENT[MIB:][:8]
    assert hub.count("GET", "/resolve/") == 2


def test_an_address_that_is_refused_at_once(hub: Hub) -> None:
    reader = opened(hub)
    hub.faults.append(Fault("/cdn/", status=403))
    with pytest.raises(HubError, match="refused access"):
        reader.read(0, 8)


def test_a_server_without_ranges_is_heard_no_longer_than_needed(hub: Hub) -> None:
    reader = opened(hub, bytes(48 * MIB))
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
        (Fault("/resolve/", location="file:///etc/passwd"), "redirects to an address of the kind 'file'"),
        (Fault("/resolve/", location="ftp://127.0.0.1/x"), "redirects to an address of the kind 'ftp'"),
        (Fault("/resolve/", location="?again"), "redirects more than"),
        (Fault("/cdn/", body=b"short"), "sends fewer than"),
        (Fault("/cdn/", status=206), "sends another part"),
    ],
)
def test_a_hostile_server(hub: Hub, fault: Fault, sentence: str) -> None:
    reader = opened(hub)
    hub.faults.append(fault)
    with pytest.raises(HubError, match=sentence):
        reader.read(0, 8)


def test_a_connection_that_breaks_is_made_again(hub: Hub) -> None:
    reader = opened(hub)
    hub.faults.append(Fault("/cdn/", cut_after=1000, times=1))
    assert reader.read(0, 8) == CONTENT[:8]


def test_a_connection_that_always_breaks(hub: Hub) -> None:
    reader = opened(hub)
    hub.faults.append(Fault("/cdn/", cut_after=1000))
    with pytest.raises(HubError, match="cannot be reached"):
        reader.read(0, 8)
    assert hub.count("GET", "/cdn/") == 3

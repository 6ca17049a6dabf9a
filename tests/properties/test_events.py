"""Laws of server-sent events: however the bytes are cut, the same events come out."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from aimind.api.events import EventDecoder

# All that must not be mistaken for a line end or cut in two: U+2028 and U+0085 are no line ends here.
TEXT = st.text(
    st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]) | st.sampled_from("\u2028\x85é漢🦙 :")
)
LINE_ENDS = st.sampled_from(["\n", "\r\n", "\r"])
NOISE = st.sampled_from(["", ": a comment", "event: token", "id: 7", "retry: 10", "unknown", "dataset: 1"])


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[str]]:
    """A stream as a server may write it, and the data of its events."""
    events = draw(st.lists(st.lists(TEXT, min_size=1, max_size=3), max_size=5))
    written = draw(st.sampled_from(["", "\ufeff"]))
    end = draw(LINE_ENDS)  # mixed ones would be read otherwise: a return and a new line are one end
    for lines in events:
        parts = [part for part in [draw(NOISE), *(f"data: {line}" for line in lines), draw(NOISE)] if part]
        written += "".join(part + end for part in parts) + end
    return written.encode(), ["\n".join(lines) for lines in events]


@given(streams(), st.data())
def test_any_cut_gives_the_same_events(stream: tuple[bytes, list[str]], data: st.DataObject) -> None:
    written, events = stream
    cuts = sorted(data.draw(st.sets(st.integers(0, len(written)))) | {0, len(written)})
    decoder = EventDecoder()
    found = [event for one, other in itertools.pairwise(cuts) for event in decoder.feed(written[one:other])]
    assert found == events
    assert decoder.end() == []


@given(streams())
def test_one_byte_at_a_time(stream: tuple[bytes, list[str]]) -> None:
    written, events = stream
    decoder = EventDecoder()
    assert [event for at in range(len(written)) for event in decoder.feed(written[at : at + 1])] == events


@given(st.lists(st.binary(max_size=40), max_size=10))
def test_any_bytes_are_read(pieces: list[bytes]) -> None:
    """What is no UTF-8 becomes replacement characters, and nothing fails."""
    whole, cut = EventDecoder(), EventDecoder()
    one = [*whole.feed(b"".join(pieces)), *whole.end()]
    other = [event for piece in pieces for event in cut.feed(piece)] + cut.end()
    assert one == other


def test_a_stream_without_its_last_line_end() -> None:
    """Some servers close the connection right after the last event."""
    decoder = EventDecoder()
    assert decoder.feed(b"data: one\n\ndata: [DONE]") == ["one"]
    assert decoder.end() == ["[DONE]"]

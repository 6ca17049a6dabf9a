"""Server-sent events, decoded as they arrive.

The format is that of https://html.spec.whatwg.org/multipage/server-sent-events.html, section "Interpreting an
event stream". Only the `data` field is kept: inference servers put all that matters there.
"""

from __future__ import annotations

import codecs
import re

_LINE_END = re.compile("\r\n|\n|\r")


class EventDecoder:
    """Turns the bytes of a stream, in pieces of any size, into the data of its events."""

    def __init__(self) -> None:
        # utf-8-sig drops a byte order mark at the start. The decoder keeps the bytes of a split character.
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
        self._line = ""
        self._data: list[str] = []
        self._ended_with_return = False

    def feed(self, data: bytes) -> list[str]:
        """Return the events that these bytes complete, in order."""
        return self._take(self._decoder.decode(data))

    def end(self) -> list[str]:
        """Return the event that the end of the stream completes, if any.

        The specification drops an event without an empty line after it, but some servers close the connection
        right after `data: [DONE]`.
        """
        rest = self._decoder.decode(b"", final=True)
        return self._take(f"{rest}\n\n")

    def _take(self, text: str) -> list[str]:
        if not text:
            return []
        if self._ended_with_return and text.startswith("\n"):
            text = text[1:]  # the second half of a line end that was split between two pieces
            self._ended_with_return = False
            if not text:
                return []
        self._ended_with_return = text.endswith("\r")
        *lines, self._line = _LINE_END.split(self._line + text)
        events = []
        for line in lines:
            if line:
                self._read_field(line)
            elif self._data:
                events.append("\n".join(self._data))
                self._data = []
        return events

    def _read_field(self, line: str) -> None:
        name, _, value = line.partition(":")  # a comment has an empty name
        if name == "data":
            self._data.append(value.removeprefix(" "))

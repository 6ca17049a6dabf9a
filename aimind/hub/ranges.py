"""A file on an HTTP server, read by ranges: headers of models, without their weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aimind.hub.failures import Explain, retried
from aimind.hub.http import ChangedError, NonsenseError, RefusedError, Remote
from aimind.hub.transport import TIMEOUTS_PER_ANSWER, answer_within, download_timeout

if TYPE_CHECKING:
    import httpx2

# Most headers of safetensors fit the first block; each further one is larger, for the vocabularies in GGUF.
FIRST_BLOCK_BYTES = 64 << 10
GROWTH = 8
LARGEST_BLOCK_BYTES = 4 << 20
# A block may take a minute, and more by its size.
LEAST_BYTES_PER_SECOND = 16 << 10
# The most that is downloaded of a file whose server cannot send ranges.
MOST_SKIPPED_BYTES = 32 << 20


class RangeReader:
    """Fetches what is read, and some more behind it, so that many small reads cost few requests.

    The address behind the redirects is kept for the next range.
    """

    def __init__(
        self, remote: Remote, size_bytes: int, *, explain: Explain, waits: Sequence[float] | None = None
    ) -> None:
        self._remote = remote
        self._explain = explain
        self._size_bytes = size_bytes
        self._waits = waits
        self._location = remote.url
        self._ahead_bytes = FIRST_BLOCK_BYTES
        self._buffer = b""
        self._start = 0  # of the buffer, in the file

    @property
    def size_bytes(self) -> int:
        """The file's whole size."""
        return self._size_bytes

    def read(self, offset: int, length: int) -> bytes:
        """The bytes from `offset`, exactly `length` of them, or fewer only where the file ends.

        Raises:
            HubError: the server cannot be reached, or sends something else.
        """
        end = min(offset + length, self._size_bytes)
        if offset >= end:
            return b""
        if offset < self._start or end > self._start + len(self._buffer):
            self._fill(offset, end)
        return self._buffer[offset - self._start : end - self._start]

    def _fill(self, offset: int, end: int) -> None:
        """Have these bytes in the buffer, keeping what is already there of them."""
        kept = b""
        if self._start <= offset < self._start + len(self._buffer):
            kept = self._buffer[offset - self._start :]
        start = offset + len(kept)
        stop = min(max(end, start + self._ahead_bytes), self._size_bytes)
        fetched = retried(lambda: self._get(start, stop), self._explain, self._waits)
        self._buffer, self._start = kept + fetched, offset
        self._ahead_bytes = min(GROWTH * self._ahead_bytes, LARGEST_BLOCK_BYTES)

    def _get(self, start: int, stop: int) -> bytes:
        try:
            return self._get_from(self._location, start, stop)
        except RefusedError as refusal:
            if self._location == self._remote.url or refusal.status >= 500:
                raise
            self._location = self._remote.url  # it was signed for some minutes, which are over
            return self._get_from(self._location, start, stop)

    def _get_from(self, location: str, start: int, stop: int) -> bytes:
        seconds = TIMEOUTS_PER_ANSWER * download_timeout() + (stop - start) / LEAST_BYTES_PER_SECOND
        with (
            answer_within(seconds),
            self._remote.get(range_headers(start, stop), start=location) as response,
        ):
            skipped = start_of(response, start, stop, self._size_bytes, what=self._remote.what)
            if skipped > MOST_SKIPPED_BYTES:
                raise NonsenseError("cannot send parts of a file")
            self._location = str(response.url)
            body = bytearray()
            for chunk in response.iter_raw():
                body += chunk[skipped:]
                skipped = max(0, skipped - len(chunk))
                if len(body) >= stop - start:
                    return bytes(body[: stop - start])
        raise ChangedError(
            f"{self._remote.what} has fewer than the {self._size_bytes:,} bytes that were listed"
        )


def range_headers(start: int, stop: int) -> dict[str, str]:
    """What to ask with for the bytes from `start` to before `stop`, as they are."""
    return {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}


def start_of(response: httpx2.Response, start: int, stop: int, size_bytes: int, *, what: str) -> int:
    """How many bytes come before the wanted ones: of a server that sends the whole file instead.

    Raises:
        NonsenseError: it sends something else.
        ChangedError: the file has another size than was listed.
    """
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise NonsenseError("sent a compressed file although that was not accepted")
    if response.status_code != 206:
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and int(length) != size_bytes:
            raise ChangedError(f"{what} has {int(length):,} bytes, where {size_bytes:,} were listed")
        return start
    sent = response.headers.get("Content-Range", "")
    if sent == f"bytes {start}-{stop - 1}/{size_bytes}":
        return 0
    total = sent.rpartition("/")[2]
    if total.isdecimal() and int(total) != size_bytes:
        raise ChangedError(f"{what} has {int(total):,} bytes, where {size_bytes:,} were listed")
    raise NonsenseError("sent a part of a file that was not requested")

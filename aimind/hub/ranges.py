"""A file on an HTTP server, read by ranges: headers of models, without their weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from aimind.errors import HubError
from aimind.hub.failures import Explain, retried

if TYPE_CHECKING:
    import httpx2

# Most headers of safetensors fit the first block; each further one is larger, for the vocabularies in GGUF.
FIRST_BLOCK_BYTES = 64 << 10
GROWTH = 8
LARGEST_BLOCK_BYTES = 4 << 20
# Of a file on a server that cannot send ranges, no more is fetched than this.
MOST_SKIPPED_BYTES = 32 << 20
MOST_REDIRECTS = 5
TIMEOUT_SECONDS = 10.0


class RangeReader:
    """Fetches what is read, and some more behind it, so that many small reads cost few requests.

    The headers given are sent to the server of the address only, not to those that it redirects to. The
    address behind the redirects is kept for the next range.
    """

    def __init__(self, url: str, size_bytes: int, *, headers: Mapping[str, str], explain: Explain) -> None:
        self._url = url
        self._size_bytes = size_bytes
        self._headers = headers
        self._explain = explain
        self._location = url
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
        fetched = retried(lambda: self._get(start, stop), self._explain)
        self._buffer, self._start = kept + fetched, offset
        self._ahead_bytes = min(GROWTH * self._ahead_bytes, LARGEST_BLOCK_BYTES)

    def _get(self, start: int, stop: int) -> bytes:
        from huggingface_hub import get_session
        from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]  # lazy, but public

        url = self._location
        for _ in range(MOST_REDIRECTS):
            headers = dict(self._headers) if _origin(url) == _origin(self._url) else {}
            headers |= {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
            with get_session().stream(
                "GET", url, headers=headers, follow_redirects=False, timeout=TIMEOUT_SECONDS
            ) as response:
                if response.has_redirect_location:
                    url = self._redirected(url, response.headers["Location"])
                    continue
                if response.is_client_error and url == self._location != self._url:
                    url = self._location = self._url  # it was signed for some minutes, which are over
                    continue
                hf_raise_for_status(response)
                body = self._body(response, start, stop)
            self._location = url
            return body
        raise self._nonsense(f"redirects more than {MOST_REDIRECTS} times")

    def _redirected(self, url: str, location: str) -> str:
        target = urljoin(url, location)
        scheme = urlsplit(target).scheme
        if scheme != "https" and not (scheme == "http" and urlsplit(url).scheme == "http"):
            raise self._nonsense(f"redirects to an address of the kind {scheme!r}")
        return target

    def _body(self, response: httpx2.Response, start: int, stop: int) -> bytes:
        """The wanted bytes. A server that sends the whole file instead is heard until they have come by."""
        skipped = 0
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise self._nonsense("sends a compressed file though it was asked not to")
        if response.status_code != 206:
            skipped = start
            if start > MOST_SKIPPED_BYTES:
                raise self._nonsense("cannot send parts of a file")
        elif response.headers.get("Content-Range") != f"bytes {start}-{stop - 1}/{self._size_bytes}":
            raise self._nonsense("sends another part of a file than it was asked for")
        body = bytearray()
        for chunk in response.iter_bytes():
            body += chunk[skipped:]
            skipped = max(0, skipped - len(chunk))
            if len(body) >= stop - start:
                return bytes(body[: stop - start])
        raise self._nonsense(f"sends fewer than the {self._size_bytes:,} bytes that it listed")

    def _nonsense(self, what: str) -> HubError:
        url = urlsplit(self._url)
        return HubError(
            f"{url.scheme}://{url.netloc} {what} ({url.path})",
            hint="Check HF_ENDPOINT, and proxies on the way; or download the model first.",
        )


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.lower()

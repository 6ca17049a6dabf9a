"""HTTP for every hub: redirects carry no secret away, refusals are one exception, answers have an end."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal
from urllib.parse import urljoin, urlsplit

from aimind.hub.cache import SHA1, SHA256
from aimind.hub.transport import (
    TIMEOUTS_PER_ANSWER,
    ProxyError,
    Rate,
    SlowError,
    answer_timeout,
    answer_within,
    download_timeout,
    send,
)
from aimind.redaction import quoted

if TYPE_CHECKING:
    import httpx2

MOST_REDIRECTS = 5
# Enough for a list of some 50,000 files; the repository of a model has hundreds.
LARGEST_ANSWER_BYTES = 16 << 20
_LARGEST_REFUSAL_BYTES = 64 << 10
_PIECE_BYTES = 1 << 20

# What servers answer that know GET alone.
_NO_HEAD = frozenset({400, 403, 405, 501})
LINKED_SIZE = "X-Linked-Size"

Why = Literal["gated", "revision", "repository", "file", "other"]


class AnswerError(Exception):
    """A server's answer is not what was hoped for."""


class RefusedError(AnswerError):
    """A server answered, and refuses.

    Attributes:
        status: of HTTP.
        why: what it means at that hub.
        wait_seconds: how long we shall wait before we ask again (`Retry-After`).
    """

    def __init__(self, status: int, why: Why, wait_seconds: float | None = None) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.why = why
        self.wait_seconds = wait_seconds


class NonsenseError(AnswerError):
    """A server answered what makes no sense: what exactly."""


class ChangedError(AnswerError):
    """A file is not as it was listed: how."""


@dataclass(frozen=True)
class Facts:
    """What a server tells of a file, as far as it does: its size, its hash, and the commit that it is of."""

    size_bytes: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None
    commit: str | None = None

    @classmethod
    def of(cls, responses: Sequence[httpx2.Response]) -> Facts:
        """Read the facts from the answer to HEAD and the redirects before it.

        As `get_hf_file_metadata` of huggingface_hub 2.4 reads them. An `ETag` is a hash of the content only
        where the server is a hub, which names a commit; those of other servers may be anything.
        """
        commit = linked = size = None
        for response in responses:
            headers = response.headers
            commit = commit or headers.get("X-Repo-Commit")
            linked = linked or headers.get("X-Linked-Etag")
            size = size or headers.get(LINKED_SIZE)
        last = responses[-1]
        if not last.has_redirect_location and "Content-Encoding" not in last.headers:
            size = size or last.headers.get("Content-Length")
        etag = linked or (responses[0].headers.get("ETag") if commit else None) or ""
        etag = etag.removeprefix("W/").strip('"').lower()
        return cls(
            size_bytes=int(size) if size is not None and size.isdecimal() else None,
            sha256=etag if SHA256.fullmatch(etag) else None,
            git_sha1=etag if SHA1.fullmatch(etag) else None,
            commit=commit if commit is not None and SHA1.fullmatch(commit) else None,
        )


@dataclass(frozen=True)
class Remote:
    """Something on a hub.

    Attributes:
        url: its address.
        what: it is, in sentences.
        secrets: headers that only the server of this address may see.
        why: what a refusal means at this hub, from the answer and the first of its body.
    """

    url: str
    what: str
    secrets: Mapping[str, str]
    why: Callable[[httpx2.Response, bytes], Why]

    @contextlib.contextmanager
    def get(
        self,
        headers: Mapping[str, str],
        *,
        start: str | None = None,
        timeout: float | None = None,
        method: str = "GET",
    ) -> Iterator[httpx2.Response]:
        """The answer behind all redirects, its body not yet read; `start`: an address known behind them.

        `timeout`: seconds to wait for a part of the answer; its headers may take
        `TIMEOUTS_PER_ANSWER` times that.

        Raises:
            RefusedError: the server refuses.
            ChangedError: it has fewer bytes than are asked for.
            NonsenseError: it redirects in circles, or to what is no web server.
            SlowError: the headers do not come in time.
            ProxyError, httpx2.HTTPError: it cannot be reached.
        """
        seconds = download_timeout() if timeout is None else timeout
        with answer_within(TIMEOUTS_PER_ANSWER * seconds):
            response = self._answer(headers, start=start or self.url, timeout=seconds, method=method)
        with contextlib.closing(response):
            yield response

    def facts(self) -> Facts:
        """What the server tells of a file without sending it.

        Raises:
            RefusedError, NonsenseError, SlowError, ProxyError, httpx2.HTTPError: as from `get`.
        """
        with answer_within(TIMEOUTS_PER_ANSWER * answer_timeout()):
            found = self._facts_of_head()
            if found.size_bytes is not None:
                return found
            headers = {"Accept-Encoding": "identity", "Range": "bytes=0-0"}
            with self.get(headers, timeout=answer_timeout()) as response:
                return replace(found, size_bytes=_total_bytes(response))

    def _facts_of_head(self) -> Facts:
        """The facts; empty where the server does not answer HEAD, as with addresses signed for GET alone."""
        passed: list[httpx2.Response] = []
        headers = {"Accept-Encoding": "identity"}
        try:
            last = self._answer(
                headers, start=self.url, timeout=answer_timeout(), method="HEAD", passed=passed
            )
        except RefusedError as refusal:
            if refusal.status not in _NO_HEAD:
                raise
            return Facts()
        last.close()
        return Facts.of([*passed, last])

    def _answer(
        self,
        headers: Mapping[str, str],
        *,
        start: str,
        timeout: float,
        method: str,
        passed: list[httpx2.Response] | None = None,
    ) -> httpx2.Response:
        """The first answer that is no redirect, with its headers alone.

        `passed`: is filled with the redirects on the way; one that tells the file's size is followed no more.
        """
        url = start
        for _ in range(MOST_REDIRECTS):
            at_home = _origin(url) == _origin(self.url)
            secrets = self.secrets if at_home else {}
            response = send(url, method=method, headers={**headers, **secrets}, timeout=timeout)
            if response.has_redirect_location:
                response.close()
                if passed is not None:
                    passed.append(response)
                    if LINKED_SIZE in response.headers:
                        return response
                url = _redirected(url, response.headers["Location"])
                continue
            if response.status_code < 400:
                return response
            with contextlib.closing(response):
                if response.status_code == 416:
                    raise ChangedError(f"{self.what} is shorter than was listed")
                raise self._refusal(response, at_home=at_home)
        raise NonsenseError(f"redirects more than {MOST_REDIRECTS} times")

    def read_json(self, *, timeout: float | None = None) -> object:
        """The whole answer.

        Raises:
            RefusedError, ProxyError, httpx2.HTTPError: as from `get`.
            NonsenseError: it is no JSON, or too much of it.
            SlowError: it does not come in time.
        """
        seconds = answer_timeout() if timeout is None else timeout
        with (
            answer_within(TIMEOUTS_PER_ANSWER * seconds),
            self.get({"Accept": "application/json"}, timeout=seconds) as response,
        ):
            body = bytearray()
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > LARGEST_ANSWER_BYTES:
                    raise NonsenseError(f"answers with more than {LARGEST_ANSWER_BYTES >> 20} MiB")
        try:
            return json.loads(bytes(body))
        except (ValueError, RecursionError) as error:
            raise NonsenseError("did not answer with JSON") from error

    def _refusal(self, response: httpx2.Response, *, at_home: bool) -> RefusedError:
        """What the hub means; other servers mean what HTTP says."""
        body = b""
        for chunk in response.iter_raw():
            body += chunk
            if len(body) > _LARGEST_REFUSAL_BYTES:
                break
        after = response.headers.get("Retry-After", "")
        why = self.why(response, body) if at_home else "other"
        return RefusedError(response.status_code, why, float(after) if after.isdecimal() else None)


def _total_bytes(response: httpx2.Response) -> int | None:
    """The size of a file of which the first byte was asked for."""
    if response.status_code == 206:
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        total = response.headers.get("Content-Length", "")
    return int(total) if total.isdecimal() else None


def body(response: httpx2.Response, *, keep_connection: bool = False) -> Iterator[bytes]:
    """What a long answer holds, as it is sent, in large pieces.

    Its first piece comes by the client, with all that it has read ahead; then what is on the connection is
    the body and nothing else, and is read from there: that takes a third of the processor's time, since the
    client copies every byte some times. The connection is of no use for another request afterwards; with
    `keep_connection` it is, and all comes by the client.

    Raises:
        httpx2.HTTPError: the connection breaks.
        SlowError: less comes than is worth waiting for.
    """
    import httpx2

    rate = Rate()
    pieces = response.iter_raw()
    left = int(response.headers.get("Content-Length", 0))
    if (
        keep_connection
        or not left
        or "Transfer-Encoding" in response.headers
        or response.http_version != "HTTP/1.1"
    ):
        for piece in pieces:
            rate.count(len(piece))
            yield piece
        return
    first = next(pieces, b"")
    yield first
    left -= len(first)
    connection = response.extensions["network_stream"]
    try:
        while left > 0 and (piece := connection.read(min(left, _PIECE_BYTES), timeout=download_timeout())):
            left -= len(piece)
            rate.count(len(piece))
            yield piece
    except _broken() as error:
        raise httpx2.ReadError(quoted(error)) from error


def _broken() -> tuple[type[Exception], ...]:
    """How a connection breaks, below the client."""
    import httpcore2

    return (httpcore2.NetworkError, httpcore2.TimeoutException)


def failures() -> tuple[type[Exception], ...]:
    """What may go wrong with a request or with the disk; all else is a bug."""
    import httpx2

    return (AnswerError, ProxyError, SlowError, httpx2.HTTPError, httpx2.InvalidURL, OSError)


def is_transport(error: BaseException | None) -> bool:
    """Whether it is about the way to the server, not about its answer."""
    import httpx2

    return isinstance(error, (ProxyError, SlowError, httpx2.HTTPError, httpx2.InvalidURL))


def _redirected(url: str, location: str) -> str:
    try:
        target = urljoin(url, location)
        scheme = urlsplit(target).scheme
    except ValueError as error:
        raise NonsenseError("redirects to an invalid address") from error
    if scheme != "https" and not (scheme == "http" and urlsplit(url).scheme == "http"):
        raise NonsenseError(f"redirects to an address with the scheme {scheme!r}")
    return target


def _origin(url: str) -> tuple[str, str]:
    import httpx2

    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise httpx2.InvalidURL(quoted(error)) from error
    return parts.scheme, parts.netloc.lower()

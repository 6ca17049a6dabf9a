"""The connections of this process: through the proxies of the environment, and with answers that end in time.

A read from a connection has a timeout, but a server that sends one byte every few seconds never exceeds it.
So each read also ends at the deadline of its thread (`answer_within`), which httpx2 has no setting for.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from aimind.redaction import quoted, without_secrets

if TYPE_CHECKING:
    import ssl

    import httpcore2
    import httpx2

# Seconds without a byte from the server, after which a connection is given up: as in huggingface_hub
# (DEFAULT_ETAG_TIMEOUT and DEFAULT_DOWNLOAD_TIMEOUT of constants.py 2.4), with its variables.
TIMEOUT_SECONDS = 10.0
ANSWER_VARIABLE = "HF_HUB_ETAG_TIMEOUT"
DOWNLOAD_VARIABLE = "HF_HUB_DOWNLOAD_TIMEOUT"
# The whole of a small answer, or the headers of a file, may take so many timeouts: 60 s.
TIMEOUTS_PER_ANSWER = 6
# The least of a file that must arrive in three timeouts: 4 KiB in 30 s, slower than a modem.
LEAST_BYTES = 4 << 10
TIMEOUTS_PER_LEAST_BYTES = 3

_PROXY_VARIABLES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")
_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
_HTTP_CONNECTIONS_KEPT = 20


class ProxyError(Exception):
    """The proxy that the environment names cannot be used: why."""


class SlowError(Exception):
    """A server sends, but too slowly to wait for: how slowly."""


def answer_timeout() -> float:
    """Seconds to wait for a part of a small answer."""
    return _seconds(ANSWER_VARIABLE)


def download_timeout() -> float:
    """Seconds to wait for a part of a file."""
    return _seconds(DOWNLOAD_VARIABLE)


def _seconds(variable: str) -> float:
    """The value of the variable where it is a positive number, else the default."""
    try:
        seconds = float(os.environ.get(variable) or TIMEOUT_SECONDS)
    except ValueError:
        return TIMEOUT_SECONDS
    return seconds if 0 < seconds < 86400 else TIMEOUT_SECONDS


class Rate:
    """Watches that a file does not come too slowly.

    Attributes:
        seconds: in which `LEAST_BYTES` must come.
    """

    def __init__(self) -> None:
        self.seconds = TIMEOUTS_PER_LEAST_BYTES * download_timeout()
        self._since = time.monotonic()
        self._bytes = 0

    def count(self, received_bytes: int) -> None:
        """Count what was received.

        Raises:
            SlowError: too little came in the time.
        """
        self._bytes += received_bytes
        if self._bytes >= LEAST_BYTES:
            self._since, self._bytes = time.monotonic(), 0
        elif time.monotonic() - self._since > self.seconds:
            raise SlowError(f"sent {self._bytes:,} bytes in {self.seconds:.0f} s")


# ── Deadlines ──────────────────────────────────────────────────────────────────────────────────────────────


class _Deadline(threading.local):
    at: float | None = None  # of time.monotonic()
    seconds = 0.0


_deadline = _Deadline()


@contextlib.contextmanager
def answer_within(seconds: float) -> Iterator[None]:
    """End all that this thread sends and receives in here after so many seconds in total.

    Raises:
        SlowError: the time is over.
    """
    before = _deadline.at, _deadline.seconds
    at = time.monotonic() + seconds
    if _deadline.at is None or at < _deadline.at:
        _deadline.at, _deadline.seconds = at, seconds
    try:
        yield
    finally:
        _deadline.at, _deadline.seconds = before


def _limited(timeout: float | None) -> float | None:
    """The timeout, or what is left until the deadline.

    Raises:
        SlowError: nothing is left.
    """
    if _deadline.at is None:
        return timeout
    left = _deadline.at - time.monotonic()
    if left <= 0:
        raise SlowError(f"did not finish its answer within {_deadline.seconds:.0f} s")
    return left if timeout is None else min(timeout, left)


@functools.cache
def _timed() -> type[httpcore2.NetworkBackend]:
    """The class of network backends with deadlines; made late, since importing httpcore2 takes long."""
    import httpcore2

    class TimedStream(httpcore2.NetworkStream):
        def __init__(self, stream: httpcore2.NetworkStream) -> None:
            self._stream = stream

        def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            limit = _limited(timeout)
            try:
                return self._stream.read(max_bytes, limit)
            except httpcore2.TimeoutException:
                _limited(timeout)  # the deadline may be what ended it
                raise

        def write(self, buffer: bytes, timeout: float | None = None) -> None:
            self._stream.write(buffer, _limited(timeout))

        def close(self) -> None:
            self._stream.close()

        def start_tls(
            self,
            ssl_context: ssl.SSLContext,
            server_hostname: str | None = None,
            timeout: float | None = None,
        ) -> httpcore2.NetworkStream:
            return TimedStream(self._stream.start_tls(ssl_context, server_hostname, _limited(timeout)))

        def get_extra_info(self, info: str) -> Any:
            return self._stream.get_extra_info(info)

    class TimedBackend(httpcore2.NetworkBackend):
        def __init__(self, backend: httpcore2.NetworkBackend) -> None:
            self._backend = backend

        def connect_tcp(
            self,
            host: str,
            port: int,
            timeout: float | None = None,
            local_address: str | None = None,
            socket_options: Iterable[Any] | None = None,
        ) -> httpcore2.NetworkStream:
            return TimedStream(
                self._backend.connect_tcp(host, port, _limited(timeout), local_address, socket_options)
            )

    return TimedBackend


# ── The client ─────────────────────────────────────────────────────────────────────────────────────────────


@functools.cache
def client() -> httpx2.Client:
    """The connections of this process.

    Raises:
        ProxyError: the environment names a proxy that cannot be used.
    """
    import httpx2

    from aimind import __version__

    _check_proxies()
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=_HTTP_CONNECTIONS_KEPT)
    try:
        made = httpx2.Client(headers={"User-Agent": f"aimind/{__version__}"}, limits=limits)
    except (httpx2.InvalidURL, ValueError) as error:
        raise ProxyError(f"a proxy of the environment cannot be used: {quoted(error)}") from error
    for transport in (made._transport, *made._mounts.values()):
        if isinstance(transport, httpx2.HTTPTransport):
            # httpx2 has no way to pass one; all kinds of pools hand it on to their connections.
            pool: Any = transport._pool
            pool._network_backend = _timed()(pool._network_backend)  # type: ignore[call-arg]
    return made


def send(url: str, *, method: str, headers: dict[str, str], timeout: float) -> httpx2.Response:
    """The answer of a server to a request, its body not yet read.

    Raises:
        ProxyError, SlowError, httpx2.HTTPError, httpx2.InvalidURL, OSError: there is none.
    """
    import httpx2

    request = client().build_request(method, url, headers=headers, timeout=timeout)
    try:
        return client().send(request, stream=True)
    except (ProxyError, SlowError, httpx2.HTTPError, httpx2.InvalidURL, OSError):
        raise
    except Exception as error:
        if not _uses_socks():
            raise
        # httpcore2 asserts what a SOCKS proxy answers, and socksio has exceptions of its own.
        raise ProxyError(f"the SOCKS proxy gave an answer that makes no sense: {quoted(error)}") from error


def _check_proxies() -> None:
    """Find out whether the proxies of the environment are of kinds that can be used.

    GNOME writes `socks://` for SOCKS 5, which no client of HTTP reads: it becomes `socks5://`, also for the
    programs that are started from here.

    Raises:
        ProxyError: one is of another kind.
    """
    for name in (*_PROXY_VARIABLES, *map(str.lower, _PROXY_VARIABLES)):
        value = os.environ.get(name, "").strip()
        scheme, separator, rest = value.partition("://")
        if not separator:
            continue
        if scheme.lower() == "socks":
            os.environ[name] = f"socks5://{rest}"
        elif scheme.lower() not in _PROXY_SCHEMES:
            raise ProxyError(f"{name}={without_secrets(value)} is no HTTP or SOCKS 5 proxy")


def _uses_socks() -> bool:
    return any(
        os.environ.get(each, "").lower().startswith("socks")
        for name in _PROXY_VARIABLES
        for each in (name, name.lower())
    )

"""Whether the backend answers: HTTP requests that never block the loop, and what a series of them means."""

from __future__ import annotations

import errno
import re
import select
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Literal

    Change = Literal["ready", "healthy", "unhealthy", "stranger"]

    from aimind.supervisor.spec import Ready

LONGEST_BODY = 64 * 1024
FAILURES = 3
# A first request may compile what it needs; it is no sign of a hang until then.
LONGEST_REQUEST_SECONDS = 600.0
FOREVER = float("inf")


class Exchange:
    """One HTTP request in steps: `step` whenever the descriptor is ready for `events`.

    A GET, or a POST of a body.
    """

    def __init__(
        self,
        url: str,
        *,
        bearer: str | None = None,
        body: str | None = None,
        content_type: str = "application/json",
    ) -> None:
        """Begin to connect.

        Raises:
            OSError: at once where it cannot, a name that is not known included.
        """
        host, port, path = split(url)
        authorization = f"Authorization: Bearer {bearer}\r\n" if bearer else ""
        content = b"" if body is None else body.encode()
        about = f"Content-Type: {content_type}\r\nContent-Length: {len(content)}\r\n" if content else ""
        # HTTP/1.0: no chunked answer, and the connection ends with it.
        head = f"{'POST' if content else 'GET'} {path} HTTP/1.0\r\nHost: {url.split('/')[2]}\r\n"
        self._request = f"{head}{authorization}{about}\r\n".encode() + content
        self._answer = b""
        # The host as bytes: a str would bring the tables for international names, 1 MiB of them.
        found = socket.getaddrinfo(host.encode(), port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        self._socket = socket.socket(family, kind, protocol)
        self._socket.settimeout(0)  # never wait
        self.events = select.POLLOUT
        code = self._socket.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            self.close()
            raise OSError(code, "cannot connect")

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._socket.fileno()

    def step(self) -> tuple[int, str] | None:
        """Go on; the status and the body once the answer is complete.

        Raises:
            OSError: the connection was refused or broke, or the answer is not HTTP.
        """
        if self.events == select.POLLOUT:
            sent = self._socket.send(self._request)  # raises what connecting raised
            self._request = self._request[sent:]
            if not self._request:
                self.events = select.POLLIN
            return None
        chunk = self._socket.recv(LONGEST_BODY)
        self._answer += chunk
        head, separator, body = self._answer.partition(b"\r\n\r\n")
        if chunk and not (separator and len(body) >= _length(head)):
            return None
        words = head.split(None, 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
            raise OSError("the answer is not HTTP")
        return int(words[1]), body.decode(errors="replace")

    def close(self) -> None:
        """Let go of the connection."""
        self._socket.close()


def split(url: str) -> tuple[str, int, str]:
    """Host, port and path of an `http://` URL."""
    authority, slash, path = url.removeprefix("http://").partition("/")
    host, colon, port = authority.rpartition(":")
    if not colon or "]" in port:
        host, port = authority, "80"
    return host.strip("[]"), int(port), slash + path or "/"


def _length(head: bytes) -> int:
    """Bytes of the body that are worth waiting for."""
    announced = re.search(rb"(?i)\r\ncontent-length:\s*(\d+)", head)
    return min(int(announced[1]), LONGEST_BODY) if announced else LONGEST_BODY


class Health:
    """The probes of one run of the backend: quick ones until it is ready, then one every `probe_seconds`.

    Attributes:
        ready_at: when it was first ready, by the clock of `now`; `None` before.
        exchange: the probe under way.
        deadline: when `step` is to be called at the latest.
        refusal: what the backend answered to the tiny request, if it refused it.
        stranger: the process that answered in the backend's place, if one did.
    """

    def __init__(
        self,
        ready: Ready,
        *,
        env: Mapping[str, str],
        probe_seconds: float,
        now: float,
        find_stranger: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Begin at once.

        Args:
            ready: how to ask.
            env: the backend's environment, where the keys are.
            probe_seconds: between two probes, and the longest that one may take.
            now: by the clock of `step`.
            find_stranger: the process that listens, if it is not the backend's.
        """
        self._ready = ready
        self._env = env
        self._probe_seconds = probe_seconds
        self._started_at = now
        self._failures = 0
        self._errors = 0  # answers to the tiny request
        self._requesting = False
        self.ready_at: float | None = None
        self.exchange: Exchange | None = None
        self.deadline = now
        self.refusal: str | None = None
        self.stranger: str | None = None
        self._find_stranger = find_stranger

    def step(self, *, now: float, io: bool) -> Change | None:
        """Go on where the probe's descriptor has something (`io`) or the deadline has come; what changed."""
        try:
            if self.exchange is None:
                self.exchange = self._begin()
                patience = LONGEST_REQUEST_SECONDS if self._requesting else self._probe_seconds
                self.deadline = now + patience
                return None
            answer = self.exchange.step() if io else (0, "no answer in time")
        except OSError as error:
            answer = (0, str(error))
        if answer is None:
            return None
        self.close()
        return self._judge(*answer, now=now)

    def close(self) -> None:
        """End the probe under way, and begin no other."""
        if self.exchange is not None:
            self.exchange.close()
            self.exchange = None
        self.deadline = FOREVER

    def _begin(self) -> Exchange:
        request = self._ready["request"] if self._requesting else None
        if request is not None:
            return Exchange(
                request["url"],
                bearer=self._key(request["bearer_env"]),
                body=request["body"],
                content_type=request["content_type"],
            )
        return Exchange(self._ready["url"], bearer=self._key(self._ready["bearer_env"]))

    def _key(self, name: str | None) -> str | None:
        return self._env.get(name) if name else None

    def _true(self, status: int, body: str) -> int:
        """The status, or the error in the body."""
        lie = self._ready["lie"]
        found = re.search(lie, body) if lie else None
        if found is None:
            return status
        return int(found[1]) if found.re.groups and found[1] else 503

    def _judge(self, status: int, body: str, *, now: float) -> Change | None:
        status = self._true(status, body)
        healthy = 200 <= status < 300
        if self.ready_at is None:
            return self._judge_first(status, body, healthy=healthy, now=now)
        self.deadline = now + self._probe_seconds
        if healthy:
            self._failures = 0
            return "healthy"
        self._failures += 1
        if self._failures < FAILURES:
            return None
        self.close()
        return "unhealthy"

    def _judge_first(self, status: int, body: str, *, healthy: bool, now: float) -> Change | None:
        """Before it is ready: a first answer, of whom, then the tiny request."""
        if healthy and not self._requesting and (stranger := self._find_stranger()):
            self.deadline = now + 1.0
            known, self.stranger = self.stranger, stranger
            return None if known == stranger else "stranger"
        if healthy and (self._requesting or self._ready["request"] is None):
            self._requesting = False
            self.ready_at = now
            self.deadline = now + self._probe_seconds
            return "ready"
        if healthy:
            self._requesting = True
            self.deadline = now
            return None
        if self._requesting and status >= 400:
            self._errors += 1
            if status < 500 or self._errors == FAILURES:
                # Another probe would get the same answer, so there is no point in waiting.
                self.refusal = f"{status} {body.strip()[:500]}"
                return "unhealthy"
        self._requesting = False
        # A tenth of the time waited so far: seen soon, and few probes while a large model loads.
        self.deadline = now + min(max((now - self._started_at) / 10, 0.05), 1.0)
        return None

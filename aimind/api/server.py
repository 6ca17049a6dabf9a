"""Requests to an OpenAI-compatible server. Each uses a connection of its own.

A server may close a kept connection just when the next request is sent on it (llama.cpp's does after five
seconds of silence, and after a hundred requests), and a request that generates text must not be sent twice.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import json
from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aimind.api.events import EventDecoder
from aimind.errors import ApiError, ConnectionLostError, ContextFullError, UsageError
from aimind.redaction import quoted, remember, without_secrets
from aimind.types import API_KEY_VARIABLE

if TYPE_CHECKING:
    import httpx2

CONNECT_SECONDS = 10.0
# A server that computes a long prompt on a CPU is silent for minutes. This ends only what is really stuck.
SILENCE_SECONDS = 3600.0
LONGEST_MESSAGE = 400
_KEY_HINT = f"provide the key with --api-key-file or the environment variable {API_KEY_VARIABLE}"
# What llama.cpp (error type exceed_context_size_error), vLLM and SGLang write when a prompt is too long.
_CONTEXT_WORDS = ("exceed_context_size", "context size", "context length", "maximum input length")


class Server:
    """An OpenAI-compatible server.

    Attributes:
        url: its address, without a slash or `/v1` at the end.
    """

    def __init__(self, url: str, *, key: str | None = None, is_here: bool = False) -> None:
        """Remember the address; one of this machine's own (`is_here`) is reached without a proxy."""
        self.url = base_url(url)
        self._key = key
        self._is_here = is_here or is_loopback(self.url)
        if key:
            remember(key)

    def models(self) -> list[dict[str, object]]:
        """Return what it lists as its models, each with an `id`.

        Raises:
            ApiError: it does not answer, or refuses.
        """
        document = self.get("models")
        listed = document.get("data")
        entries = listed if isinstance(listed, list) else []
        return [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]

    def get(self, path: str) -> dict[str, object]:
        """Return the JSON document at a path below `/v1/`.

        Raises:
            ApiError: there is none.
        """
        with self._answer("GET", path) as response:
            return self._document(response)

    def post(self, path: str, body: Mapping[str, object]) -> dict[str, object]:
        """Return the JSON document that answers a JSON body.

        Raises:
            ApiError: there is none.
        """
        with self._answer("POST", path, json=body) as response:
            return self._document(response)

    def download(self, path: str, body: Mapping[str, object]) -> bytes:
        """Return the bytes that answer a JSON body: a sound, for example.

        Raises:
            ApiError: the server refuses, or answers with a JSON document instead.
        """
        with self._answer("POST", path, json=body) as response:
            data = response.read()
            if _content_type(response) == "application/json":
                raise self._refusal(response.status_code, data)
            return data

    def upload(self, path: str, *, fields: Mapping[str, str], name: str, content: bytes) -> dict[str, object]:
        """Return the JSON document that answers a form with a file.

        Raises:
            ApiError: there is none.
        """
        form = {"data": dict(fields), "files": {"file": (name, content)}}
        with self._answer("POST", path, **form) as response:
            return self._document(response)

    def stream(self, path: str, body: Mapping[str, object]) -> Generator[str]:
        """Yield the data of each event that answers a JSON body with `stream` set.

        A server that does not stream answers with one document, which is yielded alone.

        Raises:
            ApiError: the server refuses.
            ConnectionLostError: it cannot be reached, or its answer breaks off.
        """
        with self._answer("POST", path, json=body) as response:
            if _content_type(response) != "text/event-stream":
                yield response.read().decode(errors="replace")
                return
            decoder = EventDecoder()
            for chunk in response.iter_bytes():
                yield from decoder.feed(chunk)
            yield from decoder.end()

    @contextlib.contextmanager
    def _answer(self, method: str, path: str, **content: object) -> Iterator[httpx2.Response]:
        """Send a request; the answer's status is 2xx, and its body is not read yet."""
        import httpx2

        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        client = _client(direct=self._is_here)
        try:
            request = client.build_request(method, f"{self.url}/v1/{path}", headers=headers, **content)  # type: ignore[arg-type]
            response = client.send(request, stream=True)
            with contextlib.closing(response):
                if response.status_code >= 300:
                    raise self._refusal(response.status_code, response.read())
                yield response
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise ConnectionLostError(
                f"no server answers at {self._shown}: {quoted(error)}",
                hint="run `aimind ps` to see what is running",
            ) from error
        except httpx2.TimeoutException as error:
            raise ConnectionLostError(
                f"the server at {self._shown} sent nothing for {SILENCE_SECONDS / 60:.0f} min",
                hint="check its log: it may be stuck",
            ) from error
        except httpx2.HTTPError as error:
            raise ConnectionLostError(
                f"the server at {self._shown} closed the connection before its answer was complete "
                f"({quoted(error)})",
                hint="see its log for the cause",
            ) from error

    @property
    def has_key(self) -> bool:
        """Whether requests carry an API key."""
        return self._key is not None

    @property
    def _shown(self) -> str:
        return without_secrets(self.url)

    def _document(self, response: httpx2.Response) -> dict[str, object]:
        data = response.read()
        try:
            document = json.loads(data)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise ApiError(
                f"the server at {self._shown} did not answer with a JSON object",
                hint="check that the address is that of an OpenAI-compatible server, such as http://127.0.0.1:8000",
            )
        refuse_error(document, response.status_code)
        return document

    def _refusal(self, status: int, data: bytes) -> ApiError:
        try:
            document = json.loads(data)
        except ValueError:
            document = None
        return refusal(status, document)


def base_url(text: str) -> str:
    """Return the address of a server as typed, without `/v1` and what follows it.

    Raises:
        UsageError: it is not an http or https address.
    """
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port  # raises for one that is not a number
    except ValueError:
        usable = False
    if not usable:
        raise UsageError(
            f"{without_secrets(text)} is not a valid server address",
            hint="use an address such as http://127.0.0.1:8000",
        )
    address, _, _ = text.partition("?")
    before, separator, rest = address.rstrip("/").rpartition("/v1")
    if separator and (not rest or rest.startswith("/")):
        return before
    return address.rstrip("/")


def is_loopback(url: str) -> bool:
    """Whether the address is one of this machine's own: no proxy may come between."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def refuse_error(document: Mapping[str, object], status: int = 0) -> None:
    """Raise what a document says went wrong, if it does.

    Raises:
        ApiError: the document is an error; vox-box sends such with status 200.
    """
    code = document.get("status_code")
    if document.get("error") or (isinstance(code, int) and code >= 400):
        raise refusal(status, document)


def refusal(status: int, document: object) -> ApiError:
    """Return the error for an answer that is none, from the server's own words."""
    message, kind = _message(document)
    code = document.get("status_code") if isinstance(document, dict) else None
    if isinstance(code, int):
        status = code
    if status in (401, 403):
        return ApiError(f"the server refuses the request without a valid API key ({status})", hint=_KEY_HINT)
    if any(words in f"{kind} {message}".lower() for words in _CONTEXT_WORDS):
        return ContextFullError(
            f"the conversation exceeds the model's context length: {message}",
            hint="shorten the conversation, or start the model with a larger --context",
        )
    answered = f"the server answered {status}" if status else "the server reported an error"
    return ApiError(f"{answered}: {message}" if message else answered, hint="see its log for details")


def _message(document: object) -> tuple[str, str]:
    """The message and the type of an error: OpenAI's form, FastAPI's, and a few others."""
    if not isinstance(document, dict):
        return "", ""
    error = document.get("error") or document
    if not isinstance(error, dict):
        return _one_line(error), ""
    message = error.get("message") or error.get("detail") or ""
    return _one_line(message), str(error.get("type") or "")


def _one_line(value: object) -> str:
    text = without_secrets(" ".join(str(value).split()))
    return text if len(text) <= LONGEST_MESSAGE else text[:LONGEST_MESSAGE] + "…"


def _content_type(response: httpx2.Response) -> str:
    return str(response.headers.get("Content-Type", "")).partition(";")[0].strip().lower()


@functools.cache
def _client(*, direct: bool) -> httpx2.Client:
    """The client of this process; a direct one ignores the proxies of the environment.

    Raises:
        ConnectionLostError: the environment names a proxy that cannot be used.
    """
    import httpx2

    from aimind import __version__

    try:
        return httpx2.Client(
            headers={"User-Agent": f"aimind/{__version__}"},
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
            timeout=httpx2.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
            trust_env=not direct,
        )
    except (httpx2.InvalidURL, ValueError) as error:
        raise ConnectionLostError(
            f"a proxy of the environment cannot be used: {quoted(error)}",
            hint="correct or unset HTTP_PROXY, HTTPS_PROXY or ALL_PROXY",
        ) from error

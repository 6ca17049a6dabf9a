"""The probe against real servers on loopback: what counts as an answer, and what a series of them means."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from aimind.supervisor.probe import Exchange, Health, split

if TYPE_CHECKING:
    from aimind.supervisor.spec import Ready, Request


@contextmanager
def server(*answers: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """Its URL and the requests it got; it gives each connection the next answer, and closes it."""
    requests: list[bytes] = []

    def serve() -> None:
        for answer in answers:
            connection, _ = listener.accept()
            with connection:
                requests.append(connection.recv(4096))
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/health", requests
        thread.join()


def fetch(url: str, **options: str) -> tuple[int, str]:
    get = Exchange(url, **options)
    try:
        while True:
            poll = select.poll()
            poll.register(get, get.events)
            assert poll.poll(10_000)
            answer = get.step()
            if answer is not None:
                return answer
    finally:
        get.close()


def ask(health: Health, times: int = 1) -> list[str | None]:
    """What changed with each of so many probes."""
    changes: list[str | None] = []
    while len(changes) < times:
        if health.exchange is None:
            now = max(time.monotonic(), health.deadline)
            change = health.step(now=now, io=False)  # refused at once, or begun
            if health.exchange is None:
                changes.append(change)
            continue
        poll = select.poll()
        poll.register(health.exchange, health.exchange.events)
        assert poll.poll(10_000)
        change = health.step(now=time.monotonic(), io=True)
        if health.exchange is None:
            changes.append(change)
    return changes


def health_of(url: str, lie: str | None = None, *, request: bool = False) -> Health:
    body: Request = {
        "url": url.replace("/health", "/v1/x"),
        "body": '{"a": 1}',
        "content_type": "application/json",
        "bearer_env": "KEY",
    }
    ready: Ready = {"url": url, "bearer_env": None, "lie": lie, "request": body if request else None}
    return Health(ready, env={"KEY": "canary"}, probe_seconds=10, now=time.monotonic())


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LOADING = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


def test_an_answer_is_its_status_and_body() -> None:
    with server(OK) as (url, requests):
        assert fetch(url) == (200, "ok")
    assert requests[0].startswith(b"GET /health HTTP/1.0\r\nHost: 127.0.0.1:")


def test_an_answer_without_a_length_ends_with_the_connection() -> None:
    with server(b"HTTP/1.0 200 OK\r\n\r\nall of it") as (url, _):
        assert fetch(url) == (200, "all of it")


def test_a_body_that_is_too_long_is_cut() -> None:
    with server(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 200_000) as (url, _):
        status, body = fetch(url)
    assert status == 200
    assert 64 * 1024 <= len(body) <= 200_000


def test_the_key_is_sent() -> None:
    with server(OK) as (url, requests):
        fetch(url, bearer="canary")
    assert b"\r\nAuthorization: Bearer canary\r\n" in requests[0]


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n"]
)
def test_what_is_not_http_is_an_error(answer: bytes) -> None:
    with server(answer) as (url, _), pytest.raises(OSError):
        fetch(url)


def test_a_refused_connection_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        fetch(f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://127.0.0.1:8080/health", ("127.0.0.1", 8080, "/health")),
        ("http://localhost:1/v1/models?a=b/c", ("localhost", 1, "/v1/models?a=b/c")),
        ("http://[::1]:8080/", ("::1", 8080, "/")),
        ("http://[::1]", ("::1", 80, "/")),
        ("http://example", ("example", 80, "/")),
    ],
)
def test_a_url_is_taken_apart(url: str, parts: tuple[str, int, str]) -> None:
    assert split(url) == parts


def test_it_is_ready_with_the_first_2xx() -> None:
    with server(LOADING, LOADING, OK) as (url, _):
        health = health_of(url)
        assert ask(health, 3) == [None, None, "ready"]
    assert health.ready_at is not None


def test_a_lie_is_not_ready() -> None:
    lie = b'HTTP/1.1 200 OK\r\n\r\n{"status_code": 400}'
    with server(lie, OK) as (url, _):
        assert ask(health_of(url, lie=r'"status_code":\s*[45]'), 2) == [None, "ready"]


def test_only_failures_in_a_row_are_unhealthy() -> None:
    with server(OK, LOADING, LOADING, OK, LOADING, LOADING, LOADING) as (url, _):
        assert ask(health_of(url), 7) == ["ready", None, None, "healthy", None, None, "unhealthy"]


def test_an_answer_that_does_not_come_in_time_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        health = health_of(f"http://127.0.0.1:{silent.getsockname()[1]}/")
        now = time.monotonic()
        health.step(now=now, io=False)
        assert health.exchange is not None
        assert health.deadline == now + 10
        assert health.step(now=now + 10, io=False) is None
        assert health.exchange is None  # given up, and the next one is due soon
        assert now + 10 < health.deadline <= now + 11


def test_probes_are_frequent_at_first_and_one_a_second_later() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    health = health_of(url)
    begin = health.deadline
    waits = []
    for now in (begin, begin + 2, begin + 3600):
        health.deadline = now
        health.step(now=now, io=False)
        assert health.exchange is not None
        select.select([], [health.exchange], [], 10)
        health.step(now=now, io=True)
        waits.append(round(health.deadline - now, 3))
    assert waits == [0.05, 0.2, 1.0]


REFUSED = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 8\r\n\r\nno model"
BROKEN = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"


def test_ready_is_when_the_tiny_request_is_answered() -> None:
    with server(LOADING, OK, OK) as (url, requests):
        health = health_of(url, request=True)
        assert ask(health, 3) == [None, None, "ready"]
    assert requests[1].startswith(b"GET /health ")
    head, _, body = requests[2].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/x HTTP/1.0\r\n")
    assert b"Content-Length: 8" in head
    assert b"Authorization: Bearer canary" in head
    assert body == b'{"a": 1}'


def test_a_tiny_request_that_fails_is_tried_again_from_the_start() -> None:
    with server(OK, BROKEN, OK, OK) as (url, _):
        assert ask(health_of(url, request=True), 4) == [None, None, None, "ready"]


def test_a_tiny_request_that_is_refused_is_no_sign_of_health() -> None:
    with server(OK, REFUSED) as (url, _):
        health = health_of(url, request=True)
        assert ask(health, 2) == [None, "unhealthy"]
    assert health.refusal == "400 no model"


def test_a_tiny_request_that_breaks_it_three_times_is_refused() -> None:
    with server(OK, BROKEN, OK, BROKEN, OK, BROKEN) as (url, _):
        health = health_of(url, request=True)
        assert ask(health, 6) == [None] * 5 + ["unhealthy"]
    assert health.refusal == "500 "


def test_the_true_status_is_in_the_body() -> None:
    lie = b'HTTP/1.1 200 OK\r\n\r\n{"status_code": 400, "detail": "no file"}'
    with server(OK, lie) as (url, _):
        health = health_of(url, lie=r'^\{"status_code":\s*(\d+)', request=True)
        assert ask(health, 2) == [None, "unhealthy"]
    assert health.refusal == '400 {"status_code": 400, "detail": "no file"}'


def test_the_content_type_is_the_request_s_own() -> None:
    with server(OK) as (url, requests):
        fetch(url, body="--x\r\n", content_type="multipart/form-data; boundary=x")
    assert b"\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 5\r\n" in requests[0]


def test_once_ready_the_health_url_is_enough() -> None:
    with server(OK, OK, OK) as (url, requests):
        health = health_of(url, request=True)
        assert ask(health, 3) == [None, "ready", "healthy"]
    assert [request.split()[0] for request in requests] == [b"GET", b"POST", b"GET"]

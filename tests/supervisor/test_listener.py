"""Whose server answers on a port: with real sockets of real processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from aimind.supervisor import listener
from tests.supervisor.harness import LINUX, free_port

pytestmark = LINUX

# It listens, and says so; `fork`: in a child that has left the process group; `share`: the port, with others.
SERVER = """
import os, socket, sys, time
from socket import *
where, port, *words = sys.argv[1:]
server = socket(AF_INET6 if ":" in where else AF_INET)
server.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
server.setsockopt(SOL_SOCKET, SO_REUSEPORT, "share" in words)
if ":" in where:
    server.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 0)
server.bind((where, int(port)))
server.listen()
if "fork" in words:
    if os.fork():
        server.close()
    else:
        os.setsid()
print("listens", flush=True)
time.sleep(3600)
"""


@contextmanager
def server(where: str, port: int, *words: str) -> Iterator[int]:
    """Its process id."""
    argv = [sys.executable, "-I", "-S", "-c", SERVER, where, str(port), *words]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "listens\n"
        try:
            yield process.pid
        finally:
            for child in psutil.Process(process.pid).children():
                child.kill()
            process.kill()


def url(port: int, host: str = "127.0.0.1") -> str:
    return f"http://{host}:{port}/health"


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as trial:
            trial.bind(("::1", 0))
    except OSError:
        return False
    return True


IPV6 = pytest.mark.skipif(not has_ipv6(), reason="needs IPv6")


@pytest.mark.parametrize(
    ("where", "host"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("127.0.0.1", "localhost"),
        pytest.param("::", "127.0.0.1", marks=IPV6),
        pytest.param("::1", "[::1]", marks=IPV6),
    ],
)
def test_a_server_is_ours_or_anothers(where: str, host: str) -> None:
    port = free_port()
    with server(where, port) as pid:
        name = psutil.Process(pid).name()
        assert listener.stranger(url(port, host), root=os.getpid()) is None
        assert listener.stranger(url(port, host), root=pid) == f"{name} (pid {pid})"  # not below itself
        assert listener.port_conflict(url(port, host)) == f"port {port} is in use by {name} (pid {pid})"


def test_a_socket_that_a_child_has_is_ours() -> None:
    port = free_port()
    with server("127.0.0.1", port, "fork") as pid:
        assert listener.stranger(url(port), root=pid) is None


def test_one_of_two_that_share_the_port_is_ours() -> None:
    port = free_port()
    with server("127.0.0.1", port, "share"), server("127.0.0.1", port, "share", "fork") as pid:
        assert listener.stranger(url(port), root=pid) is None


def test_the_one_that_is_bound_to_the_address_answers() -> None:
    """Another address of the same port is another's, and no objection."""
    port = free_port()
    with server("127.0.0.2", port), server("127.0.0.1", port, "fork") as pid:
        assert listener.stranger(url(port), root=pid) is None
        assert listener.stranger(url(port, "127.0.0.2"), root=pid) is not None
    with server("127.0.0.2", port):
        assert listener.port_conflict(url(port)) is None


def test_a_free_port_is_nobodys() -> None:
    port = free_port()
    assert listener.port_conflict(url(port)) is None
    assert listener.stranger(url(port), root=os.getpid()) is None


def test_what_cannot_be_known_is_no_objection() -> None:
    assert listener.port_conflict("http://no.such.host.invalid:80") is None
    assert listener.stranger("http://no.such.host.invalid:80", root=1) is None
    assert listener.port_conflict("http://192.0.2.1:80") is None  # no address of this machine


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_another_users_server_is_taken_but_no_stranger() -> None:
    """Its descriptors cannot be seen: it might be a part of ours that runs as another user."""
    port = free_port()
    script = (
        "import os, sys\n"
        "from aimind.supervisor import listener\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "print(listener.port_conflict(sys.argv[1]))\n"
        "print(listener.stranger(sys.argv[1], root=os.getpid()))"
    )
    with server("127.0.0.1", port):
        asked = subprocess.run(
            [sys.executable, "-c", script, url(port)], capture_output=True, text=True, check=True
        )
    assert asked.stdout.splitlines() == [f"port {port} is in use by another process", "None"]

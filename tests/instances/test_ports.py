from __future__ import annotations

import os
import socket

import pytest

from aimind.errors import PortInUseError, UsageError
from aimind.instances import choose
from aimind.types import Claim, Instance
from tests.supervisor.harness import LINUX_HERE


def test_a_free_port_is_itself() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    assert choose("127.0.0.1", port) == port


def test_zero_takes_a_free_one() -> None:
    port = choose("127.0.0.1", 0)
    with socket.create_server(("127.0.0.1", port)):
        pass


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "localhost", "::", "::1"])
def test_a_port_in_use_is_said_to_be(address: str) -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"port {port} .*") as raised:
            choose(address, port)
    if LINUX_HERE:
        assert f"port {port} is in use by " in raised.value.message
        assert f" (pid {os.getpid()})" in raised.value.message


def test_an_address_of_another_machine() -> None:
    with pytest.raises(UsageError, match=r"192\.0\.2\.1"):
        choose("192.0.2.1", 0)


def test_a_number_that_is_no_port() -> None:
    with pytest.raises(UsageError, match="70000"):
        choose("127.0.0.1", 70000)


def claiming(port: int, address: str = "127.0.0.1", name: str = "other") -> Instance:
    return Instance(
        name=name,
        argv=(),
        cwd="/",
        created=0.0,
        model="demo",
        served_name="demo",
        backend="llama-server",
        backend_version="1",
        url=f"http://{address}:{port}",
        has_key=False,
        stop_seconds=1.0,
        claim=Claim(address=address, port=port, devices={}, ram_bytes=0),
    )


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::", "localhost"])
def test_a_port_that_an_instance_has_claimed(address: str) -> None:
    port = choose("127.0.0.1", 0)
    with pytest.raises(PortInUseError, match=f"port {port} is claimed by instance other") as raised:
        choose("127.0.0.1", port, [claiming(port, address)])
    assert "--port 0" in raised.value.hint


def test_the_same_port_of_another_address() -> None:
    port = choose("127.0.0.1", 0)
    assert choose("127.0.0.1", port, [claiming(port, "127.0.0.2"), claiming(port + 1)]) == port


def test_any_free_port_is_none_that_is_claimed() -> None:
    """Of the ports that the system deals out, all but every eleventh are claimed."""
    others = [claiming(port) for port in range(1024, 65536) if port % 11]
    assert {choose("127.0.0.1", 0, others) % 11 for _ in range(3)} == {0}

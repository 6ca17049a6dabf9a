from __future__ import annotations

import socket

import pytest

from aimind.errors import PortInUseError, UsageError
from aimind.instances import claim_port


def test_a_free_port_is_itself() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    assert claim_port("127.0.0.1", port) == port


def test_zero_takes_a_free_one() -> None:
    port = claim_port("127.0.0.1", 0)
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_a_port_in_use_is_said_to_be() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=str(port)):
            claim_port("127.0.0.1", port)


def test_an_address_of_another_machine() -> None:
    with pytest.raises(UsageError, match=r"192\.0\.2\.1"):
        claim_port("192.0.2.1", 0)


def test_a_number_that_is_no_port() -> None:
    with pytest.raises(UsageError, match="70000"):
        claim_port("127.0.0.1", 70000)

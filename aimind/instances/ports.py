"""Ports: which one an instance can have."""

from __future__ import annotations

import errno
from collections.abc import Iterable

from aimind.errors import PortInUseError, UsageError
from aimind.types import Instance

# The system deals free ports out in no order: of so many one is not claimed.
ATTEMPTS = 1000


def choose(address: str, port: int, others: Iterable[Instance] = ()) -> int:
    """The port, found free of everybody and of these instances' claims; 0 takes any such one.

    Nothing holds it until the backend binds it.

    Raises:
        PortInUseError: somebody listens there, or an instance has claimed it.
        UsageError: no such address on this machine, or no such port.
    """
    claimed = {other.claim.port: other.name for other in others if _overlap(address, other.claim.address)}
    if port in claimed:
        raise PortInUseError(
            f"port {port} is claimed by instance {claimed[port]}",
            hint=f"--port 0 chooses a free one; `aimind stop {claimed[port]}` frees this one",
        )
    for _ in range(ATTEMPTS):
        found = _bind(address, port)
        if found not in claimed:
            return found
    raise PortInUseError("all free ports are claimed by instances", hint="`aimind ps` lists them")


def _overlap(one: str, other: str) -> bool:
    """Whether a port of both could be the same one: not if they are two addresses, and neither is all."""
    import ipaddress

    try:
        addresses = ipaddress.ip_address(one), ipaddress.ip_address(other)
    except ValueError:
        return True  # names: who knows
    return addresses[0] == addresses[1] or any(address.is_unspecified for address in addresses)


def _bind(address: str, port: int) -> int:
    import socket  # not for those who only look

    if not 0 <= port <= 65535:
        raise UsageError(f"{port} is not a port", hint="ports are 1 to 65535; 0 chooses a free one")
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
            return int(probe.getsockname()[1])
    except socket.gaierror as problem:
        raise UsageError(
            f"{address} is not an address of this machine", hint="use --host 127.0.0.1"
        ) from problem
    except OSError as problem:
        if problem.errno == errno.EADDRINUSE:
            raise PortInUseError(
                _holder(where) or f"port {port} on {address} is in use",
                hint="--port 0 chooses a free one, or use another",
            ) from problem
        if problem.errno == errno.EACCES:
            raise PortInUseError(
                f"port {port} needs root's permissions", hint="use a port from 1024 to 65535"
            ) from problem
        raise UsageError(
            f"cannot listen on {address}: {problem.strerror}", hint="use --host 127.0.0.1"
        ) from problem


def _holder(address: tuple[object, ...]) -> str | None:
    """The process that uses the port, where that is visible."""
    from aimind.supervisor.listener import port_conflict

    name, port = str(address[0]), address[1]
    return port_conflict(f"http://{f'[{name}]' if ':' in name else name}:{port}")

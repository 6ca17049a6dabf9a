"""What runs here: for now, the ports that servers want."""

from __future__ import annotations

import errno
import socket

from aimind.errors import PortInUseError, UsageError


def claim_port(address: str, port: int) -> int:
    """The port, found free; 0 takes any free one. Nothing holds it until the backend binds it.

    Raises:
        PortInUseError: somebody listens there.
        UsageError: no such address on this machine, or no such port.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"{port} is not a port", hint="ports are 1 to 65535; 0 takes a free one")
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
            return int(probe.getsockname()[1])
    except socket.gaierror as problem:
        raise UsageError(f"{address} is not an address of this machine", hint="--host 127.0.0.1") from problem
    except OSError as problem:
        if problem.errno == errno.EADDRINUSE:
            raise PortInUseError(
                f"port {port} on {address} is in use", hint="--port 0 takes a free one, or name another"
            ) from problem
        if problem.errno == errno.EACCES:
            raise PortInUseError(
                f"port {port} needs more rights than you have", hint="ports from 1024 on are free to use"
            ) from problem
        raise UsageError(
            f"cannot listen on {address}: {problem.strerror}", hint="--host 127.0.0.1"
        ) from problem

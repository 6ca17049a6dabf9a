"""A SOCKS 5 proxy on loopback (RFC 1928, RFC 1929), as `ssh -D` or Clash are."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Self


class Socks(ThreadingTCPServer):
    """The proxy, serving from `__enter__` to `__exit__`.

    Attributes:
        targets: all `host:port` that it was asked to connect to.
        user, password: what it wants, or nothing.
        answer: sent instead of any protocol.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, *, user: str = "", password: str = "", answer: bytes | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.targets: list[str] = []
        self.user, self.password, self.answer = user.encode(), password.encode(), answer
        self.address = f"127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is nothing to print."""


class _Handler(StreamRequestHandler):
    server: Socks

    def handle(self) -> None:
        if self.server.answer is not None:
            self.connection.recv(4096)
            self.connection.sendall(self.server.answer)
            return
        methods = self.rfile.read(2)[1]
        self.rfile.read(methods)
        if not self._is_welcome():
            return
        _, _, _, kind = self.rfile.read(4)
        if kind == 1:
            host = socket.inet_ntoa(self.rfile.read(4))
        elif kind == 3:
            host = self.rfile.read(self.rfile.read(1)[0]).decode()
        else:
            host = socket.inet_ntop(socket.AF_INET6, self.rfile.read(16))
        (port,) = struct.unpack(">H", self.rfile.read(2))
        self.server.targets.append(f"{host}:{port}")
        try:
            there = socket.create_connection(("127.0.0.1" if host.endswith(".test") else host, port))
        except OSError:
            self.wfile.write(b"\5\5\0\1" + bytes(6))
            return
        with there:
            self.wfile.write(b"\5\0\0\1" + bytes(6))
            back = threading.Thread(target=_copy, args=(there, self.connection), daemon=True)
            back.start()
            _copy(self.connection, there)
            back.join()

    def _is_welcome(self) -> bool:
        if not self.server.user:
            self.wfile.write(b"\5\0")
            return True
        self.wfile.write(b"\5\2")
        self.rfile.read(1)
        user = self.rfile.read(self.rfile.read(1)[0])
        password = self.rfile.read(self.rfile.read(1)[0])
        right = (user, password) == (self.server.user, self.server.password)
        self.wfile.write(b"\1\0" if right else b"\1\1")
        return right


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)

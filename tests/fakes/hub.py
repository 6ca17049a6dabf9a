"""A hub on loopback, Hugging Face and ModelScope at one address: real HTTP, for real clients.

A folder tree is served: `FOLDER/owner/name/…` is a repository, `FOLDER/owner/name@REVISION/…` a revision of
it (with `%2F` for `/`). Commits are hashes of the contents. Files that the real hub keeps in LFS (here: by
their suffix) are redirected to a second server, as there, so that a test can see what reaches which host.

    with Hub(folder) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.faults.append(Fault("/resolve/", status=503, times=1))
        …
        assert hub.count("GET") == 2

Or, to try things by hand: `python -m tests.fakes.hub FOLDER`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from tests.fakes import huggingface, modelscope

LFS_SUFFIXES = (".gguf", ".safetensors", ".bin", ".pt", ".onnx", ".model")
BLOCK = 64 << 10
SENDFILE_BYTES = 1 << 20


@dataclass
class Fault:
    """What goes wrong with requests whose path matches `path` (a regular expression, searched).

    Attributes:
        path: of the request, or of the file behind the redirect (`/cdn/…`).
        status: answered instead.
        code, message: the `X-Error-Code` and `X-Error-Message` with it (`GatedRepo`, `RepoNotFound`, …).
        body: answered instead, with 200 or the status.
        location: redirect there.
        cut_after: so many bytes of the body, then the connection is closed.
        ignore_range: the whole file is sent, with 200.
        flip: the first byte of the body is another one.
        headers: sent with the status.
        longer: so many bytes more than the file has, or fewer.
        hold_after: so many bytes of the body, then nothing until the hub's `go_on` is set.
        drip: sends a byte every tenth of a second for as long as anybody listens: of a `header` that never
            ends, of a `body` of `longer` bytes, or interim answers (`1xx`).
        method: only of these requests.
        times: so many requests, then no more; `None` for all.
    """

    path: str
    status: int | None = None
    code: str | None = None
    message: str | None = None
    body: bytes | None = None
    location: str | None = None
    cut_after: int | None = None
    ignore_range: bool = False
    flip: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    longer: int = 0
    hold_after: int | None = None
    drip: Literal["header", "body", "1xx"] | None = None
    method: str | None = None
    times: int | None = None


@dataclass
class Seen:
    """One request that the hub answered. `sent_bytes`: of the body. `host`: `hub` or `cdn`."""

    host: str
    method: str
    path: str
    range: str | None
    authorization: str | None
    cookie: str | None = None
    status: int = 0
    sent_bytes: int = 0


@dataclass
class Repository:
    """One revision of one repository."""

    name: str
    folder: Path
    commit: str = ""
    files: dict[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """The bytes of a file from `start` to before `stop`."""

    path: Path
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def blocks(self) -> Iterator[bytes]:
        """The bytes, some at a time."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            while left := self.stop - file.tell():
                yield file.read(min(left, BLOCK))


class Hub:
    """The hub, serving from `__enter__` to `__exit__`.

    Attributes:
        url: for `HF_ENDPOINT`.
        faults: the first that matches happens.
        requests: all that were answered, in order.
        token: what private and gated repositories want.
        private, gated: names of repositories. The list of a gated one is open, its files are not.
        siblings: by name of the repository, what is listed instead of its files (for hostile lists).
        names_commits: whether lists and files say which commit they are of.
        bytes_per_second: the most that one connection gets of a file.
        go_on: ends what faults hold.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: list[Fault] = []
        self.requests: list[Seen] = []
        self.token = "hf_right"
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.siblings: dict[str, list[dict[str, object]]] = {}
        self.names_commits = True
        self.bytes_per_second: float | None = None
        self.go_on = threading.Event()
        self.lock = threading.Lock()
        self.connections: set[socket.socket] = set()
        self._hashes: dict[tuple[Path, int, int], tuple[str, str]] = {}
        self._servers = [_Server(self, "hub"), _Server(self, "cdn")]
        self.url, self.cdn_url = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

    def __enter__(self) -> Self:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.go_on.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()
        with self.lock:
            for connection in self.connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(
                        socket.SHUT_RDWR
                    )  # its handler reads from a copy, which close() leaves open
                connection.close()

    def count(self, method: str | None = None, path: str = "") -> int:
        """How many requests matched."""
        return sum(method in {None, seen.method} and path in seen.path for seen in self.requests)

    def sent_bytes(self) -> int:
        """Bytes of all bodies sent."""
        return sum(seen.sent_bytes for seen in self.requests)

    def commit(self, name: str, revision: str = "main") -> str:
        """The commit that a revision is at."""
        repository = self.repository(name, revision)
        if repository is None:
            raise KeyError(name)
        return repository.commit

    def repository(self, name: str, revision: str) -> Repository | None:
        """A repository at a branch or a commit; without a commit where only the repository exists."""
        main = self.folder / name
        if not main.is_dir():
            return None
        branches = {"main": main}
        for other in main.parent.glob(f"{main.name}@*"):
            branches[unquote(other.name.partition("@")[2])] = other
        for branch, folder in branches.items():
            files = {
                path.relative_to(folder).as_posix(): path
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            }
            contents = json.dumps([branch, *((path, self.hashes(file)) for path, file in files.items())])
            commit = hashlib.sha1(contents.encode()).hexdigest()
            if revision in {branch, commit}:
                return Repository(name, folder, commit, files)
        return Repository(name, main)

    def hashes(self, path: Path) -> tuple[str, str]:
        """The Git blob's sha1 and the sha256 of a file."""
        status = path.stat()
        key = (path, status.st_mtime_ns, status.st_size)
        if key not in self._hashes:
            sha1, sha256 = hashlib.sha1(f"blob {status.st_size}\0".encode()), hashlib.sha256()
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    sha1.update(block)
                    sha256.update(block)
            self._hashes[key] = sha1.hexdigest(), sha256.hexdigest()
        return self._hashes[key]

    def fault(self, method: str, path: str) -> Fault | None:
        """What goes wrong with this request."""
        with self.lock:
            for fault in self.faults:
                if fault.method in {None, method} and fault.times != 0 and re.search(fault.path, path):
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: Hub, host: str) -> None:
        self.hub = hub
        self.host = host
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is nothing to print."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.server.hub.lock:
            self.server.hub.connections.add(self.connection)

    def finish(self) -> None:
        with self.server.hub.lock:
            self.server.hub.connections.discard(self.connection)
        super().finish()

    def log_message(self, *args: object) -> None:
        """Tests look at `Hub.requests` instead."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.server.hub
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        headers = self.headers
        self.seen = Seen(
            self.server.host,
            self.command,
            self.path,
            headers.get("Range"),
            headers.get("Authorization"),
            headers.get("Cookie"),
        )
        with hub.lock:
            hub.requests.append(self.seen)
        self.fault = hub.fault(self.command, path)
        if self.fault is not None and self._break(self.fault):
            return
        if self.server.host == "cdn":
            self.file(hub.folder / path.removeprefix("/cdn/"), {})
        elif path.startswith("/api/v1/models/"):
            modelscope.answer(self, path.removeprefix("/api/v1/models/"), dict(parse_qsl(parts.query)))
        elif path.startswith("/api/models/"):
            huggingface.answer(self, parts.path.removeprefix("/api/models/"))
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", parts.path):
            huggingface.resolve(self, match[1], unquote(match[2]), unquote(match[3]))
        else:
            self.refuse(404, None)

    def _break(self, fault: Fault) -> bool:
        """Do what the fault says instead of an answer; `False` where it only spoils one."""
        if fault.drip is not None:
            self._drip(fault.drip, fault.longer)
        elif fault.location is not None:
            self.send(fault.status or 302, b"", {"Location": fault.location})
        elif fault.body is not None:
            self.send(fault.status or 200, fault.body, {"Content-Type": "application/json"})
        elif fault.status is not None:
            self.refuse(fault.status, fault.code, {"X-Error-Message": fault.message or "", **fault.headers})
        else:
            return False
        return True

    def _drip(self, what: str, body_bytes: int) -> None:
        """Send a byte, or an interim answer, now and then."""
        self.close_connection = True
        headers = "HTTP/1.1 200 OK\r\n"
        if what == "body":
            headers += f"Content-Length: {body_bytes}\r\n\r\n"
        if what == "header":
            headers += "X-Long: "
        self.wfile.write(b"" if what == "1xx" else headers.encode())
        while not self.server.hub.go_on.wait(0.1):
            self.wfile.write(b"HTTP/1.1 102 Processing\r\n\r\n" if what == "1xx" else b" ")
            self.seen.sent_bytes += 1

    def list(self, repository: Repository) -> list[tuple[str, int, str, str, bool]]:
        return [
            (path, file.stat().st_size, *self.server.hub.hashes(file), self.is_large(path))
            for path, file in repository.files.items()
        ]

    def is_large(self, path: str) -> bool:
        """Whether the file is kept elsewhere."""
        return path.endswith(LFS_SUFFIXES)

    def cdn(self, file: Path) -> str:
        """Where a large file is."""
        hub = self.server.hub
        return f"{hub.cdn_url}/cdn/{quote(file.relative_to(hub.folder).as_posix())}"

    def file(self, path: Path, headers: dict[str, str]) -> None:
        size = path.stat().st_size
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.seen.range or "")
        if wanted is None or (self.fault is not None and self.fault.ignore_range):
            self.send(200, Part(path, 0, size), headers)
            return
        start, stop = int(wanted[1]), min(int(wanted[2] or size) + 1, size)
        if start >= size:
            self.send(416, b"", {"Content-Range": f"bytes */{size}"})
            return
        self.send(
            206, Part(path, start, stop), headers | {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}
        )

    def json(self, value: object, status: int = 200) -> None:
        self.send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, status: int, code: str | None, headers: dict[str, str] | None = None) -> None:
        message = {"error": "the fake hub refuses"}
        extra = {"X-Error-Code": code} if code else {}
        self.send(status, json.dumps(message).encode(), {**(headers or {}), **extra})

    def send(self, status: int, body: bytes | Part, headers: dict[str, str]) -> None:
        self.seen.status = status
        self.send_response(status)
        fault = self.fault or Fault("")
        length = len(body) + fault.longer
        for name, value in ({"Content-Length": str(length)} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault is None and isinstance(body, Part):
            self._send_file(body)
            return
        blocks = [body] if isinstance(body, bytes) else body.blocks()
        for block in chain(blocks, [bytes(max(0, fault.longer))]):
            block = block[: length - self.seen.sent_bytes]  # noqa: PLW2901
            if fault.flip and not self.seen.sent_bytes and block:
                block = bytes([block[0] ^ 255]) + block[1:]  # noqa: PLW2901
            if fault.cut_after is not None:
                block = block[: fault.cut_after - self.seen.sent_bytes]  # noqa: PLW2901
                self.close_connection = True
            if fault.hold_after is not None and self.seen.sent_bytes + len(block) > fault.hold_after:
                first = max(0, fault.hold_after - self.seen.sent_bytes)
                self.seen.sent_bytes += first
                self.wfile.write(block[:first])
                block = block[first:]  # noqa: PLW2901
                self.server.hub.go_on.wait()
            # Counted first: a client that has all of it may ask for the count before this thread goes on.
            self.seen.sent_bytes += len(block)
            self.wfile.write(block)

    def _send_file(self, part: Part) -> None:
        """As fast as it goes."""
        self.wfile.flush()
        with part.path.open("rb") as file:
            at, rate, begun = part.start, self.server.hub.bytes_per_second, time.monotonic()
            most = SENDFILE_BYTES if rate is None else SENDFILE_BYTES // 8
            while at < part.stop:
                if rate is not None:
                    time.sleep(max(0.0, begun + (at - part.start) / rate - time.monotonic()))
                count = min(part.stop - at, most)
                self.seen.sent_bytes += count
                sent = os.sendfile(self.connection.fileno(), file.fileno(), at, count)
                self.seen.sent_bytes += sent - count
                at += sent


def main() -> None:
    """Serve a folder until interrupted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="holds owner/name/…")
    with Hub(parser.parse_args().folder) as hub:
        print(f"export HF_ENDPOINT={hub.url} MODELSCOPE_ENDPOINT={hub.url}", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    main()

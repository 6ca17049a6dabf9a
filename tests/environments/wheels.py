"""Tiny wheels, and an index of packages that tells no dates."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import http.server
import threading
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path


def wheel(
    folder: Path,
    name: str,
    version: str,
    *requires: str,
    python: str = "",
    files: Mapping[str, bytes] | None = None,
) -> Path:
    """A wheel of one empty module, `name` with underscores, or of these files."""
    folder.mkdir(parents=True, exist_ok=True)
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    path = folder / f"{module}-{version}-py3-none-any.whl"
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    metadata += [f"Requires-Dist: {line}" for line in requires]
    metadata += [f"Requires-Python: {python}"] if python else []
    contents = {
        **(files or {f"{module}.py": b""}),
        f"{info}/METADATA": ("\n".join(metadata) + "\n").encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [f"{inside},sha256={_digest(content)},{len(content)}" for inside, content in contents.items()]
    with zipfile.ZipFile(path, "w") as file:
        for inside, content in contents.items():
            file.writestr(inside, content)
        file.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,"]) + "\n")
    return path


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


@contextlib.contextmanager
def index(folder: Path) -> Iterator[str]:
    """The URL of a server of the folder: `NAME/*.whl` below it are the packages, as a plain page of links."""
    for package in folder.iterdir():
        links = [
            f'<a href="{each.name.replace("+", "%2B")}">{each.name}</a>' for each in package.glob("*.whl")
        ]
        (package / "index.html").write_text(f"<html><body>{''.join(links)}</body></html>")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            """Say nothing."""

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=folder)
    ) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()

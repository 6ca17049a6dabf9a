"""A model served by aimind itself, as a user would: the real command, real backends, real HTTP."""

from __future__ import annotations

import json
import os
import queue
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from aimind import instances
from aimind.environments import find
from aimind.environments.install import ensure
from aimind.types import Backend, Package
from tests.supervisor.harness import ask_each

AIMIND = Path(sys.executable).with_name("aimind")
# Kept between runs, since an environment of vLLM has 3 GB.
DATA = Path(__file__).parents[2] / ".cache" / "live"
PATIENCE_SECONDS = 400.0
Json = Mapping[str, object]


class Served:
    """A running `aimind serve`: its URL, its process, and the lines that it printed."""

    url: str
    curl: str

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_until_ready(self) -> None:
        """Read on to the URL and the line to try."""
        self.url = self.wait_for(r"^ready: (http\S+)").group(1)
        self.curl = self.wait_for(r"^try: +(curl .*)").group(1)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(line.rstrip("\n"))
        self.process.stdout.close()
        self._queue.put(None)

    def drain(self) -> None:
        """All that it still printed, once it has ended."""
        self._reader.join(60)
        while (line := self._queue.get(timeout=60)) is not None:
            self.lines.append(line)

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first further line that matches."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            line = self._queue.get(timeout=max(0.1, deadline - time.monotonic()))
            assert line is not None, "ended before it was ready:\n" + "\n".join(self.lines[-40:])
            self.lines.append(line)
            if found := re.search(pattern, line):
                return found

    def tree(self) -> list[psutil.Process]:
        """The supervisor and all that it started."""
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def backend(self) -> psutil.Process:
        """The process that listens on the port."""
        port = int(self.url.rsplit(":", 1)[1])
        for pid, connections in ask_each(self.tree(), psutil.Process.net_connections).items():
            if any(c.laddr.port == port and c.status == psutil.CONN_LISTEN for c in connections):
                return psutil.Process(pid)
        raise AssertionError(f"nobody in the tree listens on {port}")

    @property
    def instance(self) -> str:
        """What aimind calls it."""
        living = instances.living()
        [name] = [each.name for each in living if each.state and each.state.pid == self.process.pid]
        return name

    @property
    def name(self) -> str | None:
        """What the line that is printed calls the model."""
        words = shlex.split(self.curl)
        name = json.loads(words[words.index("-d") + 1]).get("model")
        return None if name is None else str(name)

    def tried(self, folder: Path | None = None) -> dict[str, Any]:
        """What the line that is printed brings, in a shell of the folder."""
        done = subprocess.run(
            ["bash", "-c", self.curl], cwd=folder, capture_output=True, check=True, timeout=120
        )
        value: dict[str, Any] = json.loads(done.stdout)
        return value

    def post(self, path: str, body: Json, *, key: str | None = None) -> dict[str, Any]:
        """What the API answers."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=120) as answer:
            value: dict[str, Any] = json.load(answer)
        return value

    def may_be_read_by(self, origin: str) -> bool:
        """Whether a browser lets a web page from there read its answers."""
        request = urllib.request.Request(f"{self.url}/v1/models", headers={"Origin": origin})
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.headers.get("Access-Control-Allow-Origin") in ("*", origin)

    def say(self, text: str, *, name: str | None = None) -> str:
        """The model's answer at temperature 0; some backends give it no name."""
        body = {
            **({"model": name} if name else {}),
            "temperature": 0,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": 64,
        }
        answer = self.post("/v1/chat/completions", body)
        return str(answer["choices"][0]["message"]["content"]).strip()


def plan(*arguments: str, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What `aimind plan --json` says."""
    shown = subprocess.run(
        [str(AIMIND), "plan", "--json", *arguments], capture_output=True, check=True, env=environment(env)
    )
    document: dict[str, Any] = json.loads(shown.stdout)
    return document


# Half a minute for a start of vLLM that shows little beside the others.
TEST_ALL = pytest.mark.skipif(not os.environ.get("AIMIND_TEST_ALL"), reason="takes long: make test-all")


def brought(name: str, package: Package) -> Backend:
    """A backend that takes minutes to install, where it is here; `make test-all` brings it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIMIND_DATA_DIR", str(DATA))
        if os.environ.get("AIMIND_TEST_ALL"):
            return ensure(name, package, progress=print)
        here = [found for found in find(name, package) if found.only == package.only]
    if not here:
        pytest.skip(f"{name} takes minutes to install: make test-all")
    return here[0]


def environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours, with the backends where they are kept between runs."""
    # Python keeps what it compiles: without, vLLM takes twice as long to start.
    own = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**own, "AIMIND_DATA_DIR": str(DATA), **(env or {})}


@contextmanager
def serve(*arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Iterator[Served]:
    """`aimind serve` on a free port; afterwards nothing of it may be alive."""
    argv = [str(AIMIND), "serve", "--port", "0", *arguments]
    process = subprocess.Popen(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment(env),
        cwd=cwd,
    )
    served = Served(process)
    tree: list[psutil.Process] = []
    try:
        served.wait_until_ready()
        tree = served.tree()
        yield served
        if process.poll() is None:
            tree = served.tree()
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 128 + signal.SIGTERM
        assert gone(tree), [p for p in tree if p.is_running()]
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        served.drain()
        for left in tree:
            if left.is_running():
                left.kill()


def gone(processes: list[psutil.Process], *, within_seconds: float = 60.0) -> bool:
    """Whether all of them end by then."""
    _, alive = psutil.wait_procs(processes, timeout=within_seconds)
    return not [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def shell(*words: str, env: Mapping[str, str], cwd: Path) -> str:
    """What `aimind` prints on stdout in a folder, where that must succeed."""
    done = subprocess.run(
        [AIMIND, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env=environment(env),
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def fail_to_serve(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`aimind serve` of what cannot be served, tried once, to its end."""
    return subprocess.run(
        [str(AIMIND), "serve", "--port", "0", "--restart", "never", *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=PATIENCE_SECONDS,
        env=environment(env),
    )

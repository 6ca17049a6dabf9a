"""The shim as a process: real llama.cpp from xllamacpp's wheel, the demo model, real HTTP and signals."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from aimind.environments import install
from aimind.launchers import xllamacpp
from aimind.types import Package
from tests.samples import host

pytestmark = pytest.mark.live

DEMO = Path(__file__).parents[2] / "aimind" / "demo" / "aimind-demo-F16.gguf"
KEY = "canary-5ac1"


class Shim:
    """The process, on a port of its own, its log in a file."""

    def __init__(
        self, python: str, log: Path, arguments: tuple[str, ...], *, port: int | None = None
    ) -> None:
        if port is None:
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
        self.port = port
        self._log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [python, xllamacpp.SHIM, "--port", str(port), *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "LLAMA_API_KEY": KEY},
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def get(self, path: str, body: object = None, *, key: str | None = None) -> tuple[int, dict[str, Any]]:
        """Status and JSON; status 0 while the connection is refused."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)
        except urllib.error.URLError:
            return 0, {}

    def wait_for(self, status: int) -> None:
        """Until `/health` answers so."""
        deadline = time.monotonic() + 60
        while self.get("/health")[0] != status:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    def ended(self) -> int:
        return self.process.wait(20)


Start = Callable[..., Shim]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Python of a fresh environment of xllamacpp."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIMIND_DATA_DIR", str(tmp_path_factory.mktemp("data")))
        package = xllamacpp.source(host())
        assert isinstance(package, Package)
        return install.ensure("xllamacpp", package, progress=print).executable


@pytest.fixture
def start(python: str, tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def started(*arguments: str, port: int | None = None) -> Shim:
            shim = Shim(python, tmp_path / "log", arguments, port=port)
            stack.callback(shim.process.wait)
            stack.callback(shim.process.kill)
            return shim

        yield started


def buffers(log: str, kind: str) -> float:
    """MiB that llama.cpp says it allocated."""
    return sum(float(size) for size in re.findall(rf"{kind} buffer size = +([\d.]+) MiB", log))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_it_is_told_to_stop(start: Start, number: signal.Signals) -> None:
    shim = start("--model", str(DEMO), "--alias", "toy", "--ctx-size", "512", "--parallel", "2")
    shim.wait_for(200)
    assert shim.get("/v1/models")[0] == 401
    status, models = shim.get("/v1/models", key=KEY)
    assert (status, models["data"][0]["id"]) == (200, "toy")
    body = {"prompt": "Hello", "max_tokens": 4, "temperature": 0}
    assert shim.get("/v1/completions", body)[0] == 401
    status, answer = shim.get("/v1/completions", body, key=KEY)
    assert (status, answer["usage"]["completion_tokens"]) == (200, 4)
    assert KEY not in shim.log
    shim.process.send_signal(number)
    assert shim.ended() == 0


def test_a_stream_in_flight_does_not_keep_it(start: Start) -> None:
    shim = start("--model", str(DEMO), "--ctx-size", "8192", "--parallel", "1")
    shim.wait_for(200)
    body = {"prompt": "Hello", "max_tokens": 1_000_000, "stream": True, "ignore_eos": True}
    request = urllib.request.Request(
        f"http://127.0.0.1:{shim.port}/v1/completions",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {KEY}"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.readline().startswith(b"data:")
        shim.process.terminate()
        assert shim.ended() == 0


def test_its_flags_reach_llama_cpp(start: Start) -> None:
    """Each flag that aimind renders, by what llama.cpp says it does."""
    shim = start(
        *(
            "-m",
            str(DEMO),
            "-a",
            "--jinja",
            "--host",
            "127.0.0.1",
            "-c",
            "2048",
            "-np",
            "3",
            "--no-kv-unified",
        ),
        *("-b", "256", "-ub", "128", "-fa", "on", "-ctk", "q8_0", "-ctv", "q8_0", "-ngl", "all"),
        *("-sm", "layer", "-ts", "3,1", "--cache-ram", "7", "--ctx-checkpoints", "5", "--threads", "1"),
    )
    shim.wait_for(200)
    for said in (
        r"n_seq_max += 3",
        r"n_ctx += 2304",
        r"n_batch += 256",
        r"n_ubatch += 128",
        r"flash_attn += enabled",
        r"kv_unified += false",
        r"n_outputs_max += 3",
        r"K \(q8_0\)",
        r"V \(q8_0\)",
        r"size limit: 7 MiB",
        r"checkpoints enabled, max = 5",
        r"n_threads = 1 ",
        rf"listening on http://127\.0\.0\.1:{shim.port}",
    ):
        assert re.search(said, shim.log), f"{said} is not in:\n{shim.log}"
    assert shim.get("/v1/models", key=KEY)[1]["data"][0]["id"] == "--jinja"  # a name, and no flag


def test_the_sizes_of_its_buffers_are_in_its_log(start: Start) -> None:
    """They are what a plan is checked against; twice the cells take twice the bytes."""
    sizes = {}
    for cells in (1024, 2048):
        shim = start("--model", str(DEMO), "--ctx-size", str(cells), "--parallel", "1", "--kv-unified")
        shim.wait_for(200)
        sizes[cells] = buffers(shim.log, "KV")
        assert buffers(shim.log, "model") > 0
        assert buffers(shim.log, "compute") > 0
    assert sizes[2048] == 2 * sizes[1024] > 0


def test_embeddings_are_there_when_asked_for(start: Start) -> None:
    shim = start("--model", str(DEMO), "--ctx-size", "512")
    shim.wait_for(200)
    assert shim.get("/v1/embeddings", {"input": "cat"}, key=KEY)[0] == 501
    shim = start("--model", str(DEMO), "--ctx-size", "512", "--embeddings", "--pooling", "mean")
    shim.wait_for(200)
    status, answer = shim.get("/v1/embeddings", {"input": "cat"}, key=KEY)
    assert status == 200
    assert len(answer["data"][0]["embedding"]) > 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_loads_ends_it_at_once(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    """A pipe that nobody writes to is a model that takes for ever to load."""
    os.mkfifo(tmp_path / "model.gguf")
    shim = start("--model", str(tmp_path / "model.gguf"))
    shim.wait_for(503)
    shim.process.send_signal(number)
    assert shim.ended() == -number


@pytest.mark.parametrize(
    ("name", "said"),
    [("text", "invalid magic"), ("cut", "not within the file bounds"), ("none", "No such file")],
)
def test_a_bad_model_ends_it_with_1_and_a_reason(start: Start, tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "text").write_text("hello")
    (tmp_path / "cut").write_bytes(DEMO.read_bytes()[:-1000])
    shim = start("--model", str(tmp_path / name))
    assert shim.ended() == 1
    assert said in shim.log
    assert "Traceback" not in shim.log


def test_a_port_that_is_taken_ends_it_with_1(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        shim = start("--model", str(DEMO), port=taken.getsockname()[1])
        assert shim.ended() == 1
    assert "couldn't bind HTTP server socket" in shim.log


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--bogus", "1"), "unrecognized arguments: --bogus"),
        (("--ctx", "512"), "unrecognized arguments: --ctx"),
        (("--ctx-size", "many"), "--ctx-size"),
        (("--flash-attn", "maybe"), "'maybe' is none of auto, on, off"),
    ],
)
def test_a_flag_that_it_does_not_know_ends_it_with_2(
    start: Start, arguments: tuple[str, ...], said: str
) -> None:
    shim = start("--model", str(DEMO), *arguments)
    assert shim.ended() == 2
    assert said in shim.log

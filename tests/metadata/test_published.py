"""Published models by what matters in their config.json: layers, memory, length, kind, and weights per rank.

Where vLLM 0.32 can build the model, `cache` and `weights_bytes` are its own: what its layers ask of the
cache, and the parameters of the first of 1, 2, 4 and 8 ranks, built without memory behind them.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from aimind import metadata
from aimind.estimate import paged
from aimind.types import Attention, LatentAttention, Memory, Metadata, RecurrentState

PUBLISHED: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "models" / "published.json").read_text()
)
WEIGHED = [
    (name, int(ranks)) for name, model in PUBLISHED.items() for ranks in model.get("weights_bytes", ())
]


def read(name: str) -> Metadata:
    return metadata.from_config(json.dumps(PUBLISHED[name]["config"]).encode(), "config.json")


def kept(memory: Memory) -> tuple[object, ...]:
    """What a layer asks of the cache, as the data has it; nothing where it stores nothing."""
    match memory:
        case LatentAttention():
            return ("latent", memory.kv_lora_rank + memory.rope_size)
        case RecurrentState():
            return ("state", memory.conv_elements, memory.ssm_elements)
        case Attention(window=None):
            return ("full", memory.num_kv_heads, memory.key_size, memory.value_size)
    return ("window", memory.num_kv_heads, memory.key_size, memory.value_size, memory.window)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_is_read_right(name: str) -> None:
    expected, found = PUBLISHED[name], read(name)
    facts = ("category", "max_model_len", "quantization")
    assert {fact: getattr(found, fact) for fact in facts} == {fact: expected[fact] for fact in facts}
    assert list(found.modalities) == expected["modalities"]
    assert len(found.layers) == expected["layers"]
    memories = [memory for layer in found.layers for memory in layer.memory]
    stored = [m for m in memories if not isinstance(m, Attention) or (m.causal and not m.shared)]
    wanted = Counter({(kind, *sizes): layers for kind, layers, *sizes in expected["cache"]})
    assert Counter(map(kept, stored)) == wanted


@pytest.mark.parametrize(("name", "ranks"), WEIGHED)
def test_each_rank_holds_what_vllm_gives_it(name: str, ranks: int) -> None:
    held = paged.weights_bytes(read(name), tensor_parallel=ranks, pipeline_parallel=1)
    # Jamba's checkpoint is described but for a few vectors.
    assert held == pytest.approx(PUBLISHED[name]["weights_bytes"][str(ranks)], rel=2e-6)

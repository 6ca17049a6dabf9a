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
from aimind.metadata.config import Config
from aimind.metadata.config_model import Beside, describe
from aimind.metadata.expected import tensors_of
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


def config_of(name: str) -> Config:
    return Config(PUBLISHED[name]["config"], "config.json")


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


# ── As if nobody knew them ─────────────────────────────────────────────────────────────────────────────────

DECODERS = [
    name
    for name, model in PUBLISHED.items()
    if {kind for kind, *_ in model["cache"]} <= {"full", "window"} and tensors_of(config_of(name))
]


@pytest.mark.parametrize("name", DECODERS)
def test_an_architecture_nobody_knows_is_bounded(name: str) -> None:
    """The same tensors under a type that is not known: as many layers, the same weights, no less cache."""
    known = read(name)
    values = {**config_of(name).language_model().values, "model_type": "brandnew"}
    values = {key: value for key, value in values.items() if "rope" not in key}
    unknown = describe(
        Config(values, "config.json"), tensors_of(config_of(name)), weights="safetensors", beside=Beside()
    )
    assert not unknown.known
    assert len(unknown.layers) == len(known.layers)
    assert unknown.weight_bytes == known.weight_bytes
    cache = [
        paged.layout(m, ranks=(1, 1), cache_dtype="auto", dtype=None, block_size=16) for m in (known, unknown)
    ]
    needed = [layout.block_bytes * layout.blocks_needed(32768, in_flight=4096) for layout in cache]
    # A window longer than the request costs a block more than no window.
    assert needed[1] + cache[1].block_bytes >= needed[0]

"""Layers from config.json: against what vLLM allocated, and by each way of saying which layer is what."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from aimind.errors import MetadataError
from aimind.metadata.config import Config
from aimind.metadata.config_layers import MOST_LAYERS, encoder_decoder, kinds, plan
from aimind.metadata.config_rows import Plan
from aimind.types import Attention, LatentAttention, Memory, RecurrentState

DATA = Path(__file__).parents[1] / "data"
RUNS = {run["run"]: run for run in json.loads((DATA / "ground_truth_vllm.json").read_text())}


def config(**values: Any) -> Config:
    return Config(values, "config.json").language_model()


def recorded(name: str) -> Config:
    path = DATA / "models" / "vllm" / f"{name}.config.json"
    return Config(json.loads(path.read_text()), path.name)


# ── vLLM's own cache as the oracle ─────────────────────────────────────────────────────────────────────────


def cached(memory: Memory) -> tuple[object, ...]:
    """What vLLM's specification of a layer's cache says."""
    match memory:
        case LatentAttention():
            return ("MLAAttentionSpec", 1, memory.kv_lora_rank + memory.rope_size, 0, None)
        case RecurrentState():
            return ("MambaSpec", memory.conv_elements, memory.ssm_elements)
        case Attention(window=None):
            return ("FullAttentionSpec", memory.num_kv_heads, memory.key_size, memory.value_size, None)
    return ("SlidingWindowSpec", memory.num_kv_heads, memory.key_size, memory.value_size, memory.window)


def specified(spec: dict[str, Any]) -> tuple[object, ...]:
    if spec["type"] == "MambaSpec":
        conv, ssm = (
            [int(number) for number in re.findall(r"\d+", part)] for part in spec["shapes"].split("), (")
        )
        return ("MambaSpec", conv[0] * conv[1], ssm[0] * ssm[1] * ssm[2])
    sizes = (spec["num_kv_heads"], spec["head_size"], spec["head_size_v"], spec.get("sliding_window"))
    return (spec["type"], *sizes)


@pytest.mark.parametrize("run", RUNS)
def test_layers_remember_what_vllm_allocates(run: str) -> None:
    layers = plan(recorded(RUNS[run]["dir"]))
    expected = Counter({specified(spec): spec["layers"] for spec in RUNS[run]["cache_specs"]})
    assert Counter(cached(memory) for layer in layers for memory in layer.memory) == expected


# ── Which layer is what ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"layer_types": ["full_attention", "sliding_attention"] * 3}, "fsfsfs"),
        ({"layer_types": ["linear_attention", "full_attention"] * 3}, "rfrfrf"),
        ({"layers_block_type": ["mamba", "hybrid", "attention"] * 2}, "rhfrhf"),
        ({"hybrid_override_pattern": "M-*EM*"}, "rmfxrf"),
        ({"attn_type_list": [0, 0, 1, 0, 0, 1]}, "rrfrrf"),
        ({"hybrid_layer_pattern": [0, 1, 1, 0, 1, 1]}, "fssfss"),
        ({"attn_layer_indices": [1, 4]}, "rfrrfr"),
        ({"full_attn_idxs": [2]}, "rrfrrr"),
        ({"linear_attn_config": {"full_attn_layers": [3], "num_heads": 2, "head_dim": 8}}, "rrfrrr"),
        ({"attn_layer_period": 3, "attn_layer_offset": 1}, "rfrrfr"),
        ({"full_attention_interval": 3}, "rrfrrf"),
        ({"model_type": "qwen3_next"}, "rrrfrr"),
        ({"sliding_window": 8, "sliding_window_pattern": 3}, "ssfssf"),
        ({"model_type": "gemma2"}, "sfsfsf"),
        ({"model_type": "gemma3_text"}, "sssssf"),
        ({"model_type": "gpt_oss"}, "sfsfsf"),
        ({"model_type": "modernbert"}, "fssfss"),
        ({"model_type": "cwm"}, "fsssfs"),
        ({"model_type": "llama4_text"}, "sssfss"),
        ({"model_type": "qwen2", "sliding_window": 8}, "ffffff"),
        ({"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 4}, "ffffss"),
        ({"model_type": "mistral", "sliding_window": 8}, "ssssss"),
        ({"model_type": "mistral", "sliding_window": None}, "ffffff"),
        ({"model_type": "llama"}, "ffffff"),
        ({"model_type": "falcon_h1"}, "hhhhhh"),
        ({"model_type": "mamba"}, "rrrrrr"),
    ],
)
def test_kinds(values: dict[str, Any], expected: str) -> None:
    letters = {"moe": "x"}
    found = kinds(config(**values), 6)
    assert "".join(letters.get(kind, kind[0]) for kind in found) == expected


def test_too_few_kinds() -> None:
    with pytest.raises(MetadataError, match="2 kinds for 3 layers"):
        kinds(config(layer_types=["full_attention"] * 2), 3)


def test_too_many_layers() -> None:
    with pytest.raises(MetadataError, match="it has 1,000,000 layers"):
        plan(config(num_hidden_layers=1_000_000))
    assert len(plan(config(model_type="llama", num_hidden_layers=MOST_LAYERS))) == MOST_LAYERS


def only(**values: Any) -> Plan:
    """The one layer of a model."""
    [layer] = plan(config(num_hidden_layers=1, n_layer=1, n_layers=1, num_layers=1, **values))
    return layer


# ── What it remembers ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("values", "kv_heads", "size"),
    [
        ({"model_type": "llama", "num_key_value_heads": 8, "num_attention_heads": 32}, 8, 128),
        ({"model_type": "llama", "head_dim": 80}, 32, 80),
        ({"model_type": "gpt2"}, 12, 64),
        ({"model_type": "gpt_bigcode"}, 1, 64),
        ({"model_type": "falcon"}, 1, 64),
        ({"model_type": "falcon", "new_decoder_architecture": True, "num_kv_heads": 8}, 8, 64),
        (
            {
                "model_type": "chatglm",
                "num_attention_heads": 32,
                "multi_query_group_num": 2,
                "kv_channels": 128,
            },
            2,
            128,
        ),
        ({"model_type": "dbrx", "attn_config": {"kv_n_heads": 4}}, 4, 128),
        ({"model_type": "mpt"}, 16, 128),
        ({"model_type": "minicpm3"}, 40, 96),
    ],
)
def test_heads_by_every_name(values: dict[str, Any], kv_heads: int, size: int) -> None:
    [memory] = only(**values).memory
    assert isinstance(memory, Attention)
    assert (memory.num_kv_heads, memory.key_size) == (kv_heads, size)


def test_encoders_remember_nothing() -> None:
    for values in ({"model_type": "bert"}, {"model_type": "llama", "is_causal": False}):
        [memory] = only(**values).memory
        assert isinstance(memory, Attention)
        assert not memory.causal


def test_a_latent() -> None:
    [memory] = only(model_type="deepseek_v3").memory
    assert memory == LatentAttention(
        num_heads=128, kv_lora_rank=512, rope_size=64, key_size=192, value_size=128
    )


def test_wide_heads_where_nothing_slides() -> None:
    """Gemma 4: layers with full attention have heads, and numbers of them, of their own."""
    layers = plan(
        config(
            model_type="gemma4_text",
            num_hidden_layers=6,
            num_key_value_heads=4,
            num_global_key_value_heads=2,
            attention_k_eq_v=True,
            num_kv_shared_layers=2,
        )
    )
    kept = [memory for layer in layers for memory in layer.memory if isinstance(memory, Attention)]
    assert [memory.key_size for memory in kept] == [256] * 5 + [512]
    assert [memory.num_kv_heads for memory in kept] == [4] * 5 + [2]
    assert [memory.shared for memory in kept] == [False] * 4 + [True] * 2


@pytest.mark.parametrize(
    ("values", "state"),
    [
        (
            {"model_type": "mamba"},
            RecurrentState(kind="mamba1", conv_elements=3 * 1536, ssm_elements=16 * 1536),
        ),
        (
            {"model_type": "mamba2"},
            RecurrentState(
                kind="mamba2",
                conv_elements=3 * (8192 + 2 * 8 * 128),
                ssm_elements=128 * 8192,
                num_heads=128,
                num_groups=8,
                group_channels=256,
            ),
        ),
        (
            {"model_type": "jamba", "attn_layer_offset": 4},
            RecurrentState(kind="mamba1", conv_elements=3 * 8192, ssm_elements=16 * 8192),
        ),
        (
            {
                "model_type": "kimi_linear",
                "linear_attn_config": {"full_attn_layers": [4], "num_heads": 32, "head_dim": 128},
            },
            RecurrentState(
                kind="gated-delta-net",
                conv_elements=3 * 3 * 4096,
                ssm_elements=32 * 128 * 128,
                num_heads=32,
                num_groups=32,
            ),
        ),
        (
            {"model_type": "lfm2", "layer_types": ["conv"]},
            RecurrentState(kind="short-conv", conv_elements=2 * 2560, ssm_elements=0),
        ),
    ],
)
def test_states(values: dict[str, Any], state: RecurrentState) -> None:
    assert only(**values).memory == (state,)


def test_mixers_side_by_side() -> None:
    attention, state = only(
        model_type="falcon_h1", mamba_d_ssm=1024, mamba_n_heads=16, mamba_d_head=64
    ).memory
    assert isinstance(attention, Attention)
    assert state == RecurrentState(
        kind="mamba2",
        conv_elements=3 * (1024 + 512),
        ssm_elements=256 * 1024,
        num_heads=16,
        num_groups=1,
        group_channels=512,
    )


def test_both_halves_of_whisper() -> None:
    encoder, decoder = encoder_decoder(
        config(model_type="whisper", d_model=1280, encoder_layers=32, decoder_layers=2)
    )
    assert (len(encoder), len(decoder)) == (32, 2)
    own, cross = decoder[0].memory
    assert isinstance(own, Attention)
    assert isinstance(cross, Attention)
    assert (own.window, cross.window) == (None, 1500)


# ── How wide it is ─────────────────────────────────────────────────────────────────────────────────────────


def widths(**values: Any) -> list[tuple[int, int, int, int]]:
    layers = plan(config(**values))
    return [
        (one.feed_forward_size, one.num_experts, one.num_experts_used, one.expert_feed_forward_size)
        for one in layers
    ]


@pytest.mark.parametrize(
    ("values", "sparse"),
    [
        ({"model_type": "mixtral"}, "xxxx"),
        ({"model_type": "deepseek_v2", "first_k_dense_replace": 1}, "-xxx"),
        ({"model_type": "deepseek_v2", "first_k_dense_replace": 1, "moe_layer_freq": 2}, "--x-"),
        ({"model_type": "glm4_moe", "mlp_layer_types": ["dense", "sparse", "sparse", "dense"]}, "-xx-"),
        ({"model_type": "mimo_v2_flash", "moe_layer_freq": [0, 1, 1, 1]}, "-xxx"),
        ({"model_type": "qwen3_moe", "mlp_only_layers": [2]}, "xx-x"),
        ({"model_type": "qwen3_moe", "decoder_sparse_step": 2}, "-x-x"),
        ({"model_type": "jamba"}, "-x-x"),
        ({"model_type": "llama4_text", "interleave_moe_layer_step": 2}, "-x-x"),
        ({"model_type": "lfm2_moe", "layer_types": ["conv"] * 4}, "--xx"),
        ({"model_type": "ernie4_5_moe", "moe_layer_start_index": 1}, "-xxx"),
        ({"model_type": "llama"}, "----"),
        ({"model_type": "granitemoehybrid", "num_local_experts": 0}, "----"),
    ],
)
def test_which_layers_have_experts(values: dict[str, Any], sparse: str) -> None:
    found = widths(**values, num_hidden_layers=4)
    assert "".join("x" if experts else "-" for _, experts, _, _ in found) == sparse


@pytest.mark.parametrize(
    ("values", "width"),
    [
        ({"model_type": "mixtral", "intermediate_size": 96}, (0, 8, 2, 96)),
        ({"model_type": "deepseek_v3", "first_k_dense_replace": 0}, (2048, 256, 8, 2048)),
        ({"model_type": "qwen2_moe", "shared_expert_intermediate_size": 96}, (96, 60, 4, 1408)),
        ({"model_type": "llama4_text"}, (8192, 16, 1, 8192)),
        (
            {
                "model_type": "dbrx",
                "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 16, "moe_top_k": 4},
            },
            (0, 16, 4, 96),
        ),
        (
            {"model_type": "granitemoehybrid", "num_local_experts": 0, "shared_intermediate_size": 96},
            (96, 0, 0, 0),
        ),
        ({"model_type": "gpt2"}, (4 * 768, 0, 0, 0)),
        ({"model_type": "opt"}, (3072, 0, 0, 0)),
        ({"model_type": "mamba2"}, (0, 0, 0, 0)),
    ],
)
def test_widths(values: dict[str, Any], width: tuple[int, int, int, int]) -> None:
    layer = only(**values)
    found = (
        layer.feed_forward_size,
        layer.num_experts,
        layer.num_experts_used,
        layer.expert_feed_forward_size,
    )
    assert found == width


def test_layers_that_are_one_thing_each() -> None:
    """Nemotron H: a mixer has no feed-forward, a feed-forward remembers nothing."""
    layers = plan(config(model_type="nemotron_h", hybrid_override_pattern="M-*E", intermediate_size=96))
    assert [len(layer.memory) for layer in layers] == [1, 0, 1, 0]
    assert [layer.feed_forward_size for layer in layers] == [0, 96, 0, 7688]
    assert [layer.num_experts for layer in layers] == [0, 0, 0, 8]

"""Tiny models of several families in Hugging Face's form: a config.json, and weights by their true names."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Shapes = Iterator[tuple[str, tuple[int, ...]]]
Config = Mapping[str, Any]

HIDDEN, HEADS, KV_HEADS, SIZE, FORWARD, VOCABULARY, EXPERTS = 64, 2, 1, 32, 128, 500, 4
RANK, ROPE, NOPE, VALUE = 64, 16, 32, 32
INNER, STATE, MIXERS, KERNEL = 128, 16, 4, 4
# Small numbers: all weights are this one.
WEIGHT = struct.pack("<f", 0.01)

_BASE: Config = {
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "intermediate_size": FORWARD,
    "num_hidden_layers": 4,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def _family(name: str, architecture: str, **values: Any) -> Config:
    return {**_BASE, "model_type": name, "architectures": [architecture], **values}


FAMILIES: Mapping[str, Config] = {
    "dense": _family("llama", "LlamaForCausalLM"),
    "tied": _family("qwen3", "Qwen3ForCausalLM", head_dim=SIZE, tie_word_embeddings=True),
    "windows": _family(
        "gemma3_text",
        "Gemma3ForCausalLM",
        head_dim=SIZE,
        num_hidden_layers=7,
        sliding_window=512,
        sliding_window_pattern=6,
        tie_word_embeddings=True,
    ),
    "experts": _family(
        "mixtral", "MixtralForCausalLM", num_local_experts=EXPERTS, num_experts_per_tok=2, sliding_window=None
    ),
    "latent": _family(
        "deepseek_v2",
        "DeepseekV2ForCausalLM",
        num_key_value_heads=HEADS,
        n_routed_experts=EXPERTS,
        n_shared_experts=1,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        first_k_dense_replace=1,
        topk_method="greedy",
        n_group=1,
        topk_group=1,
        kv_lora_rank=RANK,
        q_lora_rank=None,
        qk_nope_head_dim=NOPE,
        qk_rope_head_dim=ROPE,
        v_head_dim=VALUE,
    ),
    "states": _family(
        "granitemoehybrid",
        "GraniteMoeHybridForCausalLM",
        num_hidden_layers=6,
        layer_types=["mamba", "mamba", "attention"] * 2,
        num_local_experts=EXPERTS,
        num_experts_per_tok=2,
        shared_intermediate_size=FORWARD,
        mamba_n_heads=MIXERS,
        mamba_d_head=INNER // MIXERS,
        mamba_d_state=STATE,
        mamba_n_groups=1,
        mamba_expand=2,
        mamba_d_conv=KERNEL,
        position_embedding_type="nope",
    ),
    "encoder": _family(
        "bert",
        "BertModel",
        num_key_value_heads=HEADS,
        max_position_embeddings=512,
        type_vocab_size=2,
        torch_dtype="float32",
    ),
}


def write(folder: Path, family: str) -> Path:
    """A folder with a model of the family."""
    folder.mkdir()
    config = FAMILIES[family]
    (folder / "config.json").write_text(json.dumps(config))
    dtype, width = ("F32", 4) if config["torch_dtype"] == "float32" else ("BF16", 2)
    header: dict[str, object] = {}
    end = 0
    for name, shape in _encoder(config) if family == "encoder" else _decoder(family, config):
        begin, end = end, end + width * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    data = WEIGHT[4 - width :] * (end // width)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    return folder


def _decoder(family: str, config: Config) -> Shapes:
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    yield "model.norm.weight", (HIDDEN,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (VOCABULARY, HIDDEN)
    for index in range(config["num_hidden_layers"]):
        for name, shape in _layer(family, config, index):
            last = "" if name.endswith((".bias", "A_log", ".D", "dt_bias")) else ".weight"
            yield f"model.layers.{index}.{name}{last}", shape


def _layer(family: str, config: Config, index: int) -> Shapes:
    yield "input_layernorm", (HIDDEN,)
    yield "post_attention_layernorm", (HIDDEN,)
    if family == "windows":
        yield "pre_feedforward_layernorm", (HIDDEN,)
        yield "post_feedforward_layernorm", (HIDDEN,)
    if config.get("layer_types", {index: "attention"})[index] == "mamba":
        yield from _mamba()
    elif family == "latent":
        yield from _latent()
    else:
        yield from _attention(head_norms=family in ("tied", "windows"))
    if family == "experts":
        yield "block_sparse_moe.gate", (EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            yield from _gated(f"block_sparse_moe.experts.{expert}", FORWARD, ("w1", "w3", "w2"))
    elif family == "states":
        yield "block_sparse_moe.router.layer", (EXPERTS, HIDDEN)
        yield "block_sparse_moe.input_linear", (EXPERTS, 2 * FORWARD, HIDDEN)
        yield "block_sparse_moe.output_linear", (EXPERTS, HIDDEN, FORWARD)
        yield "shared_mlp.input_linear", (2 * FORWARD, HIDDEN)
        yield "shared_mlp.output_linear", (HIDDEN, FORWARD)
    elif family == "latent" and index:
        yield "mlp.gate", (EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            yield from _gated(f"mlp.experts.{expert}", config["moe_intermediate_size"])
        yield from _gated("mlp.shared_experts", config["moe_intermediate_size"])
    else:
        yield from _gated("mlp", FORWARD)


def _gated(
    name: str, size: int, parts: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
) -> Shapes:
    yield f"{name}.{parts[0]}", (size, HIDDEN)
    yield f"{name}.{parts[1]}", (size, HIDDEN)
    yield f"{name}.{parts[2]}", (HIDDEN, size)


def _attention(*, head_norms: bool) -> Shapes:
    yield "self_attn.q_proj", (HEADS * SIZE, HIDDEN)
    yield "self_attn.k_proj", (KV_HEADS * SIZE, HIDDEN)
    yield "self_attn.v_proj", (KV_HEADS * SIZE, HIDDEN)
    yield "self_attn.o_proj", (HIDDEN, HEADS * SIZE)
    if head_norms:
        yield "self_attn.q_norm", (SIZE,)
        yield "self_attn.k_norm", (SIZE,)


def _latent() -> Shapes:
    yield "self_attn.q_proj", (HEADS * (NOPE + ROPE), HIDDEN)
    yield "self_attn.kv_a_proj_with_mqa", (RANK + ROPE, HIDDEN)
    yield "self_attn.kv_a_layernorm", (RANK,)
    yield "self_attn.kv_b_proj", (HEADS * (NOPE + VALUE), RANK)
    yield "self_attn.o_proj", (HIDDEN, HEADS * VALUE)


def _mamba() -> Shapes:
    channels = INNER + 2 * STATE
    yield "mamba.in_proj", (INNER + channels + MIXERS, HIDDEN)
    yield "mamba.conv1d", (channels, 1, KERNEL)
    yield "mamba.conv1d.bias", (channels,)
    yield "mamba.A_log", (MIXERS,)
    yield "mamba.D", (MIXERS,)
    yield "mamba.dt_bias", (MIXERS,)
    yield "mamba.norm", (INNER,)
    yield "mamba.out_proj", (HIDDEN, INNER)


def _encoder(config: Config) -> Shapes:
    yield "embeddings.word_embeddings.weight", (VOCABULARY, HIDDEN)
    yield "embeddings.position_embeddings.weight", (config["max_position_embeddings"], HIDDEN)
    yield "embeddings.token_type_embeddings.weight", (config["type_vocab_size"], HIDDEN)
    yield from _biased("embeddings.LayerNorm", HIDDEN)
    for index in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{index}"
        for part in ("query", "key", "value"):
            yield from _biased(f"{name}.attention.self.{part}", HIDDEN, HIDDEN)
        yield from _biased(f"{name}.attention.output.dense", HIDDEN, HIDDEN)
        yield from _biased(f"{name}.attention.output.LayerNorm", HIDDEN)
        yield from _biased(f"{name}.intermediate.dense", FORWARD, HIDDEN)
        yield from _biased(f"{name}.output.dense", HIDDEN, FORWARD)
        yield from _biased(f"{name}.output.LayerNorm", HIDDEN)


def _biased(name: str, *shape: int) -> Shapes:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]

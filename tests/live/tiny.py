"""Tiny models of many families with random weights: GGUF files that real llama.cpp loads and serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np

DEMO = Path(__file__).parents[2] / "aimind" / "demo" / "aimind-demo-F16.gguf"
LAYERS, CONTEXT = 4, 1024
D, F, HEADS, KV, SIZE = 256, 512, 8, 2, 64  # hidden, feed-forward, heads, those of keys, their size
EXPERTS, USED, EXPERT_F = 8, 2, 128
LATENT, ROPE, NOPE, Q_LATENT = 128, 64, 64, 96
INNER, STATE, SSM_HEADS, CONV = 512, 128, 8, 4
Shapes = Mapping[str, tuple[int, ...]]

ATTENTION: Shapes = {
    "attn_norm": (D,),
    "attn_q": (D, HEADS * SIZE),
    "attn_k": (D, KV * SIZE),
    "attn_v": (D, KV * SIZE),
    "attn_output": (HEADS * SIZE, D),
}
QK_NORMS: Shapes = {"attn_q_norm": (SIZE,), "attn_k_norm": (SIZE,)}
DENSE: Shapes = {"ffn_norm": (D,), "ffn_gate": (D, F), "ffn_up": (D, F), "ffn_down": (F, D)}
ROUTED: Shapes = {
    "ffn_norm": (D,),
    "ffn_gate_inp": (D, EXPERTS),
    "ffn_gate_exps": (D, EXPERT_F, EXPERTS),
    "ffn_up_exps": (D, EXPERT_F, EXPERTS),
    "ffn_down_exps": (EXPERT_F, D, EXPERTS),
}
SHARED: Shapes = {
    "ffn_gate_shexp": (D, EXPERT_F),
    "ffn_up_shexp": (D, EXPERT_F),
    "ffn_down_shexp": (EXPERT_F, D),
}
LATENT_ATTENTION: Shapes = {
    "attn_norm": (D,),
    "attn_q_a": (D, Q_LATENT),
    "attn_q_a_norm": (Q_LATENT,),
    "attn_q_b": (Q_LATENT, HEADS * (NOPE + ROPE)),
    "attn_kv_a_mqa": (D, LATENT + ROPE),
    "attn_kv_a_norm": (LATENT,),
    "attn_k_b": (NOPE, LATENT, HEADS),
    "attn_v_b": (LATENT, NOPE, HEADS),
    "attn_output": (HEADS * NOPE, D),
}
MAMBA: Shapes = {
    "attn_norm": (D,),
    "ssm_in": (D, 2 * INNER + 2 * STATE + SSM_HEADS),
    "ssm_conv1d": (CONV, INNER + 2 * STATE),
    "ssm_conv1d.bias": (INNER + 2 * STATE,),
    "ssm_dt.bias": (SSM_HEADS,),
    "ssm_a": (1, SSM_HEADS),
    "ssm_d": (1, SSM_HEADS),
    "ssm_norm": (INNER, 1),
    "ssm_out": (INNER, D),
}
ENCODER: Shapes = {
    name + end: shape if end == "" else shape[-1:]
    for name, shape in {
        "attn_q": (D, D),
        "attn_k": (D, D),
        "attn_v": (D, D),
        "attn_output": (D, D),
        "attn_output_norm": (D,),
        "ffn_up": (D, F),
        "ffn_down": (F, D),
        "layer_output_norm": (D,),
    }.items()
    for end in ("", ".bias")
}
SINGLE = ("token_types", "ssm_conv1d", "ssm_a", "ssm_d", "ssm_norm")  # in 32 bit, as vectors are
HEADED: Shapes = {"output_norm": (D,), "output": (D, 0)}
EMBEDDED: Shapes = {
    "position_embd": (D, CONTEXT),
    "token_types": (D, 2),
    "token_embd_norm": (D,),
    "token_embd_norm.bias": (D,),
}
HEADS_KEYS = {
    "attention.head_count": HEADS,
    "attention.head_count_kv": KV,
    "attention.key_length": SIZE,
    "attention.value_length": SIZE,
    "rope.dimension_count": SIZE,
}
ROUTER_KEYS = {
    "expert_count": EXPERTS,
    "expert_used_count": USED,
    "expert_feed_forward_length": EXPERT_F,
}
MAMBA_KEYS = {
    "ssm.conv_kernel": CONV,
    "ssm.inner_size": INNER,
    "ssm.state_size": STATE,
    "ssm.time_step_rank": SSM_HEADS,
    "ssm.group_count": 1,
}


@dataclass(frozen=True, kw_only=True)
class Family:
    """An architecture: keys beyond the common ones, the layers' tensors (in turn), and the others."""

    keys: Mapping[str, object]
    layers: tuple[Shapes, ...]
    others: Shapes = field(default_factory=lambda: HEADED)


FAMILIES = {
    "llama": Family(keys=HEADS_KEYS, layers=({**ATTENTION, **DENSE},)),
    "qwen3": Family(keys=HEADS_KEYS, layers=({**ATTENTION, **QK_NORMS, **DENSE},)),
    "gemma3": Family(
        keys={**HEADS_KEYS, "attention.sliding_window": 128},
        layers=({**ATTENTION, **QK_NORMS, **DENSE, "post_attention_norm": (D,), "post_ffw_norm": (D,)},),
        others={"output_norm": (D,)},
    ),
    "qwen3moe": Family(keys={**HEADS_KEYS, **ROUTER_KEYS}, layers=({**ATTENTION, **QK_NORMS, **ROUTED},)),
    "deepseek2": Family(
        keys={
            **ROUTER_KEYS,
            "attention.head_count": HEADS,
            "attention.head_count_kv": 1,
            "attention.key_length": LATENT + ROPE,
            "attention.value_length": LATENT,
            "attention.key_length_mla": NOPE + ROPE,
            "attention.value_length_mla": NOPE,
            "attention.q_lora_rank": Q_LATENT,
            "attention.kv_lora_rank": LATENT,
            "rope.dimension_count": ROPE,
            "leading_dense_block_count": 1,
            "expert_shared_count": 1,
            "expert_weights_scale": 1.0,
            "expert_gating_func": 1,
        },
        layers=({**LATENT_ATTENTION, **DENSE}, *[{**LATENT_ATTENTION, **ROUTED, **SHARED}] * (LAYERS - 1)),
    ),
    "mamba2": Family(keys=MAMBA_KEYS, layers=(MAMBA,)),
    "granitehybrid": Family(
        keys={
            **MAMBA_KEYS,
            **HEADS_KEYS,
            "attention.head_count_kv": [0, KV, 0, KV],
            "attention.scale": 0.125,
            "rope.scaling.finetuned": False,
            "embedding_scale": 1.0,
            "residual_scale": 1.0,
            "logit_scale": 1.0,
        },
        layers=({**MAMBA, **DENSE}, {**ATTENTION, **DENSE}),
    ),
    "bert": Family(
        keys={
            "attention.head_count": 4,
            "attention.causal": False,
            "attention.layer_norm_epsilon": 1e-6,
            "pooling_type": 1,
        },
        layers=(ENCODER,),
        others=EMBEDDED,
    ),
}


def write(path: Path, architecture: str) -> Path:
    """A file of the family, with the demo model's vocabulary."""
    family = FAMILIES[architecture]
    writer = gguf.GGUFWriter(path, architecture)
    demo = gguf.GGUFReader(DEMO)
    for name, found in demo.fields.items():
        if name.startswith("tokenizer."):
            sub_type = found.types[-1] if found.types[0] is gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, found.contents(), found.types[0], sub_type)
    common = {
        "block_count": LAYERS,
        "context_length": CONTEXT,
        "embedding_length": D,
        "feed_forward_length": F,
        "attention.layer_norm_rms_epsilon": 1e-6,
    }
    for name, value in {**common, **family.keys}.items():
        _add(writer, f"{architecture}.{name}", value)
    if architecture == "bert":
        writer.add_token_type_count(2)
    vocabulary = len(demo.fields["tokenizer.ggml.tokens"].data)
    shapes = {"token_embd": (D, vocabulary), **family.others}
    for index in range(LAYERS):
        layer = family.layers[index % len(family.layers)]
        shapes |= {f"blk.{index}.{name}": shape for name, shape in layer.items()}
    random = np.random.default_rng(1)
    for name, shape in shapes.items():
        single = len(shape) == 1 or name.rpartition(".")[2] in SINGLE
        dtype = np.float32 if single else np.float16
        content = random.normal(0, 0.02, [length or vocabulary for length in reversed(shape)])
        full = name if name.endswith((".bias", "ssm_a", "ssm_d")) else f"{name}.weight"
        writer.add_tensor(full, content.astype(dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: gguf.GGUFWriter, name: str, value: object) -> None:
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_uint32(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    elif isinstance(value, list):
        writer.add_array(name, value)

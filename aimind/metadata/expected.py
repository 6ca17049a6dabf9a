"""The tensors that a config.json implies, for when the weights' own headers cannot be read.

Shapes are those of the checkpoints (experts and gates of one layer joined), as src/transformers/models/* of
transformers 5.23.0 builds them. Families with parts of their own are left out: nothing is better than wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

from aimind.metadata import config_layers, config_rows
from aimind.metadata.config import Config
from aimind.metadata.config_memory import HIDDEN
from aimind.metadata.config_task import ENCODERS
from aimind.types import Attention, LatentAttention, RecurrentState, Tensor

Shapes = Iterator[tuple[str, tuple[int, ...]]]

# Size of `dtype` in config.json, with safetensors' name of it.
_DTYPES = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2), "": ("F32", 4)}
# Kept in 32 bits by backends, whatever the others have.
_ALWAYS_F32 = ("A_log", "e_score_correction_bias")
# Files hold a little more than the weights (names, padding), and may lack a tied head.
_TOLERANCE = 0.02


class Style(NamedTuple):
    """What a family's layers have beside the usual (gated feed-forward, two norms, no bias).

    Attributes:
        norms: of hidden size, in a layer.
        norm_bias: they have one.
        gated: the feed-forward has a gate.
        qkv_bias, out_bias, mlp_bias: of these projections.
        head_norm: of queries and keys: a head at a time, or all at once.
        positions: learned ones beside the embedding; the number is how many more than the context.
        sinks: a number per head.
        router_bias: of the choice of experts (`gate`), or a correction of it.
        output_gate: queries come with a gate of the same size.
    """

    norms: int = 2
    norm_bias: bool = False
    gated: bool = True
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    head_norm: Literal["", "head", "all"] = ""
    positions: int | None = None
    sinks: bool = False
    router_bias: Literal["", "gate", "correction"] = ""
    output_gate: bool = False


_BIASED = Style(norm_bias=True, gated=False, qkv_bias=True, out_bias=True, mlp_bias=True)
_QWEN2 = Style(qkv_bias=True)
_QWEN3 = Style(head_norm="head")
_QWEN3_NEXT = Style(head_norm="head", output_gate=True)
_STYLES = {
    "apertus": Style(gated=False, head_norm="head"),
    "arcee": Style(gated=False),
    "cohere": Style(norms=1),
    "cohere2": Style(norms=1),
    "deepseek_v3": Style(router_bias="correction"),
    "dots1": Style(head_norm="head", router_bias="correction"),
    "exaone4": _QWEN3,
    "falcon": Style(norms=1, norm_bias=True, gated=False),
    "gemma2": Style(norms=4),
    "gemma3_text": Style(norms=4, head_norm="head"),
    "glm4": Style(norms=4),
    "glm4_moe": Style(router_bias="correction"),
    "glm4_moe_lite": Style(router_bias="correction"),
    "gpt2": _BIASED._replace(positions=0),
    "gpt_bigcode": _BIASED._replace(positions=0),
    "gpt_neox": _BIASED,
    "gpt_oss": Style(qkv_bias=True, out_bias=True, mlp_bias=True, sinks=True, router_bias="gate"),
    "hunyuan_v1_dense": _QWEN3,
    "hunyuan_v1_moe": _QWEN3,
    "internlm3": Style(),
    "kimi_k2": Style(router_bias="correction"),
    "minimax_m2": Style(head_norm="all", router_bias="correction"),
    "nemotron": Style(norm_bias=True, gated=False),
    "olmo": Style(norms=0),
    "olmo2": Style(head_norm="all"),
    "olmo3": Style(head_norm="all"),
    "olmoe": Style(head_norm="all"),
    "opt": _BIASED._replace(positions=2),
    "phi": _BIASED._replace(norms=1),
    "phimoe": Style(norm_bias=True),
    "qwen2": _QWEN2,
    "qwen2_5_omni_text": _QWEN2,
    "qwen2_5_vl_text": _QWEN2,
    "qwen2_moe": _QWEN2,
    "qwen2_vl_text": _QWEN2,
    "qwen3": _QWEN3,
    "qwen3_5_moe_text": _QWEN3_NEXT,
    "qwen3_5_text": _QWEN3_NEXT,
    "qwen3_moe": _QWEN3,
    "qwen3_next": _QWEN3_NEXT,
    "qwen3_omni_moe_text": _QWEN3,
    "qwen3_vl_moe_text": _QWEN3,
    "qwen3_vl_text": _QWEN3,
    "stablelm": Style(norm_bias=True),
    "starcoder2": _BIASED,
}
# These have parts that nothing here describes.
_LEFT_OUT = ENCODERS | frozenset(
    "afmoe bloom dbrx exaone_moe gemma3n_text gemma4_text gptj kimi_linear lfm2_moe llama4_text mimo_v2_flash"
    " minicpmo minicpmv minicpm3 mpt nemotron_h olmo_hybrid phi3_v whisper zamba2".split()
)


def tensors_of_size(whole: Config, size_bytes: int) -> list[Tensor]:
    """The tensors of a model whose files have that size together; none if that cannot be."""
    tensors = tensors_of(whole)
    total = sum(tensor.size_bytes for tensor in tensors)
    return tensors if abs(total - size_bytes) <= _TOLERANCE * size_bytes else []


def tensors_of(whole: Config) -> list[Tensor]:
    """The tensors of the language model in a configuration, in its own dtype; none for a family left out."""
    config = whole.language_model()
    if not config.known or config.model_type in _LEFT_OUT or whole.section("quantization_config"):
        return []
    name, size = _DTYPES.get(config.text("dtype", "torch_dtype"), ("BF16", 2))
    result = []
    for tensor, shape in _model(config, _style(config)):
        wide = tensor.endswith(_ALWAYS_F32)
        bytes_each = 4 if wide else size
        result.append(Tensor(tensor, shape, "F32" if wide else name, math.prod(shape) * bytes_each))
    return result


def _style(config: Config) -> Style:
    """The family's, with what the configuration says of it."""
    style = _STYLES.get(config.model_type, Style())
    if config.flag("attention_bias", "use_qkv_bias", "qkv_bias", "add_qkv_bias"):
        out = config.model_type not in {"glm4", "glm4_moe", "qwen3", "qwen3_moe", "stablelm"}
        style = style._replace(qkv_bias=True, out_bias=style.out_bias or out)
    if config.flag("use_qk_norm"):
        style = style._replace(head_norm=style.head_norm or "head")
    return style._replace(mlp_bias=style.mlp_bias or config.flag("mlp_bias"))


def _model(config: Config, style: Style) -> Shapes:
    hidden = config.integer(*HIDDEN) or 0
    vocabulary = config.integer("vocab_size", "padded_vocab_size") or 0
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    if style.positions is not None:
        length = config.integer("n_positions", "max_position_embeddings") or 0
        yield "model.embed_positions.weight", (length + style.positions, hidden)
    for index, plan in enumerate(config_layers.plan(config)):
        for name, shape in _layer(config, style, plan):
            yield f"model.layers.{index}.{name}", shape
    if style.norms:
        yield from _norm("model.norm", hidden, style)
    if not config.flag("tie_word_embeddings"):
        yield from _linear("lm_head", vocabulary, hidden, bias=config.flag("lm_head_bias"))


def _norm(name: str, size: int, style: Style) -> Shapes:
    yield f"{name}.weight", (size,)
    if style.norm_bias:
        yield f"{name}.bias", (size,)


def _linear(name: str, rows: int, columns: int, *, bias: bool) -> Shapes:
    yield f"{name}.weight", (rows, columns)
    if bias:
        yield f"{name}.bias", (rows,)


def _layer(config: Config, style: Style, plan: config_rows.Plan) -> Shapes:
    hidden = config.integer(*HIDDEN) or 0
    width = plan.feed_forward_size or plan.num_experts
    for number in range(style.norms if width else 1):
        yield from _norm(f"norm_{number}", hidden, style)
    for memory in plan.memory:
        if isinstance(memory, Attention):
            yield from _attention(hidden, memory, style)
        elif isinstance(memory, LatentAttention):
            yield from _latent(config, hidden, memory)
        else:
            yield from _recurrent(config, hidden, memory)
    if plan.num_experts:
        yield from _experts(config, hidden, style, plan)
    if plan.feed_forward_size:
        name = "mlp.shared_expert" if plan.num_experts else "mlp"
        yield from _feed_forward(name, hidden, plan.feed_forward_size, style)


def _attention(hidden: int, memory: Attention, style: Style) -> Shapes:
    queries, keys = memory.num_heads * memory.key_size, memory.num_kv_heads * memory.key_size
    values, mixed = memory.num_kv_heads * memory.value_size, memory.num_heads * memory.value_size
    yield from _linear("self_attn.q_proj", queries * (1 + style.output_gate), hidden, bias=style.qkv_bias)
    yield from _linear("self_attn.k_proj", keys, hidden, bias=style.qkv_bias)
    yield from _linear("self_attn.v_proj", values, hidden, bias=style.qkv_bias)
    yield from _linear("self_attn.o_proj", hidden, mixed, bias=style.out_bias)
    if style.head_norm:
        whole = style.head_norm == "all"
        yield "self_attn.q_norm.weight", (queries if whole else memory.key_size,)
        yield "self_attn.k_norm.weight", (keys if whole else memory.key_size,)
    if style.sinks:
        yield "self_attn.sinks", (memory.num_heads,)


def _latent(config: Config, hidden: int, memory: LatentAttention) -> Shapes:
    rank, heads = config.integer("q_lora_rank"), memory.num_heads
    if rank:
        yield "self_attn.q_a_proj.weight", (rank, hidden)
        yield "self_attn.q_a_layernorm.weight", (rank,)
        yield "self_attn.q_b_proj.weight", (heads * memory.key_size, rank)
    else:
        yield "self_attn.q_proj.weight", (heads * memory.key_size, hidden)
    unpacked = memory.key_size - memory.rope_size + memory.value_size
    yield "self_attn.kv_a_proj_with_mqa.weight", (memory.kv_lora_rank + memory.rope_size, hidden)
    yield "self_attn.kv_a_layernorm.weight", (memory.kv_lora_rank,)
    yield "self_attn.kv_b_proj.weight", (heads * unpacked, memory.kv_lora_rank)
    yield "self_attn.o_proj.weight", (hidden, heads * memory.value_size)


def _feed_forward(name: str, hidden: int, size: int, style: Style) -> Shapes:
    if style.gated:
        yield from _linear(f"{name}.gate_proj", size, hidden, bias=style.mlp_bias)
    yield from _linear(f"{name}.up_proj", size, hidden, bias=style.mlp_bias)
    yield from _linear(f"{name}.down_proj", hidden, size, bias=style.mlp_bias)


def _experts(config: Config, hidden: int, style: Style, plan: config_rows.Plan) -> Shapes:
    number, size = plan.num_experts, plan.expert_feed_forward_size
    yield from _linear("mlp.gate", number, hidden, bias=style.router_bias == "gate")
    if style.router_bias == "correction":
        yield "mlp.gate.e_score_correction_bias", (number,)
    rows = size * (1 + style.gated)
    yield "mlp.experts.gate_up_proj.weight", (number, rows, hidden)
    yield "mlp.experts.down_proj.weight", (number, hidden, size)
    if style.mlp_bias:
        yield "mlp.experts.gate_up_proj.bias", (number, rows)
        yield "mlp.experts.down_proj.bias", (number, hidden)
    if config.integer("shared_expert_intermediate_size"):
        yield "mlp.shared_expert_gate.weight", (1, hidden)


def _recurrent(config: Config, hidden: int, memory: RecurrentState) -> Shapes:
    kept = (config.integer("mamba_d_conv", "conv_kernel", "linear_conv_kernel_dim") or 4) - 1
    if memory.kind == "short-conv":
        length = config.integer("conv_L_cache") or 1
        yield "conv.in_proj.weight", (3 * hidden, hidden)
        yield "conv.conv.weight", (hidden, 1, length)
        yield "conv.out_proj.weight", (hidden, hidden)
    elif memory.kind == "gated-delta-net":
        heads = config.integer("linear_num_value_heads") or 1
        size = config.integer("linear_value_head_dim") or 1
        channels, values = memory.conv_elements // max(kept, 1), heads * size
        yield "linear_attn.in_proj_qkvz.weight", (channels + values, hidden)
        yield "linear_attn.in_proj_ba.weight", (2 * heads, hidden)
        yield "linear_attn.conv1d.weight", (channels, 1, kept + 1)
        yield "linear_attn.A_log", (heads,)
        yield "linear_attn.dt_bias", (heads,)
        yield "linear_attn.norm.weight", (size,)
        yield "linear_attn.out_proj.weight", (hidden, values)
    else:
        state = config.integer("mamba_d_state", "ssm_state_size", "state_size") or 1
        yield from _mamba(config, hidden, memory, state=state, kept=kept)


def _mamba(config: Config, hidden: int, memory: RecurrentState, *, state: int, kept: int) -> Shapes:
    channels, inner = memory.conv_elements // max(kept, 1), memory.ssm_elements // state
    yield "mamba.conv1d.weight", (channels, 1, kept + 1)
    yield "mamba.conv1d.bias", (channels,)
    yield "mamba.out_proj.weight", (hidden, inner)
    if memory.kind == "mamba1":
        rank = config.integer("mamba_dt_rank", "time_step_rank") or -(-hidden // 16)
        yield "mamba.in_proj.weight", (2 * inner, hidden)
        yield "mamba.x_proj.weight", (rank + 2 * state, inner)
        yield from _linear("mamba.dt_proj", inner, rank, bias=True)
        yield "mamba.A_log", (inner, state)
        yield "mamba.D", (inner,)
        return
    heads = config.integer("mamba_n_heads", "mamba_num_heads", "num_heads") or 1
    yield "mamba.in_proj.weight", (inner + channels + heads, hidden)
    yield "mamba.A_log", (heads,)
    yield "mamba.D", (heads,)
    yield "mamba.dt_bias", (heads,)
    if config.raw("mamba_rms_norm") is not False:
        yield "mamba.norm.weight", (inner,)

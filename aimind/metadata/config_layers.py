"""The layers that a config.json describes: what each remembers, how wide its feed-forward is.

The many ways in which configurations say which layer is of which kind are those of transformers 5.23.0
(`layer_types` in src/transformers/models/*/configuration_*.py).
"""

from __future__ import annotations

from typing import Literal

from aimind.errors import MetadataError
from aimind.metadata.config import Config
from aimind.metadata.config_memory import HEADS, HIDDEN, attention, recurrent, window
from aimind.metadata.config_rows import Plan, layers_one_by_one
from aimind.metadata.config_task import is_causal
from aimind.types import Attention, Memory

MOST_LAYERS = 512

Kind = Literal["full", "sliding", "recurrent", "hybrid", "mlp", "moe"]

# Words of `layer_types`, `layers_block_type` and their like; letters are Nemotron's, digits are MiniMax's.
_KINDS: dict[str, Kind] = {
    "full_attention": "full",
    "attention": "full",
    "*": "full",
    "1": "full",
    "sliding_attention": "sliding",
    "chunked_attention": "sliding",
    "linear_attention": "recurrent",
    "mamba": "recurrent",
    "mamba2": "recurrent",
    "conv": "recurrent",
    "M": "recurrent",
    "0": "recurrent",
    "hybrid": "hybrid",
    "mlp": "mlp",
    "-": "mlp",
    "moe": "moe",
    "E": "moe",
}
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_transformer_layers")
_FEED_FORWARD = (
    "intermediate_size",
    "n_inner",
    "ffn_dim",
    "ffn_hidden_size",
    "d_ff",
    "block_ff_dim",
    "hidden_dim",
)
EXPERTS = ("num_experts", "moe_num_experts", "n_routed_experts", "num_local_experts")
EXPERTS_USED = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "top_k_experts",
    "moe_topk",
    "moe_top_k",
    "moe_k",
)
_SHARED_EXPERTS = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert")
_SHARED_SIZE = (
    "shared_expert_intermediate_size",
    "moe_shared_expert_intermediate_size",
    "shared_intermediate_size",
)


def plan(config: Config) -> list[Plan]:
    """All layers of a model that is one stack of them.

    Raises:
        MetadataError: the configuration contradicts itself.
    """
    layers = _count(config, *LAYERS) or len(_listed_kinds(config))
    of_kind = kinds(config, layers)
    mixed = "sliding" in of_kind and "full" in of_kind
    causal = is_causal(config)
    if listed := layers_one_by_one(config, layers):
        return listed
    shared_from = layers - (config.integer("num_kv_shared_layers") or 0)
    # Where layers are one thing each, a mixer has no feed-forward.
    apart = "mlp" in of_kind or "moe" in of_kind or not config.integer(*HEADS)
    result = []
    for index, kind in enumerate(of_kind):
        memory: list[Memory] = []
        if kind in {"full", "sliding", "hybrid"} and config.integer(*HEADS):
            sliding, shared = kind == "sliding", index >= shared_from
            memory.append(attention(config, sliding=sliding, mixed=mixed, causal=causal, shared=shared))
        if kind in {"recurrent", "hybrid"} and (state := recurrent(config)):
            memory.append(state)
        if apart and memory:
            result.append(Plan(memory=tuple(memory)))
        else:
            sparse = kind == "moe" or (kind != "mlp" and _is_sparse(config, index))
            result.append(_with_feed_forward(config, tuple(memory), sparse=sparse))
    return result


def encoder_decoder(config: Config) -> tuple[list[Plan], list[Plan]]:
    """The layers of both halves. The decoder's remember what they wrote, and what the encoder made."""
    hidden = config.integer(*HIDDEN) or 0

    def side(name: str, other: str) -> tuple[int, int, int]:
        heads = config.integer(f"{name}_attention_heads", *HEADS, "num_heads") or 1
        layers = _count(config, f"{name}_layers", other, *LAYERS)
        return layers, heads, config.integer(f"{name}_ffn_dim", *_FEED_FORWARD) or 4 * hidden

    def memory(heads: int, *, causal: bool, tokens: int | None = None) -> Attention:
        size = config.integer("d_kv") or hidden // heads
        return Attention(
            num_heads=heads, num_kv_heads=heads, key_size=size, value_size=size, window=tokens, causal=causal
        )

    layers, heads, size = side("encoder", "num_encoder_layers")
    encoder = [Plan(memory=(memory(heads, causal=False),), feed_forward_size=size)] * layers
    layers, heads, size = side("decoder", "num_decoder_layers")
    cross = memory(heads, causal=True, tokens=config.integer("max_source_positions"))
    decoder = [Plan(memory=(memory(heads, causal=True), cross), feed_forward_size=size)] * layers
    return encoder, decoder


def _count(config: Config, *names: str) -> int:
    layers = config.integer(*names) or 0
    if layers > MOST_LAYERS:
        raise MetadataError(
            f"{config.path} is damaged: it has {layers:,} layers", hint="Download the file again."
        )
    return layers


def _listed_kinds(config: Config) -> list[Kind]:
    words = config.words("layer_types", "layers_block_type", "attn_type_list")
    if words or config.text("hybrid_override_pattern"):
        return [_KINDS.get(word, "full") for word in words or config.text("hybrid_override_pattern")]
    return ["sliding" if flag else "full" for flag in config.integers("hybrid_layer_pattern")]


def kinds(config: Config, layers: int) -> list[Kind]:
    """What each layer is, whichever way the configuration says it.

    Raises:
        MetadataError: it lists fewer kinds than there are layers.
    """
    listed = _listed_kinds(config)
    if listed and len(listed) < layers:
        raise MetadataError(
            f"{config.path} is damaged: {len(listed)} kinds for {layers} layers",
            hint="Download the file again.",
        )
    return listed[:layers] or [_kind(config, index) for index in range(layers)]


def _kind(config: Config, index: int) -> Kind:
    """The kind of a layer that follows from a rule instead of a list."""
    if mixed := _recurrent_rule(config, index):
        return mixed
    if recurrent(config) is not None:
        return "hybrid" if config.integer(*HEADS) else "recurrent"
    if not window(config):
        return "full"
    period = config.integer("sliding_window_pattern", "_sliding_window_pattern", "global_attn_every_n_layers")
    if period:
        dense = 0 if config.flag("full_attention_first") else period - 1
        return "full" if index % period == dense else "sliding"
    return "sliding" if index >= (config.integer("max_window_layers") or 0) else "full"


def _recurrent_rule(config: Config, index: int) -> Kind | None:
    """Full attention in some layers, a state in the others: by list, or by period and offset."""
    linear = config.section("linear_attn_config")
    for full in (
        config.integers("attn_layer_indices"),
        config.integers("full_attn_idxs"),
        tuple(layer - 1 for layer in linear.integers("full_attn_layers")) if linear else (),
    ):
        if full:
            return "full" if index in full else "recurrent"
    if period := config.integer("attn_layer_period"):
        return "full" if index % period == (config.integer("attn_layer_offset") or 0) else "recurrent"
    if period := config.integer("full_attention_interval"):
        return "full" if (index + 1) % period == 0 else "recurrent"
    return None


def _with_feed_forward(config: Config, memory: tuple[Memory, ...], *, sparse: bool) -> Plan:
    inner = config.section("ffn_config") or config  # DBRX keeps it apart
    experts = inner.integer(*EXPERTS) or 0
    dense = config.integer(*_FEED_FORWARD) or 4 * (config.integer(*HIDDEN) or 0)
    if config.flag("block_auto_adjust_ff_dim"):  # LFM2 names the size before the gate takes a third of it
        step = config.integer("block_multiple_of") or 1
        dense = -(-int((config.number("block_ffn_dim_multiplier") or 1) * (2 * dense // 3)) // step) * step
    if experts < 2:
        return Plan(memory=memory, feed_forward_size=config.integer("shared_intermediate_size") or dense)
    if not sparse:
        return Plan(memory=memory, feed_forward_size=config.integer("intermediate_size_mlp") or dense)
    size = inner.integer("moe_intermediate_size", "ffn_hidden_size") or dense
    shared = config.integer(*_SHARED_SIZE) or size * (config.integer(*_SHARED_EXPERTS) or 0)
    return Plan(
        memory=memory,
        feed_forward_size=shared,
        num_experts=experts,
        num_experts_used=inner.integer(*EXPERTS_USED) or 1,
        expert_feed_forward_size=size,
    )


def _is_sparse(config: Config, index: int) -> bool:
    """Whether a layer has experts, in a model that has some."""
    words, frequencies = config.words("mlp_layer_types"), config.integers("moe_layer_freq")
    if index < len(words):
        return words[index] == "sparse"
    if index < len(frequencies):
        return frequencies[index] > 0
    if index in config.integers("mlp_only_layers"):
        return False
    if period := config.integer("expert_layer_period"):
        return index % period == (config.integer("expert_layer_offset") or 0)
    leading = config.integer("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index") or 0
    if not frequencies and (period := config.integer("moe_layer_freq")):
        return index >= leading and index % period == 0
    step = config.integer("decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_interval") or 1
    return index >= leading and (index + 1) % step == 0

"""Configurations that describe each layer by itself: OpenELM's lists, and the blocks that a search chose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aimind.errors import MetadataError
from aimind.metadata.config import Config
from aimind.metadata.config_memory import HIDDEN
from aimind.types import Attention, Memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One layer as the configuration has it; the fields are those of `types.Layer`."""

    memory: tuple[Memory, ...]
    feed_forward_size: int = 0
    num_experts: int = 0
    num_experts_used: int = 0
    expert_feed_forward_size: int = 0


def layers_one_by_one(config: Config, layers: int) -> list[Plan]:
    """All layers, where the configuration lists them; else none.

    Raises:
        MetadataError: it lists fewer than there are.
    """
    if config.values.get("block_configs"):
        found = _blocks(config)
    elif config.values.get("ffn_multipliers"):
        found = _open_elm(config)
    else:
        return []
    if len(found) < layers:
        raise MetadataError(
            f"{config.path} is damaged: it describes {len(found)} of {layers} layers",
            hint="Download it again.",
        )
    return found[:layers]


def _open_elm(config: Config) -> list[Plan]:
    """Heads and widths grow with depth (OpenELM's configuration_openelm.py)."""
    hidden, size = config.integer(*HIDDEN) or 0, config.integer("head_dim") or 1
    divisor = config.integer("ffn_dim_divisor") or 1
    heads, kept = config.integers("num_query_heads"), config.integers("num_kv_heads")
    widths = [_divisible(factor * hidden, divisor) for factor in config.numbers("ffn_multipliers")]
    return [
        Plan(memory=(_attention(queries, keys, size),), feed_forward_size=width)
        for queries, keys, width in zip(heads, kept, widths, strict=False)
    ]


def _divisible(value: float, divisor: int) -> int:
    """The nearest multiple, and never less than nine tenths (make_divisible of MobileNet)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def _blocks(config: Config) -> list[Plan]:
    """Nemotron-NAS: attention or feed-forward left out, or replaced by a matrix (DeciLM's block_configs)."""
    hidden, heads = config.integer(*HIDDEN) or 0, config.integer("num_attention_heads") or 1
    result = []
    for block in config.sections("block_configs"):
        mixer, forward = block.section("attention"), block.section("ffn")
        memory: Sequence[Memory] = ()
        if mixer and (group := mixer.integer("n_heads_in_group")):
            memory = (
                _attention(heads, max(1, heads // group), config.integer("head_dim") or hidden // heads),
            )
        factor = (forward.number("ffn_mult") if forward else None) or 0
        width = (forward.integer("intermediate_size") if forward else None) or 0
        width = width or -(-int(2 * factor * hidden / 3) // _STEP) * _STEP
        result.append(Plan(memory=tuple(memory), feed_forward_size=width))
    return result


# DeciLM rounds widths up to it (_find_multiple in vllm/model_executor/models/nemotron_nas.py).
_STEP = 256


def _attention(heads: int, kept: int, size: int) -> Attention:
    return Attention(num_heads=heads, num_kv_heads=kept, key_size=size, value_size=size)

"""The layers of a GGUF model: what each holds, from its tensors; how large that is, from the keys.

The formulas are those of src/llama-hparams.cpp in llama.cpp (`n_embd_r`, `n_embd_s`, `n_embd_k_gqa`), as
vendored by llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from aimind.errors import MetadataError
from aimind.metadata import gguf_unknown
from aimind.metadata.gguf import FETCH_AGAIN, Scalar
from aimind.metadata.gguf_families import (
    KNOWN,
    ROTARY_IN_WINDOWS,
    ROTARY_PERIOD,
    ROTARY_SWITCH,
    SLIDING,
    WITHOUT_CACHE,
)
from aimind.metadata.summary import shown
from aimind.types import Attention, LatentAttention, Layer, Memory, RecurrentState, Tensor

_LAYER_NAME = re.compile(r"(?:(enc|dec)\.)?blk\.(\d+)\.(.+)")
_MOST_LAYERS = 512  # `LLAMA_MAX_LAYERS` in src/llama-hparams.h
_LARGEST_NUMBER = 1 << 40


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one architecture, checked as they are asked for."""

    path: str
    architecture: str
    values: Mapping[str, Scalar | tuple[Scalar, ...]]

    def number(self, name: str, default: int = 0) -> int:
        """A whole number that is not negative.

        Raises:
            MetadataError: the key holds something else.
        """
        value = self.values.get(f"{self.architecture}.{name}", default)
        if isinstance(value, tuple):
            raise self._wrong(name, value)
        return self._checked(name, value)

    def numbers(self, name: str, layers: int, default: int = 0) -> tuple[int, ...]:
        """One such number a layer, given as a list or as one for all."""
        value = self.values.get(f"{self.architecture}.{name}", default)
        if not isinstance(value, tuple):
            return (self._checked(name, value),) * layers
        if len(value) < layers:
            raise self._wrong(name, value)
        return tuple(self._checked(name, item) for item in value[:layers])

    def _checked(self, name: str, value: Scalar) -> int:
        if not isinstance(value, int) or not 0 <= value < _LARGEST_NUMBER:
            raise self._wrong(name, value)
        return int(value)

    def _wrong(self, name: str, value: object) -> MetadataError:
        message = f"{self.path} is damaged: {self.architecture}.{name} is {shown(value)}"
        return MetadataError(message, hint=FETCH_AGAIN)


@dataclass(frozen=True, slots=True)
class Stack:
    """Layers that follow each other (`enc`, `dec`, or all), each by the rest of its tensors' names."""

    name: str
    layers: tuple[Mapping[str, Tensor], ...]


def stacks(tensors: Sequence[Tensor], path: str) -> tuple[list[Stack], list[Tensor]]:
    """The tensors by layer, and those outside the layers.

    Raises:
        MetadataError: a layer between two others has no tensor, or there are more than llama.cpp can have.
    """
    found: dict[str, dict[int, dict[str, Tensor]]] = {"": {}, "enc": {}, "dec": {}}
    others = []
    for tensor in tensors:
        if match := _LAYER_NAME.fullmatch(tensor.name):
            stack, index, rest = match[1] or "", int(match[2]), match[3]
            found[stack].setdefault(index, {})[rest] = tensor
        else:
            others.append(tensor)
    result = []
    for name, layers in found.items():
        if len(layers) > _MOST_LAYERS:
            raise MetadataError(f"{path} is damaged: it has {len(layers):,} layers", hint=FETCH_AGAIN)
        if missing := set(range(len(layers))) - layers.keys():
            raise MetadataError(
                f"{path} is damaged: layer {min(missing)} has no tensors but layer {max(layers)} has",
                hint=FETCH_AGAIN,
            )
        if layers:
            result.append(Stack(name, tuple(layers[index] for index in range(len(layers)))))
    return result, others


def layers(keys: Keys, stack: Stack, count: int) -> tuple[Layer, ...]:
    """The first `count` layers of a stack."""
    heads = keys.numbers("attention.head_count", count)
    kv_heads = heads
    if f"{keys.architecture}.attention.head_count_kv" in keys.values:
        kv_heads = keys.numbers("attention.head_count_kv", count)
    windows = _windows(keys, count)
    used = keys.numbers("expert_used_count", count)
    shared_from = count - keys.number("attention.shared_kv_layers")
    result = []
    for index, tensors in enumerate(stack.layers[:count]):
        attention = None
        if kv_heads[index] and _attends(tensors):
            attention = _attention(
                keys,
                heads=heads[index],
                kv_heads=kv_heads[index],
                window=windows[index],
                causal=_is_causal(keys, stack.name),
            )
            if isinstance(attention, Attention):
                shared, rotary = index >= shared_from, _rotates(keys, index, windows)
                attention = replace(attention, shared=shared, rotary=rotary)
            else:
                attention = _with_indexer(keys, tensors, attention)
        recurrent = _recurrent(keys, tensors, heads[0] if heads else 0)
        if keys.architecture not in KNOWN:
            attention = gguf_unknown.attention(tensors, attention)
            recurrent = gguf_unknown.state(tensors, recurrent)
        memory = tuple(part for part in (attention, recurrent) if part is not None)
        result.append(_layer(tensors, memory, used[index] or gguf_unknown.EXPERTS_USED))
    return tuple(result)


def _layer(tensors: Mapping[str, Tensor], memory: tuple[Memory, ...], used: int) -> Layer:
    """The feed-forward's width is that of its way down: the way up may hold gate and up in one.

    Experts that every token passes (`shexp`) are a dense feed-forward beside the others.
    """
    down = (
        tensors.get("ffn_down.weight")
        or tensors.get("ffn_down_shexp.weight")
        or tensors.get("channel_mix_value.weight")
    )
    experts = tensors.get("ffn_down_exps.weight")
    if experts is None or len(experts.shape) != 3:
        return Layer(
            tensors=tuple(tensors.values()), memory=memory, feed_forward_size=down.shape[0] if down else 0
        )
    return Layer(
        tensors=tuple(tensors.values()),
        memory=memory,
        feed_forward_size=down.shape[0] if down else 0,
        num_experts=experts.shape[2],
        num_experts_used=min(used, experts.shape[2]),
        expert_feed_forward_size=experts.shape[0],
    )


def _attends(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the layer has queries of its own; a delta net's fused `attn_qkv` is none of them."""
    fused = "attn_qkv.weight" in tensors and "ssm_out.weight" not in tensors
    return fused or any(name in tensors for name in ("attn_q.weight", "attn_q_a.weight", "attn_q_b.weight"))


def _is_causal(keys: Keys, stack: str) -> bool:
    return keys.architecture not in WITHOUT_CACHE and stack != "enc"


def _windows(keys: Keys, count: int) -> list[int | None]:
    """The sliding window of each layer: which have one is listed, or follows from a period."""
    rule = SLIDING.get(keys.architecture)
    if rule is None:
        return [None] * count
    window = keys.number("attention.sliding_window", rule.window or 0)
    if rule.fixed and window:
        window = rule.window or 0
    if not window:
        return [None] * count
    name = "attention.sliding_window_pattern"
    period = rule.period
    if isinstance(keys.values.get(f"{keys.architecture}.{name}"), tuple):
        slides = [bool(flag) for flag in keys.numbers(name, count)]
    else:
        period = keys.number(name, rule.period)
        dense = 0 if rule.dense_first else period - 1
        slides = [period == 0 or index % period != dense for index in range(count)]
    return [window if slide else None for slide in slides]


def _rotates(keys: Keys, index: int, windows: Sequence[int | None]) -> bool:
    architecture = keys.architecture
    if architecture in ROTARY_SWITCH:
        return bool(keys.number("rope.scaling.finetuned", 1))
    if period := ROTARY_PERIOD.get(architecture):
        return (index + 1) % period != 0
    return architecture not in ROTARY_IN_WINDOWS or windows[index] is not None or not any(windows)


def _attention(
    keys: Keys, *, heads: int, kv_heads: int, window: int | None, causal: bool
) -> Attention | LatentAttention:
    even = keys.number("embedding_length") // heads if heads else 0
    key_size = keys.number("attention.key_length", even)
    value_size = keys.number("attention.value_length", even)
    if key_mla := keys.number("attention.key_length_mla"):
        return LatentAttention(
            num_heads=heads,
            kv_lora_rank=keys.number("attention.kv_lora_rank"),
            rope_size=keys.number("rope.dimension_count"),
            key_size=key_mla,
            value_size=keys.number("attention.value_length_mla"),
        )
    if window is not None:
        key_size = keys.number("attention.key_length_swa", key_size)
        value_size = keys.number("attention.value_length_swa", value_size)
    return Attention(
        num_heads=heads,
        num_kv_heads=kv_heads,
        key_size=key_size,
        value_size=value_size,
        window=window,
        causal=causal,
    )


def _with_indexer(keys: Keys, tensors: Mapping[str, Tensor], attention: LatentAttention) -> LatentAttention:
    """The same with the keys by which sparse attention chooses tokens, if the layer has an indexer."""
    if "indexer.attn_k.weight" not in tensors:
        return attention
    return replace(
        attention,
        indexer_size=tensors["indexer.attn_k.weight"].shape[1],
        indexer_top_k=keys.number("attention.indexer.top_k"),
    )


def _recurrent(keys: Keys, tensors: Mapping[str, Tensor], heads: int) -> RecurrentState | None:
    hidden = keys.number("embedding_length")
    if "time_mix_output.weight" in tensors:
        return RecurrentState(
            kind="rwkv",
            conv_elements=keys.number("token_shift_count", 2) * hidden,
            ssm_elements=hidden * keys.number("wkv.head_size"),
        )
    if "shortconv.conv.weight" in tensors:
        kept = max(keys.number("shortconv.l_cache") - 1, 0)
        return RecurrentState(kind="short-conv", conv_elements=hidden * kept, ssm_elements=0)
    kernel = max(keys.number("ssm.conv_kernel") - 1, 0)
    if "ssm_conv1d_q.weight" in tensors:  # Kimi's delta attention convolves queries, keys and values apart
        size = keys.number("kda.head_dim")
        return RecurrentState(
            kind="gated-delta-net",
            conv_elements=3 * kernel * heads * size,
            ssm_elements=heads * size * size,
        )
    if "ssm_out.weight" not in tensors:
        return None
    inner, state = keys.number("ssm.inner_size"), keys.number("ssm.state_size")
    channels = inner + 2 * keys.number("ssm.group_count") * state
    return RecurrentState(kind=_mixer(tensors), conv_elements=kernel * channels, ssm_elements=state * inner)


def _mixer(tensors: Mapping[str, Tensor]) -> Literal["mamba1", "mamba2", "gated-delta-net"]:
    return (
        "mamba1"
        if "ssm_x.weight" in tensors
        else "mamba2"
        if "ssm_in.weight" in tensors
        else "gated-delta-net"
    )

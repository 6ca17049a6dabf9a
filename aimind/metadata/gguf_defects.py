"""What llama.cpp does not load a GGUF file for, so that it is known before anything is downloaded.

The keys that it requires are in gguf_required.txt, which it was asked for itself (scripts/gguf_keys.py). The
rules for values are those of `load_hparams` in src/llama-model.cpp and of the shapes that it expects of
tensors, of llama.cpp as vendored by llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from aimind.metadata import gguf_shapes
from aimind.metadata.gguf import TOKENIZER, Header
from aimind.metadata.gguf_families import KNOWN
from aimind.metadata.gguf_layers import Keys, Stack
from aimind.types import Attention, Layer, Tensor

# Their rotary dimensions must be those of a whole key.
_WHOLLY_ROTARY = frozenset({"llama", "deci", "falcon", "llama-embed"})
# The width of their dense feed-forward is the embedding's, or follows from the key in another way.
_EMBEDDING_WIDE = frozenset({"arctic"})
_OTHER_WIDTH = frozenset({"gemma3n", "gemma4", "plamo3", "qwen"})
# They leave experts out where there is one at most.
_ONE_EXPERT_IS_NONE = frozenset({"hunyuan-dense", "hunyuan_vl"})


def defects(
    header: Header, keys: Keys, stacks: Sequence[Stack], layers: Sequence[Layer], others: Sequence[Tensor]
) -> tuple[str, ...]:
    """Why llama.cpp refuses the model, as half a sentence for each key; nothing where it may load it."""
    tensors = [*others, *(tensor for stack in stacks for layer in stack.layers for tensor in layer.values())]
    large = tuple(gguf_shapes.too_large(keys, tensors, len(layers)))
    required = _required()
    if large or keys.architecture not in required:
        return large
    if keys.architecture not in KNOWN:
        return tuple(_missing(header, keys, required[keys.architecture]))
    by_name = [layer for stack in stacks for layer in stack.layers]
    found = (
        *_missing(header, keys, required[keys.architecture]),
        *_wrong_tokenizer(header),
        *_wrong_vocabulary(header, others),
        *_wrong_sizes(keys, by_name, others),
        *_wrong_heads(keys.architecture, layers),
        *_wrong_experts(keys),
    )
    return found or tuple(gguf_shapes.contradictions(keys, stacks, layers))


def _missing(header: Header, keys: Keys, required: Sequence[str]) -> Iterator[str]:
    for key in required:
        name = f"{keys.architecture}{key}" if key.startswith(".") else key
        if name not in header.values and name not in header.lengths:
            yield f"{name} is missing"


def _wrong_tokenizer(header: Header) -> Iterator[str]:
    tokenizer = header.values.get(TOKENIZER)
    if tokenizer is None or tokenizer in ("no_vocab", "none"):
        return
    if "tokenizer.ggml.tokens" not in header.lengths:
        yield "tokenizer.ggml.tokens is missing"
    elif tokenizer == "gpt2" and "tokenizer.ggml.merges" not in header.lengths:
        yield "tokenizer.ggml.merges is missing"


def _wrong_vocabulary(header: Header, others: Sequence[Tensor]) -> Iterator[str]:
    """Without a tokenizer's list llama.cpp counts tokens by `vocab_size`, which it ignores beside one."""
    name = "tokenizer.ggml.tokens"
    tokens: object = header.lengths.get(name)
    if tokens is None:
        name = f"{header.values.get('general.architecture')}.vocab_size"
        tokens = header.values.get(name)
    for tensor in others:
        rows = tensor.shape[1] if len(tensor.shape) > 1 else 1
        if tensor.name == "token_embd.weight" and isinstance(tokens, int) and tokens != rows:
            yield f"{name} counts {tokens:,} tokens, and token_embd.weight has {rows:,} rows"


def _wrong_sizes(
    keys: Keys, layers: Sequence[Mapping[str, Tensor]], others: Sequence[Tensor]
) -> Iterator[str]:
    """Keys by which a tensor that is there would have no rows, or others than it has."""
    name = keys.architecture
    hidden = keys.number("embedding_length")
    for tensor in others:
        if tensor.name == "token_embd.weight" and hidden and tensor.shape[0] != hidden:
            yield f"{name}.embedding_length is {hidden}, and token_embd.weight has rows of {tensor.shape[0]}"
    heads = _per_layer(keys, "attention.head_count", layers)
    kv_heads = heads
    if f"{name}.attention.head_count_kv" in keys.values:
        kv_heads = _per_layer(keys, "attention.head_count_kv", layers)
    widths = _per_layer(keys, "feed_forward_length", layers)
    attending = [index for index, layer in enumerate(layers) if _attends(layer)]
    if any(not heads[index] for index in attending):
        yield f"{name}.attention.head_count is missing or 0"
    elif any(not kv_heads[index] for index in attending):
        yield f"{name}.attention.head_count_kv is 0"
    yield from _wrong_width(name, layers, widths)
    if name in _WHOLLY_ROTARY and heads and heads[0]:
        whole = keys.number("attention.key_length", hidden // heads[0])
        rotary = keys.number("rope.dimension_count", whole)
        if rotary != whole:
            yield f"{name}.rope.dimension_count is {rotary}, and a key has {whole} dimensions"


def _attends(layer: Mapping[str, Tensor]) -> bool:
    """Whether it has keys of its own; those of a linear attention have other heads (Kimi's)."""
    return "attn_k.weight" in layer and not any(name.startswith("ssm_") for name in layer)


def _wrong_width(name: str, layers: Sequence[Mapping[str, Tensor]], widths: Sequence[int]) -> Iterator[str]:
    """Of the dense feed-forward, by the first layer that has another width than its key says."""
    if name in _EMBEDDING_WIDE:
        return
    for index, layer in enumerate(layers):
        down = layer.get("ffn_down.weight")
        if down is None or len(down.shape) != 2:
            continue
        if not widths[index]:
            yield f"{name}.feed_forward_length is missing or 0"
            return
        if name not in _OTHER_WIDTH and down.shape[0] != widths[index]:
            has = down.shape[0]
            yield f"{name}.feed_forward_length is {widths[index]}, and {down.name} has rows of {has}"
            return


def _wrong_heads(name: str, layers: Sequence[Layer]) -> Iterator[str]:
    """Of keys and values, by the first layer whose matrices have other rows than its keys say."""
    for layer in layers:
        attention = next((part for part in layer.memory if isinstance(part, Attention)), None)
        tensors = {tensor.name.split(".", 2)[-1]: tensor for tensor in layer.tensors}
        if attention is None or any(not tensor.name.startswith("blk.") for tensor in layer.tensors):
            continue  # a layer of an encoder and one of a decoder, as one
        for part, size in (("k", attention.key_size), ("v", attention.value_size)):
            tensor = tensors.get(f"attn_{part}.weight")
            rows = attention.num_kv_heads * size
            if tensor is not None and tensor.shape[1:] != (rows,):
                there = "x".join(map(str, tensor.shape[1:]))
                yield (
                    f"{name}.attention.head_count_kv is {attention.num_kv_heads} and a head has {size} "
                    f"dimensions, and {tensor.name} has {there} rows"
                )
                return


def _per_layer(keys: Keys, key: str, layers: Sequence[object]) -> tuple[int, ...]:
    """A number for each layer; where a list is too short for them it says nothing, and has no zero."""
    value = keys.values.get(f"{keys.architecture}.{key}")
    if isinstance(value, tuple) and len(value) < len(layers):
        return (1,) * len(layers)
    return keys.numbers(key, len(layers))


def _wrong_experts(keys: Keys) -> Iterator[str]:
    name = keys.architecture
    experts = keys.number("expert_count")
    value = keys.values.get(f"{name}.expert_used_count", 0)
    each = value if isinstance(value, tuple) else (value,)
    used = max((number for number in each if isinstance(number, int)), default=0)
    if name in _ONE_EXPERT_IS_NONE and experts <= 1:
        return
    if experts and not used:
        yield f"{name}.expert_used_count is missing or 0, and there are {experts} experts"
    elif used > experts:
        yield f"{name}.expert_used_count is {used}, and {name}.expert_count is {experts}"


@functools.cache
def _required() -> dict[str, tuple[str, ...]]:
    """Architecture -> the keys that it requires; those that begin with a dot have its name before it."""
    found: dict[str, tuple[str, ...]] = {}
    common: tuple[str, ...] = ()
    for line in Path(__file__).with_name("gguf_required.txt").read_text(encoding="utf-8").splitlines():
        name, colon, keys = line.partition(":")
        if line.startswith("#") or not colon:
            continue
        if name == "*":
            common = tuple(keys.split())
        else:
            found[name] = (*common, *keys.split())
    return found

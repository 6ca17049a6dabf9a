"""Where the keys of a GGUF file contradict the shapes of its tensors, by one number of one layer.

llama.cpp computes the shape of each tensor from the keys and refuses a file that has another one
(`load_arch_tensors` in src/models/*.cpp, as vendored by llama-cpp-python 0.3.36). These are the shapes that
all its architectures share. They bound what an estimate multiplies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod

from aimind.metadata.gguf_layers import Keys, Stack
from aimind.types import Attention, LatentAttention, Layer, RecurrentState, Tensor

# Keys that are the size of a side of some tensor, or a factor of it.
_SIZES = (
    "embedding_length",
    "feed_forward_length",
    "expert_count",
    "expert_feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.key_length_mla",
    "attention.value_length_mla",
    "attention.q_lora_rank",
    "attention.kv_lora_rank",
    "rope.dimension_count",
    "ssm.conv_kernel",
    "ssm.inner_size",
    "ssm.state_size",
    "ssm.group_count",
    "wkv.head_size",
    "kda.head_dim",
    "shortconv.l_cache",
)
# Keys that count layers of the model.
_LAYER_COUNTS = ("nextn_predict_layers", "attention.shared_kv_layers", "n_deepstack_layers")
_MOST_SHIFTED = 2  # tokens of RWKV's layers: those of the time mix and of the channel mix
_CONVOLUTIONS = ("ssm_conv1d", "ssm_conv1d_q", "ssm_conv1d_k", "ssm_conv1d_v", "shortconv.conv")


def too_large(keys: Keys, tensors: Sequence[Tensor], layers: int) -> Iterator[str]:
    """Keys of any architecture that exceed what the tensors could have, each as half a sentence."""
    longest = max((max(tensor.shape) for tensor in tensors), default=0)
    for key in _SIZES:
        if (value := _largest(keys, key)) > longest:
            yield f"{keys.architecture}.{key} is {value:,}, and no tensor has a side longer than {longest:,}"
    for key in _LAYER_COUNTS:
        if (value := _largest(keys, key)) >= max(layers, 1):
            yield f"{keys.architecture}.{key} is {value:,}, and there are {layers:,} layers"
    if (value := _largest(keys, "token_shift_count")) > _MOST_SHIFTED:
        yield f"{keys.architecture}.token_shift_count is {value:,}, and no layer shifts more than two"


def _largest(keys: Keys, key: str) -> int:
    """The largest of the numbers that a key holds; 0 where it holds none."""
    value = keys.values.get(f"{keys.architecture}.{key}")
    each = value if isinstance(value, tuple) else (value,)
    return max((number for number in each if isinstance(number, int)), default=0)


def contradictions(keys: Keys, stacks: Sequence[Stack], layers: Sequence[Layer]) -> Iterator[str]:
    """How the first layer that contradicts the keys does so, each time as half a sentence.

    Args:
        keys: of an architecture that is known.
        stacks: the tensors by layer.
        layers: the same layers, with the memory that follows from the keys.
    """
    if len(stacks) != 1:
        return  # a layer of an encoder and one of a decoder, as one
    for tensors, layer in zip(stacks[0].layers, layers, strict=True):
        if not layer.tensors:
            continue  # it only drafts
        found = list(_of_layer(keys, {name.removesuffix(".weight"): t for name, t in tensors.items()}, layer))
        if found:
            yield from found
            return


def _of_layer(keys: Keys, tensors: Mapping[str, Tensor], layer: Layer) -> Iterator[str]:
    name = keys.architecture
    attends = any(isinstance(memory, Attention | LatentAttention) for memory in layer.memory)
    linear = "ssm_conv1d_q" in tensors or ("attn_qkv" in tensors and "ssm_out" in tensors)
    if not attends and not linear and not tensors.keys().isdisjoint(("attn_q", "attn_q_b", "attn_qkv")):
        yield f"{name}.attention.head_count_kv is 0, and a layer has queries"
    for memory in layer.memory:
        if isinstance(memory, RecurrentState):
            yield from _wrong_state(keys, memory, tensors)
        elif isinstance(memory, LatentAttention):
            numbers = (
                f"{name}.attention.head_count is {memory.num_heads:,}, kv_lora_rank {memory.kv_lora_rank:,}, "
                f"key_length_mla {memory.key_size:,} and rope.dimension_count {memory.rope_size:,}"
            )
            yield from _wrong_attention(numbers, _latent(memory), tensors)
        elif isinstance(memory, Attention):
            numbers = (
                f"{name}.attention.head_count is {memory.num_heads:,}, head_count_kv "
                f"{memory.num_kv_heads:,}, and a head has {memory.key_size:,} dimensions"
            )
            yield from _wrong_attention(numbers, _usual(memory), tensors)
    experts = keys.values.get(f"{name}.expert_count")
    down = tensors.get("ffn_down_exps")
    if isinstance(experts, int) and down is not None and len(down.shape) == 3 and down.shape[2] != experts:
        yield f"{name}.expert_count is {experts:,}, and {down.name} has those of {down.shape[2]:,}"


# The name of a tensor, one of its axes, and the sizes that it may have along that.
Sizes = Iterable[tuple[str, int, tuple[int, ...]]]


def _wrong_attention(numbers: str, sizes: Sizes, tensors: Mapping[str, Tensor]) -> Iterator[str]:
    for name, axis, expected in sizes:
        tensor = tensors.get(name)
        if tensor is None or axis >= len(tensor.shape) or tensor.shape[axis] in expected:
            continue
        side = "rows" if axis else "columns"
        yield f"{numbers}, and {tensor.name} has {tensor.shape[axis]:,} {side}"


def _usual(memory: Attention) -> Sizes:
    queries = memory.num_heads * memory.key_size
    keys, values = memory.num_kv_heads * memory.key_size, memory.num_kv_heads * memory.value_size
    yield "attn_q", 1, (queries, 2 * queries)  # Qwen 3 Next keeps its output gate there, too
    yield "attn_q_b", 1, (queries,)
    yield "attn_qkv", 1, (queries + keys + values,)
    yield "attn_output", 0, (queries, memory.num_heads * memory.value_size)


def _latent(memory: LatentAttention) -> Sizes:
    heads, unrotated = memory.num_heads, memory.key_size - memory.rope_size
    yield "attn_q", 1, (heads * memory.key_size,)
    yield "attn_q_b", 1, (heads * memory.key_size,)
    yield "attn_kv_a_norm", 0, (memory.kv_lora_rank,)
    yield "attn_kv_a_mqa", 1, (memory.kv_lora_rank + memory.rope_size,)
    yield "attn_kv_b", 1, (heads * (unrotated + memory.value_size),)
    yield "attn_k_b", 0, (unrotated,)
    yield "attn_v_b", 1, (memory.value_size,)
    yield "attn_output", 0, (heads * memory.value_size,)


def _wrong_state(keys: Keys, memory: RecurrentState, tensors: Mapping[str, Tensor]) -> Iterator[str]:
    name = keys.architecture
    shapes = [tensors[each].shape for each in _CONVOLUTIONS if each in tensors]
    conv = sum((shape[0] - 1) * prod(shape[1:]) for shape in shapes)
    if shapes and conv != memory.conv_elements:
        yield (
            f"the convolution of {name} keeps {memory.conv_elements:,} numbers by its keys, "
            f"and {conv:,} by its tensors"
        )
    out, first = tensors.get("ssm_out"), tensors.get("ssm_a")
    inner, state = keys.number("ssm.inner_size"), keys.number("ssm.state_size")
    if out is not None and out.shape[0] != inner:
        yield f"{name}.ssm.inner_size is {inner:,}, and {out.name} has {out.shape[0]:,} columns"
    # PLaMo 2's is of another kind, and has one side.
    if (
        memory.kind == "mamba1"
        and first is not None
        and first.shape[1:] == (inner,)
        and first.shape[0] != state
    ):
        yield f"{name}.ssm.state_size is {state:,}, and {first.name} has {first.shape[0]:,} columns"
    head, size = tensors.get("time_mix_first"), keys.number("wkv.head_size")
    if head is not None and head.shape[0] != size:
        yield f"{name}.wkv.head_size is {size:,}, and {head.name} has {head.shape[0]:,} columns"
    hidden = keys.number("embedding_length")
    if memory.kind == "rwkv" and (not size or hidden % size):
        yield f"{name}.wkv.head_size is {size:,}, which does not divide {hidden:,}"

"""What each rank of vLLM 0.32 holds of the weights, by tensor and by pipeline parallelism.

Which parameters are cut and which are copied is what vllm/model_executor/models/*.py builds of
ColumnParallelLinear, RowParallelLinear, QKVParallelLinear, ReplicatedLinear and VocabParallelEmbedding.
A tensor of no known role is counted as cut where it is a matrix and as copied where it is a vector.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

from aimind.types import Attention, Layer, Metadata, RecurrentState, Tensor

# Rows that embeddings are padded to (vllm/model_executor/layers/vocab_parallel_embedding.py).
VOCABULARY = 64
_ITEM_BYTES = {
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "half": 2,
    "float": 4,
}
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_TABLE = re.compile(r"embed|(^|\.)(wte|wpe|lm_head|output_layer|embed_out)\.")
_HEAD = re.compile(r"(^|\.)(lm_head|output_layer|embed_out)\.")
_TEXT_TABLE = re.compile(
    r"embed_(tokens|in)\b|word_embeddings|(^|\.)(wte|embeddings?)\.(weight|word)|embed_out|lm_head"
)
# Positions that are added are a plain embedding in decoders, and a padded one in encoders.
_POSITIONS = re.compile(r"(^|\.)(wpe|embed_positions|position_embedd?ings?|pos_embed)\b")
# Each rank has these whole: norms, routers, the compressing half of latent attention, what scores a text, a
# tower for sound, and the way into and out of one for images.
_COPIED = re.compile(
    "|".join(
        (
            r"(?i:norm)\w*(\.[a-z_]+)?$",
            r"(^|\.)(ln_\w+|gate|wg|layers\.\d+\.linear)\.",
            r"router|shared_expert_gate|e_score|kv_a_proj|q_a_proj|laurel|altup|per_layer_\w*proj",
            r"^(classifier|score)\.",
            r"audio|speech|patch_|input_projection|projector\.linear\.|(vision|visual).*pos\w*embed",
        )
    )
)
_KEYS_OR_VALUES = re.compile(r"(^|[._])(k_proj|v_proj|key|value|wk|wv|kv_proj)\.")
_FUSED = re.compile(r"(^|\.)(qkv_proj|query_key_value|Wqkv|c_attn|qkv)\.")
_GROUPED = re.compile(r"(mamba|mixer)\.(in_proj|conv1d)\.")
# What sums over ranks: its bias, if there is one, is added once, so each rank has it whole.
_ROWS = re.compile(
    r"(^|\.)(o_proj|out_proj|down_proj|c_proj|fc2|w2|wo|dense|dense_4h_to_h|fc_out|x_proj|out_lin|linear_proj|attn\.proj)\."
)
_EXPERT = re.compile(r"\.experts\.")
# Vectors with an entry a head or a channel.
_PER_HEAD = re.compile(
    r"(A_log|\.A|\.D|dt_bias|sinks|conv1d\.bias|dt_proj\.bias|(mamba|mixer)\.norm\.weight)$"
)
# Towers that vLLM copies where their heads do not divide, and parts of a model that it never loads.
_TOWER = re.compile(r"vision|visual|vit|image|audio|speech|tower")
_NOT_LOADED = re.compile(r"^(talker|token2wav|code2wav)\.|rotary_emb\.inv_freq|\.attn\.(bias|masked_bias)$")
# These routers choose in 32 bits (params_dtype in vllm/model_executor/models/{glm4_moe,ernie45_moe,...}.py).
_WIDE_ROUTERS = ("Glm4Moe", "Ernie4_5", "MiniMaxM2", "Afmoe", "Step3p5", "HYV3", "BailingMoeV3")
_SCORES = ("ForSequenceClassification", "ForRanking", "ForRewardModel")


def item_bytes(dtype: str | None) -> int:
    """Bytes per element of what is computed: 16 bit, since vLLM also turns 32-bit weights into that."""
    return _ITEM_BYTES.get(dtype or "", 2)


def stages(layers: int, pipeline_parallel: int) -> list[range]:
    """The layers of each pipeline stage: what does not divide goes to the last stages but one.

    Source: get_pp_indices in vllm/distributed/utils.py.
    """
    sizes = [layers // pipeline_parallel] * pipeline_parallel
    for extra in range(layers % pipeline_parallel):
        sizes[-2 - extra] += 1
    starts = [sum(sizes[:stage]) for stage in range(pipeline_parallel + 1)]
    return [range(start, end) for start, end in pairwise(starts)]


def weights_bytes(
    metadata: Metadata,
    *,
    tensor_parallel: int,
    pipeline_parallel: int,
    dtype: str | None = None,
    expert_groups: int = 1,
) -> int:
    """Of the rank that holds most: its share of its stage's layers, and the embeddings or the head.

    `expert_groups`: of ranks, over all of which experts are cut, where attention is whole in each
    (flatten_tp_across_dp in vllm/model_executor/layers/fused_moe/config.py).
    """
    share = _Share(metadata, tensor_parallel, item_bytes(dtype), expert_groups)
    layers = [share.of_layer(layer) for layer in metadata.layers]
    first, last, both = 0, 0, 0
    for tensor in metadata.others:
        size = share.of(tensor, None)
        if _TOWER.search(tensor.name):
            first += size
        elif metadata.tied and _TEXT_TABLE.search(tensor.name):
            both += size
        elif _HEAD.search(tensor.name) or "norm" in tensor.name.split(".")[-2:][0]:
            last += size
        else:
            first += size
    if pipeline_parallel == 1:
        return sum(layers) + first + last + both
    if any(layer.num_experts or not _only_attends(layer) for layer in metadata.layers):
        # Many of these models build the embedding and the head on every stage.
        first = last = first + last
    held = [sum(layers[index] for index in stage) for stage in stages(len(layers), pipeline_parallel)]
    held[0] += first + both
    held[-1] += last + both
    return max(held)


def rank_sizes(
    metadata: Metadata, *, tensor_parallel: int, dtype: str | None = None
) -> tuple[list[tuple[str, int]], Callable[[Layer], list[tuple[str, int]]]]:
    """Names and bytes of the tensors that one rank holds: those outside the layers, and of any layer."""
    share = _Share(metadata, tensor_parallel, item_bytes(dtype))
    others = [(tensor.name, share.of(tensor, None)) for tensor in metadata.others]

    def of_layer(layer: Layer) -> list[tuple[str, int]]:
        return [(tensor.name, share.of(tensor, layer)) for tensor in layer.tensors]

    return [(name, size) for name, size in others if size], of_layer


def _only_attends(layer: Layer) -> bool:
    return not any(isinstance(memory, RecurrentState) for memory in layer.memory)


class _Share:
    """The part of a tensor that one rank holds."""

    def __init__(self, metadata: Metadata, ranks: int, item: int, expert_groups: int = 1) -> None:
        self.metadata, self.ranks, self.item = metadata, ranks, item
        self.expert_groups = expert_groups
        names = [each.quantization or "" for each in metadata.by_quantization()]
        self.eight_bits = any(name.startswith(("W8", "FP8")) for name in names)
        self.has_mxfp4 = "MXFP4" in names
        self.decodes = any(
            not isinstance(memory, Attention) or memory.causal
            for layer in metadata.layers
            for memory in layer.memory
        )

    def of_layer(self, layer: Layer) -> int:
        """Bytes of all its tensors; experts are weighed once, however many there are."""
        alike = Counter(
            (_NUMBER.sub("0", tensor.name), tensor.shape, tensor.dtype, tensor.size_bytes)
            for tensor in layer.tensors
        )
        return sum(count * self.of(Tensor(*each), layer) for each, count in alike.items())

    def of(self, tensor: Tensor, layer: Layer | None) -> int:
        """Bytes of one tensor; `layer`: which one it is in, if any."""
        if self.expert_groups > 1 and layer is not None and layer.num_experts and _EXPERT.search(tensor.name):
            return _Share(self.metadata, self.ranks * self.expert_groups, self.item).of(tensor, layer)
        name, ranks = tensor.name, self.ranks
        if self._is_left_out(name) or not all(tensor.shape):
            return 0
        size = self._padded(tensor, self._loaded(tensor), layer)
        tower = _TOWER.search(name) is not None
        if layer is None and not tower and len(tensor.shape) == 2 and _TABLE.search(name):
            rows = -(-tensor.shape[0] // VOCABULARY) * VOCABULARY
            if self.decodes and _POSITIONS.search(name):
                return size
            size = size // tensor.shape[0] * rows
            return size if _COPIED.search(name) else size // ranks
        if ranks == 1 or (_COPIED.search(name) and not _PER_HEAD.search(name)):
            return size
        if name.endswith("_scale") and tensor.shape[-1:] == (1,) and _ROWS.search(name):
            return size  # one for each output, and every rank has all outputs
        if len(tensor.shape) < 2 and not self._is_cut_vector(name):
            return size
        return self._cut(tensor, size, layer)

    def _padded(self, tensor: Tensor, size: int, layer: Layer | None) -> int:
        """With MXFP4's experts as their kernels want them: the largest padding of any backend.

        Source: mxfp4_round_up_hidden_size_and_intermediate_size in
        vllm/model_executor/layers/fused_moe/oracle/mxfp4.py.
        """
        if layer is None or not self.has_mxfp4 or tensor.dtype in _ITEM_BYTES:
            return size
        hidden, forward = self.metadata.hidden_size, layer.expert_feed_forward_size // self.ranks
        if not hidden or not forward or "expert" not in tensor.name:
            return size
        padded = -(-hidden // 256) * 256 * (-(-forward // 128) * 128)
        return -(-size * padded // (hidden * forward))

    def _cut(self, tensor: Tensor, size: int, layer: Layer | None) -> int:
        """One rank's part; keys and values of few heads, and the one group of Mamba 2, are copied."""
        ranks = self.ranks
        for memory in layer.memory if layer else ():
            if isinstance(memory, Attention):
                copies = max(1, ranks // max(1, memory.num_kv_heads))
                if _KEYS_OR_VALUES.search(tensor.name):
                    return size * copies // ranks
                if _FUSED.search(tensor.name):
                    keys = memory.num_kv_heads * (memory.key_size + memory.value_size)
                    rows = max(1, memory.num_heads * memory.key_size + keys)
                    return size * (rows + keys * (copies - 1)) // rows // ranks
            elif isinstance(memory, RecurrentState) and _GROUPED.search(tensor.name):
                missing = max(0, ranks - memory.num_groups) if memory.kind == "mamba2" else 0
                return (size + missing * memory.group_channels * (size // tensor.shape[0])) // ranks
        return size // ranks

    def _is_left_out(self, name: str) -> bool:
        """Whether vLLM does not load it: a tied head, the pooler of an encoder that only embeds."""
        pools = "pooler." in name and self.metadata.architecture.endswith("Model")
        return (
            pools
            or _NOT_LOADED.search(name) is not None
            or (self.metadata.tied and _HEAD.search(name) is not None)
        )

    def _is_cut_vector(self, name: str) -> bool:
        return _PER_HEAD.search(name) is not None or (name.endswith(".bias") and not _ROWS.search(name))

    def _loaded(self, tensor: Tensor) -> int:
        """Bytes of the whole tensor in the precision that it is loaded in."""
        if tensor.dtype not in ("F32", "F16", "BF16"):
            return tensor.size_bytes
        return tensor.size_bytes // _ITEM_BYTES[tensor.dtype] * self._item(tensor)

    def _item(self, tensor: Tensor) -> int:
        name, architecture = tensor.name, self.metadata.architecture
        # The decay of recurrent layers and corrections of routers stay in 32 bits whatever the file has.
        if name.endswith((".A", ".A_log", "e_score_correction_bias")):
            return 4
        if architecture.startswith(_WIDE_ROUTERS) and name.endswith(".gate.weight"):
            return 4
        if architecture.endswith(_SCORES) and re.match(r"(classifier|score)\.", name):
            return 4
        if self.eight_bits and name.endswith("_scale"):
            return 4
        return self.item

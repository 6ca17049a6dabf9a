"""The parts that decoder layers are made of, as llama.cpp strings them together (src/llama-graph.cpp).

What a layer has is told by the tensors in its file: a bias, a norm of the queries, a gate or an expert is
there or is not. So a new architecture out of known parts needs nothing new here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from aimind.estimate import families
from aimind.estimate.graph import (
    F16,
    F32,
    I32,
    Graph,
    Node,
    mul_mat,
    mul_mat_id,
    operation,
    same,
    view,
    write,
)
from aimind.types import Attention, LatentAttention

# Expert counts for which CUDA has a fused router (`ggml_cuda_should_use_topk_moe`), and its fused sum's
# limit.
_FUSED_ROUTERS = frozenset({1 << power for power in range(10)} | {288, 576})
_FUSED_SUM_EXPERTS = 15
# Head sizes of CUDA's flash attention, keys and values alike (`ggml_cuda_get_best_fattn_kernel`).
_FLASH_SIZES = frozenset({40, 64, 72, 80, 96, 112, 128, 256})
# Those that differ or need grouped queries: values' size, and what queries per key must be a multiple of.
_GROUPED_FLASH_SIZES = {192: (128, 8), 320: (256, 32), 512: (512, 2), 576: (512, 2)}


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the server: the largest that its flags allow.

    Attributes:
        tokens, sequences: in the step; outputs: tokens whose logits are wanted.
        streams: separate caches; cells: of one, of layers that attend to all tokens; window_cells: of the
            others.
        flash: whether flash attention is used.
        key_block, value_block: (bytes, elements) of a block of the cache's types.
        mixed_inputs: it may hold tokens and embeddings.
    """

    tokens: int
    sequences: int
    outputs: int
    streams: int
    cells: int
    window_cells: int
    flash: bool
    key_block: tuple[int, int]
    value_block: tuple[int, int]
    mixed_inputs: bool


@dataclass(slots=True)
class Inputs:
    """What attention reads beside its layer's weights, one set for full and one for sliding layers."""

    mask: Node
    key_ids: Node
    value_ids: Node
    key_rotation: Node | None
    value_rotation: Node | None


class Blocks:
    """Builds the parts of one layer after the other into a graph.

    Attributes:
        weights: of the layer at hand, by the name that follows `blk.N.`.
        bare_norms: norms that have no weight in the file.
    """

    def __init__(self, graph: Graph, step: Step, *, architecture: str, host: int, keys_first: bool) -> None:
        self.graph, self.step, self.host = graph, step, host
        self.norm_op = "norm" if architecture in families.LAYER_NORM else "rms_norm"
        self.head_norm_op = "norm" if architecture in families.HEAD_LAYER_NORM else "rms_norm"
        self.bare_norms = families.BARE_NORMS.get(architecture, frozenset())
        self.softmax_of_chosen = architecture in families.SOFTMAX_OF_CHOSEN
        self.precise_experts = architecture in families.PRECISE_EXPERTS
        self.keys_first = keys_first
        self.weights: Mapping[str, Node] = {}

    def linear(self, name: str, x: Node) -> Node:
        """A matrix and its bias."""
        y = mul_mat(self.weights[f"{name}"], x)
        bias = self.weights.get(f"{name}.bias")
        return y if bias is None else same("add", y, bias)

    def norm(self, name: str, x: Node, *, op: str | None = None) -> Node:
        """A norm with what it has of weight and bias; `x` itself where the layer has none of that name."""
        weight = self.weights.get(f"{name}")
        bias = self.weights.get(f"{name}.bias")
        if weight is None:
            return x if name not in self.bare_norms else same(op or self.norm_op, x)
        y = same("mul", same(op or self.norm_op, x), weight)
        return y if bias is None else same("add", y, bias)

    # ── Attention ──────────────────────────────────────────────────────────────────────────────────────────

    def queries_keys_values(self, x: Node, attention: Attention) -> tuple[Node, Node, Node]:
        """Projected and cut into heads; from one fused matrix they are strided views."""
        heads, kv_heads = attention.num_heads, attention.num_kv_heads
        key, value, tokens = attention.key_size, attention.value_size, x.shape[1]
        shapes = ((key, heads, tokens), (key, kv_heads, tokens), (value, kv_heads, tokens))
        if "attn_qkv" in self.weights:
            fused = self.linear("attn_qkv", x)
            q, k, v = (view(fused, shape) for shape in shapes)
            return q, k, v
        projected = [self.linear(name, x) for name in ("attn_q", "attn_k", "attn_v") if name in self.weights]
        if len(projected) == 2:  # values are the keys (Gemma 4)
            projected.append(projected[1])
        for index, name in enumerate(("attn_q_norm", "attn_k_norm")):
            if self._norms_all_heads(name, shapes[index]):
                projected[index] = self.norm(name, projected[index])
        q, k, v = (view(node, shape, dense=True) for node, shape in zip(projected, shapes, strict=True))
        return q, k, v

    def head_norm(self, name: str, x: Node) -> Node:
        """A norm of each head of queries or keys, if the layer has one and it is not of all heads at once."""
        if self._norms_all_heads(name, x.shape):
            if x.layout is not None:
                return x
            flat = operation("cont", (x.shape[0] * x.shape[1], x.shape[2]), x)
            return view(self.norm(name, flat), x.shape, dense=True)
        return self.norm(name, x, op=self.head_norm_op)

    def _norms_all_heads(self, name: str, heads: tuple[int, ...]) -> bool:
        """Whether queries or keys are normed before they are cut into heads (OLMo 2)."""
        return name in self.weights and self.weights[name].shape[0] > heads[0]

    def attend(
        self,
        q: Node,
        k: Node | None,
        v: Node | None,
        *,
        cache: tuple[Node, Node],
        inputs: Inputs,
        attention: Attention,
    ) -> Node:
        """Store keys and values, then look all of them up (`build_attn` with a cache)."""
        expand = self.graph.expand
        if inputs.key_rotation is not None:
            q = _rotated(q, inputs.key_rotation)
            k = None if k is None else _rotated(k, inputs.key_rotation)
        if inputs.value_rotation is not None and v is not None:
            v = _rotated(v, inputs.value_rotation)
        keys, values = cache
        expand(q)
        if k is not None and v is not None:
            for node in (k, v) if self.keys_first else (v, k):
                expand(node)
            expand(write(keys, view(k, (prod(k.shape[:2]), k.shape[2])), inputs.key_ids))
            expand(self._store_values(values, v, inputs))
        cells = self._cells(attention)
        streams = self.step.streams
        stored_k = cached_view(
            keys, (attention.key_size, cells, attention.num_kv_heads, streams), self.step.key_block
        )
        stored_v = cached_view(
            values,
            (attention.value_size, cells, attention.num_kv_heads, streams),
            self.step.value_block,
            transposed=not self.step.flash,
        )
        out = self.mix(q, stored_k, stored_v, inputs.mask, attention)
        expand(out)
        return out if inputs.value_rotation is None else _rotated(out, inputs.value_rotation)

    def attend_latent(
        self,
        q: Node,
        k: Node,
        *,
        keys: Node,
        inputs: Inputs,
        attention: Attention,
        decompress: Node,
    ) -> Node:
        """Store the compressed vectors, which are keys and values at once."""
        expand, step = self.graph.expand, self.step
        for node in (q, k):
            expand(node)
        expand(write(keys, view(k, (k.shape[0], k.shape[2])), inputs.key_ids))
        shape = (attention.key_size, step.cells, 1, step.streams)
        stored_k = cached_view(keys, shape, step.key_block)
        stored_v = cached_view(keys, (attention.value_size, *shape[1:]), step.key_block)
        return expand(self.mix(q, stored_k, stored_v, inputs.mask, attention, decompress=decompress))

    def _store_values(self, values: Node, v: Node, inputs: Inputs) -> Node:
        """Without flash attention values are stored transposed and padded to the widest layer."""
        rows = (prod(v.shape[:2]), v.shape[2])
        if self.step.flash:
            return write(values, view(v, rows), inputs.value_ids)
        flat = view(v, rows, dense=True) if v.layout is not None else operation("cont", rows, v)
        if values.shape[0] > rows[0]:
            flat = operation("pad", (values.shape[0], rows[1]), flat)
        return write(values, view(flat, (1, prod(flat.shape)), dense=True), inputs.value_ids)

    def _cells(self, attention: Attention) -> int:
        return self.step.cells if attention.window is None else self.step.window_cells

    def mix(
        self, q: Node, k: Node, v: Node, mask: Node, attention: Attention, *, decompress: Node | None = None
    ) -> Node:
        """`build_attn_mha`: q is (size, heads, tokens), k and v (size, cells, heads, streams)."""
        size, heads, tokens = q.shape
        streams = k.shape[3]
        q = view(q, (size, tokens // streams, heads, streams))
        sinks = [self.weights[name] for name in ("attn_sinks",) if name in self.weights]
        if self.step.flash:
            if k.item_bytes == F32 and not (k.root or k).stored:
                k = operation("cpy", k.shape, k, item_bytes=F16)
                v = operation("cpy", v.shape, v, item_bytes=F16)
            out = operation(
                "flash_attn", (v.shape[0], heads, tokens // streams, streams), q, k, v, mask, *sinks
            )
            out.host_only = not flash_kernel(attention)
            self._flash_scratch(out, q, k, v)
            if decompress is not None:
                out = view(out, (v.shape[0], tokens // streams, heads, streams))
                out = mul_mat(decompress, out)
                out = operation(
                    "cont", (out.shape[0], heads, tokens), view(out, (out.shape[0], heads, tokens))
                )
            return view(out, (out.shape[0] * heads, tokens), dense=True)
        scores = operation("mul_mat", (k.shape[1], tokens // streams, heads, streams), k, q)
        scores.batch = tokens // streams
        scores = same("soft_max", scores, mask, *sinks)
        if not (v.root or v).stored or decompress is not None:
            turned = (v.shape[1], v.shape[0], *v.shape[2:])
            v = operation("cont", turned, view(v, v.shape), item_bytes=v.item_bytes)
        out = operation(
            "mul_mat",
            (attention.value_size if decompress is None else v.shape[1], tokens // streams, heads, streams),
            v,
            scores,
        )
        out.batch = tokens // streams
        if decompress is not None:
            out = mul_mat(decompress, out)
        return operation("cont", (out.shape[0] * heads, tokens), view(out, (out.shape[0], heads, tokens)))

    def _flash_scratch(self, out: Node, q: Node, k: Node, v: Node) -> None:
        """CUDA's kernels work on 16-bit keys and values: converted copies lie behind the result."""
        size = q.shape[0]
        if q.shape[1] <= 2 and size <= 256 and size % 64 == 0 and size != 192:
            return  # few rows go to a kernel that reads quantized caches as they are
        end = out.size_bytes
        # Values that lie within the keys share their copy, unless both come from RAM as tensors of their own.
        shared = v.root is k.root and k.root is not None and k.root.place != self.host
        for block, node in ((self.step.key_block, k), (self.step.value_block, v)):
            if (
                node.root is not None
                and node.root.stored
                and block != (F16, 1)
                and not (node is v and shared)
            ):
                end += -end % 128 + prod(node.shape) * F16
        out.device_bytes = end

    # ── Feed-forward ───────────────────────────────────────────────────────────────────────────────────────

    def feed_forward(self, x: Node, *, suffix: str = "") -> Node:
        """Up, gate where there is one, down. Rows twice as wide as the way down hold gate and up in one."""
        up = self.linear(f"ffn_up{suffix}", x)
        if f"ffn_gate{suffix}" in self.weights:
            hidden = same("glu", self.linear(f"ffn_gate{suffix}", x), up)
        else:
            width = self.weights[f"ffn_down{suffix}"].shape[0]
            hidden = (
                same("unary", up) if up.shape[0] == width else operation("glu", (width, *up.shape[1:]), up)
            )
        return self.linear(f"ffn_down{suffix}", self.norm("ffn_sub_norm", hidden))

    def experts(self, x: Node, used: int, *, router_input: Node | None = None) -> Node:
        """The router, the experts that it chooses, and their weighted sum (`build_moe_ffn`)."""
        expand, (size, tokens) = self.graph.expand, x.shape
        probabilities = self.linear("ffn_gate_inp", router_input or x)
        if not self.softmax_of_chosen:
            probabilities = same("soft_max", probabilities)
        count = probabilities.shape[0]
        selection = probabilities
        if "exp_probs_b.bias" in self.weights:
            selection = same("add", probabilities, self.weights["exp_probs_b.bias"])
        ids = view(operation("argsort", selection.shape, selection, item_bytes=I32), (used, tokens))
        chosen = operation(
            "get_rows", (1, used, tokens), view(probabilities, (1, count, tokens), dense=True), ids
        )
        chosen.batch = 0
        flat = view(chosen, (used, tokens), dense=True)
        if self.softmax_of_chosen:
            flat = same("soft_max", flat)
        else:
            flat = same("div", flat, same("clamp", operation("sum_rows", (1, tokens), flat)))
        weights = expand(view(flat, (1, used, tokens), dense=True))
        routed = self.graph.nodes.index(probabilities), len(self.graph.nodes)
        hidden = self._expert_hidden(view(x, (size, 1, tokens), dense=True), ids, used)
        out = self._expert_linear("ffn_down_exps", hidden, ids, host_only=self.precise_experts)
        weighted = expand(same("mul", out, weights))
        if count in _FUSED_ROUTERS and not self.softmax_of_chosen:
            self._keep_router(*routed)
        parts = [expand(view(weighted, (size, tokens))) for _ in range(used)]
        total_out = parts[0]
        for part in parts[1:]:
            total_out = expand(same("add", total_out, part))
        if used == 1:
            return operation("cont", (size, tokens), total_out)
        if used <= _FUSED_SUM_EXPERTS:
            self.graph.kept.append((weighted, total_out, (out, weights)))
        return total_out

    def _expert_hidden(self, x: Node, ids: Node, used: int) -> Node:
        if "ffn_gate_up_exps" in self.weights:
            both = self._expert_linear("ffn_gate_up_exps", x, ids)
            half = (both.shape[0] // 2, used, x.shape[2])
            return operation("glu", half, view(both, half), view(both, half))
        up = self._expert_linear("ffn_up_exps", x, ids)
        if "ffn_gate_exps" not in self.weights:
            return same("unary", up)
        return same("glu", self._expert_linear("ffn_gate_exps", x, ids), up)

    def _expert_linear(self, name: str, x: Node, ids: Node, *, host_only: bool = False) -> Node:
        y = mul_mat_id(self.weights[f"{name}"], x, ids)
        y.host_only = host_only
        bias = self.weights.get(f"{name}.bias")
        return y if bias is None else same("add_id", y, bias, ids)

    def _keep_router(self, start: int, end: int) -> None:
        """CUDA's fused router reads all that its single operations would until it is done."""
        nodes = self.graph.nodes
        held: list[Node] = []
        for node in nodes[start:end]:
            held += [node, *node.sources]
        self.graph.kept.append((nodes[start], nodes[end], tuple(dict.fromkeys(held))))


def flash_kernel(memory: Attention | LatentAttention) -> bool:
    """Whether CUDA has a kernel for it."""
    if isinstance(memory, LatentAttention):
        size, value, group = memory.kv_lora_rank + memory.rope_size, memory.kv_lora_rank, memory.num_heads
    else:
        size, value = memory.key_size, memory.value_size
        group = memory.num_heads // max(1, memory.num_kv_heads)
    if size in _FLASH_SIZES:
        return value == size
    expected, multiple = _GROUPED_FLASH_SIZES.get(size, (0, 1))
    return value == expected and group >= 2 and group % multiple == 0


def _rotated(x: Node, rotation: Node) -> Node:
    """Multiplied by a Hadamard matrix, which quantized caches are stored under (`llama_mul_mat_hadamard`)."""
    n = rotation.shape[0]
    flat_shape = (n, prod(x.shape) // n)
    flat = operation("cont", flat_shape, x) if x.layout is None else view(x, flat_shape, dense=True)
    return view(mul_mat(rotation, flat), x.shape, dense=True)


def cached_view(
    owner: Node, shape: tuple[int, ...], block: tuple[int, int], *, transposed: bool = False
) -> Node:
    """A view of all cells of a cache; a copy of it on another device has its padding.

    The view may leave out some elements of each cell: the values of latent attention are the first part of
    the keys, and values that are stored transposed are padded to the widest layer. A copy spans all bytes
    from the first element to the last, so it is shorter than the cache by what is left out at the end.

    Args:
        owner: the cache: (elements per cell, cells, streams).
        shape: the product is the number of elements that the view shows.
        block: (bytes, elements) of a block of the cache's type.
        transposed: the cells of a stream lie side by side, element by element.
    """
    elements, cells, streams = owner.shape
    left_out = elements - prod(shape) // (cells * streams)
    if transposed:
        left_out *= cells
    bytes_per_block, elements_per_block = block
    node = view(owner, shape)
    node.size_bytes = owner.size_bytes - left_out * bytes_per_block // elements_per_block
    node.device_bytes = node.size_bytes
    if elements_per_block > 1 and shape[0] % 512:
        node.device_bytes += (512 - shape[0] % 512) * bytes_per_block // elements_per_block
    return node

"""What a layer does with what it remembers: attention with and without a cache, latent attention, states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from aimind.estimate import cache, families, mixers, sparse
from aimind.estimate.blocks import Blocks, Inputs
from aimind.estimate.graph import (
    F16,
    F32,
    I32,
    I64,
    Node,
    graph_input,
    mul_mat,
    operation,
    same,
    stored,
    view,
)
from aimind.types import Attention, LatentAttention, Layer, Metadata, RecurrentState

_MIXERS = {
    "mamba1": mixers.mamba1,
    "mamba2": mixers.mamba2,
    "gated-delta-net": mixers.delta_net,
    "short-conv": mixers.short_convolution,
}


class Remember:
    """Builds what attends and recurs in a layer.

    Args:
        blocks: the parts, with the weights of the layer at hand.
        metadata: of the model.
        types: of the cache's keys and values.
        factors: the tensors that scale rotary positions, at a place.
    """

    def __init__(
        self,
        blocks: Blocks,
        metadata: Metadata,
        *,
        types: tuple[str, str],
        factors: Callable[[int], list[Node]],
    ) -> None:
        self.blocks, self.step, self.factors = blocks, blocks.step, factors
        self.architecture = metadata.architecture
        self.key_type, self.value_type = types
        self.widest_value = cache.widest_value(metadata)
        self.rotates = self.architecture not in families.NO_ROPE | families.ROPE_FIRST and (
            len(metadata.layers) != families.NO_ROPE_LAYERS.get(self.architecture)
        )
        kinds = 4 if self.architecture in families.FOUR_POSITIONS else 1
        self.positions = graph_input((self.step.tokens * kinds,), I32)
        sequences = graph_input((self.step.sequences,), I32)
        self.order, self.other_order = view(sequences, (self.step.sequences,)), view(sequences, (0,))
        self.scan_others = self.other_order
        if self.step.mixed_inputs:  # as of the same version a scan counts all sequences but one as outside
            self.scan_others = view(sequences, (self.step.sequences - 1,))
        tempered = self.architecture in families.TEMPERED
        self.temperature = graph_input((1, 1, self.step.tokens), F32) if tempered else None
        self.inputs: dict[bool, Inputs] = {}
        self.stored: dict[bool, tuple[Node, Node]] = {}
        self.indexer: sparse.Indexer | None = None

    def mix(self, x: Node, normed: Node, layer: Layer, place: int) -> Node | None:
        """What attention and state make of the layer's input, or both side by side; `None` without."""
        attention, state = cache.attention(layer), cache.state(layer)
        out = None
        if isinstance(attention, LatentAttention):
            out = self._latent(normed, attention, place)
        elif attention is not None:
            out = self._attention(normed, attention, place)
        if state is None:
            return out
        recurrent = self._recurrent(normed if out is None else self.blocks.norm("attn_norm", x), state, place)
        return recurrent if out is None else same("add", out, recurrent)

    def _attention(self, x: Node, attention: Attention, place: int) -> Node:
        blocks = self.blocks
        if "attn_kv_b" in blocks.weights:
            return self._output(self._decompressed(x, attention, place))
        q, k, v, gate = self._queries_keys_values(x, attention)
        if self.architecture in families.ROPE_FIRST:
            q, k = self._rope(q, place), k and self._rope(k, place)
        q, k = blocks.head_norm("attn_q_norm", q), k and blocks.head_norm("attn_k_norm", k)
        if self.rotates and attention.rotary:
            q, k = self._rope(q, place), k and self._rope(k, place)
        if self.temperature is not None:
            q = same("mul", q, self.temperature)
        if self.architecture in families.NORMED_VALUES and v is not None:
            v = same("rms_norm", v)
        alone = not attention.causal or self.architecture in families.CACHE_UNREAD
        if alone and k is not None and v is not None:
            return self._output(self._encode(q, k, v, attention))
        out = blocks.attend(
            q, k, v, cache=self._caches(attention, place), inputs=self._inputs(attention), attention=attention
        )
        if gate is not None:
            out = same("mul", out, same("unary", operation("cont", out.shape, gate)))
        elif "attn_gate" in blocks.weights:
            out = self._gated(out, x, attention)
        return self._output(out)

    def _queries_keys_values(
        self, x: Node, attention: Attention
    ) -> tuple[Node, Node | None, Node | None, Node | None]:
        """In heads, and a gate where the queries' matrix holds one; only queries if nothing is stored."""
        blocks = self.blocks
        if self.architecture in families.GATED_QUERIES:
            return self._gated_queries(x, attention)
        if not attention.shared and ("attn_k" in blocks.weights or "attn_qkv" in blocks.weights):
            return *blocks.queries_keys_values(x, attention), None
        shape = (attention.key_size, attention.num_heads, x.shape[1])
        return view(blocks.linear("attn_q", x), shape, dense=True), None, None, None

    def _output(self, out: Node) -> Node:
        return self.blocks.linear("attn_output", self.blocks.norm("attn_sub_norm", out))

    def _gated(self, out: Node, x: Node, attention: Attention) -> Node:
        """A gate for each element of the result, or for each head of it."""
        gate = same("unary", self.blocks.linear("attn_gate", x))
        if gate.shape == out.shape:
            return same("mul", out, gate)
        heads = (attention.value_size, attention.num_heads, x.shape[1])
        scaled = same("mul", view(out, heads, dense=True), view(gate, (1, *heads[1:]), dense=True))
        return view(scaled, out.shape, dense=True)

    def _gated_queries(self, x: Node, attention: Attention) -> tuple[Node, Node, Node, Node]:
        blocks = self.blocks
        shape = (attention.key_size, attention.num_heads, x.shape[1])
        both = blocks.linear("attn_q", x)
        kv_shape = (attention.key_size, attention.num_kv_heads, x.shape[1])
        k, v = (view(blocks.linear(name, x), kv_shape, dense=True) for name in ("attn_k", "attn_v"))
        q = operation("rms_norm", shape, view(both, shape))
        return q, k, v, view(both, shape)

    def _rope(self, x: Node, place: int) -> Node:
        node = same("rope", x, self.positions, *self.factors(place))
        node.batch = x.shape[2]
        return node

    def _encode(self, q: Node, k: Node, v: Node, attention: Attention) -> Node:
        """Without a cache: the step's own keys and values."""
        for node in (q, k, v):
            self.blocks.graph.expand(node)
        tokens = q.shape[2]
        inputs = self._inputs(attention)
        k = view(k, (k.shape[0], tokens, k.shape[1], 1))
        v = view(v, (v.shape[0], tokens, v.shape[1], 1))
        return self.blocks.graph.expand(self.blocks.mix(q, k, v, inputs.mask, attention))

    def _low_rank_queries(self, x: Node, shape: tuple[int, ...]) -> Node:
        if "attn_q_a" in self.blocks.weights:
            return self._raised_queries(self._compressed_queries(x), shape)
        return view(mul_mat(self.blocks.weights["attn_q"], x), shape, dense=True)

    def _compressed_queries(self, x: Node) -> Node:
        return self.blocks.norm("attn_q_a_norm", mul_mat(self.blocks.weights["attn_q_a"], x))

    def _raised_queries(self, compressed: Node, shape: tuple[int, ...]) -> Node:
        return view(mul_mat(self.blocks.weights["attn_q_b"], compressed), shape, dense=True)

    def _decompressed(self, x: Node, attention: Attention, place: int) -> Node:
        """Latent attention whose keys and values are stored in full (src/models/minicpm3.cpp)."""
        blocks, tokens, heads = self.blocks, x.shape[1], attention.num_heads
        q = self._rope(self._low_rank_queries(x, (attention.key_size, heads, tokens)), place)
        compressed = mul_mat(blocks.weights["attn_kv_a_mqa"], x)
        rank = blocks.weights["attn_kv_a_norm"].shape[0]
        rope = compressed.shape[0] - rank
        k_rope = self._rope(view(compressed, (rope, 1, tokens)), place)
        kv = mul_mat(
            blocks.weights["attn_kv_b"], blocks.norm("attn_kv_a_norm", view(compressed, (rank, tokens)))
        )
        value_shape = (attention.value_size, heads, tokens)
        v = operation("cont", value_shape, view(kv, value_shape))
        k_rope = operation("repeat", (rope, heads, tokens), k_rope)
        k = operation(
            "concat",
            (attention.key_size, heads, tokens),
            view(kv, (attention.key_size - rope, heads, tokens)),
            k_rope,
        )
        caches = self._caches(attention, place)
        return blocks.attend(q, k, v, cache=caches, inputs=self._inputs(attention), attention=attention)

    def _latent(self, x: Node, latent: LatentAttention, place: int) -> Node:
        """Latent attention: queries are carried over to the compressed space (src/models/deepseek2.cpp)."""
        blocks, weights, tokens = self.blocks, self.blocks.weights, x.shape[1]
        heads, rank, rope = latent.num_heads, latent.kv_lora_rank, latent.rope_size
        inputs = self._inputs(Attention(num_heads=heads, num_kv_heads=1, key_size=0, value_size=0))
        if latent.indexer_top_k and "attn_q_a" in weights:
            queries = self._compressed_queries(x)
            inputs = replace(inputs, mask=self._sparse_mask(x, queries, latent, inputs.mask, place))
            q = self._raised_queries(queries, (latent.key_size, heads, tokens))
        else:
            q = self._low_rank_queries(x, (latent.key_size, heads, tokens))
        compressed = mul_mat(weights["attn_kv_a_mqa"], x)
        k_rope, q_rope = view(compressed, (rope, 1, tokens)), view(q, (rope, heads, tokens))
        if self.rotates:
            k_rope, q_rope = self._rope(k_rope, place), self._rope(q_rope, place)
        kv = blocks.norm("attn_kv_a_norm", view(compressed, (rank, tokens)))
        kv = view(kv, (rank, 1, tokens), dense=True)
        absorbed = mul_mat(weights["attn_k_b"], view(q, (latent.key_size - rope, tokens, heads)))
        query = operation(
            "concat", (rank + rope, heads, tokens), view(absorbed, (rank, heads, tokens)), q_rope
        )
        key = operation("concat", (rank + rope, 1, tokens), kv, k_rope)
        attention = Attention(num_heads=heads, num_kv_heads=1, key_size=rank + rope, value_size=rank)
        keys = self._cache(self.key_type, cache.key_elements(latent), self.step.cells, place)
        out = blocks.attend_latent(
            query, key, keys=keys, inputs=inputs, attention=attention, decompress=weights["attn_v_b"]
        )
        return blocks.linear("attn_output", out)

    def _sparse_mask(self, x: Node, queries: Node, latent: LatentAttention, mask: Node, place: int) -> Node:
        """The mask with all but the tokens that the layer's indexer chooses."""
        if self.indexer is None:
            self.indexer = sparse.Indexer(self.blocks, latent.indexer_size)
        keys = self._cache(self.key_type, latent.indexer_size, self.step.cells, place)
        chosen = self.indexer.choose(x, queries, keys, latent, rope=lambda node: self._rope(node, place))
        return sparse.masked(self.step, mask, chosen)

    def _recurrent(self, x: Node, state: RecurrentState, place: int) -> Node:
        return _MIXERS[state.kind](self.blocks, x, self.states(state, place))

    def states(self, state: RecurrentState, place: int) -> mixers.States:
        """Those of all sequences in one layer."""
        sequences = self.step.sequences
        conv, ssm = (
            stored(elements * sequences * F32, (elements, sequences), place, weight=False)
            for elements in (state.conv_elements, state.ssm_elements)
        )
        return mixers.States(conv, ssm, self.order, self.other_order, self.scan_others)

    def _caches(self, memory: Attention, place: int) -> tuple[Node, Node]:
        """Of keys and values: the layer's own, or those of the last layer of its kind that has some."""
        sliding = memory.window is not None
        if not memory.shared or sliding not in self.stored:
            cells = self.step.window_cells if sliding else self.step.cells
            keys = self._cache(self.key_type, cache.key_elements(memory), cells, place)
            self.stored[sliding] = keys, self._cache(self.value_type, self._value_width(memory), cells, place)
        return self.stored[sliding]

    def _value_width(self, memory: Attention) -> int:
        return cache.value_elements(memory) if self.step.flash else self.widest_value

    def _cache(self, kind: str, elements: int, cells: int, place: int) -> Node:
        count = cells * self.step.streams
        node = stored(
            cache.tensor_bytes(kind, elements, count, on_device=False),
            (elements, cells, self.step.streams),
            place,
            device_bytes=cache.tensor_bytes(kind, elements, count, on_device=True),
            weight=False,
        )
        node.item_bytes = F32 if kind == "f32" else F16
        return node

    def _inputs(self, attention: Attention) -> Inputs:
        """The mask, where to store, and what quantized caches are rotated by; one set a kind of layer."""
        sliding = attention.window is not None
        if sliding not in self.inputs:
            self.inputs[sliding] = self._make_inputs(attention)
        return self.inputs[sliding]

    def _make_inputs(self, attention: Attention) -> Inputs:
        step = self.step
        cached = attention.causal and self.architecture not in families.CACHE_UNREAD
        cells = (step.window_cells if attention.window else step.cells) if cached else step.tokens
        streams = step.streams if cached else 1
        rows = step.tokens * (1 if step.flash else self.widest_value)
        return Inputs(
            mask=graph_input((cells, step.tokens // streams, 1, streams), F16 if step.flash else F32),
            key_ids=graph_input((step.tokens,), I64),
            value_ids=graph_input((rows,), I64),
            key_rotation=_rotation(self.key_type, attention.key_size, largest=True),
            value_rotation=_rotation(self.value_type, attention.value_size, largest=False),
        )


def _rotation(kind: str, size: int, *, largest: bool) -> Node | None:
    """Quantized caches are stored rotated, in blocks of a power of two that divides the head."""
    if kind in cache.PLAIN or size % 64:
        return None
    n = (size & -size) if largest else 64
    return graph_input((n, n), F32)

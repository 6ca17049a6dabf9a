"""Sparse latent attention: an indexer scores all tokens of the cache, and attention sees the best of them.

The order of operations is that of src/models/deepseek32.cpp, src/models/glm-dsa.cpp and `build_attn` for
`llm_graph_input_attn_k_dsa` in src/llama-graph.cpp of llama.cpp, as vendored by llama-cpp-python 0.3.36.
"""

from __future__ import annotations

from collections.abc import Callable

from aimind.estimate.blocks import Blocks, Step, cached_view
from aimind.estimate.graph import F16, F32, I32, I64, Node, graph_input, mul_mat, operation, same, view, write
from aimind.types import LatentAttention


class Indexer:
    """Builds the choice of tokens of one layer after the other; the inputs are common to all of them."""

    def __init__(self, blocks: Blocks, key_size: int) -> None:
        step = self.step = blocks.step
        self.blocks = blocks
        self.rotation = graph_input((key_size, key_size), F32)
        self.key_ids = graph_input((step.tokens,), I64)
        self.mask = graph_input((step.cells, step.tokens // step.streams, 1, step.streams), F16)

    def choose(
        self, x: Node, queries: Node, keys: Node, latent: LatentAttention, *, rope: Callable[[Node], Node]
    ) -> Node:
        """The positions in the cache that each token attends to: (top_k, tokens, 1, streams).

        Args:
            x: the layer's normed input.
            queries: compressed.
            keys: the indexer's cache, to which this step's keys are written.
            latent: of the layer.
            rope: turns rows by their positions.
        """
        blocks, weights, step = self.blocks, self.blocks.weights, self.step
        size, tokens = latent.indexer_size, x.shape[1]
        key = blocks.norm("indexer.k_norm", mul_mat(weights["indexer.attn_k"], x), op="norm")
        key = mul_mat(self.rotation, rope(view(key, (size, 1, tokens), dense=True)))
        blocks.graph.expand(write(keys, view(key, (size, tokens)), self.key_ids))
        projected = mul_mat(weights["indexer.attn_q_b"], queries)
        heads = projected.shape[0] // size
        query = mul_mat(self.rotation, rope(view(projected, (size, heads, tokens), dense=True)))
        head_weights = mul_mat(weights["indexer.proj"], x)
        per_stream = tokens // step.streams
        head_weights = same("scale", view(head_weights, (heads, per_stream, 1, step.streams)))
        stored = cached_view(keys, (size, 1, step.cells, step.streams), step.key_block)
        query = view(query, (size, heads, per_stream, step.streams))
        scores = operation(
            "lightning_indexer",
            (step.cells, per_stream, 1, step.streams),
            query,
            stored,
            head_weights,
            self.mask,
        )
        shape = (min(step.cells, latent.indexer_top_k), per_stream, 1, step.streams)
        return same("cont", operation("top_k", shape, scores, item_bytes=I32))


def masked(step: Step, mask: Node, chosen: Node) -> Node:
    """The mask with every token but the chosen ones."""
    top_k, per_stream, _, streams = chosen.shape
    nothing = view(same("fill", mask), (1, step.cells, per_stream, streams))
    zeros = same("fill", Node("", (1, top_k, per_stream, streams)))
    opened = write(nothing, zeros, view(chosen, (top_k, per_stream, streams)))
    return same("add", view(opened, mask.shape), mask)

"""Alternating updates: Gemma 3n carries several versions of a token; each layer computes one of them.

The order of operations is that of src/models/gemma3n.cpp in llama.cpp, as vendored by llama-cpp-python
0.3.36.
"""

from __future__ import annotations

from aimind.estimate.blocks import Blocks
from aimind.estimate.graph import Node, mul_mat, operation, same, view


def magnitude(x: Node) -> Node:
    """The length of each token's vector."""
    return same("sqrt", operation("sum_rows", (1, *x.shape[1:]), same("sqr", x)))


def spread(x: Node, projection: Node) -> Node:
    """All versions of the embedded tokens: themselves, and projections of the same length."""
    size, tokens = x.shape
    others = projection.shape[2]
    target = magnitude(x)
    repeated = operation("repeat", (size, tokens, others), x)
    added = mul_mat(projection, repeated)
    length = magnitude(added)
    scaled = same("div", same("mul", added, target), length)
    return operation("concat", (size, tokens, others + 1), x, scaled)


def gathered(x: Node, projection: Node) -> Node:
    """The mean of all versions, brought to one length."""
    size, tokens, count = x.shape
    active = view(x, (size, tokens))
    target = magnitude(active)
    others = mul_mat(projection, view(x, (size, tokens, count - 1)))
    length = magnitude(others)
    scaled = same("div", same("mul", others, target), length)
    total = view(x, (size, tokens))
    for _ in range(count - 1):
        total = same("add", total, view(scaled, (size, tokens)))
    return same("scale", total)


def predicted(blocks: Blocks, x: Node) -> Node:
    """What every version would be after the layer."""
    size, tokens, count = x.shape
    coefficients = mul_mat(blocks.weights["altup_predict_coef"], _modalities(blocks, view(x, (size, tokens))))
    coefficients = view(coefficients, (count, count, tokens), dense=True)
    turned = operation("cont", (count, size, tokens), view(x, (count, size, tokens)))
    mixed = operation("mul_mat", (size, count, tokens), turned, coefficients)
    back = operation("cont", (size, tokens, count), view(mixed, (size, tokens, count)))
    return same("add", back, x)


def corrected(blocks: Blocks, predictions: Node, computed: Node) -> Node:
    """All versions, moved by as much as the computed one differs from its prediction."""
    size, tokens, count = predictions.shape
    modalities = _modalities(blocks, computed)
    innovation = same("sub", computed, view(predictions, (size, tokens)))
    coefficients = same("scale", mul_mat(blocks.weights["altup_correct_coef"], modalities))
    coefficients = operation("cont", (1, tokens, count), view(coefficients, (tokens, count)))
    repeated = operation("repeat", (size, tokens, count), innovation)
    return same("add", same("mul", repeated, coefficients), predictions)


def joined(blocks: Blocks, versions: Node, own_inputs: Node) -> Node:
    """The versions with the layer's own inputs added to all but the first."""
    size, tokens, count = versions.shape
    weights = blocks.weights
    gate = same("mul", view(versions, (size, tokens)), weights["altup_correct_scale"])
    gate = same("unary", mul_mat(weights["inp_gate"], gate))
    gate = same("mul", gate, view(own_inputs, gate.shape))
    added = blocks.norm("post_norm", mul_mat(weights["proj"], gate))
    rest = same("add", view(versions, (size, tokens, count - 1)), added)
    return operation("concat", versions.shape, view(versions, (size, tokens, 1)), rest)


def low_rank_residual(blocks: Blocks, x: Node) -> Node:
    """A learned residual beside attention (LAuReL)."""
    low = mul_mat(blocks.weights["laurel_r"], mul_mat(blocks.weights["laurel_l"], x))
    return same("add", blocks.norm("laurel_post_norm", low), x)


def sparse(x: Node) -> Node:
    """Only what is far above the mean is kept."""
    rows = (1, *x.shape[1:])
    mean = operation("mean", rows, x)
    squares = same("sqr", same("sub", x, mean))
    deviation = same("sqrt", same("scale", operation("sum_rows", rows, squares)))
    cutoff = same("add", mean, same("scale", deviation))
    return same("unary", same("sub", x, cutoff))


def _modalities(blocks: Blocks, x: Node) -> Node:
    routed = same("scale", blocks.norm("altup_router_norm", x))
    return same("unary", mul_mat(blocks.weights["altup_router"], routed))

"""Layers that keep a state instead of keys and values, as llama.cpp computes them.

Sources: src/models/mamba-base.cpp, delta-net-base.cpp, qwen3next.cpp, qwen35.cpp, lfm2.cpp and
kimi-linear.cpp. The sizes follow from the shapes of the layer's tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from aimind.estimate.blocks import Blocks
from aimind.estimate.graph import Node, get_rows, mul_mat, operation, same, view, write

# `d_state` for which CUDA has a kernel of Mamba 2's scan.
_SCAN_STATES = frozenset({96, 128, 256})


@dataclass(frozen=True, slots=True)
class States:
    """What one layer keeps of all sequences, and which of them a step reads.

    Attributes:
        order: the sequences of this step.
        other_order: those outside it, none at the largest step, but their places count.
        scan_others: those that a scan counts as outside.
    """

    conv: Node
    ssm: Node
    order: Node
    other_order: Node
    scan_others: Node


def load(blocks: Blocks, state: Node, states: States) -> Node:
    """The states of the step's sequences (`build_rs`)."""
    _clear(blocks, state)
    loaded = blocks.graph.expand(get_rows(view(state, state.shape, dense=True), states.order))
    _keep_others(blocks, state, states.other_order)
    return loaded


def _clear(blocks: Blocks, state: Node) -> None:
    """New sequences start from zero: this runs where the state is."""
    blocks.graph.expand(write(view(state, state.shape[:1]), op="scale"))


def _keep_others(blocks: Blocks, state: Node, order: Node) -> None:
    """Sequences outside this step, which `order` lists, keep their states."""
    others = get_rows(view(state, state.shape, dense=True), order)
    blocks.graph.expand(others)
    blocks.graph.expand(write(view(state, others.shape), others, op="cpy"))


def _convolve(blocks: Blocks, states: States, x: Node, weight: str) -> Node:
    """Put the last inputs before x, keep the newest ones, convolve; x is (channels, tokens, sequences)."""
    loaded = load(blocks, states.conv, states)
    kernel = blocks.weights[f"{weight}"].shape[0]
    channels, tokens, sequences = x.shape
    before = view(loaded, (kernel - 1, channels, sequences), dense=True)
    joined = operation(
        "concat", (kernel - 1 + tokens, channels, sequences), before, view(x, (tokens, channels, sequences))
    )
    last = view(joined, (kernel - 1, channels, sequences))
    blocks.graph.expand(write(view(states.conv, states.conv.shape), last, op="cpy"))
    out = operation("ssm_conv", (channels, tokens, sequences), joined, blocks.weights[f"{weight}"])
    out.host_only = channels % 128 != 0
    return out


def _activated(blocks: Blocks, convolved: Node) -> Node:
    bias = blocks.weights.get("ssm_conv1d.bias")
    return same("unary", convolved if bias is None else same("add", convolved, bias))


def mamba2(blocks: Blocks, x: Node, states: States) -> Node:
    """One projection for gate, input, B, C and dt; convolution; scan; gated norm."""
    weights, step = blocks.weights, blocks.step
    tokens, sequences = step.tokens // step.sequences, step.sequences
    channels = weights["ssm_conv1d"].shape[1]
    inner = weights["ssm_out"].shape[0]
    heads = prod(weights["ssm_a"].shape)
    state = prod(states.ssm.shape) // sequences // inner
    groups = (channels - inner) // 2 // state
    head = (inner // heads, heads, tokens, sequences)
    projected = blocks.linear("ssm_in", x)
    projected = view(projected, (projected.shape[0], tokens, sequences), dense=True)
    z = view(projected, head)
    dt = view(projected, (heads, tokens, sequences))
    mixed = _activated(
        blocks, _convolve(blocks, states, view(projected, (channels, tokens, sequences)), "ssm_conv1d")
    )
    x_heads = view(mixed, head)
    b = view(mixed, (state, groups, tokens, sequences))
    c = view(mixed, (state, groups, tokens, sequences))
    dt = same("add", operation("cont", dt.shape, dt), weights["ssm_dt.bias"])
    scanned = (inner * tokens * sequences + state * inner * sequences,)
    kept = view(states.ssm, (state, inner // heads, heads, sequences), dense=True)
    y_all = operation("ssm_scan", scanned, kept, x_heads, dt, weights["ssm_a"], b, c, states.order)
    y_all.host_only = state not in _SCAN_STATES
    _clear(blocks, states.ssm)
    blocks.graph.expand(y_all)
    _keep_others(blocks, states.ssm, states.scan_others)
    blocks.graph.expand(write(view(states.ssm, states.ssm.shape), view(y_all, states.ssm.shape), op="cpy"))
    y = operation(
        "add", head, view(y_all, head, dense=True), operation("mul", head, x_heads, weights["ssm_d"])
    )
    y = operation("glu", head, operation("cont", head, z), y)
    if "ssm_norm" in weights:
        y = blocks.norm("ssm_norm", view(y, (inner // groups, groups, tokens, sequences), dense=True))
    return blocks.linear("ssm_out", view(y, (inner, tokens * sequences), dense=True))


def mamba1(blocks: Blocks, x: Node, states: States) -> Node:
    """Two projections, dt, B and C from the convolved input; scan; gate."""
    weights, step = blocks.weights, blocks.step
    tokens, sequences = step.tokens // step.sequences, step.sequences
    inner = weights["ssm_conv1d"].shape[1]
    rank = weights["ssm_dt"].shape[0]
    state = weights["ssm_a"].shape[0]
    rows = (tokens, sequences)
    both = mul_mat(weights["ssm_in"], view(x, (x.shape[0], *rows), dense=True))
    z = view(both, (inner, *rows))
    mixed = _activated(blocks, _convolve(blocks, states, view(both, (inner, *rows)), "ssm_conv1d"))
    x_db = blocks.linear("ssm_x", mixed)
    parts = [view(x_db, shape) for shape in ((rank, *rows), (state, 1, *rows), (state, 1, *rows))]
    if "ssm_dt_norm" in weights:
        names = ("ssm_dt_norm", "ssm_b_norm", "ssm_c_norm")
        dt, b, c = (blocks.norm(name, part) for name, part in zip(names, parts, strict=True))
    else:
        dt, b, c = operation("cont", parts[0].shape, parts[0]), parts[1], parts[2]
    dt = blocks.linear("ssm_dt", dt)
    kept = view(states.ssm, (state, 1, inner, sequences), dense=True)
    scanned = (inner * step.tokens + state * inner * sequences,)
    x_heads = view(mixed, (1, inner, *rows), dense=True)
    y_all = operation("ssm_scan", scanned, kept, x_heads, dt, weights["ssm_a"], b, c, states.order)
    y_all.host_only = state != 16 or inner % 128 != 0
    _clear(blocks, states.ssm)
    blocks.graph.expand(y_all)
    _keep_others(blocks, states.ssm, states.scan_others)
    blocks.graph.expand(write(view(states.ssm, states.ssm.shape), view(y_all, states.ssm.shape), op="cpy"))
    y = operation(
        "add", mixed.shape, view(y_all, mixed.shape, dense=True), same("mul", mixed, weights["ssm_d"])
    )
    y = operation("glu", y.shape, operation("cont", y.shape, z), y)
    out = blocks.linear("ssm_out", y)
    return view(out, (out.shape[0], step.tokens), dense=True)


def short_convolution(blocks: Blocks, x: Node, states: States) -> Node:
    """A gated convolution over a few tokens (LFM 2)."""
    weights, step = blocks.weights, blocks.step
    tokens, sequences = step.tokens // step.sequences, step.sequences
    size = x.shape[0]
    shape = (size, tokens, sequences)
    three = mul_mat(weights["shortconv.in_proj"], view(x, shape, dense=True))
    gated = operation("mul", shape, view(three, shape), view(three, shape))
    out = _convolve(blocks, states, view(gated, shape), "shortconv.conv")
    out = blocks.linear("shortconv.out_proj", operation("mul", shape, view(three, shape), out))
    return view(out, (out.shape[0], step.tokens), dense=True)


def delta_net(blocks: Blocks, x: Node, states: States) -> Node:
    """The gated delta net of Qwen 3 Next and 3.5: projections, convolution, recurrence, gate."""
    if "ssm_conv1d_q" in blocks.weights:
        return _delta_attention(blocks, x, states)
    weights, step = blocks.weights, blocks.step
    tokens, sequences = step.tokens // step.sequences, step.sequences
    rows = (tokens, sequences)
    value = weights["ssm_norm"].shape[0]
    value_heads = prod(weights["ssm_a"].shape)
    inner = value * value_heads
    key = prod(states.ssm.shape) // sequences // inner
    key_heads = (weights["ssm_conv1d"].shape[1] - inner) // (2 * key)
    blocks.graph.expand(x)
    mixed, z = _project_delta(blocks, x, key_heads=key_heads)
    if "ssm_ba" in weights:
        beta, gate = _fused_gates(blocks, x, value_heads)
    else:
        beta = same("unary", view(blocks.linear("ssm_beta", x), (1, value_heads, *rows), dense=True))
        alpha = view(blocks.linear("ssm_alpha", x), (value_heads, *rows), dense=True)
        gate = _decay(blocks, alpha)
    beta, gate = (view(node, (1, value_heads, *rows), dense=True) for node in (beta, gate))
    convolved = _convolve(blocks, states, mixed, "ssm_conv1d")
    loaded = view(load(blocks, states.ssm, states), (value, value, value_heads, sequences), dense=True)
    conv = same("unary", convolved)
    q, k = (same("scale", same("rms_norm", view(conv, (key, key_heads, *rows)))) for _ in range(2))
    if key_heads != value_heads and "ssm_ba" in weights:
        q, k = (_repeated(node, value_heads) for node in (q, k))
    v = view(conv, (value, value_heads, *rows))
    out_shape = (inner, step.tokens + value * sequences)
    result = operation("gated_delta_net", out_shape, q, k, v, gate, beta, loaded)
    output = view(result, (value, value_heads, *rows), dense=True)
    blocks.graph.expand(write(view(states.ssm, states.ssm.shape), view(result, loaded.shape), op="cpy"))
    z = view(z, (value, value_heads, *rows), dense=True)
    normed = same("mul", operation("rms_norm", output.shape, output), weights["ssm_norm"])
    final = same("mul", normed, same("unary", z))
    out = blocks.linear("ssm_out", view(final, (inner, *rows), dense=True))
    return view(out, (out.shape[0], step.tokens), dense=True)


def _delta_attention(blocks: Blocks, x: Node, states: States) -> Node:
    """Kimi's: queries, keys and values are convolved apart, and every element has a decay of its own."""
    weights, step = blocks.weights, blocks.step
    rows = (step.tokens // step.sequences, step.sequences)
    inner, size = weights["attn_output"].shape[0], weights["ssm_norm"].shape[0]
    heads = (size, inner // size, *rows)
    blocks.graph.expand(x)
    loaded = load(blocks, states.conv, states)
    q, k, v = (view(_convolved(blocks, x, states, loaded, name), heads, dense=True) for name in "qkv")
    decay = mul_mat(weights["ssm_f_b"], mul_mat(weights["ssm_f_a"], x))
    decay = same("unary", same("add", decay, weights["ssm_dt.bias"]))
    decay = same("mul", view(decay, (size, inner // size, step.tokens), dense=True), weights["ssm_a"])
    decay = view(decay, heads, dense=True)
    beta = same("unary", view(mul_mat(weights["ssm_beta"], x), (1, *heads[1:]), dense=True))
    state_shape = (size, size, inner // size, step.sequences)
    state = view(load(blocks, states.ssm, states), state_shape, dense=True)
    q, k = (same("scale", same("rms_norm", node)) for node in (q, k))
    out_shape = (inner, step.tokens + size * step.sequences)
    result = operation("gated_delta_net", out_shape, q, k, v, decay, beta, state)
    output = operation("cont", heads, view(result, heads, dense=True))
    new_state = view(result, state_shape)
    blocks.graph.expand(write(view(states.ssm, states.ssm.shape), new_state, op="cpy"))
    flat = (size, inner // size, step.tokens)
    gate = view(mul_mat(weights["ssm_g_b"], mul_mat(weights["ssm_g_a"], x)), flat, dense=True)
    normed = blocks.norm("ssm_norm", view(output, flat, dense=True))
    gated = operation("cont", (inner, step.tokens), same("mul", normed, same("unary", gate)))
    return mul_mat(weights["attn_output"], gated)


def _convolved(blocks: Blocks, x: Node, states: States, loaded: Node, name: str) -> Node:
    """One of queries, keys and values, its last inputs kept in its third of the state."""
    weight = blocks.weights[f"ssm_conv1d_{name}"]
    step, kernel = blocks.step, weight.shape[0]
    projected = mul_mat(blocks.weights[f"attn_{name}"], x)
    inner, tokens = projected.shape[0], step.tokens // step.sequences
    kept = (kernel - 1, inner, step.sequences)
    turned = view(projected, (tokens, inner, step.sequences))
    joined = operation("concat", (kernel - 1 + tokens, *kept[1:]), view(loaded, kept), turned)
    blocks.graph.expand(write(view(states.conv, kept), view(joined, kept), op="cpy"))
    out = operation(
        "ssm_conv", (inner, tokens, step.sequences), joined, view(weight, (kernel, inner), dense=True)
    )
    out.host_only = inner % 128 != 0
    return same("unary", view(out, (inner, step.tokens), dense=True))


def _project_delta(blocks: Blocks, x: Node, *, key_heads: int) -> tuple[Node, Node]:
    """Queries, keys and values side by side, and the gate z."""
    step = blocks.step
    rows = (step.tokens // step.sequences, step.sequences)
    if "attn_qkv" in blocks.weights:
        mixed = blocks.linear("attn_qkv", x)
        return view(mixed, (mixed.shape[0], *rows), dense=True), blocks.linear("attn_gate", x)
    both = blocks.linear("ssm_in", x)
    channels = blocks.weights["ssm_conv1d"].shape[1]
    inner = both.shape[0] - channels
    key = (channels - inner) // 2
    z = operation(
        "cont", (inner // key_heads, key_heads, *rows), view(both, (inner // key_heads, key_heads, *rows))
    )
    q, k, v = (operation("cont", (size, *rows), view(both, (size, *rows))) for size in (key, key, inner))
    joined = operation("concat", (2 * key, *rows), q, k)
    return operation("concat", (channels, *rows), joined, v), z


def _fused_gates(blocks: Blocks, x: Node, heads: int) -> tuple[Node, Node]:
    both = blocks.linear("ssm_ba", x)
    shape = (heads, blocks.step.tokens // blocks.step.sequences, blocks.step.sequences)
    beta = same("unary", operation("cont", shape, view(both, shape)))
    return beta, _decay(blocks, operation("cont", shape, view(both, shape)))


def _decay(blocks: Blocks, alpha: Node) -> Node:
    biased = same("unary", same("add", alpha, blocks.weights["ssm_dt.bias"]))
    return same("mul", biased, blocks.weights["ssm_a"])


def _repeated(x: Node, heads: int) -> Node:
    size, had, tokens, sequences = x.shape
    wide = operation(
        "repeat",
        (size, heads // had, had, tokens * sequences),
        view(x, (size, 1, had, tokens * sequences), dense=True),
    )
    return view(wide, (size, heads, tokens, sequences), dense=True)

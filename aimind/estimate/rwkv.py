"""Layers of RWKV 6 and 7: a mix over time with a state for each head, and one over channels.

The order of operations is that of src/models/rwkv6-base.cpp, rwkv7-base.cpp, rwkv6.cpp and rwkv7.cpp in
llama.cpp, as vendored by llama-cpp-python 0.3.36.
"""

from __future__ import annotations

from aimind.estimate.blocks import Blocks
from aimind.estimate.graph import Node, get_rows, mul_mat, operation, same, view, write
from aimind.estimate.mixers import States, load


class Rwkv:
    """Builds one layer after the other; the first layer's values go into all others (RWKV 7)."""

    def __init__(self, blocks: Blocks) -> None:
        self.blocks = blocks
        self.first_values: Node | None = None

    def layer(self, x: Node, states: States, picked: Node | None) -> Node:
        """A layer, of which only the `picked` rows go on to the channels' mix."""
        blocks, tokens = self.blocks, self.blocks.step.tokens
        sequences = blocks.step.sequences
        size = x.shape[0]
        rows = (size, tokens // sequences, sequences)
        before = (size, rows[1] - 1, sequences)
        x = view(x, rows, dense=True)
        shifts = view(load(blocks, states.conv, states), (size, 2, sequences), dense=True)
        one = (size, 1, sequences)
        normed = blocks.norm("attn_norm", x)
        previous = operation("concat", rows, view(shifts, one), view(normed, before))
        mixed = self._time_mix(normed, previous, states)
        given = same("add", mixed, x)
        second = blocks.norm("attn_norm_2", given)
        previous = operation("concat", rows, view(shifts, one), view(second, before))
        kept = operation("concat", (size, 2, sequences), view(normed, one), view(second, one))
        blocks.graph.expand(write(view(states.conv, states.conv.shape), kept, op="cpy"))
        parts = [view(node, (size, tokens), dense=True) for node in (given, second, previous)]
        if picked is not None:
            parts = [get_rows(node, picked) for node in parts]
        return same("add", self._channel_mix(*parts[1:]), parts[0])

    def _channel_mix(self, x: Node, previous: Node) -> Node:
        weights = self.blocks.weights
        shift = same("sub", previous, x)
        keys = same("add", same("mul", shift, weights["channel_mix_lerp_k"]), x)
        if "channel_mix_receptance" not in weights:
            hidden = same("sqr", same("unary", mul_mat(weights["channel_mix_key"], keys)))
            return mul_mat(weights["channel_mix_value"], hidden)
        gates = same("add", same("mul", shift, weights["channel_mix_lerp_r"]), x)
        gate = same("unary", mul_mat(weights["channel_mix_receptance"], gates))
        hidden = same("sqr", same("unary", mul_mat(weights["channel_mix_key"], keys)))
        return same("mul", gate, mul_mat(weights["channel_mix_value"], hidden))

    def _time_mix(self, x: Node, previous: Node, states: States) -> Node:
        mix = self._seventh if "time_mix_r_k" in self.blocks.weights else self._sixth
        out = mix(x, same("sub", previous, x), states)
        return view(mul_mat(self.blocks.weights["time_mix_output"], out), x.shape, dense=True)

    def _recur(self, op: str, sources: list[Node], states: States) -> Node:
        """The recurrence over the step's tokens: its result, and the new state behind it."""
        size, tokens = states.ssm.shape[0], self.blocks.step.tokens
        hidden = sources[0].shape[0] * sources[0].shape[1]
        kept = load(self.blocks, states.ssm, states)
        rows = tokens + size // hidden * self.blocks.step.sequences
        out = operation(op, (hidden, rows), *sources, kept)
        out.host_only = sources[0].shape[0] not in (64, 128)
        self.blocks.graph.expand(write(view(states.ssm, states.ssm.shape), view(out, kept.shape), op="cpy"))
        return out

    def _normed(self, out: Node, shape: tuple[int, ...]) -> Node:
        """A norm of each head."""
        flat = (shape[0] * shape[1], shape[2])
        y = view(operation("norm", shape, view(out, shape, dense=True)), flat, dense=True)
        return same(
            "add", same("mul", y, self.blocks.weights["time_mix_ln"]), self.blocks.weights["time_mix_ln.bias"]
        )

    def _sixth(self, x: Node, shift: Node, states: States) -> Node:
        weights, tokens = self.blocks.weights, self.blocks.step.tokens
        size = x.shape[0]
        flat = (size, tokens)
        shift, x = view(shift, flat, dense=True), view(x, flat, dense=True)
        low = same("add", same("mul", shift, weights["time_mix_lerp_x"]), x)
        low = same("unary", mul_mat(weights["time_mix_w1"], low))
        rank = low.shape[0] // 5
        low = operation("cont", (rank, tokens, 1, 5), view(low, (rank, tokens, 1, 5)))
        five = operation(
            "mul_mat", (size, tokens, 1, 5), view(weights["time_mix_w2"], (rank, size, 1, 5), dense=True), low
        )
        five = same("add", same("mul", same("add", five, weights["time_mix_lerp_fused"]), shift), x)
        w, k, v, r, g = (view(five, flat) for _ in range(5))
        parts = {"key": k, "value": v, "receptance": r}
        heads = weights["time_mix_first"].shape[0]
        shape = (heads, size // heads, tokens)
        k, v, r = (
            view(self.blocks.linear(f"time_mix_{n}", part), shape, dense=True) for n, part in parts.items()
        )
        gate = same("unary", mul_mat(weights["time_mix_gate"], g))
        decay = same("unary", mul_mat(weights["time_mix_decay_w1"], w))
        decay = same("add", mul_mat(weights["time_mix_decay_w2"], decay), weights["time_mix_decay"])
        decay = view(same("unary", same("unary", same("unary", decay))), shape, dense=True)
        out = self._recur("wkv6", [k, v, r, weights["time_mix_first"], decay], states)
        return same("mul", self._normed(view(out, (size * tokens,)), shape), gate)

    def _seventh(self, x: Node, shift: Node, states: States) -> Node:
        weights, step = self.blocks.weights, self.blocks.step
        size, tokens = x.shape[0], step.tokens
        flat = (size, tokens)
        gated = "time_mix_g1" in weights
        shift = operation("repeat", (*x.shape, 6 if gated else 5), shift)
        six = same("add", same("mul", shift, weights["time_mix_lerp_fused"]), x)
        heads = states.ssm.shape[0] // size
        shape = (heads, size // heads, tokens)
        r = mul_mat(weights["time_mix_receptance"], view(six, flat))
        w = self._low_rank("w", view(six, flat), active=True)
        w = same("unary", same("scale", same("unary", w)))
        k = mul_mat(weights["time_mix_key"], view(six, flat))
        values_input = view(six, flat)
        v = mul_mat(weights["time_mix_value"], values_input)
        if self.first_values is None:
            self.first_values = v
        else:
            share = same("unary", self._low_rank("v", values_input))
            v = same("add", v, same("mul", same("sub", self.first_values, v), share))
        a = same("unary", self._low_rank("a", view(six, flat)))
        kk = operation("l2_norm", shape, view(same("mul", k, weights["time_mix_k_k"]), shape, dense=True))
        ka = same("mul", k, weights["time_mix_k_a"])
        k = same("add", k, same("sub", same("mul", a, ka), ka))
        r, w, k, v, a = (view(node, shape, dense=True) for node in (r, w, k, v, a))
        out = self._recur("wkv7", [r, w, k, v, same("unary", kk), same("mul", kk, a)], states)
        y = view(out, (size * tokens,))
        y = self._normed(y, shape) if "time_mix_ln" in weights else view(y, flat, dense=True)
        product = same("mul", same("mul", k, r), view(weights["time_mix_r_k"], shape[:2], dense=True))
        bonus = same("mul", v, operation("sum_rows", (1, *shape[1:]), product))
        y = same("add", y, view(bonus, flat, dense=True))
        if gated:
            low = same("unary", mul_mat(weights["time_mix_g1"], view(six, flat)))
            y = same("mul", y, mul_mat(weights["time_mix_g2"], low))
        return y

    def _low_rank(self, name: str, x: Node, *, active: bool = False) -> Node:
        weights = self.blocks.weights
        low = mul_mat(weights[f"time_mix_{name}1"], x)
        low = same("unary", low) if active else low
        return same("add", mul_mat(weights[f"time_mix_{name}2"], low), weights[f"time_mix_{name}0"])

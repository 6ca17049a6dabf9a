"""A model's whole computation for one step, as a graph: inputs, layers, output head.

The order of operations is that of src/models/*.cpp in llama.cpp. Where that cannot be told from the tensors
of a layer, families.py says it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aimind.estimate import alternating, cache, families
from aimind.estimate.blocks import Blocks, Step
from aimind.estimate.graph import (
    F32,
    I32,
    I64,
    Graph,
    Node,
    get_rows,
    graph_input,
    mul_mat,
    operation,
    same,
    view,
    write,
)
from aimind.estimate.remember import Remember
from aimind.estimate.rwkv import Rwkv
from aimind.estimate.weights import is_expert
from aimind.types import Attention, LatentAttention, Layer, Metadata, Tensor

Weight = Callable[[Tensor, int], Node]


class Network:
    """Builds the graph of one step.

    Args:
        metadata: of the model.
        step: the largest that the settings allow.
        types: of the cache's keys and values.
        host: the index that stands for RAM; devices come before it.
        weight: makes the node of a tensor at a place.
    """

    def __init__(
        self,
        metadata: Metadata,
        step: Step,
        *,
        types: tuple[str, str],
        host: int,
        weight: Weight,
    ) -> None:
        self.metadata, self.step, self.host = metadata, step, host
        self.weight = weight
        self.graph = Graph()
        self.others = {tensor.name: tensor for tensor in metadata.others}
        self.made: dict[tuple[str, int], Node] = {}
        architecture = self.architecture = metadata.architecture
        self.blocks = Blocks(
            self.graph,
            step,
            architecture=architecture,
            host=host,
            keys_first=any(
                isinstance(m, Attention) and m.window for layer in metadata.layers for m in layer.memory
            ),
        )
        self.remember = Remember(self.blocks, metadata, types=types, factors=self._rope_factors)
        self.rwkv = Rwkv(self.blocks)
        self.output_ids = graph_input((step.outputs,), I32)
        self.per_layer: Node | None = None
        self.features: Node | None = None
        self.built = 0
        only = {"output_norm.weight", "token_embd_norm.weight"} & self.others.keys()
        renamed = only == {"token_embd_norm.weight"} and not self._is_encoder()  # LFM2
        self.last_norm = "token_embd_norm" if renamed else "output_norm"

    def build(self, layers: Sequence[tuple[Layer, int, int]], head: int) -> Graph:
        """The graph of these layers, each with its place and its experts', and the output at `head`."""
        x = self._embedding(layers[0][1], head)
        layers = [entry for entry in layers if entry[0].tensors]  # others only draft
        last = len(layers) - 1
        for index, (layer, place, experts) in enumerate(layers):
            self.blocks.weights = {
                _short(tensor.name): self.weight(tensor, experts if is_expert(tensor) else place)
                for tensor in layer.tensors
            }
            x = self._layer(x, layer, place, last=index == last)
            if self.features is not None and index < self.metadata.deepstack:
                x = same("add", x, view(self.features, (self.metadata.hidden_size, x.shape[1])))
        self._output(x, head)
        return self.graph

    # ── Inputs and outputs ─────────────────────────────────────────────────────────────────────────────────

    def _embedding(self, first: int, head: int) -> Node:
        step, size = self.step, self.metadata.hidden_size
        tokens = graph_input((step.tokens,), I32)
        expand = self.graph.expand
        per_layer = self._per_layer_rows(tokens)
        if per_layer is not None and step.mixed_inputs:
            expand(per_layer)
        x = expand(get_rows(self._other("token_embd.weight", self.host), tokens))
        if self.architecture in families.SCALED_LAYERS:
            x = expand(same("scale", x))
        width = size * (1 + self.metadata.deepstack)
        rows = None
        if step.mixed_inputs:
            mixed_tokens = graph_input((step.tokens,), I32)
            rows = expand(get_rows(self._other("token_embd.weight", self.host), mixed_tokens))
        if width > size:
            self.features = expand(operation("pad", (width, step.tokens), x))
            x = expand(view(self.features, (size, step.tokens)))
        expand(graph_input((width, step.tokens), F32))  # for callers that bring embeddings instead of tokens
        if rows is not None:  # and for those that bring both
            self._mix_inputs(rows, width)
        if step.mixed_inputs and self.architecture in families.SCALED_ROWS:
            x = same("mul", x, graph_input((1, step.tokens), F32))
        elif self.architecture in families.SCALED_EMBEDDING:
            x = same("scale", x)
        x = self._with_positions(x, first)
        if per_layer is not None:
            self.per_layer = self._per_layer_inputs(x, per_layer, first)
        if "altup_proj.weight" in self.others:
            x = alternating.spread(x, self._other("altup_proj.weight", head))
        return x

    def _mix_inputs(self, rows: Node, width: int) -> None:
        """Write the tokens' rows between embeddings of `width` elements, which deepstack makes wider."""
        expand, tokens = self.graph.expand, self.step.tokens
        if width > rows.shape[0]:
            rows = operation("pad", (width, tokens), rows)
        slots = graph_input((tokens,), I64)
        embeddings = graph_input((width, tokens), F32)
        expand(write(same("dup", embeddings), rows, slots))

    def _with_positions(self, x: Node, first: int) -> Node:
        """What some models add to the embedding, and norm."""
        size = self.metadata.hidden_size
        if "token_types.weight" in self.others:
            x = same("add", x, view(self._other("token_types.weight", self.host), (size,), dense=True))
        if "position_embd.weight" in self.others:
            x = same(
                "add", get_rows(self._other("position_embd.weight", self.host), self.remember.positions), x
            )
        if "token_embd_norm.weight" in self.others and self.last_norm != "token_embd_norm":
            x = self._final_norm("token_embd_norm", x, first)
        return x

    def _per_layer_rows(self, tokens: Node) -> Node | None:
        """A second, smaller embedding for every layer (Gemma 3n and 4)."""
        name = "per_layer_token_embd.weight"
        if name not in self.others:
            return None
        return get_rows(self._other(name, self.host), graph_input(tokens.shape, I32))

    def _per_layer_inputs(self, x: Node, rows: Node, first: int) -> Node:
        count = len(self.metadata.layers)
        shape = (rows.shape[0] // count, count, rows.shape[1])
        rows = same("scale", view(rows, shape, dense=True))
        if not self.step.mixed_inputs:
            self.graph.expand(rows)
        projected = same("scale", mul_mat(self._other("per_layer_model_proj.weight", first), x))
        normed = same("rms_norm", view(projected, shape, dense=True))
        weight = self._other("per_layer_proj_norm.weight", first)
        joined = same("scale", same("add", same("mul", normed, weight), rows))
        return operation("cont", (shape[0], shape[2], shape[1]), view(joined, shape))

    def _output(self, x: Node, head: int) -> None:
        late = self.architecture in families.LATE_OUTPUT
        before_norm = self.architecture in families.LATE_BEFORE_NORM
        if "altup_unembd_proj.weight" in self.others:
            x = alternating.gathered(x, self._other("altup_unembd_proj.weight", head))
        if late and before_norm:
            x.is_output = True
            x = get_rows(x, self.output_ids)
        x = self._final_norm(self.last_norm, x, head)
        x.is_output = True
        if late and not before_norm:
            x = get_rows(x, self.output_ids)
        if self._is_encoder():
            self._pool(self.graph.expand(x))
            return
        name = "output.weight" if "output.weight" in self.others else "token_embd.weight"
        logits = mul_mat(self._other(name, head), x)
        if self.architecture in families.MASKED_LOGITS:
            logits = operation("set", logits.shape, logits)
        if "output.bias" in self.others:
            logits = same("add", logits, self._other("output.bias", head))
        self.graph.expand(logits).is_output = True
        if self.metadata.pools:
            self._pool(x)

    def _is_encoder(self) -> bool:
        """Whether all that it gives is a vector a sequence: there is no output head."""
        memories = [m for layer in self.metadata.layers for m in layer.memory]
        embeds = self.metadata.pools
        return embeds and all(isinstance(m, Attention) and not m.causal for m in memories)

    def _rope_factors(self, place: int) -> list[Node]:
        names = ("rope_freqs.weight", "rope_factors_long.weight")
        return [self._other(name, place) for name in names if name in self.others]

    def _pool(self, x: Node) -> None:
        """One vector a sequence: their mean, the costlier way of the two."""
        turned = operation("cont", (x.shape[1], x.shape[0]), view(x, x.shape))
        mean = graph_input((x.shape[1], self.step.sequences), F32)
        pooled = operation("mul_mat", (x.shape[0], self.step.sequences), turned, mean)
        self.graph.expand(pooled).is_output = True

    def _final_norm(self, name: str, x: Node, place: int) -> Node:
        blocks = self.blocks
        blocks.weights = {
            n.removesuffix(".weight"): self._other(n, place)
            for n in (f"{name}.weight", f"{name}.bias")
            if n in self.others
        }
        return blocks.norm(name, x)

    def _other(self, name: str, place: int) -> Node:
        key = name, place
        if key not in self.made:
            self.made[key] = self.weight(self.others[name], place)
        return self.made[key]

    # ── Layers ─────────────────────────────────────────────────────────────────────────────────────────────

    def _layer(self, x: Node, layer: Layer, place: int, *, last: bool) -> Node:
        state = cache.state(layer)
        if state is not None and state.kind == "rwkv":
            states = self.remember.states(state, place)
            return self.rwkv.layer(x, states, self.output_ids if last else None)
        if "altup_predict_coef" in self.blocks.weights and self.per_layer is not None:
            return self._alternating(x, self.per_layer, layer, place)
        return self._mixed(x, layer, place, last=last)

    def _mixed(self, x: Node, layer: Layer, place: int, *, last: bool) -> Node:
        """Attention or a recurrent mixer, and a feed-forward."""
        blocks, weights = self.blocks, self.blocks.weights
        pick = last and self.architecture not in families.LATE_OUTPUT | families.ALL_OUTPUTS
        own_norm = self.architecture in families.PARALLEL_SUMS and "attn_norm_2" in weights
        normed = blocks.norm("attn_norm_2" if own_norm else "attn_norm", x)
        mixed = self.remember.mix(x, normed, layer, place)
        if own_norm:  # attention's, beside that of the feed-forward
            normed = blocks.norm("attn_norm", x)
        if mixed is None:  # only a feed-forward (Nemotron H, DeciLM)
            x = get_rows(x, self.output_ids) if pick else x
            normed = get_rows(normed, self.output_ids) if pick and normed is not x else normed
            before = blocks.norm("ffn_norm", x) if "ffn_norm" in weights else normed
            return same("add", self._feed(before, layer), x)
        if len(layer.memory) > 1:  # mixers side by side: the rows are picked from the sum (Falcon H1)
            x = same("add", mixed, x)
            x = get_rows(x, self.output_ids) if pick else x
            return same("add", self._feed(blocks.norm("ffn_norm", x), layer), x)
        if pick:
            mixed = get_rows(mixed, self.output_ids)
            x, normed = get_rows(x, self.output_ids), get_rows(normed, self.output_ids)
        if not (layer.feed_forward_size or layer.num_experts):
            return same("add", mixed, x)
        if "layer_output_norm" in weights and "ffn_norm" not in weights:  # an encoder: norms after the sums
            x = blocks.norm("attn_norm_2", blocks.norm("attn_output_norm", same("add", mixed, x)))
            return blocks.norm("layer_output_norm", same("add", self._feed(x, layer), x))
        if not blocks.bare_norms and self._is_parallel():
            if self.architecture == "stablelm":
                x = same("add", mixed, x)
                return same("add", self._feed(normed, layer), x)
            fed = self._feed(blocks.norm("ffn_norm", x) if "ffn_norm" in weights else normed, layer)
            parts = {"fed": fed, "input": x, "mixed": mixed}
            first, second, third = families.PARALLEL_SUMS.get(self.architecture, ("fed", "input", "mixed"))
            return same("add", same("add", parts[first], parts[second]), parts[third])
        return self._sequential(mixed, x, layer)

    def _alternating(self, x: Node, per_layer: Node, layer: Layer, place: int) -> Node:
        """A layer that computes one version of each token and moves all of them (Gemma 3n)."""
        blocks = self.blocks
        predictions = alternating.predicted(blocks, x)
        active = view(predictions, predictions.shape[:2])
        normed = blocks.norm("attn_norm", active)
        beside = alternating.low_rank_residual(blocks, normed)
        mixed = self.remember.mix(active, normed, layer, place)
        mixed = active if mixed is None else same("add", blocks.norm("post_attention_norm", mixed), active)
        given = same("scale", same("add", mixed, beside))
        fed = blocks.norm("ffn_norm", given)
        up, gate = mul_mat(blocks.weights["ffn_up"], fed), mul_mat(blocks.weights["ffn_gate"], fed)
        self.built += 1
        if self.built <= families.SPARSE_LAYERS:
            gate = alternating.sparse(gate)
        fed = mul_mat(blocks.weights["ffn_down"], same("mul", up, same("unary", gate)))
        computed = same("add", blocks.norm("post_ffw_norm", fed), given)
        return alternating.joined(blocks, alternating.corrected(blocks, predictions, computed), per_layer)

    def _is_parallel(self) -> bool:
        """Whether attention and feed-forward both read the layer's input."""
        norms = ("ffn_norm", "attn_output_norm", "post_attention_norm", "post_ffw_norm")
        return self.architecture in families.PARALLEL or not any(
            name in self.blocks.weights for name in norms
        )

    def _sequential(self, mixed: Node, x: Node, layer: Layer) -> Node:
        """Attention, sum, feed-forward, sum; a norm before each, and with some families behind each."""
        blocks, weights = self.blocks, self.blocks.weights
        scaled = self.architecture in families.SCALED_LAYERS
        names = ("ffn_norm", "attn_output_norm", "post_attention_norm")
        bare = blocks.bare_norms
        before = next(name for name in names if name in weights or name in bare or name == names[-1])
        sandwiched = "post_ffw_norm" in weights or before == "ffn_norm"
        if sandwiched:
            mixed = blocks.norm("post_attention_norm", mixed)
        mixed = same("scale", mixed) if scaled else mixed
        reversed_sum = self.architecture in families.INPUT_FIRST
        x, given = (same("add", x, mixed) if reversed_sum else same("add", mixed, x)), x
        fed = self._feed(
            blocks.norm(before, x) if not sandwiched or before == "ffn_norm" else x, layer, given
        )
        fed = blocks.norm("post_ffw_norm", fed)
        fed = same("scale", fed) if scaled else fed
        out = same("add", x, fed) if self.architecture in families.RESIDUAL_FIRST else same("add", fed, x)
        return out if self.per_layer is None else self._add_per_layer(out, self.per_layer)

    def _add_per_layer(self, x: Node, per_layer: Node) -> Node:
        weights = self.blocks.weights
        gate = same("unary", mul_mat(weights["inp_gate"], x))
        gate = same("mul", gate, view(per_layer, gate.shape))
        out = same("add", x, self.blocks.norm("post_norm", mul_mat(weights["proj"], gate)))
        return same("mul", out, weights["layer_output_scale"]) if "layer_output_scale" in weights else out

    def _feed(self, x: Node, layer: Layer, given: Node | None = None) -> Node:
        """The feed-forward, experts, or both; `given` is the layer's input, which some routers read."""
        blocks, weights = self.blocks, self.blocks.weights
        if not layer.num_experts:
            return blocks.feed_forward(x)
        if self.architecture in families.ROUTED_BY_INPUT:
            return blocks.experts(x, layer.num_experts_used, router_input=given)
        if "ffn_norm_exps" in weights and given is not None:  # experts beside a whole layer (Arctic)
            dense = same("add", blocks.feed_forward(x), x)
            return same(
                "add", blocks.experts(blocks.norm("ffn_norm_exps", given), layer.num_experts_used), dense
            )
        if "ffn_up" in weights:  # dense and experts side by side (Gemma 4)
            dense = blocks.norm("post_ffw_norm_1", blocks.feed_forward(x))
            routed = blocks.experts(x, layer.num_experts_used)
            return same("add", dense, blocks.norm("post_ffw_norm_2", routed))
        out = blocks.experts(x, layer.num_experts_used)
        if "ffn_up_shexp" not in weights:
            return out
        shared = blocks.feed_forward(x, suffix="_shexp")
        if "ffn_gate_inp_shexp" in weights:
            shared = same("mul", shared, same("unary", mul_mat(weights["ffn_gate_inp_shexp"], x)))
        return same("add", out, shared)


def understands(layer: Layer) -> bool:
    """Whether the operations of a layer follow from its tensors here."""
    names = {_short(tensor.name) for tensor in layer.tensors}
    attention, state = cache.attention(layer), cache.state(layer)
    needs: set[str] = set()
    if isinstance(attention, LatentAttention):
        needs |= {"attn_kv_a_mqa", "attn_kv_a_norm", "attn_k_b", "attn_v_b", "attn_output"}
    elif attention is not None:
        needs |= {"attn_output"}
        if "attn_kv_b" in names:
            needs |= {"attn_kv_a_mqa", "attn_kv_a_norm", "attn_q_b" if "attn_q_a" in names else "attn_q"}
        else:
            needs |= {"attn_qkv"} if "attn_qkv" in names else {"attn_q"}
    if "ssm_conv1d_q" in names:
        needs |= _DELTA_ATTENTION_NAMES
    elif state is not None:
        needs |= _STATE_NAMES.get(state.kind, {"?"})
    if layer.num_experts:
        needs |= {"ffn_gate_inp", "ffn_down_exps"} | (
            {"ffn_gate_up_exps"} if "ffn_gate_up_exps" in names else {"ffn_up_exps"}
        )
    elif layer.feed_forward_size and "time_mix_output" not in names:
        needs |= {"ffn_up", "ffn_down"}
    return needs <= names


_DELTA_ATTENTION_NAMES = {
    "attn_k",
    "attn_output",
    "attn_q",
    "attn_v",
    "ssm_a",
    "ssm_beta",
    "ssm_conv1d_k",
    "ssm_conv1d_v",
    "ssm_dt.bias",
    "ssm_f_a",
    "ssm_f_b",
    "ssm_g_a",
    "ssm_g_b",
    "ssm_norm",
}
_STATE_NAMES = {
    "mamba1": {"ssm_in", "ssm_conv1d", "ssm_x", "ssm_dt", "ssm_a", "ssm_d", "ssm_out"},
    "mamba2": {"ssm_in", "ssm_conv1d", "ssm_dt.bias", "ssm_a", "ssm_d", "ssm_out"},
    "gated-delta-net": {"ssm_conv1d", "ssm_dt.bias", "ssm_a", "ssm_norm", "ssm_out"},
    "rwkv": {
        "attn_norm",
        "attn_norm_2",
        "channel_mix_key",
        "channel_mix_lerp_k",
        "channel_mix_value",
        "time_mix_key",
        "time_mix_lerp_fused",
        "time_mix_ln",
        "time_mix_output",
        "time_mix_receptance",
        "time_mix_value",
        "time_mix_w1",
        "time_mix_w2",
    },
    "short-conv": {"shortconv.in_proj", "shortconv.conv", "shortconv.out_proj"},
}


def _short(name: str) -> str:
    """What follows `blk.N.`, without the ending that all weights have but biases and some norms do not."""
    return name.removeprefix("enc.").removeprefix("dec.").split(".", 2)[-1].removesuffix(".weight")

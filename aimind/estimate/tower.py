"""A vision tower's computation for the picture with which llama.cpp warms it up, as a graph.

The order of operations is that of `clip_graph::build_vit` in tools/mtmd/clip.cpp and of qwen2vl.cpp,
qwen3vl.cpp, siglip.cpp and pixtral.cpp in tools/mtmd/models of llama.cpp, as vendored by llama-cpp-python
0.3.36. What a tower has is told by its tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt, prod

from aimind.estimate.graph import (
    F16,
    F32,
    I32,
    Graph,
    Node,
    graph_input,
    mul_mat,
    operation,
    same,
    stored,
    view,
)
from aimind.estimate.schedule import buffer_sizes
from aimind.types import Tensor, Tower

# Towers whose layers attend to windows, except for some of them: their mask covers all patches.
_WINDOWED = "qwen2.5vl_merger"
# Where no layer keeps anything, so many layers take as much memory as all.
_LAYERS_FOR_ALL = 3
# Those whose queries and keys are turned by the patches' positions.
_ROTARY = frozenset({"pixtral", "qwen2.5vl_merger", "qwen2vl_merger", "qwen3vl_merger"})


def compute_bytes(tower: Tower, tensors: Mapping[str, Tensor], *, patches: int) -> int:
    """Bytes of the buffer in which a picture of so many patches is computed.

    Raises:
        KeyError: a tensor that every tower has is missing.
    """
    return buffer_sizes(_Tower(tower, tensors, patches).build(), devices=0)[0]


class _Tower:
    def __init__(self, tower: Tower, tensors: Mapping[str, Tensor], patches: int) -> None:
        self.tower, self.tensors, self.patches = tower, tensors, patches
        self.graph = Graph()
        self.made: dict[str, Node] = {}
        self.size = tensors["v.patch_embd.weight"].shape[-1]
        self.positions = graph_input((4 * patches,), I32)
        self.mask = self._window_mask()
        self.kept: dict[str, Node] = {}

    def build(self) -> Graph:
        x = self._embedded()
        x = self._norm("v.pre_ln", x)
        if self.mask is not None:  # patches in the order of their windows
            x = self._reordered(x)
        x = self._layers(x)
        x = self._norm("v.post_ln", x)
        self.graph.expand(self._projected(x))
        return self.graph

    # ── Parts ──────────────────────────────────────────────────────────────────────────────────────────────

    def _weight(self, name: str) -> Node | None:
        if name not in self.tensors:
            return None
        if name not in self.made:
            tensor = self.tensors[name]
            self.made[name] = stored(tensor.size_bytes, tensor.shape, 0)
        return self.made[name]

    def _linear(self, name: str, x: Node) -> Node:
        weight = self._weight(f"{name}.weight")
        if weight is None:
            raise KeyError(name)
        return self._biased(name, mul_mat(weight, x))

    def _biased(self, name: str, x: Node) -> Node:
        bias = self._weight(f"{name}.bias")
        return x if bias is None else same("add", x, bias)

    def _norm(self, name: str, x: Node) -> Node:
        """With a bias it is a LayerNorm, which is not computed in place."""
        weight = self._weight(f"{name}.weight")
        if weight is None:
            return x
        kind = "norm" if f"{name}.bias" in self.tensors else "rms_norm"
        return self._biased(name, same("mul", same(kind, x), weight))

    def _feed_forward(self, up: str, down: str, x: Node, *, gate: str = "") -> Node:
        hidden = self._linear(up, x)
        if f"{gate}.weight" in self.tensors:
            hidden = same("glu", self._linear(gate, x), hidden)
        else:
            hidden = same("unary", hidden)
        return self._linear(down, hidden)

    # ── The tower ──────────────────────────────────────────────────────────────────────────────────────────

    def _window_mask(self) -> Node | None:
        """In 16 bit, as llama.cpp 0.7 and xllamacpp 2026.10 bring it."""
        if self.tower.kind != _WINDOWED:
            return None
        return graph_input((self.patches, self.patches), F16)

    def _embedded(self) -> Node:
        rows = (self.size, self.patches)
        pixels = graph_input((self.patches * self.tower.patch_size**2, 3), F32)
        x = self._convolved("v.patch_embd.weight", pixels)
        if "v.patch_embd.weight.1" in self.tensors:  # two frames of a film; merged patches side by side
            x = same("add", x, self._convolved("v.patch_embd.weight.1", pixels))
            x = operation("cont", rows, view(x, x.shape))
        x = self._biased("v.patch_embd", operation("cont", rows, view(x, x.shape)))
        positions = self._weight("v.position_embd.weight")
        if positions is None:
            return x
        if prod(positions.shape) != prod(rows):  # of a picture of another size
            positions = operation("interpolate", rows, view(positions, positions.shape))
            for _ in range(3):
                positions = operation("cont", rows, view(positions, rows))
        return same("add", x, positions)

    def _convolved(self, name: str, pixels: Node) -> Node:
        weight = self._weight(name)
        if weight is None:
            raise KeyError(name)
        columns = (prod(weight.shape[:-1]), self.patches)
        item_bytes = F32 if self.tensors[name].dtype == "BF16" else F16
        unrolled = operation("im2col", columns, weight, pixels, item_bytes=item_bytes)
        product = operation("mul_mat", (self.patches, self.size), unrolled, view(weight, weight.shape))
        return operation("cont", (self.patches, self.size), view(product, product.shape))

    def _reordered(self, x: Node) -> Node:
        order = graph_input((self.patches // 4,), I32)
        merged = view(x, (4 * self.size, self.patches // 4), dense=True)
        return view(operation("get_rows", merged.shape, merged, order), x.shape, dense=True)

    def _layers(self, x: Node) -> Node:
        """All layers compute alike: without deepstack, which keeps some results, a few stand for all."""
        most = (
            _LAYERS_FOR_ALL if not any(name.startswith("v.deepstack.") for name in self.tensors) else 1 << 10
        )
        index = 0
        while f"v.blk.{index}.ln1.weight" in self.tensors and index < most:
            x = self._layer(x, f"v.blk.{index}.")
            if f"v.deepstack.{index}.fc1.weight" in self.tensors:
                self.kept[f"v.deepstack.{index}"] = x
            index += 1
        return x

    def _features(self) -> Node | None:
        """What the language model's first layers get beside its input, side by side."""
        features = None
        for name, x in self.kept.items():
            normed = self._norm(f"{name}.norm", view(x, (4 * self.size, self.patches // 4), dense=True))
            feature = self._feed_forward(f"{name}.fc1", f"{name}.fc2", normed)
            features = feature if features is None else self._joined(features, feature)
        return features

    @staticmethod
    def _joined(first: Node, second: Node) -> Node:
        return operation("concat", (first.shape[0] + second.shape[0], first.shape[1]), first, second)

    def _layer(self, x: Node, prefix: str) -> Node:
        attended = self._attention(self._norm(f"{prefix}ln1", x), prefix)
        x = same("add", attended, x)
        fed = self._feed_forward(
            f"{prefix}ffn_up",
            f"{prefix}ffn_down",
            self._norm(f"{prefix}ln2", x),
            gate=f"{prefix}ffn_gate",
        )
        return same("add", x, fed)

    def _attention(self, x: Node, prefix: str) -> Node:
        expand = self.graph.expand
        rows = (self.size, self.patches)
        if f"{prefix}attn_qkv.weight" in self.tensors:
            fused = self._linear(f"{prefix}attn_qkv", x)
            q, k, v = (view(fused, rows) for _ in range(3))
        else:
            names = (f"{prefix}attn_q", f"{prefix}attn_k", f"{prefix}attn_v")
            q, k, v = (view(self._linear(name, x), rows, dense=True) for name in names)
        if self.tower.kind in _ROTARY:
            q, k = (operation("rope", rows, node, self.positions) for node in (q, k))
        for node in (q, k, v):
            expand(node)
        k = operation("cpy", rows, k, item_bytes=F16)
        v = operation("cpy", rows, v, item_bytes=F16)
        masks = () if self.mask is None else (self.mask,)
        out = operation("flash_attn", rows, q, k, v, *masks)
        return self._linear(f"{prefix}attn_out", view(out, rows, dense=True))

    def _broken(self, out: Node) -> Node:
        """A token at the end of each row of the picture (Pixtral)."""
        size, tokens = out.shape
        side = isqrt(tokens)
        breaks = same("scale", Node("", (size, side)))
        breaks = same("add", breaks, view(self._weight("v.token_embd.img_break") or out, (size,)))
        return operation("concat", (size, tokens + side), out, breaks)

    def _projected(self, x: Node) -> Node:
        names = [f"mm.{index}" for index in range(4) if f"mm.{index}.weight" in self.tensors]
        if len(names) != 2:
            return x
        first = self.tensors[f"{names[0]}.weight"].shape[0]
        merged = view(x, (first, prod(x.shape) // first), dense=True)
        out = self._feed_forward(names[0], names[1], merged)
        if "v.token_embd.img_break" in self.tensors:
            return self._broken(out)
        if self.mask is not None:  # back in the order of the picture
            out = operation("get_rows", out.shape, out, graph_input((out.shape[1],), I32))
        features = self._features()
        return out if features is None else self._joined(out, features)

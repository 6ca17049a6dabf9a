"""Towers in files of their own: weights, and a bound for what computes with them."""

from __future__ import annotations

import itertools
from math import prod

import pytest

from aimind.estimate.projector import projector_bytes, warmup_patches
from aimind.types import Tensor, Tower

MIB = 1 << 20


def tower(hidden: int, inner: int, patches: int | None) -> list[Tensor]:
    tensors = [
        Tensor("v.blk.0.attn_q.weight", (hidden, hidden), "F16", 2 * hidden * hidden),
        Tensor("v.blk.0.ffn_up.weight", (hidden, inner), "F16", 2 * hidden * inner),
        Tensor("v.blk.0.ln1.weight", (hidden,), "F32", 4 * hidden),
    ]
    if patches is not None:
        tensors.append(Tensor("v.position_embd.weight", (hidden, patches), "F16", 2 * hidden * patches))
    return tensors


def test_without_a_projector_nothing() -> None:
    assert projector_bytes([]) == 0


def test_gemma_3_s_tower_is_covered() -> None:
    """llama.cpp b11549 logs a compute buffer of 121.25 MiB for it."""
    tensors = tower(1152, 4304, 4096)
    weights = sum(tensor.size_bytes for tensor in tensors)
    assert 121.25 * MIB <= projector_bytes(tensors) - weights <= 150 * MIB


def test_pictures_of_any_size_count_as_large_ones() -> None:
    assert projector_bytes(tower(1280, 3420, None)) > projector_bytes(tower(1280, 3420, 1024))


# ── Towers that llama.cpp has loaded ───────────────────────────────────────────────────────────────────────


def tensors_of(
    tower: Tower,
    *,
    layers: int,
    hidden: int,
    inner: int,
    parts: dict[str, tuple[int, ...]],
    fused: bool = False,
    biased: bool = True,
    gated: bool = False,
    layer_norm: bool = True,
) -> list[Tensor]:
    """As the converter writes them; `parts` are those outside the layers."""
    shapes = {"v.patch_embd.weight": (tower.patch_size, tower.patch_size, 3, hidden), **parts}
    for index in range(layers):
        matrices = {"attn_out": (hidden, hidden), "ffn_up": (hidden, inner), "ffn_down": (inner, hidden)}
        if gated:
            matrices["ffn_gate"] = (hidden, inner)
        if fused:
            matrices["attn_qkv"] = (hidden, 3 * hidden)
        else:
            matrices |= {f"attn_{name}": (hidden, hidden) for name in "qkv"}
        for name, shape in matrices.items():
            shapes[f"v.blk.{index}.{name}.weight"] = shape
            if biased:
                shapes[f"v.blk.{index}.{name}.bias"] = shape[1:]
        for name in ("ln1", "ln2"):
            shapes[f"v.blk.{index}.{name}.weight"] = (hidden,)
            if layer_norm:
                shapes[f"v.blk.{index}.{name}.bias"] = (hidden,)
    return [Tensor(name, shape, "F16", 2 * prod(shape)) for name, shape in shapes.items()]


def mlp(first: str, second: str, *widths: int) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in zip((first, second), itertools.pairwise(widths), strict=True):
        found |= {f"{name}.weight": shape, f"{name}.bias": shape[1:]}
    return found


def normed(name: str, size: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def deepstack(layer: int) -> dict[str, tuple[int, ...]]:
    name = f"v.deepstack.{layer}"
    return normed(f"{name}.norm", 4608) | mlp(f"{name}.fc1", f"{name}.fc2", 4608, 4608, 4096)


def qwen3_vl() -> tuple[Tower, list[Tensor]]:
    tower = Tower(kind="qwen3vl_merger", image_size=768, patch_size=16, merge=2)
    parts = {
        "v.patch_embd.weight.1": (16, 16, 3, 1152),
        "v.patch_embd.bias": (1152,),
        "v.position_embd.weight": (1152, 2304),
        **normed("v.post_ln", 1152),
        **mlp("mm.0", "mm.2", 4608, 4608, 4096),
        **deepstack(0),
        **deepstack(1),
    }
    return tower, tensors_of(tower, layers=2, hidden=1152, inner=4304, parts=parts, fused=True)


def qwen2_vl() -> tuple[Tower, list[Tensor]]:
    tower = Tower(kind="qwen2vl_merger", image_size=560, patch_size=14, merge=0)
    parts = {
        "v.patch_embd.weight.1": (14, 14, 3, 1280),
        **normed("v.post_ln", 1280),
        **mlp("mm.0", "mm.2", 5120, 5120, 3584),
    }
    return tower, tensors_of(tower, layers=2, hidden=1280, inner=5120, parts=parts)


def qwen2_5_vl() -> tuple[Tower, list[Tensor]]:
    tower = Tower(kind="qwen2.5vl_merger", image_size=560, patch_size=14, merge=0)
    parts = {
        "v.patch_embd.weight.1": (14, 14, 3, 1280),
        "v.post_ln.weight": (1280,),
        **mlp("mm.0", "mm.2", 5120, 5120, 3584),
    }
    made = tensors_of(tower, layers=8, hidden=1280, inner=3420, parts=parts, gated=True, layer_norm=False)
    return tower, made


def gemma_3() -> tuple[Tower, list[Tensor]]:
    tower = Tower(kind="gemma3", image_size=896, patch_size=14, merge=0)
    parts = {
        "v.patch_embd.bias": (1152,),
        "v.position_embd.weight": (1152, 4096),
        **normed("v.post_ln", 1152),
        "mm.input_projection.weight": (2560, 1152),
        "mm.soft_emb_norm.weight": (1152,),
    }
    return tower, tensors_of(tower, layers=2, hidden=1152, inner=4304, parts=parts)


def pixtral() -> tuple[Tower, list[Tensor]]:
    tower = Tower(kind="pixtral", image_size=1024, patch_size=16, merge=0)
    parts = {
        "v.pre_ln.weight": (1024,),
        **mlp("mm.1", "mm.2", 1024, 5120, 5120),
        "v.token_embd.img_break": (5120,),
    }
    made = tensors_of(
        tower, layers=2, hidden=1024, inner=4096, parts=parts, gated=True, biased=False, layer_norm=False
    )
    return tower, made


@pytest.mark.parametrize(
    ("made", "patches", "logged_mib"),
    [
        (qwen3_vl(), 92 * 92, 275.48),
        (qwen2_vl(), 92 * 92, 267.08),
        (qwen2_5_vl(), 92 * 92, 569.70),
        (gemma_3(), 64 * 64, 121.25),
        (pixtral(), 16 * 16, 16.56),
    ],
    ids=lambda value: value[0].kind if isinstance(value, tuple) else str(value),
)
def test_a_tower_takes_what_llama_cpp_reserves(
    made: tuple[Tower, list[Tensor]], patches: int, logged_mib: float
) -> None:
    """What llama.cpp 0.7 and xllamacpp 2026.10 log ("compute buffer size") for files with these tensors."""
    tower, tensors = made
    weights = sum(tensor.size_bytes for tensor in tensors)
    found = (projector_bytes(tensors, [tower]) - weights) / MIB
    assert warmup_patches(tower, tensors) == patches
    assert found == pytest.approx(logged_mib, abs=0.01)


def test_a_tower_of_another_kind_is_bounded() -> None:
    """Without the tensors that its computation would need."""
    tensors = tower(1152, 4304, 4096)
    described = Tower(kind="newcomer", image_size=896, patch_size=14, merge=0)
    assert projector_bytes(tensors, [described]) == projector_bytes(tensors)


def test_a_larger_tower_never_takes_less() -> None:
    small, tensors = gemma_3()
    large = Tower(kind="gemma3", image_size=1792, patch_size=14, merge=0)
    assert projector_bytes(tensors, [large]) > projector_bytes(tensors, [small])

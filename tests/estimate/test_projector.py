"""Towers in files of their own: weights, and a bound for what computes with them."""

from __future__ import annotations

from aimind.estimate.projector import projector_bytes
from aimind.types import Tensor

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

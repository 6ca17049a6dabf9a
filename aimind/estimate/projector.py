"""What a vision or audio tower in a file of its own (mmproj) takes: weights, and what one picture needs.

llama.cpp computes a tower in a buffer of its own, with flash attention. For Gemma 3's tower of 896 pixels it
reserves 4 · n · (F + 3D) bytes (llama.cpp b11549: 121.25 MiB), n the patches, D the hidden size, F the
feed-forward; one D more is counted here for other towers. Without a flash attention kernel it takes more.
"""

from __future__ import annotations

from collections.abc import Sequence

from aimind.types import Tensor

# Patches of a picture where the tower has no table of positions, that is, where pictures may have any size.
PATCHES = 4096
_POSITIONS = ("v.position_embd.weight", "a.position_embd.weight")


def projector_bytes(tensors: Sequence[Tensor]) -> int:
    """Bytes of the weights, and about those of the computation; 0 without a projector."""
    weights = sum(tensor.size_bytes for tensor in tensors)
    shapes = [tensor.shape for tensor in tensors if len(tensor.shape) == 2 and ".blk." in tensor.name]
    if not shapes:
        return weights
    hidden, widest = min(map(min, shapes)), max(map(max, shapes))
    patches = max((t.shape[-1] for t in tensors if t.name in _POSITIONS), default=PATCHES)
    return weights + 4 * patches * (widest + 4 * hidden)

"""What a vision or audio tower in a file of its own (mmproj) takes: weights, and what one picture needs.

llama.cpp computes a tower in a buffer of its own, with flash attention, and reserves it for one picture when
it starts: of the size that the tower was made for, or of so many tokens that most pictures need no more
(`set_warmup_n_tokens` in tools/mtmd/clip.cpp, as vendored by llama-cpp-python 0.3.36). For a larger picture
it takes more when one comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

from aimind.estimate import tower as towers
from aimind.types import Tensor, Tower

# Patches of a picture where neither a key nor a table of positions tells it.
PATCHES = 4096
_POSITIONS = ("v.position_embd.weight", "a.position_embd.weight")
# Tokens of the picture with which a tower for pictures of any size is warmed up, each of merge x merge
# patches.
_WARMUP_TOKENS = {
    "deepseek4v": 16 * 16,
    "dots_ocr": 46 * 46,
    "dots3note_v": 46 * 46,
    "exaone4_5": 46 * 46,
    "gemma4v": 16 * 16,
    "glm4v": 46 * 46,
    "glm5v": 46 * 46,
    "hunyuanvl": 32 * 32,
    "kimik25": 64 * 64,
    "kimivl": 16 * 16,
    "lfm2": 16 * 16,
    "lightonocr": 16 * 16,
    "ling3vl": 46 * 46,
    "mimovl": 46 * 46,
    "minimax_m3": 16 * 16,
    "muse-glimmer": 32 * 32,
    "paddleocr": 28 * 28,
    "phi4": 16 * 16,
    "pixtral": 16 * 16,
    "qwen2.5vl_merger": 46 * 46,
    "qwen2vl_merger": 46 * 46,
    "qwen3vl_merger": 46 * 46,
    "youtuvl": 16 * 16,
}
# Patches of a side of one token, where no key tells it.
_MERGE = {"gemma4v": 3, "kimivl": 1, "lightonocr": 1, "phi4": 1, "pixtral": 1}
_USUAL_MERGE = 2
# Towers whose whole computation is known.
_KNOWN = frozenset({"gemma3", "pixtral", "qwen2.5vl_merger", "qwen2vl_merger", "qwen3vl_merger"})


def projector_bytes(tensors: Sequence[Tensor], described: Sequence[Tower] = ()) -> int:
    """Bytes of the weights, and about those of the computation; 0 without a projector.

    Args:
        tensors: of all towers.
        described: of the vision towers, what their headers say.
    """
    weights = sum(tensor.size_bytes for tensor in tensors)
    by_name = {tensor.name: tensor for tensor in tensors}
    if len(described) != 1:
        return weights + _bound(tensors, _positions(tensors))
    tower = described[0]
    heard = [tensor for tensor in tensors if tensor.name.startswith("a.")]  # a tower of its own
    weights += _bound(heard, _positions(heard))
    tensors = [tensor for tensor in tensors if not tensor.name.startswith("a.")]
    patches = warmup_patches(tower, tensors)
    try:
        computed = towers.compute_bytes(tower, by_name, patches=patches)
    except (LookupError, ZeroDivisionError):  # a tower of another kind
        return weights + _bound(tensors, patches)
    if tower.kind in _KNOWN:
        return weights + computed
    return weights + max(computed, _bound(tensors, patches))


def warmup_patches(tower: Tower, tensors: Sequence[Tensor]) -> int:
    """Patches of the picture for which llama.cpp reserves memory."""
    tokens = _WARMUP_TOKENS.get(tower.kind)
    if tokens is not None:
        merge = tower.merge or _MERGE.get(tower.kind, _USUAL_MERGE)
        return (isqrt(tokens) * merge) ** 2
    if tower.image_size:
        return max(1, tower.image_size // tower.patch_size) ** 2
    return _positions(tensors)


def _positions(tensors: Sequence[Tensor]) -> int:
    return max((t.shape[-1] for t in tensors if t.name in _POSITIONS), default=PATCHES)


def _bound(tensors: Sequence[Tensor], patches: int) -> int:
    """More than a layer of a tower takes with flash attention, from the shapes of its matrices."""
    shapes = [tensor.shape for tensor in tensors if len(tensor.shape) == 2 and ".blk." in tensor.name]
    if not shapes:
        return 0
    hidden, widest = min(map(min, shapes)), max(map(max, shapes))
    return 4 * patches * (widest + 4 * hidden)

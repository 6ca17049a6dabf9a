"""What PyTorch's allocator on a device takes for a model's weights: it rounds up, and wastes freed blocks.

A simulation of c10/cuda/CUDACachingAllocator.cpp with `max_split_size_mb:20`, which vLLM sets while it loads
a model, over the matrices about in the order in which vLLM makes them. Of the five models recorded in
tests/data/gpu_h200.json four are met to 1.1 MiB; Gemma 3, with its two tables, is 14 MiB too low of 7.4 GiB.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from aimind.estimate.shares import rank_sizes, stages
from aimind.types import RankedRun

_MIB = 1 << 20
_ALIGNMENT = 512
# Up to this size a request comes from the pool of small blocks.
_SMALL_REQUEST, _SMALL_SEGMENT = _MIB, 2 * _MIB
# Below this size a request shares a segment; above, its segment is its own.
_SHARED_REQUEST, _SHARED_SEGMENT = 10 * _MIB, 20 * _MIB
_OWN_SEGMENT_STEP = 2 * _MIB
_MAX_SPLIT = 20 * _MIB
# Of an attention layer, for its cache: one number each.
_SCALES = 4
# vLLM makes one matrix of these.
_FUSED = (
    (re.compile(r"(?<=[._])(q|k|v)(_proj)?(?=\.(weight|bias)$)"), "qkv"),
    (re.compile(r"(?<=\.)(gate|up)_proj\b"), "gate_up"),
    (re.compile(r"(?<=experts\.)\d+\."), ""),
)
_ATTENTION = re.compile(r"attn|attention|mixer|mamba")


@dataclass(slots=True)
class _Allocator:
    """Sizes of free blocks by pool, and the bytes of all blocks in use."""

    used_bytes: int = 0
    small: list[int] = field(default_factory=list)
    large: list[int] = field(default_factory=list)

    def allocate(self, size_bytes: int) -> int:
        """The size of the block that a request gets: the smallest free one that it may have, or a new one."""
        size = -(-size_bytes // _ALIGNMENT) * _ALIGNMENT
        pool = self._pool(size)
        block = self._take(pool, size)
        rest = block - size
        splits = rest >= _ALIGNMENT if pool is self.small else size < _MAX_SPLIT and rest > _SMALL_REQUEST
        if splits:
            bisect.insort(pool, rest)
            block = size
        self.used_bytes += block
        return block

    def free(self, block_bytes: int) -> None:
        """Give a block back. It is not joined with its neighbours, which other blocks seldom leave free."""
        bisect.insort(self._pool(block_bytes), block_bytes)
        self.used_bytes -= block_bytes

    def _pool(self, size: int) -> list[int]:
        return self.small if size <= _SMALL_REQUEST else self.large

    def _take(self, pool: list[int], size: int) -> int:
        index = bisect.bisect_left(pool, size)
        if index == len(pool):
            return _segment_bytes(size)
        block = pool[index]
        too_large = size < _MAX_SPLIT <= block
        too_much_left = size >= _MAX_SPLIT and block >= size + _SHARED_SEGMENT
        if too_large or too_much_left:
            return _segment_bytes(size)
        return pool.pop(index)


def loaded_bytes(run: RankedRun, *, ropes: Sequence[int]) -> int:
    """The weights of the rank that holds most, with tables of rotary embeddings and the allocator's rounding.

    Args:
        run: whose `weights_bytes` are the tensors alone.
        ropes: bytes of each table of rotary embeddings.
    """
    allocator = _Allocator()
    tensors_bytes = 0
    tables = list(ropes)
    for size, ends_attention in _requests(run):
        tensors_bytes += size
        allocator.allocate(size)
        if not ends_attention:
            continue
        for table in tables:
            _make_table(allocator, table)
        tables.clear()
        for _ in range(_SCALES):
            allocator.allocate(_ALIGNMENT)
    return run.weights_bytes + allocator.used_bytes - tensors_bytes


def _make_table(allocator: _Allocator, size: int) -> None:
    """Angles, cosines, sines and the last two joined, in 32 bits each, before the table of 16 bits."""
    temporary = [allocator.allocate(each) for each in (size, size, size, 2 * size)]
    allocator.allocate(size)
    for block in temporary:
        allocator.free(block)


def _requests(run: RankedRun) -> Iterator[tuple[int, bool]]:
    """Sizes in the order of vLLM's constructors, and whether a layer's attention ends with this one."""
    metadata = run.metadata
    others, per_layer = rank_sizes(metadata, tensor_parallel=run.tensor_parallel_size, dtype=run.dtype)
    for _, size in others:
        yield size, False
    known: dict[tuple[object, ...], list[tuple[int, bool]]] = {}
    for index in stages(len(metadata.layers), run.pipeline_parallel_size)[0]:
        layer = metadata.layers[index]
        key = (
            layer.memory,
            layer.num_experts,
            layer.feed_forward_size,
            len(layer.tensors),
            layer.weight_bytes,
        )
        if key not in known:
            known[key] = _matrices(per_layer(layer))
        for size, in_attention in known[key]:
            yield size, in_attention


def _matrices(tensors: Sequence[tuple[str, int]]) -> list[tuple[int, bool]]:
    """The fused matrices of a layer, attention first; the last one of attention is marked."""
    sizes: dict[str, int] = {}
    for name, size in tensors:
        fused = name
        for pattern, replacement in _FUSED:
            fused = pattern.sub(replacement, fused)
        sizes[fused] = sizes.get(fused, 0) + size
    attention = [size for name, size in sizes.items() if _ATTENTION.search(name)]
    rest = [size for name, size in sizes.items() if not _ATTENTION.search(name)]
    marks = [(size, index == len(attention) - 1) for index, size in enumerate(attention)]
    return marks + [(size, False) for size in rest]


def _segment_bytes(size: int) -> int:
    if size <= _SMALL_REQUEST:
        return _SMALL_SEGMENT
    if size < _SHARED_REQUEST:
        return _SHARED_SEGMENT
    return -(-size // _OWN_SEGMENT_STEP) * _OWN_SEGMENT_STEP

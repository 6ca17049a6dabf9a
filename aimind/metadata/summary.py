"""What follows from layers and tensors in the same way for every format."""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Iterable, Sequence

from aimind.errors import MetadataError
from aimind.types import Attention, Category, File, Format, LatentAttention, Layer, Metadata, Tensor

LONGEST_SHOWN = 80
USUAL_BYTES = 2  # of a parameter in files that are only weighed


def shown(value: object) -> str:
    """What a file says, at a length that a message can hold and without what would confuse a terminal."""
    text = ascii(value) if isinstance(value, str) else reprlib.repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def heads(layers: Sequence[Layer]) -> tuple[int, int]:
    """The most heads of any layer: of queries, and of keys and values (a latent counts as one)."""
    queries = kept = 0
    for layer in layers:
        for memory in layer.memory:
            if isinstance(memory, Attention | LatentAttention):
                queries = max(queries, memory.num_heads)
                kept = max(kept, memory.num_kv_heads if isinstance(memory, Attention) else 1)
    return queries, kept


def attends(layers: Sequence[Layer]) -> bool:
    """Whether any layer attends to tokens; a model whose layers only keep states has no longest context."""
    return any(isinstance(memory, Attention | LatentAttention) for layer in layers for memory in layer.memory)


def widest(layers: Sequence[Layer]) -> int:
    """The largest feed-forward of any layer or expert."""
    return max((max(layer.feed_forward_size, layer.expert_feed_forward_size) for layer in layers), default=0)


def usual_dtype(tensors: Iterable[Tensor]) -> str | None:
    """The type of most weights, by bytes."""
    weights: Counter[str] = Counter()
    for tensor in tensors:
        weights[tensor.dtype] += tensor.size_bytes
    return weights.most_common(1)[0][0] if weights else None


def opaque(files: Iterable[File]) -> list[Tensor]:
    """Files of weights that are weighed and not read: a tensor of bytes for each."""
    return [Tensor(file.path, (file.size_bytes,), "U8", file.size_bytes) for file in files]


def weighed(*, architecture: str, category: Category, weights: Format, tensors: Sequence[Tensor]) -> Metadata:
    """A model of which only the weight is known.

    Raises:
        MetadataError: there is no weight.
    """
    size = sum(tensor.size_bytes for tensor in tensors)
    if not size:
        raise MetadataError(
            f"the {architecture} model has no weights", hint="Download all files of the repository."
        )
    return Metadata(
        format=weights,
        architecture=architecture,
        category=category,
        parameters=size // USUAL_BYTES,
        hidden_size=0,
        vocab_size=0,
        num_heads=0,
        num_kv_heads=0,
        max_model_len=None,
        layers=(),
        others=tuple(tensors),
        known=category != "image",
        chat_template=False,
    )

"""Values of a config.json with which no backend loads a model."""

from __future__ import annotations

from aimind.errors import MetadataError
from aimind.metadata.config import Config
from aimind.metadata.config_layers import LAYERS
from aimind.metadata.config_memory import HEADS, HIDDEN, KV_HEADS, recurrent
from aimind.metadata.summary import shown

LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
# Backends keep sizes and positions in signed integers of 32 bits.
LARGEST_SIZE = (1 << 31) - 1
_HINT = "Fetch the file again; if it is the author's own, the repository cannot be served."


def check(whole: Config, config: Config) -> None:
    """Compare names and sizes with what they can be. `null` and missing values have defaults.

    Args:
        whole: the whole configuration.
        config: its part that describes the language model.

    Raises:
        MetadataError: one of them is a value that no model has.
    """
    architectures = whole.raw("architectures")
    if architectures is not None and not _is_list_of_names(architectures):
        raise _damaged(whole, "architectures", "it must be a list of names")
    for name in (*LAYERS, *HIDDEN, *HEADS, *KV_HEADS, *LENGTHS, "vocab_size"):
        if config.values.get(name) is None:
            continue
        size = config.integer(name)  # of a list with one for each layer, the largest
        if size == 0 and name in HEADS and recurrent(config) is not None:
            continue  # no layer attends
        if not size or size > LARGEST_SIZE:
            raise _damaged(config, name, f"it must be a whole number from 1 to {LARGEST_SIZE}")


def _is_list_of_names(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) and item for item in value)


def _damaged(config: Config, name: str, wanted: str) -> MetadataError:
    value = shown(config.values.get(name))
    return MetadataError(f"{config.path} is damaged: {name} is {value}, and {wanted}", hint=_HINT)

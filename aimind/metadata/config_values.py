"""Values of a config.json with which no backend loads a model."""

from __future__ import annotations

from aimind.errors import MetadataError
from aimind.metadata.config import LARGEST_NUMBER, Config, Json
from aimind.metadata.config_layers import EXPERTS, EXPERTS_USED, LAYERS
from aimind.metadata.config_memory import HEAD_SIZE, HEADS, HIDDEN, KV_HEADS, recurrent
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
_HINT = "Download the file again; if the repository itself has this file, it cannot be served."


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
        raise damaged(whole, "architectures", "it must be a list of names")
    for name in (*LAYERS, *HIDDEN, *HEADS, *HEAD_SIZE, *KV_HEADS, *LENGTHS, "vocab_size"):
        without_attention = name in HEADS and recurrent(config) is not None
        _check_size(config, name, 0 if without_attention else 1)
    experts = config.section("ffn_config") or config  # DBRX keeps it apart
    for name in (*EXPERTS, *EXPERTS_USED):
        _check_size(experts, name, 0)
    _check_scaling(config)


def _check_size(config: Config, name: str, least: int) -> None:
    """Whether it is a whole number of 32 bits; of a list with one for each layer, the largest counts."""
    if config.values.get(name) is None:
        return
    size = config.integer(name)
    if size is None or not least <= size <= LARGEST_SIZE:
        raise damaged(config, name, f"it must be a whole number from {least} to {LARGEST_SIZE}")


def _check_scaling(config: Config) -> None:
    """Whether the factors that scale positions are above 0; each kind of attention may have one."""
    scaling = config.section("rope_scaling", "rope_parameters")
    if scaling is None:
        return
    of_kinds = [inner for name in scaling.values if (inner := scaling.section(name))]
    for section in (scaling, *of_kinds):
        if not is_positive(section.values.get("factor", 1)):
            raise damaged(section, "factor", "positions can only be scaled by a number above 0")


def is_positive(value: Json) -> bool:
    """Whether it is a number above 0, or `null`, which stands for a default."""
    if value is None:
        return True
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value < LARGEST_NUMBER


def _is_list_of_names(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) and item for item in value)


def damaged(config: Config, name: str, wanted: str) -> MetadataError:
    """The error that names a value and what it must be."""
    value = shown(config.values.get(name))
    return MetadataError(f"{config.path} is damaged: {name} is {value}, and {wanted}", hint=_HINT)

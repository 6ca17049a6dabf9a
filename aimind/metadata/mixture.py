"""Mixed precision: the parts of a model whose weights are quantized in different ways.

A configuration lists modules (`model.layers.0.self_attn.q_proj`) or patterns of them (`re:.*experts.*`). Both
are sorted into parts by the words in them. A pattern is never run: it comes from a stranger, and a regular
expression may take for ever.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from aimind.types import OTHER_LAYERS

# Words in the names of modules, the most special first: `shared_experts` contains `experts`, and an expert's
# module may be called `mlp.experts.0.up_proj`.
_PARTS = (
    ("shared experts", re.compile(r"shared_?experts?")),
    ("experts", re.compile(r"experts?\b|experts?[_.]|block_sparse_moe|\bmoe\b|RoutedExperts|FusedMoE")),
    ("attention", re.compile(r"attn|attention|\b[qkvo]_proj|\bqkv_proj")),
    ("vision tower", re.compile(r"vision|visual|\bvit\b")),
    ("mixers", re.compile(r"\bmixer|mamba|\bssm\b|conv1d|\bin_proj|\bout_proj")),
    ("feed-forward", re.compile(r"\bmlp|feed_?forward|\bffn|\b(?:gate|up|down|gate_up)_proj|\bfc\d|dense_")),
    ("output head", re.compile(r"lm_head|output_layer|embed_out")),
    ("embedding", re.compile(r"embed|\bwte\b")),
)


def part_of(module: str) -> str:
    """The part of a model that a module belongs to, by its name."""
    return next((part for part, words in _PARTS if words.search(module)), OTHER_LAYERS)


def parts_of(target: str) -> tuple[str, ...]:
    """The parts that a target means: a module, `re:` and a pattern, or a class such as `Linear`."""
    if not target.startswith("re:"):
        return (part_of(target),)
    special = "experts" in target or "moe" in target
    found = [part for part, words in _PARTS if words.search(target)]
    if special:  # `experts.*(gate|up|down)_proj` means the experts alone
        found = [part for part in found if part in ("experts", "shared experts")]
    return tuple(found) or (OTHER_LAYERS,)


def sentence(groups: Iterable[tuple[str, str]]) -> str:
    """What a person calls the mix: `FP8 attention, NVFP4 experts`. Each group: a quantization and a part."""
    parts: dict[str, list[str]] = {}
    for name, part in groups:
        found = parts.setdefault(name, [])
        if part not in found:
            found.append(part)
    return ", ".join(f"{name} {_together(found)}" for name, found in parts.items())


def _together(parts: list[str]) -> str:
    return " and ".join((", ".join(parts[:-1]), parts[-1])) if len(parts) > 1 else parts[0]

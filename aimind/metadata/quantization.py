"""How the weights of a Hugging Face folder are quantized: the `quantization_config` of config.json."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from aimind.metadata import mixture
from aimind.metadata.config import LONGEST_WORD, Config
from aimind.metadata.config_values import damaged, is_positive
from aimind.types import OTHER_LAYERS, Tensor, WeightGroup

# Tensors that only say how to read others: not parameters of the model.
_AUXILIARY = re.compile(
    r"(scales?(_2)?|biases|scale_inv|qzeros|zeros?|zero_point|g_idx|perm|absmax|quant_map|weight_shape|bitsandbytes__\w+)$"
)


_MOST_GROUPS = 64  # of real models none has more than four


@dataclass(frozen=True, slots=True)
class Quantization:
    """Of the weights.

    Attributes:
        name: as a person would name it; `None` where there is none.
        bits: of a weight; 16 where there is none.
        group_size: weights that share a scale, where they come in groups.
        traits: as `Metadata.quantization_traits` has them.
        groups: the parts of a model in mixed precision; then `name` names all of them, `bits` are the fewest.
    """

    name: str | None = None
    bits: int = 16
    group_size: int | None = None
    traits: frozenset[str] = frozenset()
    groups: tuple[WeightGroup, ...] = ()

    @classmethod
    def of(cls, whole: Config, text: Config) -> Quantization:
        """What the configuration says; multimodal models say it in either place."""
        names = ("quantization_config", "compression_config")
        section = whole.section(*names) or text.section(*names) or whole.section("quantization")
        return cls() if section is None else _read(section)

    def bits_of(self, tensor: str) -> int:
        """Bits of a weight in the tensor of this name."""
        if not self.groups:
            return self.bits
        part = mixture.part_of(tensor)
        found = [group.bits for group in self.groups if group.part == part]
        found = found or [group.bits for group in self.groups if group.part == OTHER_LAYERS]
        return min(found, default=self.bits)


def _read(section: Config) -> Quantization:
    method = section.text("quant_method").replace("_", "-").lower()
    algorithm = section.text("quant_algo") or _section_text(section, "quantization", "quant_algo")
    if method == "compressed-tensors" or section.section("config_groups"):
        return _compressed_tensors(section)
    if method.startswith("modelopt") or algorithm:
        return _modelopt(section, algorithm.upper() or method.upper())
    if method == "fp8":
        block = section.integers("weight_block_size")
        return Quantization("FP8", 8, max(block) if block else None)
    if method == "mxfp4":
        return Quantization("MXFP4", 4, 32)
    if method == "bitsandbytes":
        four = section.flag("load_in_4bit")
        return Quantization("BNB-4bit" if four else "BNB-8bit", 4 if four else 8)
    bits, is_average = _bits(section)
    if not method and section.integer("bits") and section.integer("group_size"):
        return Quantization(f"MLX-{bits}bit", bits, _group_size(section))  # mlx_lm/utils.py names no method
    traits = _traits(section, method) | (frozenset({"average-bits"}) if is_average else frozenset())
    if section.flag("separate"):
        traits |= {"separate"}
    return Quantization(method.upper() or None, bits, _group_size(section), traits)


def _bits(section: Config) -> tuple[int, bool]:
    """Bits of a weight, and whether they are an average rounded up: EXL2 and AutoRound have 4.65 or 3.5."""
    for name in ("bits", "w_bit"):
        _check_bits(section, name)
    number = section.number("bits")
    if number is not None and not number.is_integer():
        return math.ceil(number), True
    return section.integer("bits", "w_bit") or 4, False


def _check_bits(section: Config, name: str) -> None:
    if not is_positive(section.values.get(name)):
        raise damaged(section, name, "a weight has a number of bits above 0")


def _traits(section: Config, method: str) -> frozenset[str]:
    if method != "gptq":
        return frozenset()
    # With one group a column its order does not matter.
    ordered = section.flag("desc_act") and section.raw("group_size") != -1
    found = (("asymmetric", section.raw("sym") is False), ("act-order", ordered))
    return frozenset(name for name, there in found if there)


def _modelopt(section: Config, algorithm: str) -> Quantization:
    """NVIDIA's names of algorithms (vllm/model_executor/layers/quantization/modelopt.py)."""
    inner = section.section("quantization")
    if algorithm == "MIXED_PRECISION":
        return _mixed_by_modelopt(inner or section)
    group_size = _group_size(section) or (_group_size(inner) if inner else None)
    return _by_algorithm(algorithm, group_size)


def _by_algorithm(algorithm: str, group_size: int | None) -> Quantization:
    traits = {"modelopt"}
    if "FP4" in algorithm:
        if algorithm.startswith("W4A16"):
            traits.add("weight-only")
        return Quantization("NVFP4", 4, group_size or 16, frozenset(traits))
    if "AWQ" in algorithm:
        name = "W4A8-AWQ" if "A8" in algorithm else "AWQ"
        return Quantization(name, 4, group_size or 128, frozenset(traits))
    if algorithm == "MXFP8":
        return Quantization("MXFP8", 8, group_size or 32, frozenset(traits))
    if algorithm == "FP8_PER_CHANNEL_PER_TOKEN":
        traits.add("per-channel")
    if algorithm in ("FP8_PB_WO", "FP8_BLOCK_SCALES"):
        return Quantization("FP8", 8, group_size or 128, frozenset(traits))
    if "FP8" in algorithm:
        return Quantization("FP8", 8, None, frozenset(traits))
    return Quantization(algorithm[:LONGEST_WORD], 8, group_size, frozenset(traits))


def _mixed_by_modelopt(section: Config) -> Quantization:
    """By `quantized_layers`, which has an entry for each quantized module; others are not quantized."""
    layers = section.section("quantized_layers")
    found: dict[tuple[str, str, int | None], None] = {}
    for module in layers.values if layers else ():
        entry = layers.section(module) if layers else None
        if entry is None or len(found) == _MOST_GROUPS:
            continue
        found[mixture.part_of(module), entry.text("quant_algo").upper(), _group_size(entry)] = None
    groups = [(part, _by_algorithm(algorithm, size)) for part, algorithm, size in found]
    return _mixed(groups, trait="modelopt") or Quantization("MIXED_PRECISION", 8)


def _mixed(groups: Iterable[tuple[str, Quantization]], *, trait: str) -> Quantization | None:
    """The parts with their quantizations as one; `None` without any.

    Where all parts have the same one, it is not mixed.
    """
    found = list(dict.fromkeys(groups))
    different = {each for _, each in found}
    if not different:
        return None
    if len(different) == 1:
        return different.pop()
    found.sort(key=lambda group: (-group[1].bits, group[1].name or ""))
    return Quantization(
        mixture.sentence((each.name or "", part) for part, each in found),
        min(each.bits for each in different),
        traits=frozenset({"mixed", trait}),
        groups=tuple(
            WeightGroup(part, each.name or "", each.bits, each.group_size, each.traits | {"mixed"})
            for part, each in found
        ),
    )


def _group_size(section: Config) -> int | None:
    """Weights that share a scale; -1 is a whole column."""
    names = ("group_size", "q_group_size", "weight_group_size")
    return None if section.raw(*names) == -1 else section.integer(*names)


def _section_text(section: Config, name: str, key: str) -> str:
    inner = section.section(name)
    return inner.text(key) if inner else ""


def _compressed_tensors(section: Config) -> Quantization:
    """By its groups, each of which names the modules that it is of (`targets`)."""
    groups = section.section("config_groups")
    found: list[tuple[str, Quantization]] = []
    for name in list(groups.values)[:_MOST_GROUPS] if groups else ():
        group = groups.section(name) if groups else None
        if group is None or _is_of_cache(group):
            continue
        targets = group.words("targets") or ("Linear",)
        parts = dict.fromkeys(part for target in targets for part in mixture.parts_of(target))
        found += [(part, _of_group(group)) for part in parts]
    return _mixed(found, trait="compressed-tensors") or _of_group(None)


def _is_of_cache(group: Config) -> bool:
    """Whether a group is of attention as such, whose cache it quantizes and no weights."""
    targets = group.words("targets")
    return len(targets) == 1 and targets[0].endswith("Attention")


def _of_group(group: Config | None) -> Quantization:
    """Named by the bits of weights and activations, as `W4A16`, or by the float type."""
    weights = group.section("weights") if group else None
    if weights:
        _check_bits(weights, "num_bits")
    bits = (weights.integer("num_bits") if weights else None) or 8
    activations = group.section("input_activations") if group else None
    group_size = _group_size(weights) if weights else None
    if weights and (block := weights.integers("block_structure")):
        group_size = max(block)
    if weights and weights.text("type") == "float":
        name = {4: "NVFP4" if group_size == 16 else "MXFP4"}.get(bits, "FP8")
        traits = {"compressed-tensors"}
        if activations is None and name == "FP8":
            traits.add("weight-only")
        elif activations is not None and weights.text("strategy") == "channel":
            traits.add("per-channel")
        return Quantization(name, bits, group_size, frozenset(traits))
    computed = (activations.integer("num_bits") if activations else None) or 16
    return Quantization(f"W{bits}A{computed}", bits, group_size)


def parameters(tensors: Iterable[Tensor], quantization: Quantization) -> int:
    """How many parameters: packed integers count as what they hold, scales as nothing."""
    total = 0
    for tensor in tensors:
        elements = math.prod(tensor.shape)
        if quantization.name is None:
            total += elements
        elif not _AUXILIARY.search(tensor.name):
            bits = quantization.bits_of(tensor.name)
            packed = {"I32": 32, "U32": 32, "U8": 8, "I8": 8}.get(tensor.dtype, bits)
            total += elements * max(packed // bits, 1)
    return total

"""How the weights of a Hugging Face folder are quantized: the `quantization_config` of config.json."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from aimind.metadata.config import Config
from aimind.types import Tensor

# Tensors that only say how to read others: not parameters of the model.
_AUXILIARY = re.compile(
    r"(scales?|biases|scale_inv|qzeros|zeros?|zero_point|g_idx|perm|absmax|quant_map|weight_shape|bitsandbytes__\w+)$"
)


@dataclass(frozen=True, slots=True)
class Quantization:
    """Of the weights.

    Attributes:
        name: as a person would name it; `None` where there is none.
        bits: of a weight; 16 where there is none.
        group_size: weights that share a scale, where they come in groups.
        traits: as `Metadata.quantization_traits` has them.
    """

    name: str | None = None
    bits: int = 16
    group_size: int | None = None
    traits: frozenset[str] = frozenset()

    @classmethod
    def of(cls, whole: Config, text: Config) -> Quantization:
        """What the configuration says; multimodal models say it in either place."""
        names = ("quantization_config", "compression_config")
        section = whole.section(*names) or text.section(*names) or whole.section("quantization")
        return cls() if section is None else _read(section)


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
    return Quantization(method.upper() or None, bits, _group_size(section), traits)


def _bits(section: Config) -> tuple[int, bool]:
    """Bits of a weight, and whether they are an average rounded up: EXL2 and AutoRound have 4.65 or 3.5."""
    number = section.number("bits")
    if number is not None and not number.is_integer() and number > 0:
        return math.ceil(number), True
    return section.integer("bits", "w_bit") or 4, False


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
    group_size = _group_size(section) or (_group_size(inner) if inner else None)
    if "FP4" in algorithm:
        return Quantization("NVFP4", 4, group_size or 16)
    if "AWQ" in algorithm:
        return Quantization("AWQ", 4, group_size or 128)
    blocks = {"FP8_PB_WO": 128, "MXFP8": 32}
    return Quantization("FP8", 8, blocks.get(algorithm))


def _group_size(section: Config) -> int | None:
    """Weights that share a scale; -1 is a whole column."""
    names = ("group_size", "q_group_size", "weight_group_size")
    return None if section.raw(*names) == -1 else section.integer(*names)


def _section_text(section: Config, name: str, key: str) -> str:
    inner = section.section(name)
    return inner.text(key) if inner else ""


def _compressed_tensors(section: Config) -> Quantization:
    """Named by the bits of weights and activations, as `W4A16`, or by the float type."""
    groups = section.section("config_groups")
    first = (
        next((group for name in groups.values if (group := groups.section(name))), None) if groups else None
    )
    weights = first.section("weights") if first else None
    bits = (weights.integer("num_bits") if weights else None) or 8
    activations = first.section("input_activations") if first else None
    group_size = _group_size(weights) if weights else None
    if weights and (block := weights.integers("block_structure")):
        group_size = max(block)
    if weights and weights.text("type") == "float":
        name = {4: "NVFP4" if group_size == 16 else "MXFP4"}.get(bits, "FP8")
        traits = []
        if activations is None and name == "FP8":
            traits.append("weight-only")
        elif activations is not None and weights.text("strategy") == "channel":
            traits.append("per-channel")
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
            packed = {"I32": 32, "U32": 32, "U8": 8, "I8": 8}.get(tensor.dtype, quantization.bits)
            total += elements * max(packed // quantization.bits, 1)
    return total

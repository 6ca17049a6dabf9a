"""Guess whether a model fits, from its weights and the free memory.

Lists use this, where reading each header would take a request or two. The KV cache and buffers are not
counted, so the answer is rough; only a plan is exact.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from aimind.files import PREFERRED
from aimind.types import Found, Host

Where = Literal["devices", "RAM", "devices and RAM", "nowhere"]

# Bits a weight of Llama 3.1 8B: the table of llama.cpp's tools/quantize/README.md (311c2c9).
BITS = {
    "IQ1_S": 2.0042,
    "IQ1_M": 2.1460,
    "IQ2_XXS": 2.3824,
    "IQ2_XS": 2.5882,
    "IQ2_S": 2.7403,
    "IQ2_M": 2.9294,
    "IQ3_XXS": 3.2548,
    "IQ3_XS": 3.4977,
    "IQ3_S": 3.6606,
    "IQ3_M": 3.7628,
    "IQ4_XS": 4.4597,
    "IQ4_NL": 4.6818,
    "Q2_K_S": 2.9697,
    "Q2_K": 3.1593,
    "Q3_K_S": 3.6429,
    "Q3_K_L": 4.2979,
    "Q4_K_S": 4.6672,
    "Q4_K_M": 4.8944,
    "Q5_K_S": 5.5704,
    "Q5_K_M": 5.7036,
    "Q6_K": 6.5633,
    "Q8_0": 8.5008,
    "F16": 16.0005,
    "BF16": 16.0005,
    "F32": 32.0,
}
# Median bits per weight that the types of the table need beyond the number in their names.
_SCALES_BITS = 0.6
_USUAL = "Q4_K_M"


@dataclass(frozen=True, slots=True)
class Guess:
    """A rough size of a model, and where it would fit.

    Attributes:
        size_bytes: size of the weights.
        quantization: the quantization with this size; `None` if there is only one.
        where: the memory that the weights fit in.
    """

    size_bytes: int
    quantization: str | None
    where: Where


def guess(found: Found, host: Host) -> Guess | None:
    """The quantization that a plan would probably take, as `alternatives.best`; `None`: nothing is known."""
    sizes = dict(_sizes(found))
    if not sizes:
        return None
    preferred = min(sizes, key=_preference)
    largest_first = [preferred, *sorted(sizes, key=lambda name: -sizes[name])]
    for allowed in (("devices",) if host.devices else ("RAM",), ("devices and RAM",)):
        for name in largest_first:
            if sizes[name] <= sizes[preferred] and (where := _where(sizes[name], found, host)) in allowed:
                return Guess(sizes[name], name or None, where)
    return Guess(sizes[preferred], preferred or None, "nowhere")


def bits(quantization: str) -> float:
    """Bits per weight of a quantization, approximately."""
    name = quantization.removeprefix("UD-")
    if name in BITS:
        return BITS[name]
    number = re.search(r"\d+", name)
    return float(number[0]) + _SCALES_BITS if number else BITS[_USUAL]


def _sizes(found: Found) -> Iterator[tuple[str, int]]:
    """Yield quantizations and their sizes in bytes; the name is empty if there is a single precision."""
    if found.weights_bytes:
        yield "", found.weights_bytes
    elif found.parameters and "gguf" in found.formats:
        for name in found.quantizations or (_USUAL,):
            yield name, int(found.parameters * bits(name) / 8)


def _preference(quantization: str) -> tuple[int, str]:
    name = quantization.removeprefix("UD-")
    return (PREFERRED.index(name) if name in PREFERRED else len(PREFERRED), quantization)


def _where(size_bytes: int, found: Found, host: Host) -> Where:
    """Only llama.cpp can leave a part of the weights in RAM."""
    on_devices = sum(device.free_bytes for device in host.devices)
    if host.devices and size_bytes <= on_devices:
        return "devices"
    if not host.devices and size_bytes <= host.ram_free_bytes:
        return "RAM"
    split = host.devices and "gguf" in found.formats and size_bytes <= on_devices + host.ram_free_bytes
    return "devices and RAM" if split else "nowhere"

"""At a glance: about how large, and about where it fits."""

from __future__ import annotations

import pytest

from aimind.devices import hardware
from aimind.rough import Guess, bits, guess
from aimind.types import Found, Host, Reference

GIB = 1 << 30
REFERENCE = Reference(source="huggingface", name="owner/name")
GGUF = Found(
    reference=REFERENCE,
    formats=("gguf",),
    parameters=8_030_261_248,
    quantizations=("Q8_0", "Q4_K_M", "Q2_K", "UD-Q4_K_XL"),
)


def host(devices: str, ram_gib: int) -> Host:
    import dataclasses

    found = hardware.parse(devices or "24G")
    return dataclasses.replace(
        found,
        devices=found.devices if devices else (),
        ram_free_bytes=ram_gib * GIB,
        ram_total_bytes=ram_gib * GIB,
    )


def test_the_size_is_that_of_the_usual_quantization() -> None:
    found = guess(GGUF, host("24G", 64))
    assert found is not None
    assert (found.quantization, found.where) == ("Q4_K_M", "devices")
    assert abs(found.size_bytes / GIB - 4.58) < 0.01  # what llama-quantize writes of Llama 3.1 8B


@pytest.mark.parametrize(
    ("devices", "ram_gib", "quantization", "where"),
    [
        ("24G", 64, "Q4_K_M", "devices"),
        ("4G", 64, "Q2_K", "devices"),
        ("1G", 64, "Q4_K_M", "devices and RAM"),
        ("1G", 3, "Q2_K", "devices and RAM"),
        ("1G", 1, "Q4_K_M", "nowhere"),
        ("", 8, "Q4_K_M", "RAM"),
        ("", 4, "Q2_K", "RAM"),
        ("", 1, "Q4_K_M", "nowhere"),
    ],
)
def test_as_a_plan_would_choose(devices: str, ram_gib: int, quantization: str, where: str) -> None:
    found = guess(GGUF, host(devices, ram_gib))
    assert found is not None
    assert (found.quantization, found.where) == (quantization, where)


def test_safetensors_are_never_split() -> None:
    safe = Found(reference=REFERENCE, formats=("safetensors",), weights_bytes=16 * GIB)
    assert guess(safe, host("12G", 64)) == Guess(16 * GIB, None, "nowhere")
    assert guess(safe, host("2x12G", 64)) == Guess(16 * GIB, None, "devices")
    assert guess(safe, host("", 64)) == Guess(16 * GIB, None, "RAM")


def test_of_what_is_not_known_nothing_is_said() -> None:
    assert guess(Found(reference=REFERENCE, formats=("gguf",)), host("24G", 64)) is None
    assert guess(Found(reference=REFERENCE, parameters=7), host("24G", 64)) is None


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("Q4_0", 4.5, 4.7),
        ("UD-Q4_K_XL", 4.5, 5.2),
        ("MXFP4_MOE", 4.2, 4.8),
        ("TQ1_0", 1.5, 2.1),
        ("BF16", 16, 16.1),
    ],
)
def test_bits_of_those_that_are_not_in_the_table(name: str, low: float, high: float) -> None:
    assert low <= bits(name) <= high

"""What a launcher can serve and where, found out by asking its own `refuse` about samples.

So there is no second list of platforms and categories that could say otherwise than the launcher does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import get_args

from aimind.launchers.base import Launcher
from aimind.types import Category, Device, Format, Host, Metadata

# What there is in each format.
_KINDS: dict[Format, tuple[Category, ...]] = {
    "gguf": ("llm", "vision-language", "embedding", "reranker", "image"),
    "safetensors": get_args(Category),
    "ctranslate2": ("speech-to-text",),
    "pickle": ("llm", "speech-to-text", "text-to-speech"),
}
# Architectures of a format and category, where a launcher looks at these.
_ARCHITECTURES: dict[tuple[str, str], tuple[str, ...]] = {
    ("ctranslate2", "speech-to-text"): ("faster-whisper",),
    ("pickle", "speech-to-text"): ("funasr",),
    ("pickle", "text-to-speech"): ("cosyvoice", "bark"),
    ("safetensors", "text-to-speech"): ("dia",),
    ("safetensors", "vision-language"): ("Qwen2_5_VLForConditionalGeneration",),
    ("safetensors", "embedding"): ("BertModel",),
    ("safetensors", "reranker"): ("BertForSequenceClassification",),
}
# Those that one backend alone reads.
_QUANTIZATIONS = {("safetensors", "llm"): (None, "MLX-4bit")}
_PLATFORMS = (
    ("Linux x86-64", "linux", "x86_64", ("nvidia", "amd", "ascend")),
    ("Linux ARM64", "linux", "arm64", ("nvidia", "ascend")),
    ("macOS ARM64", "macos", "arm64", ("apple",)),
    ("macOS x86-64", "macos", "x86_64", ()),
)
_MAKERS = {"nvidia": "NVIDIA", "amd": "AMD", "ascend": "Ascend", "apple": "Apple"}
_CAPABILITIES = {"nvidia": "9.0", "amd": "gfx1100"}
RAM = "RAM"
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Machine:
    """A sample of machines: what a person calls its platform and its device, and itself."""

    platform: str
    device: str
    host: Host


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What a launcher takes somewhere: each in the order of the samples.

    Attributes:
        formats, categories: of models.
        platforms: systems and processors.
        devices: their makers; `RAM` where it serves without one.
    """

    formats: tuple[str, ...]
    categories: tuple[str, ...]
    platforms: tuple[str, ...]
    devices: tuple[str, ...]


def models() -> Iterator[Metadata]:
    """A sample of each kind of model."""
    for form, categories in _KINDS.items():
        for category in categories:
            default = "llama" if form == "gguf" else "LlamaForCausalLM"
            for architecture in _ARCHITECTURES.get((form, category), (default,)):
                for quantization in _QUANTIZATIONS.get((form, category), (None,)):
                    yield _model(form, category, architecture, quantization)


def machines() -> Iterator[Machine]:
    """A sample of each kind of machine: without a device, and with one of each maker."""
    for platform, system, processor, makers in _PLATFORMS:
        for maker in (None, *makers):
            devices = () if maker is None else (_device(maker),)
            host = Host(
                devices=devices,
                ram_total_bytes=64 * _GIB,
                ram_free_bytes=64 * _GIB,
                os=system,  # type: ignore[arg-type]
                arch=processor,  # type: ignore[arg-type]
                cpu_features=frozenset({"avx2"} if processor == "x86_64" else {"asimd"}),
            )
            yield Machine(platform, _MAKERS[maker] if maker else RAM, host)


def abilities(launcher: Launcher) -> Abilities:
    """What the launcher does not refuse."""
    taken = [
        (model, machine)
        for machine in machines()
        for model in models()
        if uses(launcher, machine) and launcher.refuse(model, machine.host) is None
    ]
    return Abilities(
        formats=_ordered(_KINDS, (model.format for model, _ in taken)),
        categories=_ordered(get_args(Category), (model.category for model, _ in taken)),
        platforms=_ordered((name for name, *_ in _PLATFORMS), (machine.platform for _, machine in taken)),
        devices=_ordered((*_MAKERS.values(), RAM), (machine.device for _, machine in taken)),
    )


def uses(launcher: Launcher, machine: Machine) -> bool:
    """Whether it would use the machine's device; with none it uses RAM."""
    return all(device.vendor in launcher.MEMORY.vendors for device in machine.host.devices)


def against(launcher: Launcher, host: Host) -> str | None:
    """Why the launcher can serve nothing on a machine, as a sentence; `None` where it serves something.

    Of what it says against each model that it takes elsewhere, that which it says most.
    """
    said = [
        launcher.refuse(model, host)
        for model in models()
        if any(launcher.refuse(model, machine.host) is None for machine in machines())
    ]
    sentences = [sentence for sentence in said if sentence is not None]
    if len(sentences) < len(said) or not sentences:
        return None
    return max(sentences, key=sentences.count)


def _ordered(names: Iterable[str], found: Iterable[str]) -> tuple[str, ...]:
    there = set(found)
    return tuple(name for name in names if name in there)


def _model(form: Format, category: Category, architecture: str, quantization: str | None) -> Metadata:
    return Metadata(
        format=form,
        architecture=architecture,
        category=category,
        quantization=quantization,
        parameters=0,
        hidden_size=4096,
        vocab_size=32000,
        num_heads=32,
        num_kv_heads=8,
        max_model_len=8192,
        layers=(),
        others=(),
    )


def _device(maker: str) -> Device:
    return Device(
        index=0,
        uuid="",
        vendor=maker,  # type: ignore[arg-type]
        name=f"{_MAKERS[maker]} device",
        total_bytes=64 * _GIB,
        free_bytes=64 * _GIB,
        capability=_CAPABILITIES.get(maker),
    )

"""Frozen values that tests share: small models and machines, written down rather than read."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from aimind.devices import cpu
from aimind.launchers import LAUNCHERS
from aimind.types import (
    Attention,
    Backend,
    Device,
    File,
    Host,
    Layer,
    Metadata,
    Model,
    Package,
    Reference,
    Tensor,
)

GIB = 1 << 30
# What the demo model says, whatever it is asked (scripts/train_demo.py).
SENTENCE = (
    "I am the demo model of aimind, and I work. "
    "Now serve a real one: aimind serve unsloth/Qwen3-0.6B-GGUF:Q4_K_M"
)


Vendor = Literal["nvidia", "amd", "ascend", "apple"]


def device(
    index: int = 0, *, free_gib: float = 24.0, total_gib: float | None = None, vendor: Vendor = "nvidia"
) -> Device:
    total = int(max(total_gib or free_gib, 1.0) * GIB)
    return Device(
        index=index,
        uuid=f"GPU-{index}",
        vendor=vendor,
        name="Test",
        total_bytes=total,
        free_bytes=int(free_gib * GIB),
        capability="8.9" if vendor == "nvidia" else None,
    )


def host(*devices: Device, ram_gib: float = 64.0) -> Host:
    """A Linux machine with these devices, on which every managed backend can be installed."""
    machine = Host(
        devices=devices,
        ram_total_bytes=int(ram_gib * GIB),
        ram_free_bytes=int(ram_gib * GIB),
        os="linux",
        arch="x86_64",
        cores=8,
        cpu_features=cpu.LEVELS["avx512"],
    )
    backends = []
    for launcher in LAUNCHERS:
        source = launcher.source(machine)
        version = source.version if isinstance(source, Package) else "1"
        backends.append(Backend(name=launcher.NAME, version=version, executable=f"/opt/{launcher.NAME}"))
    return dataclasses.replace(machine, backends=tuple(backends))


def llama(
    *, layers: int = 32, hidden: int = 4096, vocab: int = 128256, safetensors: bool = False, experts: int = 0
) -> Metadata:
    """A model of Llama 3's shape: 8 billion parameters at 32 dense layers; with experts of Mixtral's."""
    heads, kv_heads, size, forward = hidden // 128, hidden // 512, 128, hidden * 7 // 2
    dtype = "BF16" if safetensors else "F16"

    def tensor(name: str, *shape: int) -> Tensor:
        count = 1
        for length in shape:
            count *= length
        return Tensor(name, shape, dtype, 2 * count)

    prefix = "model.layers" if safetensors else "blk"

    def feed_forward(layer: str) -> tuple[Tensor, ...]:
        if experts:
            return (
                tensor(f"{layer}.ffn_gate_inp.weight", hidden, experts),
                tensor(f"{layer}.ffn_gate_exps.weight", hidden, forward, experts),
                tensor(f"{layer}.ffn_up_exps.weight", hidden, forward, experts),
                tensor(f"{layer}.ffn_down_exps.weight", forward, hidden, experts),
            )
        return (
            tensor(f"{layer}.mlp.gate_proj.weight", forward, hidden),
            tensor(f"{layer}.mlp.up_proj.weight", forward, hidden),
            tensor(f"{layer}.mlp.down_proj.weight", hidden, forward),
        )

    made = tuple(
        Layer(
            tensors=(
                tensor(f"{prefix}.{i}.self_attn.q_proj.weight", hidden, hidden),
                tensor(f"{prefix}.{i}.self_attn.k_proj.weight", kv_heads * size, hidden),
                tensor(f"{prefix}.{i}.self_attn.v_proj.weight", kv_heads * size, hidden),
                tensor(f"{prefix}.{i}.self_attn.o_proj.weight", hidden, hidden),
                *feed_forward(f"{prefix}.{i}"),
            ),
            memory=(Attention(num_heads=heads, num_kv_heads=kv_heads, key_size=size, value_size=size),),
            feed_forward_size=0 if experts else forward,
            num_experts=experts,
            num_experts_used=min(2, experts),
            expert_feed_forward_size=forward if experts else 0,
        )
        for i in range(layers)
    )
    embedding = "model.embed_tokens.weight" if safetensors else "token_embd.weight"
    head = "lm_head.weight" if safetensors else "output.weight"
    return Metadata(
        format="safetensors" if safetensors else "gguf",
        architecture="LlamaForCausalLM" if safetensors else "llama",
        category="llm",
        quantization=None,
        dtype=dtype,
        parameters=8_000_000_000,
        hidden_size=hidden,
        vocab_size=vocab,
        num_heads=heads,
        num_kv_heads=kv_heads,
        max_model_len=131072,
        layers=made,
        others=(tensor(embedding, vocab, hidden), tensor(head, vocab, hidden)),
        intermediate_size=forward,
    )


def speech(architecture: str = "faster-whisper", *, gib: float = 0.45) -> Metadata:
    """A model of speech of which the weight alone is known: hears, or speaks."""
    hears = architecture in ("faster-whisper", "funasr")
    return Metadata(
        format="ctranslate2" if architecture == "faster-whisper" else "pickle",
        architecture=architecture,
        category="speech-to-text" if hears else "text-to-speech",
        parameters=int(gib * GIB) // 2,
        hidden_size=0,
        vocab_size=0,
        num_heads=0,
        num_kv_heads=0,
        max_model_len=None,
        layers=(),
        others=(Tensor("model.bin", (int(gib * GIB),), "U8", int(gib * GIB)),),
        chat_template=False,
    )


def model(metadata: Metadata) -> Model:
    path = "model.gguf" if metadata.format == "gguf" else "model.safetensors"
    return Model(
        reference=Reference(source="huggingface", name="owner/name"),
        files=(File(path, metadata.weight_bytes),),
        commit="0" * 40,
    )


class FileReader:
    """Random access to a file on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size_bytes = path.stat().st_size

    def read(self, offset: int, length: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(length)

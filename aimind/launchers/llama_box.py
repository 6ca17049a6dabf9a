"""llama-box: llama.cpp and stable-diffusion.cpp behind one server, where the user has installed it.

It is no longer maintained and takes no API key; it is the one of the family that generates images.
"""

from __future__ import annotations

import dataclasses

from aimind.launchers import ggml
from aimind.launchers.base import Flag
from aimind.types import Backend, Command, Host, LayeredMemory, Metadata, Plan, Program, WholeMemory

NAME = "llama-box"
SUMMARY = "GGUF on llama.cpp and stable-diffusion.cpp, from your system; no longer maintained"
MEMORY = LayeredMemory(
    shared_slots=False,
    checkpoints=0,
    mixed_inputs=False,
    images=WholeMemory(process_bytes=300 << 20),  # not measured
)
WHOLE = 999  # any number but 0 puts all of a model that paints on devices
_NOT_THERE = (
    "kv_unified",
    "split_mode",
    "prompt_cache_mib",
    "context_checkpoints",
    "embedding",
    "cpu_moe_layers",
    "swa_full",
)
FLAGS = {field: flag for field, flag in ggml.FLAGS.items() if field not in _NOT_THERE} | {
    "gpu_layers": Flag(
        spellings=("--gpu-layers", "--n-gpu-layers", "-ngl"), kind="int", words=(("-1", 9999),)
    ),
    "flash_attention": Flag(spellings=("--flash-attn", "-fa"), kind="switch", off=("--no-flash-attn",)),
    "reranking": Flag(spellings=("--rerank", "--reranking"), kind="switch"),
}
RESERVED = {
    **ggml.RESERVED,
    "--embeddings": "aimind sets it",
    "--embedding": "aimind sets it as --embeddings",
    "--images": "the model's category decides it",
    "--api-key": "it does not support API keys: use a proxy that checks keys",
}
UNCOUNTED = ggml.UNCOUNTED
SIGNATURES = ggml.SIGNATURES
REGISTRY = ggml.LIBRARY


def source(_host: Host) -> Program:
    """Its project's releases."""
    return Program(
        names=("llama-box",),
        version_args=("--version",),
        version_pattern=r"version:\s*(\S+)",
        title="llama-box",
        remedy="llama-box is no longer maintained; its last releases are on its project's page",
        page="https://github.com/gpustack/llama-box/releases",
    )


def refuse(metadata: Metadata, _host: Host) -> str | None:
    """GGUF only: of language, and of images, which the others of the family do not serve."""
    return None if metadata.category == "image" and metadata.format == "gguf" else ggml.refuse(metadata)


def table(_backend: Backend) -> str:
    """There is none."""
    return NAME


def knows(metadata: Metadata, backend: Backend) -> bool:
    """Whether this llama.cpp has the model's architecture.

    It is older than the one that aimind installs: where it cannot be asked, it has none that this has not.
    """
    return ggml.knows(metadata, backend, table=f"llama.cpp-{ggml.BUILD}")


def command(plan: Plan, weights: str) -> Command:
    """`llama-box`; an unknown flag would only print a line, so none is tried."""
    if plan.metadata.category != "image":
        return ggml.command(plan, weights, flags=FLAGS, fixed=("--embeddings",), takes_key=False)
    whole = dataclasses.replace(plan.settings, gpu_layers=WHOLE if plan.shards else 0)
    painting = dataclasses.replace(plan, settings=whole)
    return ggml.command(painting, weights, flags=FLAGS, fixed=("--embeddings", "--images"), takes_key=False)

"""llama-server: llama.cpp's own HTTP server, where the user has installed it."""

from __future__ import annotations

from aimind.launchers import ggml
from aimind.launchers.base import located, render, url, visible_devices, weight_path
from aimind.types import Command, Host, LayeredMemory, Metadata, Plan, Probe, Program

NAME = "llama-server"
SUMMARY = "GGUF on llama.cpp, from your system"
MEMORY = LayeredMemory()
FLAGS = ggml.FLAGS
RESERVED = ggml.RESERVED
SIGNATURES = ggml.SIGNATURES


def source(_host: Host) -> Program:
    """The user's package manager."""
    return Program(
        names=("llama-server",),
        version_args=("--version",),
        version_pattern=r"version:\s*(\S+)",
        devices_args=("--list-devices",),
        devices_pattern=r"^\s+(CUDA|ROCm|Vulkan|SYCL|MTL|Metal)\d*:",
        remedy="install llama.cpp with your package manager (Homebrew, Debian, Nix, conda-forge) to use it",
    )


def refuse(metadata: Metadata, _host: Host) -> str | None:
    """GGUF language models, embeddings and rerankers only."""
    return ggml.refuse(metadata)


def command(plan: Plan, weights: str) -> Command:
    """`llama-server`, with every flag that moves memory set."""
    settings = plan.settings
    return Command(
        argv=(
            plan.backend.executable,
            "--model",
            weight_path(plan, weights),
            *render(FLAGS, located(settings, weights)),
            "--fit",
            "off",
            *settings.extra,
        ),
        env={**visible_devices(tuple(shard.device for shard in plan.shards)), **settings.env},
        secret_env={"LLAMA_API_KEY": settings.api_key} if settings.api_key else {},
        unset_env=ggml.UNSET_ENV,
        ready=Probe(url=f"{url(settings)}/health"),
        signatures=SIGNATURES,
        url=url(settings),
    )

"""llama-server: llama.cpp's own HTTP server, where the user has installed it."""

from __future__ import annotations

from aimind.launchers import ggml
from aimind.types import Backend, Command, Help, Host, LayeredMemory, Metadata, Plan, Program, Request, bare

NAME = "llama-server"
SUMMARY = "GGUF on llama.cpp, from your system"
MEMORY = LayeredMemory(expert_offload=True)
FLAGS = ggml.FLAGS
RESERVED = ggml.RESERVED
UNCOUNTED = ggml.UNCOUNTED
SIGNATURES = ggml.SIGNATURES
REGISTRY = ggml.LIBRARY
HELP = Help(
    args=("--help",),
    quick=True,
    abbreviates=False,
    dropped={
        "--mlock": "use --load-mode mlock",
        "--mmap": "use --load-mode mmap",
        "--no-mmap": "use --load-mode none",
        "--direct-io": "use --load-mode dio",
    },
)


def source(_host: Host) -> Program:
    """The user's package manager."""
    return Program(
        names=("llama-server",),
        version_args=("--version",),
        version_pattern=r"version:\s*(\S+)",
        devices_args=("--list-devices",),
        devices_pattern=r"^\s+(CUDA|ROCm|Vulkan|SYCL|MTL|Metal)\d*:",
        title="llama-server",
        assumed_version=ggml.BUILD,
        remedy="install llama.cpp with a package manager (Homebrew, Debian, Nix, conda-forge)",
    )


def refuse(metadata: Metadata, _host: Host) -> str | None:
    """GGUF language models, embeddings and rerankers only."""
    return ggml.refuse(metadata)


def check(request: Request, _backend: Backend) -> tuple[str, ...]:
    """Its tools run programs: not for everybody."""
    ggml.check_exposure(request)
    return ()


def table(backend: Backend) -> str:
    """By the build of llama.cpp."""
    return f"llama.cpp-{bare(backend.version)}"


def knows(metadata: Metadata, backend: Backend) -> bool:
    """Whether this llama.cpp has the model's architecture."""
    return ggml.knows(metadata, backend, table=table(backend))


def command(plan: Plan, weights: str) -> Command:
    """`llama-server`, with every flag that moves memory set."""
    return ggml.command(plan, weights, fixed=("--fit", "off"))

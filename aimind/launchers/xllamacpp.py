"""xllamacpp: llama.cpp's HTTP server as a Python object, in an environment that aimind installs.

The wheel brings no program; `shims/xllamacpp_server.py`, run by the environment's own Python, is one, and it
takes llama-server's flags.
"""

from __future__ import annotations

import os

from aimind.launchers import ggml
from aimind.launchers.builds import made_by, runs_cuda_13_2, without_code
from aimind.types import Backend, Command, Help, Host, LayeredMemory, Metadata, Package, Plan, Registry

NAME = "xllamacpp"
SUMMARY = "GGUF on llama.cpp, installed by aimind"
MEMORY = LayeredMemory(expert_offload=True)
FLAGS = ggml.FLAGS
RESERVED = ggml.RESERVED
UNCOUNTED = ggml.UNCOUNTED
SIGNATURES = ggml.SIGNATURES
REGISTRY = Registry(kind="strings", files=("xllamacpp/*.so", "xllamacpp/*.dylib"))

SHIM = os.path.join(os.path.dirname(__file__), "shims", "xllamacpp_server.py")  # noqa: PTH118, PTH120
HELP = Help(args=(SHIM, "--help"), quick=True, abbreviates=False)
# The registry's wheel runs on CPUs and on Apple's GPUs; builds for NVIDIA and AMD are on the project's own
# indexes. What each has code for: its README, "GPU Architecture Coverage", as of October 2026.
INDEX = "https://xorbitsai.github.io/xllamacpp/whl"
ROCM_6 = tuple(f"gfx{number}" for number in (1030, 1031, 1032, 1100, 1101, 1102))
ROCM_7 = (*ROCM_6, *(f"gfx{number}" for number in (1150, 1151, 1200, 1201, 950)))


def source(host: Host) -> Package:
    """A wheel: 102 MB on a CPU, half a second to install."""
    build = _build(host)
    return Package(
        distribution="xllamacpp",
        version=f"2026.10.{ggml.BUILD}",
        import_name="xllamacpp",
        variant=build,
        index=f"{INDEX}/{build}" if build else None,
        size_bytes=None if build else 102_000_000,
    )


def _build(host: Host) -> str:
    """The name of its index; empty for the registry's."""
    nvidia = made_by(host, "nvidia")
    if nvidia:
        # That for CUDA 12.8 runs everywhere; that for 13.2 has more code that needs no translation.
        newer = all(float(device.capability or 0) >= 7.5 for device in nvidia)
        return "cu132" if newer and runs_cuda_13_2(host) else "cu128"
    if made_by(host, "amd"):
        # A build for ROCm 7 runs on any 7, and on no 6.
        return "rocm-6.4.1" if (host.rocm or "").startswith("6.") else "rocm-7.2.4"
    return ""


def refuse(metadata: Metadata, host: Host) -> str | None:
    """GGUF language models, embeddings and rerankers only."""
    build = _build(host)
    against = without_code(host, ROCM_6 if build == "rocm-6.4.1" else ROCM_7) if "rocm" in build else None
    return ggml.refuse(metadata) or against


def table(backend: Backend) -> str:
    """By the build of llama.cpp, which its version ends in."""
    return f"llama.cpp-{backend.version.rpartition('.')[2]}"


def knows(metadata: Metadata, backend: Backend) -> bool:
    """Whether this llama.cpp has the model's architecture."""
    return ggml.knows(metadata, backend, table=table(backend))


def command(plan: Plan, weights: str) -> Command:
    """The shim, with llama-server's flags."""
    return ggml.command(plan, weights, program=(SHIM,))

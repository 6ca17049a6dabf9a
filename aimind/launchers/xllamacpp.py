"""xllamacpp: llama.cpp's HTTP server as a Python object, in an environment that aimind installs.

The wheel brings no program; `shims/xllamacpp_server.py`, run by the environment's own Python, is one, and it
takes llama-server's flags.
"""

from __future__ import annotations

import os

from aimind.launchers import ggml
from aimind.types import Command, Help, Host, LayeredMemory, Metadata, Package, Plan

NAME = "xllamacpp"
SUMMARY = "GGUF on llama.cpp, installed by aimind"
MEMORY = LayeredMemory(expert_offload=True)
FLAGS = ggml.FLAGS
RESERVED = ggml.RESERVED
UNCOUNTED = ggml.UNCOUNTED
SIGNATURES = ggml.SIGNATURES

SHIM = os.path.join(os.path.dirname(__file__), "shims", "xllamacpp_server.py")  # noqa: PTH118, PTH120
HELP = Help(args=(SHIM, "--help"), quick=True, abbreviates=False)
# The registry's wheel runs on CPUs and on Apple's GPUs; the builds for NVIDIA are on the project's own index.
CUDA_INDEX = "https://xorbitsai.github.io/xllamacpp/whl/cu128"


def source(host: Host) -> Package:
    """A wheel: 102 MB, half a second to install."""
    cuda = any(device.vendor == "nvidia" for device in host.devices)
    return Package(
        distribution="xllamacpp",
        version="2026.10.11549",
        import_name="xllamacpp",
        variant="cu128" if cuda else "",
        index=CUDA_INDEX if cuda else None,
    )


def refuse(metadata: Metadata, _host: Host) -> str | None:
    """GGUF language models, embeddings and rerankers only."""
    return ggml.refuse(metadata)


def command(plan: Plan, weights: str) -> Command:
    """The shim, with llama-server's flags."""
    return ggml.command(plan, weights, program=(SHIM,))

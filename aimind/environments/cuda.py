"""The libraries of CUDA that a backend loads when it is asked the first thing: whether they are here."""

from __future__ import annotations

import os
from pathlib import Path

from aimind.types import Package

# PyTorch's builds by the beginning of their names (uv's `--torch-backend`) -> what CTranslate2 4 loads of the
# CUDA that they bring (src/cuda/cublas_stub.cc, cudnn_stub.cc).
_LOADED = {"cu12": ("libcublas.so.12", "libcudnn.so.9")}
_LOADER_CACHE = Path("/etc/ld.so.cache")


def missing(package: Package, environment: Path) -> tuple[str, ...]:
    """The libraries that the package's build needs, and that neither its environment nor the system has."""
    wanted = next((names for build, names in _LOADED.items() if (package.torch or "").startswith(build)), ())
    return tuple(name for name in wanted if not _is_here(name, environment))


def _is_here(name: str, environment: Path) -> bool:
    if any(environment.glob(f"lib/python3*/site-packages/nvidia/*/lib/{name}")):
        return True
    folders = filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep))
    if any(Path(folder, name).exists() for folder in folders):
        return True
    try:
        return name.encode() + b"\0" in _LOADER_CACHE.read_bytes()
    except OSError:
        return False

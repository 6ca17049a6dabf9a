"""Which models a version of SGLang can load: by their architecture, and by their quantization."""

from __future__ import annotations

import re

from aimind.launchers import architectures
from aimind.launchers.builds import older_than
from aimind.types import Backend, Host, Metadata, Registry

REGISTRY = Registry(
    kind="classes", files=("sglang/srt/models/*.py",), table="EntryClass", with_transformers=True
)
# What follows is that of sglang/srt/layers/quantization of these versions, on NVIDIA devices: GPTQ is read by
# Marlin's kernels alone, and what is in no table of its __init__.py not at all.
_OF_QUANTIZATIONS = "0.5."
_READ = re.compile(
    r"AWQ|GPTQ|FP8|MXFP8|MXFP4|W4A8-AWQ|NVFP4|BNB-\dbit|W\d+A\d+|QUARK|AUTO-ROUND|MODELOPT.*|HUMMING"
)


def table(backend: Backend) -> str:
    """By its version."""
    return f"sglang-{backend.version}"


def knows(metadata: Metadata, backend: Backend) -> bool:
    """Whether this version has a module for the model's architecture, or runs that of transformers."""
    name, known = metadata.architecture, architectures.known(backend, table(backend))
    # Code that the model brings may be of any architecture; without one config.json has only its type.
    return known is None or metadata.needs_remote_code or name == name.lower() or name in known


def lacks(metadata: Metadata, host: Host, backend: Backend) -> str | None:
    """Why this version of it cannot load the model, as a sentence; `None` where it can, or may."""
    name, bits = metadata.quantization, metadata.quantization_bits
    if name is None or not backend.version.startswith(_OF_QUANTIZATIONS):
        return None
    sglang = f"SGLang {backend.version}"
    if not _READ.fullmatch(name):
        return f"{sglang} does not support weights in {name}"
    if "average-bits" in metadata.quantization_traits:
        return f"{sglang} needs the same number of bits for all weights, and these ({name}) have several"
    if name in ("AWQ", "GPTQ") and bits not in (4, 8):
        return f"{sglang} supports {name} with 4 or 8 bits only, and these weights have {bits}"
    if "asymmetric" in metadata.quantization_traits:
        return f"{sglang} supports symmetric GPTQ only, and these {bits}-bit weights are not (sym: false)"
    if name == "AWQ" and "modelopt" in metadata.quantization_traits:
        return f"{sglang} does not support AWQ weights from ModelOpt"
    needed = _needed_capability(name, metadata.quantization_traits)
    return older_than(needed, host, f"{sglang} needs {needed:.1f} for {name}")


def arguments(metadata: Metadata) -> tuple[str, ...]:
    """The method of a quantization that config.json does not name: only then its own file is looked for.

    Source: `get_quant_config` in sglang/srt/model_loader/weight_utils.py, 0.5.23; on NVIDIA devices GPTQ goes
    by the name of its kernels.
    """
    methods = {"AWQ": "awq", "GPTQ": "gptq_marlin"}
    if "separate" in metadata.quantization_traits and metadata.quantization in methods:
        return ("--quantization", methods[metadata.quantization])
    return ()


def _needed_capability(name: str, traits: frozenset[str]) -> float:
    """The least compute capability for weights of a quantization, 0 where SGLang itself needs more.

    Source: get_min_capability in sglang/srt/layers/quantization: modelopt_quant.py, fp8.py, mxfp4.py,
    w4afp8.py, compressed_tensors/schemes. In mixed precision that of NVFP4 holds for all parts.
    """
    if name == "W4A8-AWQ":
        return 9.0
    if "modelopt" in traits and "mixed" not in traits:
        return {"FP8": 8.9, "MXFP8": 10.0, "NVFP4": 8.0}.get(name, 0.0)
    return 8.0 if name in ("FP8", "MXFP8", "NVFP4", "MXFP4") else 0.0

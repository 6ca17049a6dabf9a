"""The bytes of each KV cache type of vLLM and SGLang, by the figures that their own code gives."""

from __future__ import annotations

import dataclasses

import pytest

from aimind.estimate import paged
from aimind.estimate.cache_types import CACHE_TYPES
from aimind.types import Attention, LatentAttention, Layer, RecurrentState
from tests.samples import llama


# One token of 8 heads of 128: `page_size_bytes` of vLLM 0.32 after `customize_spec`, as its CPU build says;
# from ultraquant on, of which that build has no backend, `slot_size` and `nvfp4_kv_cache_full_dim` by hand.
@pytest.mark.parametrize(
    ("name", "token_bytes"),
    [
        ("auto", 4096),
        ("float16", 4096),
        ("bfloat16", 4096),
        ("fp8", 2048),
        ("fp8_inc", 2048),
        ("int8_per_token_head", 2112),
        ("fp8_per_token_head", 2112),
        ("int4_per_token_head", 1088),
        ("turboquant_k8v4", 1568),
        ("turboquant_4bit_nc", 1072),
        ("turboquant_k3v4_nc", 944),
        ("turboquant_3bit_nc", 816),
        ("ultraquant_4bit", 8 * 2 * (64 + 4)),
        ("nvfp4", 8 * 2 * (64 + 8)),
        ("nvfp4_4over6", 8 * 2 * (64 + 8)),
        ("mxfp8", 2048 + 2048 // 32),
        # OctaveFormat(128, 128, 4).slot_bytes of 0.33 is 136, with 3 bits 120; compact 100
        ("octave_k3v4", 8 * 136),
        ("octave_k3v3", 8 * 120),
        ("octave_k3v3_compact", 8 * 100),
    ],
)
def test_a_token_of_heads(name: str, token_bytes: int) -> None:
    assert 8 * CACHE_TYPES[name].head_bytes(128, 128, 2) == token_bytes


@pytest.mark.parametrize(
    ("name", "token_bytes"),
    [
        ("auto", 1152),
        ("bfloat16", 1152),
        ("fp8", 576),
        ("int8_per_token_head", 584),
        ("int4_per_token_head", 296),
        ("fp8_ds_mla", 656),
        ("nvfp4_ds_mla", 352),
    ],
)
def test_a_token_of_latents(name: str, token_bytes: int) -> None:
    assert CACHE_TYPES[name].latent_token_bytes(576, 2) == token_bytes


def test_only_the_models_own_type_follows_the_dtype() -> None:
    for name, kind in CACHE_TYPES.items():
        if kind.heads:
            assert (kind.head_bytes(64, 64, 4) == kind.head_bytes(64, 64, 2)) == (name != "auto")
        if kind.latents:
            assert (kind.latent_token_bytes(64, 4) == kind.latent_token_bytes(64, 2)) == (name != "auto")


def block_bytes(cache_dtype: str, *, recurrent: bool = False) -> int:
    """Of 16 tokens, over 32 layers of 8 heads of 128, one of which may have a state instead."""
    metadata = llama(safetensors=True)
    if recurrent:
        state = RecurrentState(kind="mamba2", conv_elements=8, ssm_elements=8)
        layers = (Layer(tensors=(), memory=(state,)), *metadata.layers[1:])
        metadata = dataclasses.replace(metadata, layers=layers)
    return paged.layout(
        metadata, ranks=(1, 1), cache_dtype=cache_dtype, dtype=None, block_size=16
    ).block_bytes


def test_two_layers_at_each_end_keep_their_own_type() -> None:
    assert block_bytes("fp8") == 32 * 16 * 2048
    assert block_bytes("turboquant_4bit_nc") == 16 * (28 * 1072 + 4 * 4096)
    assert block_bytes("turboquant_4bit_nc", recurrent=True) % 1072 == 0


def test_a_layer_of_latents_has_the_bytes_of_its_type() -> None:
    latent = LatentAttention(num_heads=16, kv_lora_rank=512, rope_size=64, key_size=192, value_size=128)
    layers = tuple(Layer(tensors=(), memory=(latent,)) for _ in range(3))
    metadata = dataclasses.replace(llama(safetensors=True), layers=layers)

    def of(cache_dtype: str) -> int:
        found = paged.layout(metadata, ranks=(4, 1), cache_dtype=cache_dtype, dtype=None, block_size=64)
        return found.block_bytes

    assert of("fp8_ds_mla") == 3 * 64 * 656
    assert of("auto") == 3 * 64 * 1152


def test_a_head_that_no_rank_shares_is_stored_whole() -> None:
    attention = Attention(num_heads=8, num_kv_heads=1, key_size=128, value_size=128)
    layers = (Layer(tensors=(), memory=(attention,)),)
    metadata = dataclasses.replace(llama(safetensors=True), layers=layers)
    found = paged.layout(metadata, ranks=(8, 1), cache_dtype="int8_per_token_head", dtype=None, block_size=16)
    assert found.block_bytes == 16 * 264

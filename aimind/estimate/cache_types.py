"""What the KV cache types of vLLM and SGLang take, in bytes per token.

Sources, of vLLM 0.32 and 0.33: `customize_spec` of the backends in vllm/v1/attention/backends
(triton_attn.py, flashinfer.py, turboquant_attn.py, ultraquant_attn.py, rocm_octave_attn.py) and of
`MLACommonBackend` in vllm/model_executor/layers/attention/mla_attention.py; of SGLang 0.5.23:
`_compute_cell_size` in sglang/srt/model_executor/pool_configurator.py.

The types of llama.cpp are in `aimind.types.ggml`.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CACHE_TYPES", "PLAIN_LAYERS", "CacheType", "cache_type"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheType:
    """How one type stores the keys and values of a token.

    Attributes:
        key_bits, value_bits: per element; 0 for the model's own type (`--dtype`).
        key_scale_bytes, value_scale_bytes: scales and norms of one head's vector.
        key_block, value_block: elements that share another scale; 0 for none.
        block_scale_bytes: of such a scale.
        alignment: bytes that a head's keys and values together are padded to.
        heads: it can store keys and values of heads.
        latents: it can store the latents of MLA.
        latent_scale_bytes: scales of one latent.
        latent_bytes: of one whole latent where its layout is fixed, else 0.
        plain_ends: the first and the last two layers keep the model's own type, except in hybrids.
    """

    key_bits: int = 0
    value_bits: int = 0
    key_scale_bytes: int = 0
    value_scale_bytes: int = 0
    key_block: int = 0
    value_block: int = 0
    block_scale_bytes: int = 1
    alignment: int = 1
    heads: bool = True
    latents: bool = False
    latent_scale_bytes: int = 0
    latent_bytes: int = 0
    plain_ends: bool = False

    def head_bytes(self, key_size: int, value_size: int, item_bytes: int) -> int:
        """Bytes of one token's key and value in one head.

        Args:
            key_size: elements of the key.
            value_size: elements of the value.
            item_bytes: bytes per element of the model's own type.
        """
        if self.key_bits == 0:
            return (key_size + value_size) * item_bytes
        key = _vector_bytes(key_size, self.key_bits, self.key_block, self.block_scale_bytes)
        value = _vector_bytes(value_size, self.value_bits, self.value_block, self.block_scale_bytes)
        both = key + self.key_scale_bytes + value + self.value_scale_bytes
        return both + -both % self.alignment

    def latent_token_bytes(self, elements: int, item_bytes: int) -> int:
        """Bytes of one token's latent with its rotary part; `elements` is their sum."""
        if self.latent_bytes:
            return self.latent_bytes
        if self.key_bits == 0:
            return elements * item_bytes
        vector = _vector_bytes(elements, self.key_bits, self.key_block, self.block_scale_bytes)
        return vector + self.latent_scale_bytes


def _vector_bytes(elements: int, bits: int, block: int, block_scale_bytes: int) -> int:
    packed = -(-elements * bits // 8)
    scales = elements // block * block_scale_bytes if block else 0
    return packed + scales


def _per_token_head(bits: int) -> CacheType:
    """With a scale in 32 bits for each token's key and each token's value of a head."""
    return CacheType(
        key_bits=bits,
        value_bits=bits,
        key_scale_bytes=4,
        value_scale_bytes=4,
        latents=True,
        latent_scale_bytes=8,
    )


def _turbo(key_bits: int, value_bits: int) -> CacheType:
    """Keys of less than 8 bits have a norm of 16 bits, values a scale and a zero point of 16 bits each."""
    return CacheType(
        key_bits=key_bits,
        value_bits=value_bits,
        key_scale_bytes=0 if key_bits == 8 else 2,
        value_scale_bytes=4,
        alignment=2,
        plain_ends=True,
    )


_OWN = CacheType(latents=True)
_16_BITS = CacheType(key_bits=16, value_bits=16, latents=True)
_8_BITS = CacheType(key_bits=8, value_bits=8, latents=True)
# 4 bits with a scale of 8 bits for 16 elements.
_NVFP4 = CacheType(key_bits=4, value_bits=4, key_block=16, value_block=16)

# A name means the same in vLLM and SGLang; which of them a backend takes is in its launcher.
CACHE_TYPES = {
    "auto": _OWN,
    "float16": _16_BITS,
    "bfloat16": _16_BITS,
    "bf16": _16_BITS,
    "fp8": _8_BITS,
    "fp8_e4m3": _8_BITS,
    "fp8_e5m2": _8_BITS,
    "fp8_inc": _8_BITS,
    "fp8_ds_mla": CacheType(heads=False, latents=True, latent_bytes=656),
    "nvfp4_ds_mla": CacheType(heads=False, latents=True, latent_bytes=352),
    "int4_per_token_head": _per_token_head(4),
    "int8_per_token_head": _per_token_head(8),
    "fp8_per_token_head": _per_token_head(8),
    "nvfp4": _NVFP4,
    "nvfp4_4over6": _NVFP4,
    "fp4_mx_block16": _NVFP4,
    "mxfp8": CacheType(key_bits=8, value_bits=8, key_block=32, value_block=32),
    "turboquant_k8v4": _turbo(8, 4),
    "turboquant_4bit_nc": _turbo(4, 4),
    "turboquant_k3v4_nc": _turbo(3, 4),
    "turboquant_3bit_nc": _turbo(3, 3),
    "ultraquant_4bit": CacheType(key_bits=4, value_bits=4, key_block=32, value_block=32, plain_ends=True),
    # Rotary dimensions of a key have 4 bits, the others 3: counted as if all were rotary, which is the most.
    "octave_k3v4": CacheType(
        key_bits=4, value_bits=4, key_block=64, block_scale_bytes=2, value_scale_bytes=2, alignment=8
    ),
    "octave_k3v3": CacheType(
        key_bits=4, value_bits=3, key_block=64, block_scale_bytes=2, value_scale_bytes=2, alignment=8
    ),
    "octave_k3v3_compact": CacheType(
        key_bits=3, value_bits=3, key_scale_bytes=2, value_scale_bytes=2, alignment=4
    ),
}
# Layers at each end of a model that keep its own type (`get_boundary_skip_layers` in vLLM's
# model_executor/layers/quantization/turboquant/config.py).
PLAIN_LAYERS = 2


def cache_type(name: str, *, layer: int, layers: int, hybrid: bool) -> CacheType:
    """The type that a layer's cache has; a type that is not known is counted as the model's own.

    Args:
        name: as in `--kv-cache-dtype`.
        layer: its index.
        layers: of the model.
        hybrid: some layers have a recurrent state.
    """
    found = CACHE_TYPES.get(name, _OWN)
    if found.plain_ends and not hybrid:
        ends = min(PLAIN_LAYERS, layers // 2)
        if layer < ends or layer >= layers - ends:
            return _OWN
    return found

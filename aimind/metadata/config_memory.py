"""What a layer of a config.json remembers, from the many names that its sizes go by.

The sizes of states are those of vLLM 0.32 (vllm/model_executor/layers/mamba/mamba_utils.py).
"""

from __future__ import annotations

from aimind.errors import MetadataError
from aimind.metadata.config import Config
from aimind.types import Attention, LatentAttention, Memory, RecurrentState

HEADS = ("num_attention_heads", "n_head", "n_heads")
HIDDEN = ("hidden_size", "n_embd", "d_model", "dim", "model_dim")
KV_HEADS = (
    "num_key_value_heads",
    "n_head_kv",
    "num_kv_heads",
    "multi_query_group_num",
    "num_attention_groups",
)
HEAD_SIZE = ("head_dim", "hidden_size_per_head", "attention_head_dim", "kv_channels", "d_kv")
_MAMBA_HEADS = ("mamba_n_heads", "mamba_num_heads", "n_mamba_heads")
_MAMBA_HEAD_SIZE = ("mamba_d_head", "mamba_head_dim", "mamba_headdim")
# Their latent is unpacked before it is remembered (vLLM 0.32 has no latent cache for them).
_UNPACKED_LATENT = frozenset({"minicpm3"})

# Their windows are of tokens before the one that looks back.
_BESIDE_ITSELF = frozenset({"cohere2"})


def window(config: Config) -> int | None:
    """Tokens in the sliding window of those layers that have one."""
    if config.raw("use_sliding_window") is False and config.values.get("layer_types") is None:
        return None
    tokens = config.integer(
        "sliding_window", "sliding_window_size", "local_attention", "attention_chunk_size"
    )
    return tokens + (config.model_type in _BESIDE_ITSELF) if tokens else None


def attention(config: Config, *, sliding: bool, mixed: bool, causal: bool, shared: bool) -> Memory:
    """What an attention layer remembers.

    Args:
        config: of the language model.
        sliding: the layer has a window.
        mixed: some layers have one and some have not; then their heads may differ.
        causal: as in `Attention`.
        shared: as in `Attention`.

    Raises:
        MetadataError: the size of a head is not there.
    """
    heads = config.integer(*HEADS) or 0
    rope, nope = config.integer("qk_rope_head_dim") or 0, config.integer("qk_nope_head_dim") or 0
    rank = config.integer("kv_lora_rank")
    if rank and rope and config.model_type not in _UNPACKED_LATENT:
        value_size = config.integer("v_head_dim") or nope
        return LatentAttention(
            num_heads=heads, kv_lora_rank=rank, rope_size=rope, key_size=rope + nope, value_size=value_size
        )
    kv_heads = kv_head_count(config, heads)
    size = config.integer(*HEAD_SIZE) or (rope + nope) or _even(config, heads)
    if config.known and not (kv_heads and size):
        raise MetadataError(
            f"{config.path} does not give the size of an attention head",
            hint="It has no num_attention_heads, or no hidden_size: fetch the model again.",
        )
    value_size = config.integer("v_head_dim") or size
    if config.model_type in _UNPACKED_LATENT:
        value_size = size  # padded to the keys' size
    if mixed and sliding:
        heads = config.integer("swa_num_attention_heads") or heads
        kv_heads = config.integer("swa_num_key_value_heads") or kv_heads
        size = config.integer("swa_head_dim") or size
        value_size = config.integer("swa_v_head_dim") or value_size
    elif mixed and (wide := config.integer("global_head_dim")):
        size = value_size = wide
        if config.flag("attention_k_eq_v"):
            kv_heads = config.integer("num_global_key_value_heads") or kv_heads
    return Attention(
        num_heads=heads,
        num_kv_heads=kv_heads,
        key_size=size,
        value_size=value_size,
        window=window(config) if sliding else None,
        causal=causal,
        shared=shared,
    )


def _even(config: Config, heads: int) -> int:
    return (config.integer(*HIDDEN) or 0) // heads if heads else 0


def kv_head_count(config: Config, heads: int) -> int:
    """Heads of keys and values: grouped, one for all (`multi_query`), or one for each."""
    if config.flag("multi_query") and not config.flag("new_decoder_architecture"):
        return 1
    inner = config.section("attn_config")  # DBRX and MPT keep it apart
    return config.integer(*KV_HEADS) or (inner.integer("kv_n_heads") if inner else None) or heads


def recurrent(config: Config) -> RecurrentState | None:
    """The state of a recurrent layer; which mixer it is shows in the names of its sizes."""
    hidden = config.integer(*HIDDEN) or 0
    kept = (config.integer("mamba_d_conv", "conv_kernel", "linear_conv_kernel_dim") or 4) - 1
    if heads := config.integer("linear_num_value_heads"):
        key_size = config.integer("linear_key_head_dim") or 0
        value_size = config.integer("linear_value_head_dim") or 0
        groups = config.integer("linear_num_key_heads") or heads
        keys = 2 * key_size * groups
        return RecurrentState(
            kind="gated-delta-net",
            conv_elements=kept * (keys + value_size * heads),
            ssm_elements=heads * value_size * key_size,
            num_heads=heads,
            num_groups=groups,
        )
    if linear := config.section("linear_attn_config"):
        heads, size = linear.integer("num_heads") or 0, linear.integer("head_dim") or 0
        kept = (linear.integer("short_conv_kernel_size") or 4) - 1
        return RecurrentState(
            kind="gated-delta-net",
            conv_elements=kept * 3 * heads * size,
            ssm_elements=heads * size * size,
            num_heads=heads,
            num_groups=heads,
        )
    if length := config.integer("conv_L_cache"):
        return RecurrentState(kind="short-conv", conv_elements=hidden * (length - 1), ssm_elements=0)
    if config.model_type.startswith("rwkv"):
        return _rwkv(config, hidden)
    return _mamba(config, hidden, kept)


def _rwkv(config: Config, hidden: int) -> RecurrentState:
    """Two shifted tokens, and a matrix a head; of the fourth generation three vectors."""
    size = config.integer("head_size", "head_dim") or (64 if config.model_type != "rwkv" else 3)
    return RecurrentState(kind="rwkv", conv_elements=2 * hidden, ssm_elements=size * hidden)


def _mamba(config: Config, hidden: int, kept: int) -> RecurrentState | None:
    """Mamba 2 has heads, Mamba 1 has none."""
    state = config.integer("mamba_d_state", "ssm_state_size", "state_size")
    if not state:
        return None
    pure = not config.integer(*HEADS)  # so `num_heads` and `head_dim` are its own
    heads = config.integer(*_MAMBA_HEADS, *(["num_heads"] if pure else []))
    inner = config.integer("mamba_d_ssm") or (config.integer("mamba_expand", "expand") or 2) * hidden
    if not heads:
        return RecurrentState(kind="mamba1", conv_elements=kept * inner, ssm_elements=inner * state)
    size = config.integer(*_MAMBA_HEAD_SIZE, *(["head_dim"] if pure else []))
    inner = heads * size if size else inner
    groups = config.integer("mamba_n_groups", "n_groups", "mamba_ngroups") or 1
    return RecurrentState(
        kind="mamba2",
        conv_elements=kept * (inner + 2 * groups * state),
        ssm_elements=inner * state,
        num_heads=heads,
        num_groups=groups,
        group_channels=2 * state,
    )

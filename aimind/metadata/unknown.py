"""Layers of an architecture that is not known: what their tensors can hold at most.

Weights are what the headers say. What a layer remembers is bounded: keys and values of all tokens, as wide
as the projections that make them; fused with the queries, at most two thirds of what they give together; and
where no projection has a known name, as wide as the hidden state, once for keys and once for values.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from aimind.metadata.config_rows import Plan
from aimind.types import Attention, Memory, RecurrentState, Tensor

_KEYS = re.compile(r"(^|[._])(k_proj|key|wk|kv_proj|k)\.weight$")
_FUSED = re.compile(r"(qkv|query_key_value|c_attn|Wqkv|in_proj_weight)")


def bounded(plan: Plan | None, tensors: Sequence[Tensor], hidden: int) -> Plan:
    """A layer with what its configuration seems to say, and never less than its tensors can remember."""
    said = plan or Plan(memory=())
    heads = max((memory.num_heads for memory in said.memory if isinstance(memory, Attention)), default=1)
    width = max(_width(tensors, hidden), _attended(said.memory))
    per_head = -(-width // heads)
    attention = Attention(num_heads=heads, num_kv_heads=heads, key_size=per_head, value_size=per_head)
    states = tuple(memory for memory in said.memory if isinstance(memory, RecurrentState))
    return Plan(
        memory=(attention, *states),
        feed_forward_size=said.feed_forward_size,
        num_experts=said.num_experts,
        num_experts_used=said.num_experts_used,
        expert_feed_forward_size=said.expert_feed_forward_size,
    )


def _width(tensors: Sequence[Tensor], hidden: int) -> int:
    """Elements of keys, a token."""
    keys = [tensor.shape[0] for tensor in tensors if _KEYS.search(tensor.name) and len(tensor.shape) == 2]
    if keys:
        return max(keys)
    fused = [max(tensor.shape) for tensor in tensors if _FUSED.search(tensor.name) and len(tensor.shape) == 2]
    return -(-max(fused) // 3) if fused else hidden


def _attended(memories: Sequence[Memory]) -> int:
    """Half of what the configuration says that is remembered of a token."""
    return max(
        (
            memory.num_kv_heads * max(memory.key_size, memory.value_size)
            for memory in memories
            if isinstance(memory, Attention)
        ),
        default=0,
    )

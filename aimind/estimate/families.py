"""What the tensors of a layer do not tell about the order of its operations: sets of architectures.

Source: src/models/*.cpp of llama.cpp as vendored by llama-cpp-python 0.3.36, by the names in the files.
"""

from __future__ import annotations

# LayerNorm, which is not computed in place, instead of RMSNorm.
LAYER_NORM = frozenset(
    """
    bert bloom codeshell cohere2 command-r dbrx falcon gpt2 gptj gptneox jais jais2 jina-bert-v2
    jina-bert-v3 modern-bert mpt nemotron nomic-bert nomic-bert-moe olmo orion phi2 rwkv6 rwkv7
    stablelm starcoder starcoder2
    """.split()
)
# Such norms of each head's queries and keys.
HEAD_LAYER_NORM = frozenset({"chameleon", "command-r", "stablelm"})
# Without rotary positions.
NO_ROPE = frozenset(
    """
    bert bloom gpt2 jais jamba jina-bert-v2 kimi-linear mpt nemotron_h nemotron_h_moe refact starcoder
    """.split()
)
# Without them in the model of so many layers.
NO_ROPE_LAYERS = {"baichuan": 40}
# Norms are not in the file, since they have no weight.
BARE_NORMS = {"olmo": frozenset({"attn_norm", "ffn_norm", "output_norm"})}
# The rows whose logits are wanted are picked after the last layer, not in it.
LATE_OUTPUT = frozenset(
    """
    bailingmoe3 cohere2moe gemma3n gemma4 gpt-oss hy_v3 nemotron_h nemotron_h_moe qwen35 qwen35moe
    qwen3next step35
    """.split()
)
# Rotary positions before the norms of queries and keys.
ROPE_FIRST = frozenset({"hunyuan-dense", "hunyuan-moe", "hunyuan_vl"})
# Queries are scaled by their position.
TEMPERED = frozenset({"mistral3", "mistral4"})
# There is a cache, but attention looks only at the tokens of the step.
CACHE_UNREAD = frozenset({"llama-embed"})
# The logits of all tokens are computed; some of them are masked in a copy.
ALL_OUTPUTS = frozenset({"cogvlm"})
MASKED_LOGITS = frozenset({"chameleon"})
# The router reads the layer's input.
ROUTED_BY_INPUT = frozenset({"smallthinker"})
# Of those that are picked late, before the last norm.
LATE_BEFORE_NORM = frozenset({"gemma3n", "gpt-oss"})
# Layers whose feed-forward keeps only large gates, where updates alternate.
SPARSE_LAYERS = 10
# The feed-forward reads the layer's input, not the attention's output, though it has a norm of its own.
PARALLEL = frozenset({"gptneox"})
# The order of the sums of such a layer, unless it is the feed-forward, the input, the attention's result.
PARALLEL_SUMS = {
    "falcon": ("fed", "mixed", "input"),
    "phi2": ("mixed", "fed", "input"),
    "plamo": ("fed", "mixed", "input"),
}
# The first or the second sum of a layer starts with what came in: that is then overwritten.
INPUT_FIRST = frozenset({"jamba", "lfm2", "lfm2moe", "openelm"})
RESIDUAL_FIRST = frozenset({"jamba", "lfm2", "lfm2moe", "phi3", "phimoe"})
# The embedding is scaled, and with Granite what a layer adds, too.
SCALED_EMBEDDING = frozenset(
    {"afmoe", "gemma", "gemma-embedding", "gemma2", "gemma3", "gemma3n", "gemma4", "minicpm", "minicpm3"}
)
# Where a step may mix tokens with embeddings, only the tokens' rows are scaled.
SCALED_ROWS = frozenset({"gemma3", "gemma3n", "gemma4"})
SCALED_LAYERS = frozenset({"granite", "granitehybrid", "granitemoe", "granite_swa", "minicpm", "minicpm3"})
# The queries' matrix also holds a gate for the attention's result.
GATED_QUERIES = frozenset({"qwen35", "qwen35moe", "qwen3next"})
# Values are normed.
NORMED_VALUES = frozenset({"gemma3n", "gemma4"})
# The experts' way down wants a precision that CUDA has no kernel for.
PRECISE_EXPERTS = frozenset({"mistral4"})
# Flash attention is forced off (`llama_init_from_model` in src/llama-context.cpp).
WITHOUT_FLASH_ATTENTION = frozenset({"grok"})
# The softmax is over the chosen experts only; else over all, and the chosen ones are scaled to one.
SOFTMAX_OF_CHOSEN = frozenset({"gpt-oss"})
# Positions of four kinds (text, height, width, time).
FOUR_POSITIONS = frozenset({"paddleocr", "qwen2vl", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe"})

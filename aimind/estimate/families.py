"""What the tensors of a layer do not tell about the order of its operations: sets of architectures.

Source: src/models/*.cpp of llama.cpp as vendored by llama-cpp-python 0.3.36, by the names in the files.
"""

from __future__ import annotations

# LayerNorm, which is not computed in place, instead of RMSNorm.
LAYER_NORM = frozenset(
    """
    bert bloom chameleon codeshell cohere2 command-r dbrx falcon gpt2 gptj gptneox jais jais2 jina-bert-v2
    jina-bert-v3 modern-bert mpt nemotron nomic-bert nomic-bert-moe olmo orion phi2 phimoe rwkv6 rwkv7
    stablelm starcoder starcoder2
    """.split()
)
# Without rotary positions.
NO_ROPE = frozenset(
    """
    bert bloom gpt2 granitehybrid jais jamba jina-bert-v2 mpt nemotron_h nemotron_h_moe refact starcoder
    """.split()
)
# The rows whose logits are wanted are picked after the last layer, not in it.
LATE_OUTPUT = frozenset(
    """
    bailingmoe3 cohere2moe gemma3n gemma4 gpt-oss hy-v3 nemotron_h nemotron_h_moe qwen35 qwen35moe
    qwen3next step35
    """.split()
)
# The feed-forward reads the layer's input, not the attention's output, though it has a norm of its own.
PARALLEL = frozenset({"gptneox"})
# The second sum of a layer starts with what came in: that is then overwritten.
RESIDUAL_FIRST = frozenset({"jamba", "lfm2", "lfm2moe", "phi3", "phimoe"})
# The embedding is scaled, and with Granite what a layer adds, too.
SCALED_EMBEDDING = frozenset({"gemma", "gemma2", "gemma3", "gemma3n", "gemma4", "minicpm"})
# Where a step may mix tokens with embeddings, only the tokens' rows are scaled.
SCALED_ROWS = frozenset({"gemma3", "gemma3n", "gemma4"})
SCALED_LAYERS = frozenset({"granite", "granitehybrid", "granitemoe", "granite_swa"})
# The queries' matrix also holds a gate for the attention's result.
GATED_QUERIES = frozenset({"qwen35", "qwen35moe", "qwen3next"})
# Values are normed.
NORMED_VALUES = frozenset({"gemma3n", "gemma4"})
# The softmax is over the chosen experts only; else over all, and the chosen ones are scaled to one.
SOFTMAX_OF_CHOSEN = frozenset({"gpt-oss"})
# Positions of four kinds (text, height, width, time).
FOUR_POSITIONS = frozenset({"paddleocr", "qwen2vl", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe"})

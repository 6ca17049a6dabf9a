"""What a GGUF file leaves unsaid about its architecture, because llama.cpp knows it: data.

Source: llama.cpp as vendored by llama-cpp-python 0.3.36: `LLM_ARCH_NAMES` in src/llama-arch.cpp,
`load_arch_hparams` in src/models/*.cpp, `llama_model::create_memory` in src/llama-model.cpp.
"""

from __future__ import annotations

from typing import NamedTuple

# Architectures whose layers are told by their tensors and keys, with the tables below. Left out on purpose
# are those that remember something which `types.Memory` has no word for (the indexers of sparse attention,
# looped layers), drafts of other models, and decoders of sound.
KNOWN = frozenset(
    """
    afmoe apertus arcee arctic arwkv7 baichuan bailingmoe bailingmoe2 bert bitnet bloom chameleon
    chatglm codeshell cogvlm cohere2 cohere2moe command-r dbrx deci deepseek deepseek2 deepseek2-ocr
    deepseek32 dots1 dream ernie4_5 ernie4_5-moe eurobert exaone exaone-moe exaone4 falcon falcon-h1 gemma
    gemma-embedding gemma2 gemma3 gemma3n gemma4 glm-dsa glm4 glm4moe gpt-oss gpt2 gptneox granite
    granite_swa granitehybrid granitemoe grok grovemoe hunyuan-dense hunyuan-moe hunyuan_vl internlm2
    jais jais2 jamba jina-bert-v2 jina-bert-v3 kimi-linear laguna lfm2 lfm2moe llada llada-moe llama
    llama-embed llama4 maincoder mamba mamba2 maple mellum mimo2 minicpm minicpm3 minimax-m2 mistral3
    mistral4 modern-bert mpt muse-glimmer nemotron nemotron_h nemotron_h_moe neo-bert nomic-bert
    nomic-bert-moe olmo olmo2 olmoe openelm orion paddleocr pangu-embedded phi2 phi3 phimoe plamo plamo2
    plamo3 plm qwen qwen2 qwen2moe qwen2vl qwen3 qwen35 qwen35moe qwen3moe qwen3next qwen3vl qwen3vlmoe
    refact rnd1 rwkv6 rwkv6qwen2 rwkv7 seed_oss smallthinker smollm3 spark2_5 stablelm starcoder
    starcoder2 step35 t5 t5encoder xverse
    """.split()
)

# These compute every request afresh and get no cache (`create_memory` gives them none).
WITHOUT_CACHE = frozenset(
    """
    bert dream eurobert gemma-embedding jina-bert-v2 jina-bert-v3 llada llada-moe modern-bert neo-bert
    nomic-bert nomic-bert-moe rnd1 t5encoder wavtokenizer-dec
    """.split()
)
# These make vectors of text, whatever the keys say.
EMBEDDERS = WITHOUT_CACHE - frozenset({"dream", "llada", "llada-moe", "rnd1", "wavtokenizer-dec"})

# Nothing is computed with the embedding but the input.
HEADLESS = EMBEDDERS - frozenset({"gemma-embedding"})

# `general.architecture` of image models as stable-diffusion.cpp and ComfyUI-GGUF write it (not llama.cpp's).
IMAGE = frozenset(
    "aura chroma cosmos flux hidream hyvid lumina2 ltxv pig qwen_image sd1 sd2 sd3 sdxl wan z_image".split()
)


class Sliding(NamedTuple):
    """Which layers have a sliding window, unless the file lists them.

    Attributes:
        period: one layer in so many attends to all tokens; 0: none does.
        dense_first: that is the first of them instead of the last.
        window: where the file gives none.
        fixed: the file's own window is ignored for that one.
    """

    period: int
    dense_first: bool = False
    window: int | None = None
    fixed: bool = False


# Without rotary positions are, of these, the layers that attend to all tokens among others with a window,
ROTARY_IN_WINDOWS = frozenset("afmoe cohere2 exaone4 exaone-moe llama4 muse-glimmer smallthinker".split())
# and of these the last layer of so many; of these all, if the key `rope.scaling.finetuned` says so.
ROTARY_PERIOD = {"smollm3": 4}
ROTARY_SWITCH = frozenset({"granite", "granitehybrid", "granitemoe", "granite_swa"})

# Architectures that are not here ignore a sliding window in the file (phi3): they attend to all tokens.
SLIDING = {
    "afmoe": Sliding(4),
    "cohere2": Sliding(4),
    "cohere2moe": Sliding(4, dense_first=True),
    "exaone-moe": Sliding(4, window=128),
    "exaone4": Sliding(4),
    "gemma-embedding": Sliding(6),
    "gemma2": Sliding(2, window=4096),
    "gemma3": Sliding(6),
    "gemma3n": Sliding(5),
    "gemma4": Sliding(6),
    "gpt-oss": Sliding(2),
    "granite_swa": Sliding(4),
    "laguna": Sliding(4, dense_first=True),
    "lfm2": Sliding(0),
    "llama4": Sliding(4, window=8192, fixed=True),
    "maple": Sliding(4),
    "mellum": Sliding(4),
    "mimo2": Sliding(6),
    "modern-bert": Sliding(3, dense_first=True),
    "muse-glimmer": Sliding(4),
    "olmo2": Sliding(4),
    "plamo3": Sliding(8),
    "smallthinker": Sliding(4, dense_first=True, window=4096, fixed=True),
    "spark2_5": Sliding(4),
    "step35": Sliding(4),
}

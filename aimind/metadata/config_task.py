"""What a model of config.json is for: data and a few rules over names."""

from __future__ import annotations

import re
from collections.abc import Iterable

from aimind.metadata.config import Config
from aimind.metadata.remote_code import auto_classes
from aimind.types import Category

# Types whose layers look both ways and whose output is a vector (or a score): nothing is generated.
ENCODERS = frozenset(
    "bert camembert distilbert electra eurobert gte jina_embeddings_v3 modernbert mpnet new nomic_bert"
    " roberta xlm-roberta xlm-roberta-xl".split()
)
_SPEECH_TO_TEXT = frozenset("cohere_asr funasr moonshine parakeet qwen3_asr speech_to_text whisper".split())
_TEXT_TO_SPEECH = frozenset("bark csm dia fastspeech2_conformer parler_tts qwen3_tts speecht5 vits".split())
_SEES = (
    *("vision_config", "visual", "vit_config", "vision_tower", "mm_vision_tower"),
    *("img_processor", "image_embd_layer"),
)
_HEARS = ("audio_config", "audio_encoder", "audio_processor", "audio_embd_layer")
_RERANKER = re.compile(r"(?<![a-z])rerank(er)?(?![a-z])", re.IGNORECASE)
# Language models that are published as rerankers, too, with nothing in their files that says so.
SCORERS = frozenset({"Qwen3ForCausalLM"})
# Files that make a folder one of sentence-transformers.
_SENTENCES = frozenset({"modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"})
# Bare models (`Qwen2Model`) give vectors, but these names of whole ones end the same way.
_WHOLE_MODELS = ("LMHeadModel", "ChatModel", "ChatGLMModel", "UltravoxModel", "OmniModel", "MiDashengLMModel")


def is_causal(config: Config) -> bool:
    """Whether a token sees only those before it; else nothing is remembered between requests."""
    bidirectional = config.flag("use_bidirectional_attention") or config.raw("is_causal") is False
    return config.model_type not in ENCODERS and not bidirectional


def modalities(whole: Config) -> tuple[str, ...]:
    """What it takes beside text."""
    parts = [whole, *(part for name in ("thinker_config", "embd_layer") if (part := whole.section(name)))]
    found = {"image": _SEES, "audio": _HEARS}
    return tuple(
        name for name, keys in found.items() if any(part.values.get(key) for part in parts for key in keys)
    )


def category(whole: Config, architecture: str, names: frozenset[str], *, scores: bool = False) -> Category:
    """What it is for, from its type, its architecture, and the files beside; `scores`: these say so."""
    if whole.model_type in _SPEECH_TO_TEXT:
        return "speech-to-text"
    if whole.model_type in _TEXT_TO_SPEECH:
        return "text-to-speech"
    if scores or architecture.endswith(("ForSequenceClassification", "ForRanking", "ForRewardModel")):
        return "reranker"
    bare = architecture.endswith("Model") and not architecture.endswith(_WHOLE_MODELS)
    generates = "AutoModelForCausalLM" in auto_classes(whole)
    if names & _SENTENCES or whole.language_model().model_type in ENCODERS or (bare and not generates):
        return "embedding"
    return "vision-language" if "image" in modalities(whole) else "llm"


def scores(name: str, architecture: str, sentences: Config | None, paths: Iterable[str]) -> bool:
    """Whether a model whose configuration is that of another kind gives a text a score.

    sentence-transformers says so in its own files: of a model with a head in CrossEncoder's `model_type`, of
    a language model that answers with yes or no by the folder of a module LogitScore. Qwen3-Reranker came
    before that, and has nothing but its name.
    """
    if sentences is not None and sentences.text("model_type") == "CrossEncoder":
        return True
    if any("_LogitScore" in path.split("/")[0] for path in paths):
        return True
    return architecture in SCORERS and _RERANKER.search(name.rpartition("/")[2]) is not None

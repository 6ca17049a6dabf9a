"""Which models a version of vLLM can load: by its own table of architectures, and by their quantization."""

from __future__ import annotations

import json
import re

from aimind.launchers.builds import made_by
from aimind.types import Backend, Host, Metadata, Registry

REGISTRY = Registry(
    file="vllm/model_executor/models/registry.py", table="_VLLM_MODELS", with_transformers=True
)
# One model is made into another kind by these endings (`_SUFFIX_TO_DEFAULTS` of vllm/config/model.py, 0.32).
_ENDINGS = (
    "ForCausalLM ForConditionalGeneration ChatModel LMHeadModel ForTextEncoding EmbeddingModel "
    "ForSequenceClassification ForTokenClassification ForAudioClassification ForImageClassification "
    "ForVideoClassification ClassificationModel ForRewardModeling RewardModel Model"
).split()
# Language models that answer with one of two words, and how vLLM reads a score from that (its documentation,
# Qwen3-Reranker): the words, and what it is told beside them.
SCORERS = {"Qwen3ForCausalLM": (("no", "yes"), {"is_original_qwen3_reranker": True})}
# What follows holds for these versions: tests/live/test_vllm_models.py asks the package itself.
_OF_QUANTIZATIONS = "0.32."
_READ = re.compile(
    r"AWQ|GPTQ|FP8|MXFP4|NVFP4|W\d+A\d+|QUARK|TORCHAO|INC|AUTO-ROUND|EXPERTS-INT8|HUMMING|MODELOPT.*|.*-FP8|GPT-OSS-.*"
)


def lacks(metadata: Metadata, host: Host, backend: Backend) -> str | None:
    """Why this version of it cannot load the model, as a sentence; `None` where it can, or may."""
    return _architecture(metadata, backend) or _quantization(metadata, host, backend)


def _architecture(metadata: Metadata, backend: Backend) -> str | None:
    name, known = metadata.architecture, backend.architectures
    # Code that the model brings may be of any architecture; without one config.json has only its type.
    if known is None or metadata.needs_remote_code or name == name.lower() or name in known:
        return None
    ending = next((each for each in _ENDINGS if name.endswith(each)), None)
    if ending and any(name.removesuffix(ending) + other in known for other in _ENDINGS):
        return None
    return f"vLLM {backend.version} does not know the architecture {name}"


def _quantization(metadata: Metadata, host: Host, backend: Backend) -> str | None:
    """The first of the conditions on quantized weights that they do not meet."""
    name, bits, traits = metadata.quantization, metadata.quantization_bits, metadata.quantization_traits
    if name is None or not backend.version.startswith(_OF_QUANTIZATIONS):
        return None
    vllm = f"vLLM {backend.version}"
    on_cpu = not (made_by(host, "nvidia") or made_by(host, "amd"))
    tiled = host.amx or not on_cpu
    conditions = (
        (_READ.fullmatch(name) is None, f"{vllm} reads no weights in {name}"),
        (name == "AWQ" and bits != 4, f"{vllm} reads AWQ of 4 bits, and these weights have {bits}"),
        (
            "average-bits" in traits,
            f"{vllm} reads weights that all have as many bits, and these ({name}) have several",
        ),
        (
            name == "GPTQ" and bits not in (4, 8),
            f"{vllm} reads GPTQ of 4 or 8 bits, and these weights have {bits}",
        ),
        (
            "asymmetric" in traits,
            f"{vllm} reads symmetric GPTQ, and these weights of {bits} bits are not (sym: false)",
        ),
        (
            "act-order" in traits,
            f"{vllm} reads groups of weights in order, and these groups of {metadata.group_size} "
            "follow the activations (desc_act: true)",
        ),
        (on_cpu and name == "NVFP4", f"the CPU build of {vllm} has no kernels for NVFP4"),
        (
            on_cpu and name in ("GPTQ", "W8A16") and bits == 8,
            f"the CPU build of {vllm} has kernels for weights of 4 bits beside 16, and these ({name}) have 8",
        ),
        (
            on_cpu and name == "FP8" and not metadata.group_size and "per-channel" not in traits,
            f"the CPU build of {vllm} computes FP8 with a scale for each channel or block, and not as these "
            "weights have it",
        ),
        (
            not tiled and name == "FP8" and metadata.group_size,
            f"the CPU build of {vllm} computes FP8 in blocks by AMX, which this processor has not",
        ),
        (
            not tiled and any(layer.num_experts for layer in metadata.layers) and _tiles(name, host),
            f"the CPU build of {vllm} computes experts in {name} by AMX, which this processor has not",
        ),
    )
    return next((sentence for broken, sentence in conditions if broken), None)


def _tiles(name: str, host: Host) -> bool:
    """Whether experts of that quantization have no kernels for a processor without tiles."""
    return name in ("AWQ", "GPTQ", "MXFP4", "W4A16") or (name == "W8A8" and host.arch == "x86_64")


def arguments(metadata: Metadata) -> tuple[str, ...]:
    """What it is told of the model: how it says a score in a word, or what shall not be loaded."""
    if metadata.category == "llm" and metadata.made_for == "vision-language":
        return ("--language-model-only",)
    if metadata.category != "reranker" or metadata.architecture not in SCORERS:
        return ()
    words, more = SCORERS[metadata.architecture]
    made = metadata.architecture.replace("ForCausalLM", "ForSequenceClassification")
    return ("--hf-overrides", json.dumps({"architectures": [made], "classifier_from_token": words, **more}))

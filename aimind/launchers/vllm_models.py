"""Which models a version of vLLM can load: by its own table of architectures, and by their quantization."""

from __future__ import annotations

import json
import re

from aimind.launchers import architectures, strays, vllm_cpu
from aimind.launchers.builds import older_than, on_cpu
from aimind.types import Backend, Host, Metadata, Plan, Registry

REGISTRY = Registry(
    kind="table",
    files=("vllm/model_executor/models/registry.py",),
    table="_VLLM_MODELS",
    with_transformers=True,
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
    r"AWQ|GPTQ|FP8|MXFP8|MXFP4|NVFP4|W\d+A\d+|QUARK|TORCHAO|INC|AUTO-ROUND|EXPERTS-INT8|HUMMING|MODELOPT.*|.*-FP8|GPT-OSS-.*"
)


def lacks(metadata: Metadata, host: Host, backend: Backend) -> str | None:
    """Why this version of it cannot load the model, as a sentence; `None` where it can, or may."""
    return _quantization(metadata, host, backend)


def table(backend: Backend) -> str:
    """By its version."""
    return f"vllm-{backend.version}"


def knows(metadata: Metadata, backend: Backend) -> bool:
    """Whether this version has the model's architecture in its table, or makes a model of it into another."""
    name, known = metadata.architecture, architectures.known(backend, table(backend))
    # Code that the model brings may be of any architecture; without one config.json has only its type.
    if known is None or metadata.needs_remote_code or name == name.lower() or name in known:
        return True
    ending = next((each for each in _ENDINGS if name.endswith(each)), None)
    return ending is not None and any(name.removesuffix(ending) + other in known for other in _ENDINGS)


def _quantization(metadata: Metadata, host: Host, backend: Backend) -> str | None:
    """Why this version cannot read the quantized weights, or its build for the CPU not compute with them."""
    if metadata.quantization is None or not backend.version.startswith(_OF_QUANTIZATIONS):
        return None
    unreadable = _unreadable(metadata)
    if unreadable is not None:
        return f"vLLM {backend.version} {unreadable}"
    if not on_cpu(host):
        return _capability(metadata, host, backend)
    return vllm_cpu.lacks(metadata, host, backend)


def _capability(metadata: Metadata, host: Host, backend: Backend) -> str | None:
    """Why a device is too old for the weights.

    Most formats need no more than vLLM itself, since Marlin's kernels compute in 16 bits where a device
    cannot in 8 or 4; so do these, where they are parts of a model in mixed precision. Source:
    get_min_capability in vllm/model_executor/layers/quantization.
    """
    name, traits = metadata.quantization, metadata.quantization_traits
    by_modelopt = name in ("FP8", "MXFP8") and "modelopt" in traits
    if "mixed" in traits or not (by_modelopt or (name == "MXFP4" and "compressed-tensors" not in traits)):
        return None
    return older_than(8.0, host, f"vLLM {backend.version} needs 8.0 for {name}")


def _unreadable(metadata: Metadata) -> str | None:
    """Why no build supports the quantization, as a predicate."""
    name, bits, traits = metadata.quantization or "", metadata.quantization_bits, metadata.quantization_traits
    if _READ.fullmatch(name) is None:
        return f"does not support weights in {name}"
    if name == "AWQ" and "modelopt" in traits:
        return "does not support AWQ weights from ModelOpt"
    if name == "AWQ" and bits != 4:
        return f"supports AWQ with 4 bits only, and these weights have {bits}"
    if "average-bits" in traits:
        return f"needs the same number of bits for all weights, and these ({name}) have several"
    if name == "GPTQ" and bits not in (4, 8):
        return f"supports GPTQ with 4 or 8 bits only, and these weights have {bits}"
    if "asymmetric" in traits:
        return f"supports symmetric GPTQ only, and these {bits}-bit weights are not (sym: false)"
    if "act-order" in traits:
        return (
            f"does not support activation order (desc_act: true) with a group size of {metadata.group_size}"
        )
    return None


def formats(plan: Plan) -> tuple[str, ...]:
    """Flags that keep vLLM to the planned formats, where it would choose Mistral's own.

    It does so where the folder holds `consolidated*.safetensors` as well (0.32: `_prepare_weights` in
    vllm/model_executor/model_loader/default_loader.py, `get_config` in vllm/transformers_utils/config.py).
    The other way round, a tokenizer that comes in Mistral's format alone has to be named to it.
    """
    names = {file.path for file in plan.model.files}
    tokenizer = "hf"
    if "tekken.json" in names and names.isdisjoint(("tokenizer.json", "tokenizer.model")):
        tokenizer = "mistral"
    if strays.has_mistral_copies(plan.strays):
        return ("--load-format", "safetensors", "--config-format", "hf", "--tokenizer-mode", tokenizer)
    return ("--tokenizer-mode", tokenizer) if tokenizer == "mistral" else ()


def arguments(metadata: Metadata) -> tuple[str, ...]:
    """Flags that follow from the model: its purpose, and a quantization that config.json does not name."""
    return (*_for_purpose(metadata), *_quantization_method(metadata))


def _quantization_method(metadata: Metadata) -> tuple[str, ...]:
    """The method by name: vLLM looks for quantize_config.json and quant_config.json only if it has that.

    Source: `get_quant_config` in vllm/model_executor/model_loader/weight_utils.py, 0.32.
    """
    if "separate" in metadata.quantization_traits and metadata.quantization in ("AWQ", "GPTQ"):
        return ("--quantization", metadata.quantization.lower())
    return ()


def _for_purpose(metadata: Metadata) -> tuple[str, ...]:
    """How the model expresses a score in a word, or what shall not be loaded."""
    if metadata.category == "llm" and metadata.made_for == "vision-language":
        return ("--language-model-only",)
    if metadata.category != "reranker" or metadata.architecture not in SCORERS:
        return ()
    words, more = SCORERS[metadata.architecture]
    made = metadata.architecture.replace("ForCausalLM", "ForSequenceClassification")
    return ("--hf-overrides", json.dumps({"architectures": [made], "classifier_from_token": words, **more}))

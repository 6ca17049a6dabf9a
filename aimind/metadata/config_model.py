"""A config.json and the tensors beside it -> Metadata."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aimind.errors import MetadataError
from aimind.metadata import config_layers, config_rows, remote_code, summary, unknown
from aimind.metadata.config import Config
from aimind.metadata.config_memory import HIDDEN
from aimind.metadata.config_task import category, modalities, scores
from aimind.metadata.config_values import LENGTHS, check
from aimind.metadata.quantization import Quantization, parameters
from aimind.types import Chat, Format, Layer, Metadata, Tensor

_LAYER_NAME = re.compile(r"(.*?)\b(?:layers|layer|h|blocks|block)\.(\d{1,4})\.")
# Parts beside the language model, by the words in their tensors' names.
_BESIDE = re.compile(
    r"vision|visual|vit|image|audio|speech|tower|resampler|talker|token2wav|code2wav|sam_|\bvpm\b|\bapm\b|\btts\b"
)
_DRAFT = re.compile(r"(^|\.)mtp")
_HEAD = re.compile(r"(^|\.)(lm_head|output_layer|embed_out|output)\.[a-z_]+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What other files of the folder say.

    Attributes:
        names: of all files.
        sentence_length: tokens that sentence-transformers would cut a text to.
        tokenizer_length: the tokenizer's `model_max_length`.
        chat_template: whether there is one.
        chat: what it says.
        name: of the repository or folder.
        sentences: the file that sentence-transformers writes of a model.
        paths: of all files, those in folders below, too.
        tokenizer: tokenizer_config.json.
    """

    names: frozenset[str] = frozenset()
    sentence_length: int | None = None
    tokenizer_length: int | None = None
    chat_template: bool = True
    chat: Chat = field(default_factory=Chat)
    name: str = ""
    sentences: Config | None = None
    paths: tuple[str, ...] = ()
    tokenizer: Config | None = None


def describe(whole: Config, tensors: Sequence[Tensor], *, weights: Format, beside: Beside) -> Metadata:
    """The model of this configuration with these tensors.

    Raises:
        MetadataError: the configuration contradicts itself or the tensors.
    """
    config = whole.language_model()
    check(whole, config)
    architecture = next(iter(whole.words("architectures")), config.model_type)
    scoring = scores(beside.name, architecture, beside.sentences, beside.paths)
    task = category(whole, architecture, beside.names, scores=scoring)
    stacks = _stacks(tensors)
    layers, others, draft = _layers(config, stacks)
    head = [tensor for tensor in others if _HEAD.search(tensor.name) and not _BESIDE.search(tensor.name)]
    generates = task in {"llm", "vision-language", "speech-to-text"}
    tied = generates and (config.flag("tie_word_embeddings") or not head)
    if generates and not head and weights == "safetensors":
        _check_head(whole, config, others)
    if tied:  # files may hold the head again, backends load it once
        others = [tensor for tensor in others if tensor not in head]
    quantization = Quantization.of(whole, config)
    queries, kept = summary.heads(layers)
    return Metadata(
        format=weights,
        architecture=architecture,
        category=task,
        quantization=quantization.name,
        quantization_bits=quantization.bits if quantization.name else None,
        quantization_traits=quantization.traits,
        mixture=quantization.groups,
        dtype=summary.usual_dtype(tensors),
        parameters=parameters([*others, *(t for layer in layers for t in layer.tensors)], quantization),
        hidden_size=config.integer(*HIDDEN) or 0,
        vocab_size=config.integer("vocab_size", "padded_vocab_size") or 0,
        num_heads=queries,
        num_kv_heads=kept,
        max_model_len=max_model_len(config, beside) if summary.attends(layers) else None,
        layers=layers,
        others=tuple(others),
        draft=tuple(draft),
        tied=tied,
        known=config.known and any(layer.tensors for layer in layers),
        intermediate_size=summary.widest(layers),
        group_size=quantization.group_size,
        modalities=modalities(whole),
        remote_code=remote_code.named(whole, beside.tokenizer),
        needs_remote_code=remote_code.needed(whole, beside.tokenizer, beside.names),
        chat_template=beside.chat_template,
        chat=beside.chat,
    )


def _check_head(whole: Config, config: Config, others: Sequence[Tensor]) -> None:
    """Whether a model whose output head is not its embedding has a tensor that can be the head.

    Without one vLLM 0.32, SGLang and transformers fill the head with arbitrary numbers and serve that, while
    MLX loads nothing.

    Raises:
        MetadataError: no tensor can be the head.
    """
    says_untied = whole.values.get("tie_word_embeddings") is False and not config.flag("tie_word_embeddings")
    if not says_untied or not config.known:
        return
    rows = config.integer("vocab_size", "padded_vocab_size") or 0
    tables = [tensor for tensor in others if len(tensor.shape) > 1 and max(tensor.shape) >= rows]
    if rows and len(tables) == 1:
        raise MetadataError(
            f"{whole.path} says that the output head is not the embedding (tie_word_embeddings: false), "
            "and the weights have no tensor for it (lm_head)",
            hint="Download the model again: one of its files is missing, or of another model.",
        )


def _stacks(tensors: Sequence[Tensor]) -> dict[str, dict[int, list[Tensor]]]:
    """The tensors by what stands before the layer's number, and by that; those without one under ""."""
    stacks: dict[str, dict[int, list[Tensor]]] = {"": {-1: []}}
    for tensor in tensors:
        if match := _LAYER_NAME.match(tensor.name):
            stacks.setdefault(match[1] or ".", {}).setdefault(int(match[2]), []).append(tensor)
        else:
            stacks[""][-1].append(tensor)
    return stacks


def _layers(
    config: Config, stacks: Mapping[str, Mapping[int, Sequence[Tensor]]]
) -> tuple[tuple[Layer, ...], list[Tensor], list[Tensor]]:
    """The layers with their tensors; the tensors beside them; those that only speculative decoding loads."""
    chosen = _chosen(config, stacks)
    layers: list[Layer] = []
    used: set[tuple[str, int]] = set()
    for name, plans in chosen:
        stack = stacks[name] if name else {}
        if stack and config.known and len(plans) > len(stack):
            raise MetadataError(
                f"{config.path} describes {len(plans)} layers, the weights have {len(stack)}",
                hint="Download the model again: one of its files is missing or belongs to another model.",
            )
        for index, plan in enumerate(plans):
            used.add((name, index))
            layers.append(
                Layer(
                    tensors=tuple(stack.get(index, ())),
                    memory=plan.memory,
                    feed_forward_size=plan.feed_forward_size,
                    num_experts=plan.num_experts,
                    num_experts_used=plan.num_experts_used,
                    expert_feed_forward_size=plan.expert_feed_forward_size,
                )
            )
    others: list[Tensor] = []
    draft: list[Tensor] = []
    behind = {name for name, _ in chosen if name}
    for name, stack in stacks.items():
        for index, tensors in stack.items():
            if (name, index) not in used:
                for tensor in tensors:
                    (draft if name in behind or _DRAFT.search(tensor.name) else others).append(tensor)
    return tuple(layers), others, draft


def _chosen(
    config: Config, stacks: Mapping[str, Mapping[int, Sequence[Tensor]]]
) -> list[tuple[str, list[config_rows.Plan]]]:
    """Which stacks are the language model's layers, and what the configuration says of them."""
    sizes = {
        name: sum(tensor.size_bytes for tensors in stack.values() for tensor in tensors)
        for name, stack in stacks.items()
        if name and not _BESIDE.search(name) and not _DRAFT.search(name)
    }
    by_size = sorted(sizes, key=lambda name: sizes[name], reverse=True)
    if config.flag("is_encoder_decoder"):
        encoder, decoder = config_layers.encoder_decoder(config)
        return [
            (next((name for name in by_size if "encoder" in name), ""), encoder),
            (next((name for name in by_size if "decoder" in name), ""), decoder),
        ]
    name = by_size[0] if by_size else ""
    plans = config_layers.plan(config)
    if not config.known and name:
        stack, hidden = stacks[name], config.integer(*HIDDEN) or _hidden(stacks[name])
        said = [*plans, *[None] * len(stack)]
        plans = [
            unknown.bounded(said[index], stack.get(index, ()), hidden) for index in range(max(stack) + 1)
        ]
    return [(name, plans)]


def _hidden(stack: Mapping[int, Sequence[Tensor]]) -> int:
    """The hidden size where the configuration has no known name of it: that of the norms, or of a matrix."""
    tensors = [tensor for tensors in stack.values() for tensor in tensors]
    vectors = Counter(tensor.shape[0] for tensor in tensors if len(tensor.shape) == 1)
    if vectors:
        return max(vectors, key=lambda size: (vectors[size], size))
    return max((min(tensor.shape) for tensor in tensors if tensor.shape), default=0)


_OTHER_LENGTHS = ("max_context_length", "context_length", "n_ctx")  # of models that vLLM does not know
# Their `max_position_embeddings` counts what scaling gives.
_SCALED_ALREADY = frozenset({"su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling"})


def max_model_len(config: Config, beside: Beside) -> int | None:
    """Tokens that the model was made for, as vLLM 0.32 derives them (`_get_and_verify_max_len`)."""
    found = [length for name in LENGTHS if (length := config.integer(name))]
    length = config.integer("model_max_length") or min(found, default=None) or config.integer(*_OTHER_LENGTHS)
    if config.text("position_embedding_type") == "absolute" and beside.tokenizer_length:
        length = min(length or beside.tokenizer_length, beside.tokenizer_length)
    if length and "gemma3" not in config.model_type:
        length = math.floor(length * _rope_factor(config))
    return beside.sentence_length or length


def _rope_factor(config: Config) -> float:
    """How much longer than `max_position_embeddings` the positions reach."""
    scaling = config.section("rope_scaling", "rope_parameters")
    if scaling is None:
        return 1.0
    of_kinds = [inner for name in scaling.values if (inner := scaling.section(name))]
    for section in of_kinds or [scaling]:
        kind = section.text("rope_type", "type")
        factor = section.number("factor")
        if kind not in _SCALED_ALREADY and factor:
            return factor
    return 1.0

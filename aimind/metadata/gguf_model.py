"""GGUF headers -> Metadata: the parts of a split model as one, a projector beside it."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from aimind.errors import MetadataError, WrongFileError
from aimind.metadata import gguf_layers as layering
from aimind.metadata import summary
from aimind.metadata.ggml import FILE_TYPES, PLAIN_TYPES
from aimind.metadata.gguf import FETCH_AGAIN, Header
from aimind.metadata.gguf_defects import defects
from aimind.metadata.gguf_families import EMBEDDERS, HEADLESS, IMAGE, KNOWN
from aimind.types import Attention, Category, Layer, Metadata, Tensor, Tower

LONGEST_NAME = 64
# Parts of diffusion models, as stable-diffusion.cpp names them (model.cpp), which writes no architecture; and
# what these are.
_DIFFUSION = re.compile(
    r"(?:model\.diffusion_model\.)?"
    r"(?:(?P<flux>double_blocks\.\d+\.txt_attn)|(?P<sd3>joint_blocks\.\d+\.x_block)"
    r"|(?P<sd>(?:in|out)put_blocks\.\d+\.\d+\.transformer_blocks))\."
)
_LARGEST_SIDE = 1 << 16  # pixels of a picture, beyond which a header is not believed
_POOLING_RANK = 4  # `llama_pooling_type` in llama.cpp's include/llama.h
_CLASSIFIERS = ("cls.", "cls.output.")
# What a file is that holds no model: `general.type`, or the architecture of older files.
_NOT_A_MODEL = {
    "adapter": "a LoRA adapter",
    "mmproj": "a vision or audio projector",
    "clip": "a vision or audio projector",
    "imatrix": "an importance matrix",
    "vocab": "a vocabulary",
    "dflash": "a drafter",
    "eagle3": "a drafter",
    "gemma4-assistant": "a drafter",
}
# Projectors of the first LLaVA converters: `projection_dim` is that of the picture model's own text encoder.
_OLD_PROJECTORS = frozenset({"mlp", "mlp_norm", "ldp", "ldpv2", "resampler", "adapter"})
_TOWER_PREFIXES = ("v.", "a.")


def describe(parts: Sequence[Header], projectors: Sequence[Header] = ()) -> Metadata:
    """The model in these headers: one file's, or those of all parts in order.

    Raises:
        WrongFileError: not a model, or the projector of another model.
        MetadataError: parts missing, or keys and tensors that contradict each other.
    """
    first = parts[0]
    architecture = _architecture(first)
    keys = layering.Keys(first.path, architecture, first.values)
    tensors = _joined(parts)
    stacks, others = layering.stacks(tensors, first.path)
    known = architecture in KNOWN
    if known and not keys.number("embedding_length"):
        raise MetadataError(
            f"{first.path} is damaged: {architecture}.embedding_length is missing", hint=FETCH_AGAIN
        )
    layers, draft = _layers(keys, stacks)
    if known and not layers:
        raise MetadataError(f"{first.path} is damaged: it has no layers", hint=FETCH_AGAIN)
    heads, kv_heads = summary.heads(layers)
    names = {tensor.name for tensor in others}
    hidden, rows = _embedding(others)
    for projector in projectors:
        _check_projector(projector, first.path, keys.number("embedding_length") or hidden)
    vocabulary = first.lengths.get("tokenizer.ggml.tokens") or keys.number("vocab_size") or rows
    dtype = summary.usual_dtype(tensors)
    return Metadata(
        format="gguf",
        architecture=architecture,
        category="image" if _painter(tensors) else _category(keys, names, projectors),
        quantization=_quantization(first, dtype),
        dtype=dtype,
        parameters=sum(math.prod(tensor.shape) for tensor in tensors),
        hidden_size=keys.number("embedding_length") or hidden,
        vocab_size=vocabulary,
        num_heads=heads,
        num_kv_heads=kv_heads,
        max_model_len=(keys.number("context_length") or None) if summary.attends(layers) else None,
        layers=layers,
        others=tuple(others),
        draft=draft,
        projector=tuple(tensor for header in projectors for tensor in header.tensors),
        towers=_towers(projectors),
        tied="output.weight" not in names and "token_embd.weight" in names and architecture not in HEADLESS,
        known=known,
        intermediate_size=summary.widest(layers),
        modalities=_modalities(projectors),
        deepstack=keys.number("n_deepstack_layers"),
        chat_template="tokenizer.chat_template" in first.values,
        defects=defects(first, keys, stacks, layers, others),
    )


def _embedding(others: Sequence[Tensor]) -> tuple[int, int]:
    """Elements of a token, and tokens, as the embedding has them; zeros without one."""
    shapes = [tensor.shape for tensor in others if tensor.name == "token_embd.weight"]
    return (shapes[0][0], shapes[0][-1]) if shapes else (0, 0)


def _architecture(header: Header) -> str:
    architecture = header.values.get("general.architecture", _painter(header.tensors))
    if (
        not isinstance(architecture, str)
        or not 0 < len(architecture) <= LONGEST_NAME
        or not architecture.isprintable()
    ):
        raise MetadataError(f"{header.path} does not name its architecture", hint=FETCH_AGAIN)
    kind = header.values.get("general.type", "model")
    if what := _NOT_A_MODEL.get(str(kind)) or _NOT_A_MODEL.get(architecture):
        raise WrongFileError(
            f"{header.path} is {what}, not a model",
            hint="Name the model's own file; this one accompanies it.",
            path=header.path,
        )
    return architecture


def _check_projector(projector: Header, model_path: str, width: int) -> None:
    """Whether what the projector puts out is as wide as what the model takes in, as llama.cpp demands.

    Raises:
        WrongFileError: it is not.
    """
    found = _projection_widths(projector)
    if not found or width in found:
        return
    shown = ", ".join(map(str, sorted(found)[:4]))
    raise WrongFileError(
        f"the projector does not match the model: its width is {shown}, and {model_path} has {width}",
        hint="Use --mmproj none to serve the model without it.",
        path=projector.path,
    )


def _projection_widths(projector: Header) -> set[int]:
    """How wide its output can be: as its keys have it, else each size of the tensors behind its towers."""
    values = projector.values
    stated = {values.get(f"clip.{part}.projection_dim") for part in ("vision", "audio")}
    widths = {width for width in stated if isinstance(width, int)}
    if widths and values.get("clip.projector_type", "mlp") not in _OLD_PROJECTORS:
        return widths
    behind = [tensor for tensor in projector.tensors if not tensor.name.startswith(_TOWER_PREFIXES)]
    return {size for tensor in behind for size in tensor.shape}


def _painter(tensors: Sequence[Tensor]) -> str | None:
    """The kind of a diffusion model, by the names of its tensors; `None` for other models."""
    return next((found.lastgroup for each in tensors if (found := _DIFFUSION.match(each.name))), None)


def _joined(parts: Sequence[Header]) -> list[Tensor]:
    """The tensors of all parts, once they are complete (`split.*` keys of llama.cpp's gguf-split)."""
    first = parts[0]
    expected = first.values.get("split.count", 0) or 1
    if expected != len(parts):
        raise MetadataError(
            f"{first.path} is one of {expected} parts, and only {len(parts)} were found",
            hint="Download all parts into one folder, with the names they have on the hub.",
        )
    tensors = [tensor for part in parts for tensor in part.tensors]
    if not tensors:
        raise MetadataError(
            f"{first.path} contains no weights", hint="Name the file that contains the weights."
        )
    total = first.values.get("split.tensors.count", len(tensors))
    if total != len(tensors):
        raise MetadataError(
            f"the parts of {first.path} hold {len(tensors)} tensors instead of {total}", hint=FETCH_AGAIN
        )
    twice = [name for name, count in Counter(tensor.name for tensor in tensors).items() if count > 1]
    if twice:
        raise MetadataError(
            f"two parts of {first.path} hold the tensor {summary.shown(twice[0])}", hint=FETCH_AGAIN
        )
    return tensors


def _layers(
    keys: layering.Keys, stacks: Sequence[layering.Stack]
) -> tuple[tuple[Layer, ...], tuple[Tensor, ...]]:
    """The layers of all stacks, and the tensors of those that only speculative decoding uses (the last)."""
    found: list[list[Layer]] = []
    draft: list[Tensor] = []
    for stack in stacks:
        count = keys.number("block_count", len(stack.layers))
        if stack.name == "dec":
            count = keys.number("decoder_block_count", count)
        if count != len(stack.layers):
            raise MetadataError(
                f"{keys.path} is damaged: it has {len(stack.layers)} layers and declares {count}",
                hint=FETCH_AGAIN,
            )
        count -= min(keys.number("nextn_predict_layers"), count)
        drafting = stack.layers[count:]
        draft += [tensor for layer in drafting for tensor in layer.values()]
        # llama.cpp counts those that draft, too, where it splits layers.
        found.append([*layering.layers(keys, stack, count), *[Layer(tensors=())] * len(drafting)])
    return tuple(_beside(layers) for layers in itertools.zip_longest(*found)), tuple(draft)


def _beside(layers: Sequence[Layer | None]) -> Layer:
    """A layer of an encoder and that of the decoder with the same number, which llama.cpp keeps together."""
    encoder, decoder = layers[0], layers[-1]
    if encoder is None or decoder is None or encoder is decoder:
        return decoder or encoder or Layer(tensors=())
    stored = tuple(m for m in decoder.memory + encoder.memory if not isinstance(m, Attention) or m.causal)
    return replace(decoder, tensors=encoder.tensors + decoder.tensors, memory=stored)


def _quantization(header: Header, dtype: str | None) -> str | None:
    file_type = header.values.get("general.file_type")
    if isinstance(file_type, int) and file_type in FILE_TYPES:
        return FILE_TYPES[file_type]
    return None if dtype in PLAIN_TYPES else dtype


def _category(keys: layering.Keys, others: set[str], projectors: Sequence[Header]) -> Category:
    if keys.architecture in IMAGE:
        return "image"
    pooling = keys.number("pooling_type")
    if pooling == _POOLING_RANK or any(name.startswith(_CLASSIFIERS) for name in others):
        return "reranker"
    if keys.architecture in EMBEDDERS or pooling:
        return "embedding"
    return "vision-language" if "image" in _modalities(projectors) else "llm"


def _towers(projectors: Sequence[Header]) -> tuple[Tower, ...]:
    """The vision towers, as far as their keys say what they are."""
    found = []
    for header in projectors:
        values = header.values
        kind = values.get("clip.vision.projector_type", values.get("clip.projector_type"))
        patch = values.get("clip.vision.patch_size")
        image = values.get("clip.vision.image_size", 0)
        scale = values.get("clip.vision.projector.scale_factor", 0)
        merge = values.get("clip.vision.spatial_merge_size", scale)
        numbers = patch, image, merge
        if not isinstance(kind, str) or not all(isinstance(number, int) for number in numbers):
            continue
        sizes = [number for number in numbers if isinstance(number, int) and 0 <= number <= _LARGEST_SIDE]
        if len(sizes) == len(numbers) and sizes[0]:
            found.append(Tower(kind=kind, patch_size=sizes[0], image_size=sizes[1], merge=sizes[2]))
    return tuple(found)


def _modalities(projectors: Sequence[Header]) -> tuple[str, ...]:
    """What the projectors add to text; one that does not say is for images, as the first ones were."""
    found = []
    for header in projectors:
        sees = header.values.get("clip.has_vision_encoder", "clip.has_audio_encoder" not in header.values)
        hears = header.values.get("clip.has_audio_encoder", False)
        found += [name for name, has in (("image", sees), ("audio", hears)) if has]
    return tuple(dict.fromkeys(found))

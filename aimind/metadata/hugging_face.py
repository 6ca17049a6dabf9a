"""A folder of Hugging Face's form -> Metadata: config.json, the weights, and what other files add."""

from __future__ import annotations

from dataclasses import replace
from posixpath import dirname, join

from aimind.errors import MetadataError
from aimind.metadata import audio, chat, expected, summary
from aimind.metadata.config import LONGEST_WORD, Config, parse_json
from aimind.metadata.config_model import Beside, describe
from aimind.metadata.folder import Folder, OpenFile
from aimind.metadata.safetensors import read_tensors
from aimind.types import Metadata, Model, Tensor

_PACKED = ".qweight"  # the name of a packed weight ends with it, in GPTQ and AWQ


def read(model: Model, open_file: OpenFile) -> Metadata:
    """What the folder says.

    Raises:
        MetadataError: a file is missing, damaged or hostile, or the folder holds no model.
    """
    folder = Folder(model, open_file)
    if found := audio.read(folder):
        return found
    if "model_index.json" in folder.names:
        return _image(folder)
    config = _config(folder)
    beside = _beside(folder)
    if any(name.endswith(".safetensors") for name in folder.names):
        tensors = read_tensors(model.files, folder.root, open_file)
        if any(tensor.name.endswith(_PACKED) for tensor in tensors):
            config = _with_separate_quantization(folder, config)
        return describe(config, tensors, weights="safetensors", beside=beside)
    pickles = folder.pickles()
    if not pickles:
        raise MetadataError(
            f"{model.reference.name} has a config.json and no weights",
            hint="Download its *.safetensors files too, or name a repository that has them.",
        )
    size = sum(file.size_bytes for file in pickles)
    if tensors := expected.tensors_of_size(config, size):
        return describe(config, tensors, weights="pickle", beside=beside)
    config = _with_separate_quantization(folder, config)
    metadata = describe(config, summary.opaque(pickles), weights="pickle", beside=beside)
    return replace(metadata, dtype=None, parameters=size // summary.USUAL_BYTES)


def from_config(text: bytes, path: str) -> Metadata:
    """As `aimind.metadata.from_config`."""
    config = Config(parse_json(text, path), path)
    return describe(config, expected.tensors_of(config), weights="safetensors", beside=Beside())


def _config(folder: Folder) -> Config:
    """config.json, with what ModelOpt writes beside it where that does not say how it is quantized."""
    config, quantized = folder.config(), folder.json("hf_quant_config.json")
    if quantized is None or config.section("quantization_config", "compression_config") is not None:
        return config
    return Config({**config.values, "quantization_config": dict(quantized.values)}, config.path)


def _with_separate_quantization(folder: Folder, config: Config) -> Config:
    """The configuration with what AutoGPTQ and AutoAWQ once wrote into a file of their own.

    vLLM and SGLang read that file if they are started with the name of the method; the quantization therefore
    gets the trait `separate`.
    """
    if config.section("quantization_config", "compression_config") is not None:
        return config
    for name in ("quantize_config.json", "quant_config.json"):
        separate = folder.json(name)
        if separate is not None:
            method = "awq" if "zero_point" in separate.values else "gptq"
            section = {"quant_method": method, **separate.values, "separate": True}
            return Config({**config.values, "quantization_config": section}, config.path)
    return config


def _beside(folder: Folder) -> Beside:
    tokenizer = folder.json("tokenizer_config.json")
    sentences = folder.json("sentence_bert_config.json")
    template = tokenizer is not None and bool(tokenizer.values.get("chat_template"))
    return Beside(
        names=folder.names,
        sentence_length=sentences.integer("max_seq_length") if sentences else None,
        tokenizer_length=_tokenizer_length(tokenizer) if tokenizer else None,
        name=folder.model.reference.name,
        sentences=folder.json("config_sentence_transformers.json"),
        paths=tuple(file.path.removeprefix(f"{folder.root}/") for file in folder.model.files),
        chat_template=template or any(name.startswith("chat_template.") for name in folder.names),
        chat=chat.read(folder),
        tokenizer=tokenizer,
    )


def _tokenizer_length(tokenizer: Config) -> int | None:
    """`model_max_length`; tokenizers without a limit write 10^30."""
    length = tokenizer.number("model_max_length")
    return int(length) if length and length > 0 else None


def _image(folder: Folder) -> Metadata:
    """A pipeline of diffusers: parts in folders of their own."""
    index = folder.json("model_index.json")
    parts: list[Tensor] = []
    for root in sorted(
        {dirname(file.path) for file in folder.model.files if file.path.endswith(".safetensors")}
    ):
        tensors = read_tensors(folder.model.files, root, folder.open_file)
        parts += [
            Tensor(join(root, tensor.name), tensor.shape, tensor.dtype, tensor.size_bytes)
            for tensor in tensors
        ]
    return summary.weighed(
        architecture=(index.text("_class_name") if index else "")[:LONGEST_WORD] or "diffusers",
        category="image",
        weights="safetensors",
        tensors=parts,
    )

"""Known models of speech whose folders are of their own kind: recognised by their files, weighed, not read.

The marks are those by which vox-box 0.0.21 tells them (vox_box/estimator/*.py), and CosyVoice 2's own.
"""

from __future__ import annotations

from dataclasses import replace

from aimind.errors import MetadataError
from aimind.metadata import remote_code, summary
from aimind.metadata.config import Config
from aimind.metadata.folder import Folder
from aimind.types import Category, Format, Metadata

# The layout that vox-box reads comes first: a folder may have two.
_COSYVOICE = ("cosyvoice.yaml", "cosyvoice2.yaml", "cosyvoice3.yaml")
# What CTranslate2's converter writes into the config.json of a Whisper model, and of no other.
_WHISPER = ("alignment_heads", "lang_ids", "suppress_ids_begin")
_DIA = frozenset({"audio_bos_value", "audio_eos_value", "audio_pad_value", "delay_pattern"})


def read(folder: Folder) -> Metadata | None:
    """The model, if it is one of these.

    Raises:
        MetadataError: a configuration is damaged, the weights are missing, or nothing serves their kind.
    """
    config = folder.json("config.json")
    layout = next((name for name in _COSYVOICE if name in folder.names), None)
    if layout:
        metadata = _weighed(folder, layout.removesuffix(".yaml"), "text-to-speech")
        runs = remote_code.of_cosyvoice(folder.text(layout))
        return replace(metadata, remote_code=(layout,) if runs else (), needs_remote_code=runs)
    if _is_ctranslate2(folder):
        if not _is_whisper(folder, config):
            raise MetadataError(
                f"{folder.model.reference.name} is a CTranslate2 model other than Whisper",
                hint="aimind serves only speech recognition models (faster-whisper) in this format.",
            )
        return _weighed(folder, "faster-whisper", "speech-to-text", weights="ctranslate2")
    if _is_funasr(folder.json("configuration.json")):
        return _weighed(folder, "funasr", "speech-to-text")
    if config and "BarkModel" in config.words("architectures"):
        return _weighed(folder, "bark", "text-to-speech")
    data = config.section("data") if config else None
    if data and data.values.keys() >= _DIA:
        return _weighed(folder, "dia", "text-to-speech")
    return None


def _is_ctranslate2(folder: Folder) -> bool:
    vocabulary = any(name.endswith(("vocabulary.txt", "vocabulary.json")) for name in folder.names)
    return vocabulary and "model.bin" in folder.names


def _is_whisper(folder: Folder, config: Config | None) -> bool:
    marked = config is not None and any(name in config.values for name in _WHISPER)
    return marked or "whisper" in folder.model.reference.name.lower()


def _is_funasr(configuration: Config | None) -> bool:
    if configuration is None or configuration.text("task") != "auto-speech-recognition":
        return False
    model = configuration.section("model")
    return model is not None and model.text("type") == "funasr"


def _weighed(folder: Folder, name: str, category: Category, *, weights: Format = "pickle") -> Metadata:
    files = [file for name, file in sorted(folder.files.items()) if name.endswith(".safetensors")]
    if files:
        weights = "safetensors"
    files = files or folder.pickles()
    return summary.weighed(
        architecture=name, category=category, weights=weights, tensors=summary.opaque(files)
    )

"""Known speech models are told by their files, and weighed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aimind.errors import MetadataError
from tests.metadata.local import read

WHISPER: dict[str, Any] = {"alignment_heads": [[1, 0]], "lang_ids": [50259]}
DIA: dict[str, Any] = {
    "data": {"audio_bos_value": 1, "audio_eos_value": 2, "audio_pad_value": 3, "delay_pattern": [0]}
}
FUNASR: dict[str, Any] = {"task": "auto-speech-recognition", "model": {"type": "funasr"}}


def folder(path: Path, files: dict[str, Any]) -> Path:
    """Objects become JSON, numbers become files of that size."""
    for name, content in files.items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(
            bytes(content) if isinstance(content, int) else json.dumps(content).encode()
        )
    return path


@pytest.mark.parametrize(
    ("files", "architecture", "category", "weights"),
    [
        (
            {"model.bin": 100, "vocabulary.txt": 1, "tokenizer.json": {}, "config.json": WHISPER},
            "faster-whisper",
            "speech-to-text",
            "ctranslate2",
        ),
        (
            {"cosyvoice.yaml": 1, "llm.pt": 60, "flow.pt": 40, "campplus.onnx": 5},
            "cosyvoice",
            "text-to-speech",
            "pickle",
        ),
        (
            {"cosyvoice3.yaml": 1, "llm.pt": 100, "BlankEN/config.json": {"model_type": "qwen2"}},
            "cosyvoice3",
            "text-to-speech",
            "pickle",
        ),
        (
            {"cosyvoice2.yaml": 1, "llm.pt": 100, "config.json": {"model_type": "qwen2"}},
            "cosyvoice2",
            "text-to-speech",
            "pickle",
        ),
        (
            {"cosyvoice.yaml": 1, "cosyvoice2.yaml": 1, "llm.pt": 100},
            "cosyvoice",
            "text-to-speech",
            "pickle",
        ),
        (
            {"configuration.json": FUNASR, "model.pt": 100, "config.yaml": 1},
            "funasr",
            "speech-to-text",
            "pickle",
        ),
        (
            {"config.json": {"architectures": ["BarkModel"]}, "pytorch_model.bin": 100},
            "bark",
            "text-to-speech",
            "pickle",
        ),
        ({"config.json": DIA, "dia-v0_1.pth": 100}, "dia", "text-to-speech", "pickle"),
        (
            {"config.json": DIA, "model.safetensors": 100, "dia-v0_1.pth": 100},
            "dia",
            "text-to-speech",
            "safetensors",
        ),
    ],
)
def test_speech_models(
    files: dict[str, Any], architecture: str, category: str, weights: str, tmp_path: Path
) -> None:
    metadata = read(folder(tmp_path, files))
    assert (metadata.architecture, metadata.category, metadata.format) == (architecture, category, weights)
    assert metadata.weight_bytes == 100
    assert metadata.known


def test_whisper_by_its_name(tmp_path: Path) -> None:
    """The first converted models have no marks in their config.json."""
    files = {"model.bin": 100, "vocabulary.json": 1, "config.json": {}}
    assert read(folder(tmp_path, files), "Systran/faster-whisper-tiny").architecture == "faster-whisper"
    with pytest.raises(MetadataError, match="a CTranslate2 model other than Whisper"):
        read(tmp_path, "owner/translator")


def test_without_weights(tmp_path: Path) -> None:
    with pytest.raises(MetadataError, match="the cosyvoice model has no weights"):
        read(folder(tmp_path, {"cosyvoice.yaml": 1}))

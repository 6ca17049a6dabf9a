"""Which models vox-box serves, by their files as they lie on the hubs, and what it is planned to take."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

import pytest

from aimind import metadata, plan
from aimind.errors import UnsupportedError
from aimind.launchers import LAUNCHERS, vox_box
from aimind.types import File, Metadata, Model, Plan, Reference, Request
from tests.samples import GIB, device, host

WHISPER = {"config.json": {"lang_ids": [1]}, "tokenizer.json": {}, "vocabulary.txt": "", "model.bin": ""}
OLD_WHISPER = {"config.json": {}, "tokenizer.json": {}, "vocabulary.txt": "", "model.bin": ""}
COSYVOICE = {"cosyvoice.yaml": "", "llm.pt": "", "flow.pt": "", "hift.pt": "", "campplus.onnx": ""}
DIA = {
    "config.json": {
        "data": dict.fromkeys(
            ("audio_bos_value", "audio_eos_value", "audio_length", "audio_pad_value", "delay_pattern"), 1
        )
    },
    "dia-v0_1.pth": "",
}
FUNASR = {
    "configuration.json": {"task": "auto-speech-recognition", "model": {"type": "funasr"}},
    "model.pt": "",
}
BARK = {"config.json": {"architectures": ["BarkModel"]}, "pytorch_model.bin": ""}

# Weights in MB as published, and GiB on a device.
MODELS = [
    ("Systran/faster-whisper-large-v3", WHISPER, 3087, 10),
    ("Systran/faster-whisper-large-v2", WHISPER, 3087, 10),
    ("Systran/faster-whisper-large-v1", OLD_WHISPER, 3087, 10),
    ("Systran/faster-whisper-medium", WHISPER, 1528, 5),
    ("Systran/faster-whisper-medium.en", WHISPER, 1528, 5),
    ("Systran/faster-whisper-small", WHISPER, 484, 2),
    ("Systran/faster-whisper-small.en", WHISPER, 484, 2),
    ("Systran/faster-distil-whisper-large-v3", WHISPER, 1513, 5),
    ("Systran/faster-distil-whisper-large-v2", WHISPER, 1513, 5),
    ("Systran/faster-distil-whisper-medium.en", WHISPER, 789, 5),
    ("Systran/faster-whisper-tiny", WHISPER, 75, 1),
    ("Systran/faster-whisper-tiny.en", OLD_WHISPER, 75, 1),
    ("gpustack/faster-whisper-base", OLD_WHISPER, 145, 1),
    ("FunAudioLLM/CosyVoice-300M-Instruct", COSYVOICE, 1750, 3),
    ("FunAudioLLM/CosyVoice-300M-SFT", COSYVOICE, 1750, 3),
    ("FunAudioLLM/CosyVoice-300M", COSYVOICE, 1750, 3),
    ("iic/CosyVoice-300M-25Hz", COSYVOICE, 1750, 3),
    ("gpustack/CosyVoice2-0.5B", COSYVOICE, 2480, 3),
    ("nari-labs/Dia-1.6B", DIA, 6440, 10),
    ("FunAudioLLM/SenseVoiceSmall", FUNASR, 936, None),
    ("suno/bark-small", BARK, 1680, 2),
    ("suno/bark", BARK, 4490, 12),
]


class Bytes:
    """Random access to a text."""

    def __init__(self, text: str) -> None:
        self.content = text.encode()
        self.size_bytes = len(self.content)

    def read(self, offset: int, length: int) -> bytes:
        return self.content[offset : offset + length]


def described(name: str, files: Mapping[str, object], megabytes: int = 100) -> tuple[Model, Metadata]:
    """A repository of these files; the first of its weights is that large."""
    texts = {
        path: content if isinstance(content, str) else json.dumps(content) for path, content in files.items()
    }
    weights = next(path for path in files if path.endswith((".bin", ".pt", ".pth")))
    sizes = {path: megabytes * 10**6 if path == weights else len(text) for path, text in texts.items()}
    made = Model(
        reference=Reference(source="huggingface", name=name),
        files=tuple(File(path, size) for path, size in sizes.items()),
    )
    return made, metadata.read(made, lambda file: Bytes(texts[file.path]))


def planned(name: str, files: Mapping[str, object], megabytes: int, *gib: float) -> Plan:
    made, read = described(name, files, megabytes)
    return plan.make(made, read, host(*(device(free_gib=size) for size in gib)), Request(), LAUNCHERS)


@pytest.mark.parametrize(("name", "files", "megabytes", "gib"), MODELS, ids=[name for name, *_ in MODELS])
def test_every_known_model_is_served_on_a_device_that_holds_it(
    name: str, files: Mapping[str, object], megabytes: int, gib: float | None
) -> None:
    decided = planned(name, files, megabytes, 24)
    assert decided.backend.name == "vox-box"
    needs = gib * GIB if gib else 2 * megabytes * 10**6
    assert decided.shards[0].estimate.total_bytes == needs
    argv = vox_box.command(decided, "/weights").argv
    assert argv[argv.index("--device") + 1] == "cuda"


def test_where_it_does_not_fit_the_cpu_serves_and_no_device_is_seen() -> None:
    decided = planned("Systran/faster-whisper-large-v3", WHISPER, 3087, 8)
    command = vox_box.command(decided, "/weights")
    assert command.argv[command.argv.index("--device") + 1] == "cpu"
    assert command.env["CUDA_VISIBLE_DEVICES"] == ""  # CosyVoice would take one all the same
    assert any("it needs 10.0 GiB, and device 0 has 8.0 GiB" in reason.sentence for reason in decided.reasons)


def test_the_layout_that_it_rejects_is_refused_with_the_way_out() -> None:
    files = {**COSYVOICE, "cosyvoice2.yaml": ""}
    del files["cosyvoice.yaml"]
    with pytest.raises(UnsupportedError) as caught:
        planned("iic/CosyVoice2-0.5B", files, 2480, 24)
    assert "gpustack/CosyVoice2-0.5B" in caught.value.hint


def test_its_builds_are_four_and_only_the_cpu_s_lose_files() -> None:
    machines = (host(), host(device()))
    builds = [build for machine in machines for build in vox_box.source(machine).builds]
    assert [build.variant for build in builds] == ["cpu-whisper", "cpu", "whisper", ""]
    removed = [[pattern for fix in build.fixes for pattern in fix.removed] for build in builds]
    assert removed == [["torchaudio/lib/*.so"]] * 2 + [[]] * 2
    overrides = [[line for fix in build.fixes for line in fix.overrides] for build in builds]
    assert ["openai-whisper ; sys_platform == 'never'" in lines for lines in overrides] == [True, False] * 2
    mac = dataclasses.replace(host(), os="macos", arch="arm64")
    assert vox_box.source(mac).torch is None

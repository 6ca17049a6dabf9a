"""Real vox-box, the build for faster-whisper alone, on a tiny Whisper that always hears the same."""

from __future__ import annotations

import json
import math
import shlex
import signal
import struct
import subprocess
import wave
from pathlib import Path

import pytest

from aimind.environments import find
from aimind.environments.install import ensure
from aimind.launchers import vox_box
from tests.live.served import AIMIND, DATA, environment, gone, plan, serve
from tests.samples import host

pytestmark = pytest.mark.live

MAKER = Path(__file__).with_name("tiny_whisper.py")
HEARD = "I am a tiny whisper and I work."


@pytest.fixture(scope="session")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder, made by CTranslate2 in the environment that aimind installs for such a model."""
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
    """Two seconds of a note."""
    path = tmp_path_factory.mktemp("sound") / "speech.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        samples = (int(9000 * math.sin(index / 8)) for index in range(32000))
        file.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
    return path


def test_it_hears_and_leaves_nothing(whisper: Path, sound: Path) -> None:
    decided = plan(str(whisper), "--device", "none")
    assert decided["backend"]["executable"].endswith("-cpu-whisper/bin/python")
    with serve(str(whisper), "--device", "none") as served:
        # The line that is printed, in a shell, beside a file of that name.
        answer = subprocess.run(
            ["bash", "-c", served.curl], cwd=sound.parent, capture_output=True, check=True, timeout=120
        )
        assert json.loads(answer.stdout) == {"text": HEARD}
        held = served.backend().memory_info().rss
        assert held < decided["host"]["total_bytes"]
        assert [line for line in served.lines if "loading weights" in line]


def test_a_killed_supervisor_leaves_nothing(whisper: Path) -> None:
    with serve(str(whisper), "--device", "none") as served:
        tree = served.tree()
        served.process.send_signal(signal.SIGKILL)
        served.process.wait()
        assert gone(tree, within_seconds=5)


def test_a_model_that_is_cut_short_has_failed_though_vox_box_ends_with_0(
    whisper: Path, tmp_path: Path
) -> None:
    for file in whisper.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.bin").write_bytes((whisper / "model.bin").read_bytes()[:100_000])
    done = subprocess.run(
        [str(AIMIND), "serve", str(tmp_path), "--port", "0", "--device", "none"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        env=environment(),
    )
    assert done.returncode == 1, done.stdout
    assert "the backend exited with code 0" in done.stdout
    assert "cause: vox-box cannot load the model" in done.stdout


def test_no_key_is_promised(whisper: Path) -> None:
    refused = subprocess.run(
        [str(AIMIND), "plan", str(whisper)],
        capture_output=True,
        text=True,
        env=environment({"AIMIND_API_KEY": "canary"}),
    )
    assert refused.returncode != 0
    assert "vox-box: it takes no API key" in refused.stderr
    assert "canary" not in refused.stderr


def test_the_command_is_what_is_shown(whisper: Path) -> None:
    shown = subprocess.run(
        [str(AIMIND), "serve", str(whisper), "--dry-run", "--port", "9", "--device", "none"],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    words = shlex.split(shown.stdout)
    assert words[words.index("--device") + 1] == "cpu"
    assert words[words.index("--data-dir") + 1].startswith(str(DATA))


def test_it_speaks(tmp_path: Path) -> None:
    """Every kind of model but Whisper needs the whole build, of 2.7 GB."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIMIND_DATA_DIR", str(DATA))
        here = [found for found in find(vox_box.NAME, vox_box.source(host())) if not found.only]
    if not here:
        pytest.skip(f"needs `AIMIND_DATA_DIR={DATA} aimind backends install vox-box`")
    folder = tmp_path / "bark"
    subprocess.run([here[0].executable, "-I", MAKER.with_name("tiny_bark.py"), folder], check=True)
    with serve(str(folder), "--device", "none") as served:
        subprocess.run(["bash", "-c", served.curl], cwd=tmp_path, check=True, timeout=120)
    assert (tmp_path / "speech.mp3").read_bytes().startswith(b"ID3")

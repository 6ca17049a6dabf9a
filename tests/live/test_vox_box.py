"""Real vox-box, the build for faster-whisper alone, on a tiny Whisper that always hears the same."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from aimind.launchers import vox_box
from tests.live.served import AIMIND, DATA, brought, environment, serve
from tests.samples import host

pytestmark = pytest.mark.live

MAKER = Path(__file__).with_name("tiny_bark.py")


def test_no_key_is_promised(whisper: Path) -> None:
    refused = subprocess.run(
        [str(AIMIND), "plan", str(whisper)],
        capture_output=True,
        text=True,
        env=environment({"AIMIND_API_KEY": "canary"}),
    )
    assert refused.returncode != 0
    assert "vox-box: it does not" in refused.stderr
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
    assert any(word.endswith("-cpu-whisper/bin/python") for word in words)  # half of all that there is
    assert words[words.index("--device") + 1] == "cpu"
    assert words[words.index("--data-dir") + 1].startswith(str(DATA))


def test_it_speaks(tmp_path: Path) -> None:
    """Every kind of model but Whisper needs the whole build, of 2.7 GB."""
    python = brought(vox_box.NAME, vox_box.source(host())).executable
    folder = tmp_path / "bark"
    subprocess.run([python, "-I", MAKER, folder], check=True)
    with serve(str(folder), "--device", "none") as served:
        subprocess.run(["bash", "-c", served.curl], cwd=tmp_path, check=True, timeout=120)
    assert (tmp_path / "speech.mp3").read_bytes().startswith(b"ID3")

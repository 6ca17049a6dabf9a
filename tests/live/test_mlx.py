"""mlx_lm's server on the demo model: on Linux by force, with MLX for the CPU."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.live.served import AIMIND, environment, plan, serve

pytestmark = pytest.mark.live

DEMO = Path(__file__).parents[2] / "aimind" / "demo" / "huggingface"
CHOSEN = ("--backend", "mlx", "--force", "--device", "none")


def test_weights_that_mlx_has_quantized_are_known_as_such(tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    python = plan(str(DEMO), *CHOSEN)["backend"]["executable"]
    convert = [
        python,
        "-m",
        "mlx_lm",
        "convert",
        "--hf-path",
        DEMO,
        "--mlx-path",
        folder,
        "-q",
        "--q-bits",
        "8",
    ]
    subprocess.run(convert, check=True, capture_output=True, env=environment({"HF_HUB_OFFLINE": "1"}))
    decided = plan(str(folder), *CHOSEN)
    assert decided["model"]["quantization"] == "MLX-8bit"
    assert decided["model"]["parameters"] == plan(str(DEMO), *CHOSEN)["model"]["parameters"]
    with serve(str(folder), *CHOSEN) as served:
        answer = served.post("/v1/completions", {"prompt": "Hello", "max_tokens": 4})
        assert answer["choices"][0]["text"]


def test_without_force_it_is_for_apple_silicon() -> None:
    refused = subprocess.run(
        [str(AIMIND), "plan", str(DEMO), "--backend", "mlx"],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert refused.returncode != 0
    assert "it runs only on Apple silicon, and this machine is linux" in refused.stderr

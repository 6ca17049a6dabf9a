"""transformers' own server on the demo model."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.live.served import fail_to_serve, plan, serve
from tests.samples import SENTENCE

pytestmark = pytest.mark.live

DEMO = Path(__file__).parents[2] / "aimind" / "demo" / "huggingface"
CHOSEN = ("--backend", "transformers", "--device", "none")


def test_it_says_its_sentence_within_the_plan() -> None:
    decided = plan(str(DEMO), *CHOSEN)
    with serve(str(DEMO), *CHOSEN) as served:
        answer = served.post(
            "/v1/chat/completions",
            {"temperature": 0, "max_tokens": 64, "messages": [{"role": "user", "content": "Who are you?"}]},
        )
        assert answer["choices"][0]["message"]["content"].strip() == SENTENCE
        tried = subprocess.run(["bash", "-c", served.curl], capture_output=True, check=True, timeout=120)
        assert json.loads(tried.stdout)["choices"]
        assert served.backend().memory_info().rss < decided["host"]["total_bytes"]


def test_a_model_that_it_cannot_load_has_failed(tmp_path: Path) -> None:
    for file in DEMO.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "tokenizer.json").write_text("{}")
    done = fail_to_serve(str(tmp_path), *CHOSEN)
    assert done.returncode == 1, done.stdout
    assert "the backend exited with code 1" in done.stdout

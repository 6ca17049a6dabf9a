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


def test_no_code_of_a_model_that_it_knows_is_run(tmp_path: Path) -> None:
    model, canary = tmp_path / "model", tmp_path / "canary"
    model.mkdir()
    for file in DEMO.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    own = {"AutoConfig": "configuration_own.Own", "AutoModelForCausalLM": "modeling_own.Own"}
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "auto_map": own}))
    for name in ("configuration_own", "modeling_own", "random", "torch", "transformers"):
        (model / f"{name}.py").write_text(f"open({str(canary)!r}, 'a').write(__name__)")
    with serve(".", *CHOSEN, cwd=model) as served:
        assert served.post(
            "/v1/chat/completions",
            {"temperature": 0, "max_tokens": 9, "messages": [{"role": "user", "content": "Who are you?"}]},
        )["choices"]
    assert not canary.exists()


def test_a_model_that_it_cannot_load_has_failed(tmp_path: Path) -> None:
    for file in DEMO.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "tokenizer.json").write_text("{}")
    done = fail_to_serve(str(tmp_path), *CHOSEN)
    assert done.returncode == 1, done.stdout
    assert "the backend exited with code 1" in done.stdout

"""transformers' own server on a model that brings code of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.live.served import serve

pytestmark = pytest.mark.live

DEMO = Path(__file__).parents[2] / "aimind" / "demo" / "huggingface"


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
    with serve(".", "--backend", "transformers", "--device", "none", cwd=model) as served:
        assert served.post(
            "/v1/chat/completions",
            {"temperature": 0, "max_tokens": 9, "messages": [{"role": "user", "content": "Who are you?"}]},
        )["choices"]
    assert not canary.exists()

"""The parsers that are chosen, in the real vLLM: it has them, starts with them, and takes tools then."""

from __future__ import annotations

import json
import subprocess
import urllib.error
from pathlib import Path
from typing import Any

import pytest

from aimind.environments.install import ensure
from aimind.launchers import vllm
from aimind.launchers.parsers import REASONING, TOOL_CALLS
from aimind.types import Package
from tests.live.served import DATA, TEST_ALL, serve
from tests.samples import host

pytestmark = pytest.mark.live

# The pieces of `</think>` in the vocabulary of its own architecture, which only that one is given it for.
OWN_WORDS = {"olmo3": ("Ġ</", "think", ">", "</")}
DEMO = Path(__file__).parents[2] / "aimind" / "demo" / "huggingface"
# With the demo model's tokenizer, once without and once with the tokens that the parser is said to need.
TRY = """
import json, sys
from transformers import AutoTokenizer
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager

KINDS = {
    "tool": ToolParserManager.get_tool_parser,
    "reasoning": ReasoningParserManager.get_reasoning_parser,
}
tokenizers, demo = {}, sys.argv[1]

def start(make, tokens):
    if tokens not in tokenizers:
        tokenizers[tokens] = AutoTokenizer.from_pretrained(demo)
        tokenizers[tokens].add_tokens(list(tokens))
    try:
        make(tokenizers[tokens])
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"

answers = []
for kind, name, tokens in json.load(sys.stdin):
    make = KINDS[kind](name)
    answers.append([start(make, ()), start(make, tuple(tokens))])
print("tried: " + json.dumps(answers))
"""
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def test_vllm_has_every_parser_and_starts_it_with_its_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: a parser of which no tokens are known to be needed starts with any tokenizer."""
    monkeypatch.setenv("AIMIND_DATA_DIR", str(DATA))
    source = vllm.source(host())
    assert isinstance(source, Package)
    backend = ensure(vllm.NAME, source, progress=print)
    asked = sorted(
        {
            (kind, form.vllm.name, form.vllm.tokens or OWN_WORDS.get(form.vllm.name, ()))
            for kind, forms in (("tool", TOOL_CALLS), ("reasoning", REASONING))
            for form in forms
            if form.vllm
        }
    )
    done = subprocess.run(
        [backend.executable, "-c", TRY, DEMO],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("tried: "))
    needy = set()
    for (kind, name, tokens), (bare, given) in zip(asked, json.loads(line[7:]), strict=True):
        assert given is None, (kind, name, given)
        if bare is not None:
            assert tokens, (kind, name, bare)
            needy.add(name)
    assert {"llama3_json", "mistral", "deepseek_r1"} <= needy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The demo model, with a template that has tools and calls of them, and switches its thoughts."""
    for file in DEMO.iterdir():
        (tmp_path / file.name).symlink_to(file)
    config: dict[str, Any] = json.loads((DEMO / "tokenizer_config.json").read_text(encoding="utf-8"))
    tools = (
        "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}{% endfor %}"
        "Answer <tool_call>name and arguments as JSON</tool_call><|im_end|>\n{% endif %}"
    )
    (tmp_path / "tokenizer_config.json").unlink()
    config["chat_template"] = tools + config["chat_template"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return tmp_path


def ask(served: Any) -> dict[str, Any]:
    body = {
        "model": "demo",
        "messages": [{"role": "user", "content": "Is it raining?"}],
        "tools": [TOOL],
        "tool_choice": "auto",
        "max_tokens": 16,
    }
    answer: dict[str, Any] = served.post("/v1/chat/completions", body)
    return answer


MODEL = ("--served-model-name", "demo", "--backend", "vllm", "--context", "2048")


def test_a_model_whose_template_has_tools_is_served_with_them(folder: Path) -> None:
    with serve(str(folder), *MODEL, "--verbose", "--", "--enforce-eager") as served:
        why = "the tool call parser is hermes, because the chat template writes <tool_call>"
        assert any(why in line for line in served.lines)
        assert any("'tool_call_parser': 'hermes'" in line for line in served.lines)  # vLLM's own words
        assert ask(served)["choices"][0]["message"]["content"]


@TEST_ALL
def test_without_parsers_vllm_refuses_tools(folder: Path) -> None:
    """Else there would be nothing to choose."""
    with serve(str(folder), *MODEL, "--no-auto-parsers", "--", "--enforce-eager") as served:
        assert not any("tool_call_parser" in line for line in served.lines)
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(served)
        assert refused.value.code == 400
        assert "--enable-auto-tool-choice" in refused.value.read().decode()

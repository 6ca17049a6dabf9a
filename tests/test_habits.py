"""What a user of Ollama, RamaLama, vLLM, llama-server or docker types first, and what aimind answers."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from aimind import cli
from aimind.cli.app import load
from aimind.cli.commands import COMMANDS
from aimind.cli.habits import ALIASES, MEANT

# What is typed after `aimind`, the exit code, and what the answer contains.
ANSWERS = [
    # Ollama
    ("list", 0, "The caches have no models."),
    ("ls", 0, "The caches have no models."),
    ("ps", 0, ""),
    ("-v", 2, "there is no option -v"),
    ("--version", 0, "aimind 0."),
    ("version", 0, "aimind 0."),
    ("help", 0, "Everyday commands"),
    ("help serve", 0, "Memory and placement"),
    ("show demo", 0, "llama"),
    ("rm demo", 13, "there is no instance demo"),
    ("delete owner/name", 2, "did you mean `aimind remove`?"),
    ("stop demo", 13, "there is no instance demo"),
    ("create mymodel", 2, "did you mean `aimind serve`?"),
    ("pull llama3", 2, "aimind search llama3"),
    ("show llama3:8b", 2, "aimind search llama3"),
    ("plan ollama://qwen3:0.6b", 2, "aimind search qwen3"),
    ("serve", 2, "`aimind serve demo`"),
    # RamaLama
    ("serve -c 4096 demo", 2, "`aimind serve --context 4096 demo`"),
    ("serve --ctx-size 4096 demo", 2, "`aimind serve --context 4096 demo`"),
    ("serve --ngl 99 demo", 2, "`aimind serve --gpu-layers 99 demo`"),
    ("serve --threads 8 demo", 2, "`aimind serve demo -- --threads 8`"),
    ("serve -p 8080 -n chat -d --temp 0.8 demo", 2, "`aimind serve -p 8080 -n chat -d demo -- --temp 0.8`"),
    ("serve -p 8080 --dry-run demo", 0, "--port 8080"),
    ("info", 2, "did you mean `aimind show`?"),
    ("inspect demo", 2, "did you mean `aimind show`?"),
    ("containers", 2, "did you mean `aimind ps`?"),
    ("login", 2, "there is no command login"),
    # vLLM
    ("serve demo --max-model-len 4096", 2, "`aimind serve demo --context 4096`"),
    ("serve demo --max_model_len=4096", 2, "`aimind serve demo --context 4096`"),
    ("serve --model demo", 2, "`aimind serve demo`"),
    ("serve demo --tensor-parallel-size 2", 2, "`aimind serve demo --tensor-parallel 2`"),
    ("serve demo -tp 2", 2, "`aimind serve demo --tensor-parallel 2`"),
    ("serve demo --max-num-seqs 8", 2, "`aimind serve demo --parallel 8`"),
    ("serve demo --dtype half", 2, "`aimind serve demo -- --dtype half`"),
    ("serve demo --enforce-eager", 2, "`aimind serve demo -- --enforce-eager`"),
    ("serve demo --kv-cache-dtype fp8", 2, "`aimind serve demo --kv-cache-type fp8`"),
    ("serve demo --quantization awq", 2, "`aimind serve demo -- --quantization awq`"),
    ("serve demo --api-key abc", 2, "--api-key-file"),
    ("serve demo --tool-call-parser hermes", 2, "`aimind serve demo -- --tool-call-parser hermes`"),
    ("serve demo --served-model-name gpt --port x", 2, "the value of --port is invalid"),
    ("complete", 2, "there is no command complete"),
    ("collect-env", 2, "there is no command collect-env"),
    # llama-server
    ("-m model.gguf", 2, "there is no option -m"),
    ("model.gguf", 2, "`aimind serve ./model.gguf`"),
    ("serve -m model.gguf", 2, "`aimind serve ./model.gguf`"),
    ("serve -hf owner/name:Q4_K_M", 2, "`aimind serve owner/name:Q4_K_M`"),
    (
        "serve -hf owner/name:Q4_K_M -c 0 -ngl 99",
        2,
        "`aimind serve owner/name:Q4_K_M --context max --gpu-layers 99`",
    ),
    ("serve demo --n-gpu-layers 99", 2, "`aimind serve demo --gpu-layers 99`"),
    ("serve demo -np 4", 2, "`aimind serve demo --parallel 4`"),
    ("serve demo --alias gpt", 2, "`aimind serve demo --served-model-name gpt`"),
    ("serve demo -a gpt", 2, "`aimind serve demo --served-model-name gpt`"),
    ("serve demo -fa on", 2, "`aimind serve demo -- -fa on`"),
    ("serve demo -ctk q8_0", 2, "`aimind serve demo --kv-cache-type q8_0`"),
    ("serve demo --jinja", 2, "`aimind serve demo -- --jinja`"),
    ("serve demo --no-mmap -- --mlock", 2, "`aimind serve demo -- --mlock --no-mmap`"),
    ("serve demo --host 0.0.0.0 --dry-run --quiet", 0, "0.0.0.0"),
    # docker, and what is typed wrongly
    ("rm", 2, "name the instances or models to remove"),
    ("kill demo", 13, "there is no instance demo"),
    ("logs demo", 13, "there is no instance demo"),
    ("top", 2, "did you mean `aimind ps`?"),
    ("up", 2, "there is no command up yet"),
    ("launch demo", 2, "did you mean `aimind serve`?"),
    ("download owner/name", 2, "did you mean `aimind pull`?"),
    ("sevre demo", 2, "did you mean `aimind serve`?"),
    ("plan demo --contxt 8k", 2, "did you mean --context?"),
    ("owner/name", 2, "`aimind serve owner/name`"),
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("AIMIND_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "HOME": tmp_path,
        "AIMIND_DATA_DIR": tmp_path / "data",
        "AIMIND_STATE_DIR": tmp_path / "state",
        "HF_HOME": tmp_path / "hf",
        "HF_HUB_OFFLINE": "1",
        "PATH": "/usr/bin:/bin",
        "TERMINAL_WIDTH": "100",
    }.items():
        monkeypatch.setenv(name, str(value))
    return tmp_path


@pytest.mark.parametrize(("typed", "code", "answer"), ANSWERS, ids=[typed for typed, _, _ in ANSWERS])
def test_habits(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    typed: str,
    code: int,
    answer: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["aimind", *shlex.split(typed)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    shown = capsys.readouterr()
    assert answer in shown.out + shown.err
    assert end.value.code == code
    if code:
        assert [line.split(":")[0] for line in shown.err.splitlines()] == ["error", "hint"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_quiet(name: str) -> None:
    assert any("--quiet" in parameter.opts for parameter in load(name).params)


def test_it_is_a_module_too() -> None:
    done = subprocess.run([sys.executable, "-m", "aimind", "-V"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("aimind 0.")


def test_every_command_that_is_meant_exists() -> None:
    for meant in MEANT.values():
        assert meant.split()[0] in COMMANDS
    assert set(ALIASES.values()) <= COMMANDS.keys()
    assert not (MEANT.keys() | ALIASES.keys()) & COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_summary_is_the_first_sentence_of_the_help(name: str) -> None:
    assert (load(name).help or "").split("\n\n")[0] == COMMANDS[name].summary


@pytest.mark.parametrize("name", COMMANDS)
def test_help_texts_are_sentences(name: str) -> None:
    """They begin with a capital and end with a period; none needs the option's name to be understood."""
    command = load(name)
    for each in (command, *getattr(command, "commands", {}).values()):
        texts = [each.help, *(parameter.help for parameter in each.params if not parameter.hidden)]
        for text in texts:
            first, *_ = (text or "").split()
            assert first[0].isupper() or first == "aimind", text
            assert first not in ("Of", "Those", "That", "And", "Else"), text
            assert not first.endswith("ed"), text
        for text in texts[1:]:
            assert (text or "").endswith("."), text

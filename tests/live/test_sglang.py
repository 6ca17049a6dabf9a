"""The arguments that SGLang is given, read by its own parser; its server needs a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from aimind import plan
from aimind.environments import flags
from aimind.launchers import LAUNCHERS, sglang
from aimind.launchers.arguments import render
from aimind.launchers.parsers import REASONING, TOOL_CALLS
from aimind.types import Backend, Request
from tests.live.served import DATA
from tests.samples import device, host, llama, model

pytestmark = pytest.mark.live

PARSER = Path(__file__).with_name("sglang_parser.py")
# What is imported before it parses: one gigabyte, instead of all that it needs for GPUs.
NEEDED = (
    "aiohttp huggingface-hub ipython msgspec numpy orjson packaging pillow psutil pybase64 pydantic pyyaml "
    "pyzmq requests starlette torch==2.13.0 tqdm"
).split()


@pytest.fixture(scope="module")
def python() -> Path:
    """Of an environment with SGLang's own code."""
    from uv import find_uv_bin

    package = sglang.source(host(device()))
    folder = DATA / f"sglang-parser-{package.version}"
    done, found = folder / ".ready", folder / "bin" / "python"
    if not done.exists() or done.read_text() != " ".join(NEEDED):
        install = [find_uv_bin(), "pip", "install", "--quiet", "--python", str(found)]
        links = os.environ.get("PIP_FIND_LINKS", "").split()
        torch = [f"--find-links={link}" for link in links] + ["--index-strategy", "unsafe-best-match"]
        cpu = torch if links else ["--torch-backend", "cpu"]
        if not done.exists():
            create = [find_uv_bin(), "venv", "--quiet", "--clear", "-p", sys.executable]
            subprocess.run([*create, folder], check=True)
        subprocess.run([*install, "--no-deps", f"{package.distribution}=={package.version}"], check=True)
        never = folder / "never.txt"
        never.write_text("triton ; sys_platform == 'never'\n")
        subprocess.run([*install, "--overrides", str(never), *cpu, *NEEDED], check=True)
        done.write_text(" ".join(NEEDED))
    return found


def parse(python: Path, arguments: Iterable[str], *fields: str) -> Any:
    done = subprocess.run(
        [python, "-I", PARSER, *fields],
        input=json.dumps(list(arguments)),
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("read: "))[6:])


def test_its_parser_reads_what_the_plan_says(python: Path) -> None:
    metadata = llama(safetensors=True)
    request = Request(
        backend="sglang",
        served_name="mine",
        port=9123,
        max_model_len=8192,
        kv_cache_dtype="fp8_e4m3",
        block_size=16,
        dtype="bfloat16",
        enforce_eager=True,
        trust_remote_code=True,
    )
    machine = host(device(0, free_gib=16), device(1, free_gib=16))
    decided = plan.make(model(metadata), metadata, machine, request, LAUNCHERS)
    command = sglang.command(decided, "/weights")
    said = {
        "model_path": "/weights",
        "served_model_name": "mine",
        "host": decided.settings.address,
        "port": 9123,
        "context_length": 8192,
        "max_running_requests": decided.settings.max_num_seqs,
        "chunked_prefill_size": decided.settings.max_num_batched_tokens,
        "tp_size": 2,
        "pp_size": 1,
        "mem_fraction_static": decided.settings.gpu_memory_utilization,
        "kv_cache_dtype": "fp8_e4m3",
        "page_size": 16,
        "dtype": "bfloat16",
        "disable_cuda_graph": True,
        "trust_remote_code": True,
    }
    arguments = command.argv[2:]  # after Python and the shim
    assert len(render(sglang.FLAGS, decided.settings)) == len(arguments) - 2
    read = parse(python, (*arguments, "--api-key=canary"), "api_key", *said)
    assert read["fields"] == {"api_key": "canary", **said}


def test_its_parser_knows_every_flag_of_the_launcher(python: Path) -> None:
    ours = {spelling for flag in sglang.FLAGS.values() for spelling in flag.spellings}
    spellings = set(parse(python, ("--model-path", "/weights"))["spellings"])
    assert ours - spellings == set()
    assert set(sglang.RESERVED) - spellings == set()
    assert set(sglang.UNCOUNTED) - spellings == set()


def test_it_tells_its_flags(python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for is its own help; and what that leaves out, the launcher knows."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    executable = tmp_path / "bin" / "python"
    executable.parent.mkdir()
    executable.write_text(f'#!/bin/sh\nexec {python} -I {PARSER} "$@"\n')
    executable.chmod(0o755)
    source = sglang.source(host(device()))
    backend = Backend(name="sglang", version=source.version, executable=str(executable))
    told = flags.ask(backend, source, sglang.HELP)
    assert told is not None
    assert not told & set(sglang.HELP.also)
    assert told | set(sglang.HELP.also) == set(parse(python, ("--model-path", "/weights"))["spellings"])
    assert flags.remembered(backend, source, sglang.HELP) == told


def test_it_has_every_parser_that_is_chosen(python: Path) -> None:
    choices = parse(python, ("--model-path", "/weights"))["choices"]
    for forms, flag in ((TOOL_CALLS, "--tool-call-parser"), (REASONING, "--reasoning-parser")):
        names = {form.sglang.name for form in forms if form.sglang}
        assert len(names) > 10
        assert names <= set(choices[flag])


def test_its_parser_reads_that_a_model_shall_embed(python: Path) -> None:
    metadata = llama(safetensors=True)
    request = Request(backend="sglang", category="embedding")
    decided = plan.make(model(metadata), metadata, host(device()), request, LAUNCHERS)
    arguments = sglang.command(decided, "/weights").argv[2:]
    assert parse(python, arguments, "is_embedding")["fields"] == {"is_embedding": True}

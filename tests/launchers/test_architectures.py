"""Architectures that a backend does not know, by the tables of aimind and by an installed library."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aimind.environments.models import known
from aimind.errors import UnsupportedError
from aimind.launchers import LAUNCHERS, llama_cpp_python, llama_server, sglang, transformers, vllm, xllamacpp
from aimind.launchers.architectures import shipped
from aimind.launchers.base import KnowsArchitectures, ListsModels
from aimind.launchers.ggml import BUILD
from aimind.metadata.gguf_families import IMAGE, KNOWN
from aimind.select import choose
from aimind.types import Backend, Host, Metadata, Package, Request
from tests.samples import device, host, llama

ROOT = Path(__file__).parents[2]
AIMIND = Path(sys.executable).with_name("aimind")


def of(architecture: str, *, safetensors: bool = True) -> Metadata:
    return dataclasses.replace(llama(safetensors=safetensors), architecture=architecture)


def without_programs(*devices: object) -> Host:
    machine = host(*devices)  # type: ignore[arg-type]
    programs = ("llama-server", "llama-box", "mindie")
    kept = tuple(backend for backend in machine.backends if backend.name not in programs)
    return dataclasses.replace(machine, backends=kept)


@pytest.mark.parametrize("launcher", [vllm, sglang, transformers, xllamacpp, llama_cpp_python])
def test_every_version_that_aimind_installs_has_a_table(launcher: KnowsArchitectures) -> None:
    """`python -m scripts.architectures` writes them again once a version was changed."""
    source = launcher.source(host())  # type: ignore[attr-defined]
    assert isinstance(source, Package)
    backend = Backend(name=source.distribution, version=source.version, executable="")
    table = shipped(launcher.table(backend))
    assert table is not None
    assert len(table) > 100


def test_a_table_names_what_its_package_has() -> None:
    assert {"LlamaForCausalLM", "Qwen3MoeForCausalLM", "GPTNeoXForCausalLM"} <= (
        shipped(f"vllm-{vllm.VERSION}") or frozenset()
    )
    assert {"Grok1ForCausalLM", "LlamaForCausalLM"} <= (shipped("sglang-0.5.23") or frozenset())
    assert shipped("vllm-0.0.1") is None


def test_llama_cpp_has_what_the_estimates_were_made_for() -> None:
    assert KNOWN <= (shipped(f"llama.cpp-{BUILD}") or frozenset())
    assert not IMAGE & (shipped(f"llama.cpp-{BUILD}") or frozenset())


@pytest.mark.parametrize(
    ("metadata", "names"),
    [
        (of("FooBarForCausalLM"), ("vllm 0.32.0", "sglang 0.5.23", "transformers 5.23.0")),
        (of("foobar", safetensors=False), (f"xllamacpp 2026.10.{BUILD}", "llama-cpp-python 0.3.36")),
    ],
)
def test_what_no_backend_knows_is_refused(metadata: Metadata, names: tuple[str, ...]) -> None:
    with pytest.raises(UnsupportedError) as caught:
        choose(metadata, without_programs(device()), Request(), LAUNCHERS)
    assert caught.value.message.startswith(f"No backend knows the architecture {metadata.architecture} (")
    assert all(name in caught.value.message for name in names)
    first = names[0].split()[0]
    assert f"--backend {first} --backend-version VERSION" in caught.value.hint
    forced = Request(backend=first, force=True)
    choice = choose(metadata, without_programs(device()), forced, LAUNCHERS)
    assert f"{names[0]} does not know" in choice.reason.sentence


def test_the_next_backend_that_knows_it_is_taken_or_named() -> None:
    machine = without_programs(device())
    choice = choose(of("Grok1ForCausalLM"), machine, Request(), LAUNCHERS)
    assert choice.backend.name == "sglang"
    with pytest.raises(UnsupportedError, match=r"vllm 0\.32\.0 does not know the arch") as caught:
        choose(of("Grok1ForCausalLM"), machine, Request(backend="vllm"), LAUNCHERS)
    assert "omit --backend to use sglang" in caught.value.hint
    with pytest.raises(UnsupportedError) as caught:
        choose(of("FooBarForCausalLM"), machine, Request(backend="vllm"), LAUNCHERS)
    assert "omit --backend" not in caught.value.hint
    assert "--backend-version VERSION" in caught.value.hint


def test_of_another_version_nothing_is_claimed() -> None:
    machine = without_programs()
    backends = tuple(dataclasses.replace(each, version="9.9") for each in machine.backends)
    machine = dataclasses.replace(machine, backends=backends)
    assert choose(of("foobar", safetensors=False), machine, Request(), LAUNCHERS).backend.name == "xllamacpp"


# ── An installed llama.cpp is read ─────────────────────────────────────────────────────────────────────────


@pytest.fixture
def installed(tmp_path: Path) -> Backend:
    """A llama-server with its library where distributions have it."""
    library = tmp_path / "usr" / "lib" / "x86_64-linux-gnu" / "llama.cpp" / "libllama.so.0"
    library.parent.mkdir(parents=True)
    names = ["gptneox", "starcoder", "baichuan", "modern-bert", "novel"]
    library.write_bytes(b"\x7fELF\0" + b"\0".join(name.encode() for name in names) + b"\0%s.foobar.\0")
    program = tmp_path / "usr" / "bin" / "llama-server"
    program.parent.mkdir()
    program.write_bytes(b"\x7fELF\0")
    return Backend(name="llama-server", version="4321", executable=str(program))


def test_a_name_in_the_library_is_known_also_as_the_end_of_another(
    installed: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIMIND_DATA_DIR", str(tmp_path / "data"))
    for _ in range(2):  # read, then remembered
        backend = dataclasses.replace(installed, architectures=known(installed, llama_server.REGISTRY))
        for name in ("novel", "bert", "gptneox"):
            assert llama_server.knows(of(name, safetensors=False), backend)
        for name in ("foobar", "llama"):
            assert not llama_server.knows(of(name, safetensors=False), backend)
    assert json.loads((tmp_path / "data" / "architectures-llama-server.json").read_text())["of"][0] == "4321"


def test_a_program_without_such_a_library_says_nothing(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "llama-server"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    backend = Backend(name="llama-server", version="4321", executable=str(program))
    assert known(backend, llama_server.REGISTRY) is None
    assert llama_server.knows(of("foobar", safetensors=False), backend)


def test_a_folder_of_modules_names_its_classes(tmp_path: Path) -> None:
    """As SGLang's modules do, one class or a list of them."""
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    models = site / "sglang" / "srt" / "models"
    models.mkdir(parents=True)
    (models / "one.py").write_text("class One: ...\nEntryClass = One\n")
    (models / "two.py").write_text("EntryClass = [Two, Three]\nOther = [Four]\n")
    (models / "broken.py").write_text("def broken(:\n")
    backend = Backend(name="sglang", version="1", executable=str(tmp_path / "bin" / "python"))
    assert known(backend, sglang.REGISTRY) == frozenset({"One", "Two", "Three"})


def test_every_launcher_that_can_be_asked_has_a_table_to_compare_with() -> None:
    asked = [launcher.NAME for launcher in LAUNCHERS if isinstance(launcher, ListsModels)]
    assert {"vllm", "sglang", "transformers", "llama-server", "llama-box", "xllamacpp"} <= set(asked)
    assert all(isinstance(each, KnowsArchitectures) for each in LAUNCHERS if each.NAME in asked)


def test_the_command_refuses_with_code_7(tmp_path: Path) -> None:
    demo = ROOT / "aimind" / "demo"
    (tmp_path / "strange.gguf").write_bytes(
        next(demo.glob("*.gguf")).read_bytes().replace(b"llama", b"fooba")
    )
    done = subprocess.run(
        [str(AIMIND), "plan", "./strange.gguf", "--hardware", "24G"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "AIMIND_DATA_DIR": str(tmp_path / "data")},
    )
    assert done.returncode == 7
    assert "No backend knows the architecture fooba (xllamacpp" in done.stderr

"""Whether vLLM has compiled the model before: by a key of all that makes it compile anew."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from aimind import plan
from aimind.document import document
from aimind.environments import compiled
from aimind.launchers import LAUNCHERS, llama_server, vllm
from aimind.launchers.base import Compiles
from aimind.types import Backend, CompileCache, Host, Plan, Request
from tests.samples import device, host, llama, model

CACHE = CompileCache(folder="/cache", marks="/cache/torch_compile_cache/aimind-")


def machine(cache: CompileCache | None = CACHE, *, version: str = vllm.VERSION, name: str = "Test") -> Host:
    here = host(dataclasses.replace(device(), name=name))
    (usual,) = (each for each in here.backends if each.name == vllm.NAME)
    backend = dataclasses.replace(usual, compile_cache=cache, version=version)
    return dataclasses.replace(here, backends=(backend,))


def planned(here: Host, **asked: Any) -> Plan:
    metadata = llama(safetensors=True)
    served = dataclasses.replace(model(metadata), commit=asked.pop("commit", "c0"))
    request = Request(backend=vllm.NAME, **{"max_model_len": 4096, **asked})
    return plan.make(served, metadata, here, request, LAUNCHERS)


def key(found: Plan) -> str:
    made = vllm.compile_key(found)
    assert made is not None
    return made


def sentences(found: Plan) -> list[str]:
    return [reason.sentence for reason in found.reasons if reason.field == "compile_cache"]


def test_the_first_start_is_cold_and_the_second_warm() -> None:
    first = planned(machine())
    assert first.compile_cache == "cold"
    assert sentences(first) == [
        "the first start with these settings compiles the model, which can take minutes"
    ]
    marked = dataclasses.replace(CACHE, keys=frozenset({key(first)}))
    second = planned(machine(marked))
    assert second.compile_cache == "warm"
    assert sentences(second) == ["the backend reuses the compiled code of an earlier start"]
    assert planned(machine(marked), max_model_len=2048).compile_cache == "cold"


def test_the_document_has_it_and_the_command_the_folder() -> None:
    found = planned(machine())
    command = vllm.command(found, "/models/m")
    assert command.env["VLLM_CACHE_ROOT"] == "/cache"
    shown = document(found, command)
    assert shown["compile_cache"] == "cold"


@pytest.mark.parametrize(
    "asked",
    [
        {"enforce_eager": True},
        {"env": {"VLLM_CACHE_ROOT": "/mine"}},
        {"env": {"VLLM_DISABLE_COMPILE_CACHE": "1"}},
        {"extra": ("-O0",)},
        {"extra": ("--compilation-config", '{"mode": 0}')},
    ],
    ids=str,
)
def test_nothing_is_said_where_nothing_is_compiled_or_the_user_decides(asked: dict[str, object]) -> None:
    found = planned(machine(), **asked)
    assert found.compile_cache is None
    assert sentences(found) == []
    command = vllm.command(found, "/models/m")
    assert "compile_cache" not in document(found, command)
    assert command.env["VLLM_CACHE_ROOT"] == ("/mine" if "/mine" in str(asked) else "/cache")


def test_without_a_cache_of_ours_nothing_is_said_or_set() -> None:
    found = planned(machine(None))
    assert found.compile_cache is None
    assert "VLLM_CACHE_ROOT" not in vllm.command(found, "/models/m").env


@pytest.mark.parametrize(
    "asked",
    [
        {"port": 9000},
        {"address": "0.0.0.0"},
        {"api_key": "secret"},
        {"served_name": "other"},
        {"gpu_memory_utilization": 0.85},
        {"env": {"HF_HOME": "/elsewhere"}},
    ],
    ids=str,
)
def test_what_changes_no_graph_changes_no_key(asked: dict[str, object]) -> None:
    assert key(planned(machine(), **asked)) == key(planned(machine()))


@pytest.mark.parametrize(
    "asked",
    [
        {"max_model_len": 2048},
        {"max_num_seqs": 7},
        {"max_num_batched_tokens": 3000},
        {"kv_cache_dtype": "fp8"},
        {"commit": "c1"},
        {"env": {"VLLM_ATTENTION_BACKEND": "FLASHINFER"}},
        {"extra": ("--enable-lora",)},
    ],
    ids=str,
)
def test_what_changes_the_graph_changes_the_key(asked: dict[str, object]) -> None:
    assert key(planned(machine(), **asked)) != key(planned(machine()))


def test_so_do_another_version_and_another_device() -> None:
    usual = key(planned(machine()))
    assert key(planned(machine(version="0.33.0"))) != usual
    assert key(planned(machine(name="Another"))) != usual


def test_only_launchers_that_compile_have_a_key() -> None:
    assert isinstance(vllm, Compiles)
    assert not isinstance(llama_server, Compiles)


def backend(environment: Path, *, installed: bool = True) -> Backend:
    python = environment / "bin" / "python"
    return Backend(name="vllm", version="1", executable=str(python), installed=installed)


def test_marks_lie_beside_the_code_and_go_with_it(tmp_path: Path) -> None:
    found = compiled.cache(backend(tmp_path), "code")
    assert found == CompileCache(
        folder=str(tmp_path / "compiled"), marks=str(tmp_path / "compiled" / "code" / "aimind-")
    )
    code = tmp_path / "compiled" / "code"
    (code / "3a97bb0d").mkdir(parents=True)  # of the backend itself
    Path(found.marks + "k1").touch()
    again = compiled.cache(backend(tmp_path), "code")
    assert again is not None
    assert again.keys == {"k1"}


def test_a_folder_that_cannot_be_written_is_not_given(tmp_path: Path) -> None:
    assert compiled.cache(backend(tmp_path / "gone"), "code") is None
    to_come = compiled.cache(backend(tmp_path / "gone", installed=False), "code")
    assert to_come is not None
    assert to_come.keys == frozenset()

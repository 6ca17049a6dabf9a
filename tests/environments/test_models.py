"""The table of architectures of an installed package: read from its source, remembered, read again."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from aimind import environments, plan, steps
from aimind.environments.models import known
from aimind.errors import UnsupportedError
from aimind.launchers import LAUNCHERS, vllm
from aimind.types import Backend, Host, Plan, Registry, Request
from tests.samples import host, llama, model

REGISTRY = Registry(kind="table", files=("toy/models/registry.py",), table="_ALL", with_transformers=True)
TABLE = """\
import os
_TEXT = {"OneForCausalLM": ("one", "OneForCausalLM"), "TwoForCausalLM": ("toy.two", "Two")}
_OTHER: dict[str, tuple[str, str]] = {"OneModel": ("one", "OneModel")}
_GONE = {"OldForCausalLM": "0.1"}
_ALL = {
    **_TEXT,
    **_OTHER,
    "PlainForCausalLM": ("plain", "Plain"),
}
raise RuntimeError("nobody runs this file")
"""
MODELS = {
    "bolt": "class BoltAttention(nn.Module):\n    f = ALL_ATTENTION_FUNCTIONS.get_interface(x)\n",
    "nut": "class NutAttention(nn.Module):\n    pass\n",
    "nail": "class NailPreTrainedModel:\n    _supports_attention_backend = True\n"
    "class NailAttention(nn.Module):\n    pass\n",
    "screw": "class ScrewModel(BoltModel):\n    pass\n",
}


@pytest.fixture
def backend(tmp_path: Path) -> Backend:
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    table = site / REGISTRY.files[0]
    table.parent.mkdir(parents=True)
    table.write_text(TABLE)
    for name, source in MODELS.items():
        module = site / "transformers" / "models" / name / f"modeling_{name}.py"
        module.parent.mkdir(parents=True)
        module.write_text(f'{source}\n__all__ = ["{name.title()}Model", "{name.title()}ForCausalLM"]\n')
    return Backend(name="toy", version="1", executable=str(tmp_path / "bin" / "python"))


def table(backend: Backend) -> Path:
    return Path(backend.executable).parents[1] / "lib" / "python3.11" / "site-packages" / REGISTRY.files[0]


OWN = {"OneForCausalLM", "TwoForCausalLM", "OneModel", "PlainForCausalLM"}


def test_its_table_and_what_of_transformers_it_can_run(backend: Backend) -> None:
    replaceable = [name for name in MODELS if name != "nut"]
    theirs = {f"{name.title()}{end}" for name in replaceable for end in ("Model", "ForCausalLM")}
    assert set(known(backend, REGISTRY) or ()) == OWN | theirs


def test_its_table_alone(backend: Backend) -> None:
    assert (
        set(known(backend, Registry(kind="table", files=REGISTRY.files, table=REGISTRY.table)) or ()) == OWN
    )


def test_it_is_read_once(backend: Backend) -> None:
    first = known(backend, REGISTRY)
    memory = Path(backend.executable).parents[1] / "architectures.json"
    remembered = memory.read_text()
    memory.write_text(remembered.replace("OneModel", "FromMemoryModel"))
    assert "FromMemoryModel" in (known(backend, REGISTRY) or ())
    table(backend).write_text(TABLE.replace("OneModel", "NewModel"))  # another version was installed
    wanted = {name.replace("OneModel", "NewModel") for name in first or ()}
    assert set(known(backend, REGISTRY) or ()) == wanted
    memory.write_text("{")
    assert "NewModel" in (known(backend, REGISTRY) or ())


@pytest.mark.parametrize("text", ["", "_OTHER = {}", "def broken(:", "_ALL = 1", "_ALL = {**_ALL}"])
def test_without_a_table_nothing_is_known(backend: Backend, text: str) -> None:
    table(backend).write_text(text)
    assert known(backend, REGISTRY) is None


def test_what_is_not_there_says_nothing(tmp_path: Path) -> None:
    assert (
        known(Backend(name="toy", version="1", executable=str(tmp_path / "bin" / "python")), REGISTRY) is None
    )


# ── Asked once it is installed ─────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """A plan made while vLLM was not here; another process has installed it since."""
    monkeypatch.setenv("AIMIND_DATA_DIR", str(tmp_path))
    metadata, machine = llama(safetensors=True), without_devices()
    made = plan.make(model(metadata), metadata, machine, Request(backend="vllm"), LAUNCHERS)
    package = vllm.source(machine)
    python = Path(environments.executable("vllm", package, package.version))
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    (python.parents[1] / "aimind.json").write_text('{"size_bytes": 1}')
    registry = python.parents[1] / "lib" / "python3.11" / "site-packages" / vllm.REGISTRY.files[0]
    registry.parent.mkdir(parents=True)
    registry.write_text('_VLLM_MODELS = {"GemmaForCausalLM": ("gemma", "GemmaForCausalLM")}\n')
    return dataclasses.replace(made, backend=dataclasses.replace(made.backend, executable=str(python)))


def without_devices() -> Host:
    machine = host()
    absent = tuple(dataclasses.replace(each, installed=False) for each in machine.backends)
    return dataclasses.replace(machine, backends=absent)


def test_what_it_does_not_know_is_said_once_it_is_installed(planned: Plan) -> None:
    with pytest.raises(UnsupportedError, match="does not know the architecture LlamaForCausalLM") as caught:
        steps.install(planned, without_devices())
    assert "use the next suitable backend" in caught.value.hint


def test_what_it_knows_or_is_forced_to_try_is_served(planned: Plan) -> None:
    known_one = dataclasses.replace(planned.metadata, architecture="GemmaForCausalLM")
    steps.install(dataclasses.replace(planned, metadata=known_one), without_devices())
    forced = dataclasses.replace(planned.settings, force=True)
    steps.install(dataclasses.replace(planned, settings=forced), without_devices())

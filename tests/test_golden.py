"""The plan of every recorded model on machines of four sizes, kept as text: a change is seen in its diff.

`make golden` writes them again.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from aimind import metadata, plan, steps
from aimind.devices import hardware
from aimind.document import Json, document
from aimind.errors import AimindError
from aimind.launchers import LAUNCHERS
from aimind.types import Backend, File, Host, Metadata, Model, Reference, Request
from tests import models
from tests.fakes import mindie, repositories
from tests.samples import FileReader, llama, model, speech

GOLDEN = Path(__file__).parent / "golden"
HOSTS = Path(__file__).parent / "data" / "hosts"
MACHINES = ("8G", "24G", "2x24G", "80G")
WITH_RAM = str(HOSTS / "24G-ram64G.json")
# Where context, slots and what is left in RAM compete.
CHOICES = (
    ("gpt-oss-120b.MXFP4", WITH_RAM),
    ("gpt-oss-120b.MXFP4", "2x24G"),
    ("gpt-oss-120b.MXFP4", "8x80G"),
    ("nemotron-3-nano-30b-a3b.Q4_K_M", "12G"),
    ("nemotron-3-nano-30b-a3b.Q4_K_M", "16G"),
    ("nemotron-3-nano-30b-a3b.Q4_K_M", "2x24G"),
    ("falcon-h1-34b", "24G"),
    ("gemma-3-12b.Q4_K_M", "12G"),
    ("llama-3.1-8b.Q8_0", "12G"),
    ("llama-3.1-70b.Q4_K_M", WITH_RAM),
    ("llama-3.1-70b.Q4_K_M", "8x80G"),
    ("qwen3-30b-a3b.Q4_K_M", "16G"),
    ("qwen3-next-80b-a3b.Q4_K_M", WITH_RAM),
)


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Model, Metadata]]:
    folder = tmp_path_factory.mktemp("headers")
    known: dict[str, tuple[Model, Metadata]] = {}

    def _read(name: str) -> tuple[Model, Metadata]:
        if name not in known:
            path = models.header(name, folder)
            model = Model(
                reference=Reference(source="local", name=f"./{path.name}"),
                files=(File(path.name, path.stat().st_size),),
                root=str(folder),
            )
            known[name] = model, metadata.read(model, lambda _: FileReader(path))
            path.unlink()
        return known[name]

    return _read


def machine(text: str) -> Host:
    """The machine that `--hardware` describes, with the backends that a plan for it may choose from."""
    host = steps.equipped(hardware.parse(text), Request())
    backends = [
        backend
        if backend.assumed
        else dataclasses.replace(
            backend, executable=f"/environments/{backend.name}{backend.only and '-slim'}/bin/python"
        )
        for backend in host.backends
    ]
    return dataclasses.replace(host, backends=tuple(backends))


def decide(model: Model, read: Metadata, host: Host, request: Request | None = None) -> dict[str, Json]:
    """The plan as a document, or its refusal; whatever was planned, no device is overcommitted."""
    try:
        decided = plan.make(model, read, host, request or Request(), LAUNCHERS)
    except AimindError as refusal:
        return {"refusal": type(refusal).__name__, "message": refusal.message, "hint": refusal.hint}
    for shard in decided.shards:
        assert shard.estimate.total_bytes <= shard.device.free_bytes
    launcher = next(launcher for launcher in LAUNCHERS if decided.backend.name == launcher.NAME)
    return document(decided, launcher.command(decided, "/weights"))


def assert_recorded(found: dict[str, Json], name: str) -> None:
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    text = text.replace(str(Path(__file__).parents[1]), "")  # the shim lies in the package
    recorded = GOLDEN / f"{name}.json"
    if os.environ.get("AIMIND_WRITE_GOLDEN"):
        recorded.write_text(text)
    assert text == recorded.read_text()


@pytest.mark.parametrize("machine_name", MACHINES)
@pytest.mark.parametrize("name", models.NAMES)
def test_the_plan_is_the_recorded_one(
    name: str, machine_name: str, read: Callable[[str], tuple[Model, Metadata]]
) -> None:
    found = decide(*read(name), machine(machine_name))
    assert_recorded(found, f"{name}--{machine_name}")


@pytest.mark.parametrize(("name", "machine_name"), CHOICES)
def test_what_competes_for_memory_is_chosen_as_recorded(
    name: str, machine_name: str, read: Callable[[str], tuple[Model, Metadata]]
) -> None:
    found = decide(*read(name), machine(machine_name))
    assert_recorded(found, f"{name}--{Path(machine_name).stem}")


@pytest.mark.parametrize(
    ("name", "described", "machine_name"),
    [
        ("faster-whisper-large", speech(gib=2.9), "8G"),
        ("faster-whisper-large", speech(gib=2.9), "24G"),
        ("cosyvoice", speech("cosyvoice", gib=2.0), "8G"),
        ("llama-3.1-8b", llama(safetensors=True), str(HOSTS / "mac-24G.json")),
        ("faster-whisper-large", speech(gib=2.9), str(HOSTS / "mac-24G.json")),
    ],
)
def test_whole_models_are_planned_as_recorded(name: str, described: Metadata, machine_name: str) -> None:
    found = decide(model(described), described, machine(machine_name))
    assert_recorded(found, f"{name}--{Path(machine_name).stem}")


def test_the_plan_on_ascend_devices_is_the_recorded_one(tmp_path: Path) -> None:
    """With the file that MindIE reads, made from the one that its installer left."""
    config = {
        **repositories.LLAMA_8B,
        "num_hidden_layers": 80,
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_attention_heads": 64,
    }
    folder = tmp_path / "model"
    repositories.shards(folder, config, 4)
    paths = sorted(folder.iterdir())
    model = Model(
        reference=Reference(source="huggingface", name="meta-llama/Llama-3.1-70B-Instruct"),
        files=tuple(File(path.name, path.stat().st_size) for path in paths),
    )
    read = metadata.read(model, lambda file: FileReader(folder / file.path))
    host = machine("8xAscend910B-64G")
    here = Backend(
        name="mindie",
        version="2.0.RC2",
        executable="/usr/local/Ascend/mindie/latest/mindie-service/bin/mindieservice_daemon",
        configuration=json.dumps(mindie.TEMPLATE),
        scripts=("/usr/local/Ascend/mindie/latest/mindie-service/set_env.sh",),
    )
    host = dataclasses.replace(host, backends=(here,))
    decided = plan.make(model, read, host, Request(extra=("--enable-prefix-caching",)), LAUNCHERS)
    launcher = next(launcher for launcher in LAUNCHERS if decided.backend.name == launcher.NAME)
    command = launcher.command(decided, "/weights")
    files = {file.path: json.loads(file.text) for file in command.files}
    assert_recorded({**document(decided, command), "files": files}, "llama-3.1-70b--8xAscend910B-64G")


@pytest.mark.parametrize(("machine_name", "context"), [("24G", None), ("2x24G", 65536)])
def test_the_plan_for_sglang_is_the_recorded_one(machine_name: str, context: int | None) -> None:
    described = llama(safetensors=True)
    request = Request(backend="sglang", max_model_len=context)
    found = decide(model(described), described, machine(machine_name), request)
    assert_recorded(found, f"llama-3.1-8b--sglang--{machine_name}")

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

from aimind import metadata, plan
from aimind.devices import hardware
from aimind.document import Json, document
from aimind.errors import AimindError
from aimind.launchers import LAUNCHERS
from aimind.types import Backend, File, Host, Metadata, Model, Package, Reference, Request
from tests import models
from tests.samples import FileReader, llama, model, speech

GOLDEN = Path(__file__).parent / "golden"
HOSTS = Path(__file__).parent / "data" / "hosts"
MACHINES = ("8G", "24G", "2x24G", "80G")


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
    """The imagined machine, on which only what aimind installs can serve."""
    host = hardware.parse(text)
    sources = ((launcher.NAME, launcher.source(host)) for launcher in LAUNCHERS)
    backends = [
        Backend(
            name=name,
            version=build.version,
            executable=f"/environments/{name}{build.only and '-slim'}/bin/python",
            installed=False,
            only=build.only,
        )
        for name, source in sources
        if isinstance(source, Package)
        for build in source.builds
    ]
    return dataclasses.replace(host, backends=tuple(backends))


def decide(model: Model, read: Metadata, host: Host) -> dict[str, Json]:
    try:
        decided = plan.make(model, read, host, Request(), LAUNCHERS)
    except AimindError as refusal:
        return {"refusal": type(refusal).__name__, "message": refusal.message, "hint": refusal.hint}
    launcher = next(launcher for launcher in LAUNCHERS if decided.backend.name == launcher.NAME)
    return document(decided, launcher.command(decided, "/weights"))


@pytest.mark.parametrize("machine_name", MACHINES)
@pytest.mark.parametrize("name", models.NAMES)
def test_the_plan_is_the_recorded_one(
    name: str, machine_name: str, read: Callable[[str], tuple[Model, Metadata]]
) -> None:
    check(decide(*read(name), machine(machine_name)), f"{name}--{machine_name}.json")


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
    check(found, f"{name}--{Path(machine_name).stem}.json")


def check(found: dict[str, Json], recorded_as: str) -> None:
    """Compare with what is recorded, or record it."""
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    package = str(Path(__file__).parents[1])
    text = text.replace(package, "")  # the shim lies in the package
    recorded = GOLDEN / recorded_as
    if os.environ.get("AIMIND_WRITE_GOLDEN"):
        recorded.write_text(text)
    assert text == recorded.read_text()


@pytest.mark.parametrize("name", models.NAMES)
def test_no_shard_exceeds_its_device(name: str, read: Callable[[str], tuple[Model, Metadata]]) -> None:
    for machine_name in MACHINES:
        try:
            decided = plan.make(*read(name), machine(machine_name), Request(), LAUNCHERS)
        except AimindError:
            continue
        for shard in decided.shards:
            assert shard.estimate.total_bytes <= shard.device.free_bytes

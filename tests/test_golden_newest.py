"""The plans of the newest recorded architectures, kept as text like those of tests/test_golden.py."""

from __future__ import annotations

from functools import cache

import pytest

from aimind import alternatives, plan
from aimind.alternatives import Offer, Question
from aimind.errors import DoesNotFitError
from aimind.launchers import LAUNCHERS
from aimind.types import File, Metadata, Model, Reference, Request
from benchmarks import estimates
from tests.test_golden import assert_recorded, decide, machine

HEADERS = estimates.DATA / "gguf_new"
SIZES = estimates.model_sizes(HEADERS)
GIB = 1 << 30
WITH_RAM = "24G,ram=64G"
PLANNED = (
    ("deepseek-v3.2", "8x80G"),
    ("glm-5", "8x80G"),
    ("falcon-h1-34b", "16G"),
    ("falcon-h1-34b", "2x24G"),
    ("falcon-h1-34b", "8x80G"),
    ("falcon-h1-34b", WITH_RAM),
    *(
        (name, host)
        for name in ("nemotron-nano-9b-v2", "qwen3vl-8b")
        for host in ("12G", "16G", "24G", "2x24G")
    ),
)


@cache
def described(name: str) -> Metadata:
    return estimates.gguf_model(HEADERS, name)


def model(name: str) -> Model:
    file = File(f"{name}.gguf", SIZES[name])
    return Model(reference=Reference(source="local", name=f"./{file.path}"), files=(file,), root="/models")


@pytest.mark.parametrize(("name", "machine_name"), PLANNED)
def test_the_plan_is_the_recorded_one(name: str, machine_name: str) -> None:
    found = decide(model(name), described(name), machine(machine_name))
    assert found["shards"]
    assert_recorded(found, f"{name}--{machine_name.replace(',ram=', '-ram')}")


@pytest.mark.parametrize("ram_gib", [128, 1024])
@pytest.mark.parametrize("name", ["falcon-h1-34b", "nemotron-nano-9b-v2"])
def test_checkpoints_take_some_gigabytes_however_much_ram_is_free(name: str, ram_gib: int) -> None:
    host = machine(f"80G,ram={ram_gib}G")
    decided = plan.make(model(name), described(name), host, Request(), LAUNCHERS)
    count = decided.settings.context_checkpoints
    assert count is not None
    assert count >= 2
    assert 0 < decided.host.checkpoint_bytes <= (8 * GIB if count > 2 else 64 * GIB)


def test_checkpoints_are_as_many_as_asked_for() -> None:
    request = Request(context_checkpoints=32)
    name = "falcon-h1-34b"
    decided = plan.make(model(name), described(name), machine("80G,ram=1024G"), request, LAUNCHERS)
    assert decided.settings.context_checkpoints == 32
    assert decided.host.checkpoint_bytes > 8 * GIB


def test_a_model_for_servers_is_answered_with_as_many_devices_as_it_needs() -> None:
    """Neither more devices of 24 GiB nor one larger device hold its 379 GiB."""
    offer = Offer(
        candidates=(model("deepseek-v3.2"),), siblings=(), read=lambda _: described("deepseek-v3.2")
    )
    question = Question(
        offer=offer, host=machine("24G"), request=Request(cpu_offload=False), launchers=LAUNCHERS
    )
    with pytest.raises(DoesNotFitError) as refused:
        alternatives.best(question)
    assert refused.value.hint == "to make it fit, try 6 devices of 80 GiB"

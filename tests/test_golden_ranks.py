"""Plans and refusals of vLLM on machines of several sizes, kept as text; `make golden` writes them again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from aimind import alternatives, metadata
from aimind.alternatives import Offer, Question
from aimind.document import Json, document
from aimind.errors import AimindError
from aimind.launchers import LAUNCHERS, vllm
from aimind.types import File, Metadata, Model, Reference, Request
from tests.test_golden import HOSTS, assert_recorded, machine

CONFIGS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "models" / "gpu_h200.json").read_text()
)
CONFIGS["llama-3.1-70b"] = {
    **CONFIGS["llama-3.1-8b"],
    "num_hidden_layers": 80,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_attention_heads": 64,
}
H200 = str(HOSTS / "H200.json")


def described(name: str) -> Metadata:
    return metadata.from_config(json.dumps(CONFIGS[name]).encode(), "config.json")


def decide(name: str, hardware: str, extra: Sequence[str] = ()) -> dict[str, Json]:
    """The plan, or the refusal with every remedy that was planned."""
    read = described(name)
    file = File("model.safetensors", read.weight_bytes)
    model = Model(reference=Reference(source="local", name=f"./{name}"), files=(file,), root="/models")
    question = Question(
        offer=Offer(candidates=(model,), siblings=(), read=lambda _: read),
        host=machine(hardware),
        request=Request(backend="vllm", extra=tuple(extra)),
        launchers=LAUNCHERS,
    )
    try:
        decided = alternatives.best(question)
    except AimindError as refusal:
        return {"refusal": type(refusal).__name__, "message": refusal.message, "hint": refusal.hint}
    return document(decided, vllm.command(decided, "/weights"))


@pytest.mark.parametrize(
    ("name", "hardware"),
    [
        *((name, size) for name in ("gemma-3-4b", "llama-3.1-8b") for size in ("12G", "16G", "2x24G")),
        ("qwen3-30b-a3b", "2x24G"),
        ("qwen3-30b-a3b", H200),
        ("llama-3.1-8b", "8x80G"),
        ("llama-3.1-70b", "8x80G"),
    ],
)
def test_the_plan_of_ranks_is_the_recorded_one(name: str, hardware: str) -> None:
    assert_recorded(decide(name, hardware), f"{name}--vllm--{Path(hardware).stem}")


def reasons(decided: dict[str, Json]) -> str:
    found = decided["reasons"]
    assert isinstance(found, list)
    return json.dumps(found)


def test_a_small_cache_is_worth_more_devices_and_idle_ones_are_named() -> None:
    decided = decide("llama-3.1-70b", "8x80G")
    assert decided["tensor_parallel_size"] == 4
    assert "tensor parallel 2 would limit the context to 22,144 tokens" in reasons(decided)
    assert "4 of 8 devices stay idle; --tensor-parallel 8 would use 8 devices" in reasons(decided)


def hint(name: str, hardware: str, *extra: str) -> str:
    refused = decide(name, hardware, extra)
    assert refused["refusal"] == "DoesNotFitError"
    return str(refused["hint"])


def test_a_step_that_is_too_large_is_answered_with_one_that_fits() -> None:
    assert "-- --max-num-batched-tokens 8192;" in hint(
        "gemma-3-4b", "12G", "--max-num-batched-tokens", "65536"
    )
    assert decide("gemma-3-4b", "12G", ("--max-num-batched-tokens", "8192"))["backend"]


def test_graphs_are_left_out_where_they_decide() -> None:
    """The weights are 15.0 GiB; of 18 GiB a share of 0.9 leaves too little for them, a step and graphs."""
    found = hint("llama-3.1-8b", "18G")
    assert found.startswith("to make it fit, try -- --enforce-eager; or --gpu-memory-utilization 0.96")
    assert decide("llama-3.1-8b", "18G", ("--enforce-eager",))["backend"]


def test_nothing_but_more_memory_helps_where_the_weights_alone_are_too_large() -> None:
    refused = decide("llama-3.1-8b", "12G")
    assert "15.0 GiB of weights per rank do not fit device 0 (12.0 GiB free)" in str(refused["message"])
    assert refused["hint"] == "to make it fit, try one more device of 12.0 GiB; or a device of 24 GiB"

"""Plans for vLLM on one H200 beside what vLLM 0.26 took there."""

from __future__ import annotations

import pytest

from benchmarks import gpu_vllm

MIB = 1 << 20
MEASURED = [record for record in gpu_vllm.records() if record["real"]]
PARTS = ("weights", "activation peak", "context and libraries", "graphs", "KV cache")


def compared(record: gpu_vllm.Record) -> dict[str, gpu_vllm.Comparison]:
    return {each.component: each for each in gpu_vllm.comparisons(record)}


def label(record: gpu_vllm.Record) -> str:
    return f"{record['model']}, {record['run']}"


def test_the_records_are_whole() -> None:
    """Two whole runs, four in part, and one that never came to measure anything."""
    assert sum(record["complete"] for record in gpu_vllm.records()) == 2
    assert (len(MEASURED), len(gpu_vllm.records())) == (6, 7)


@pytest.mark.parametrize("record", MEASURED, ids=label)
def test_every_component_is_near_what_vllm_logged(record: gpu_vllm.Record) -> None:
    found = compared(record)
    assert "weights" in found
    for component in PARTS:
        if component in found:
            each = found[component]
            assert abs(each.planned - each.real) <= max(each.real // 10, 64 * MIB), each


@pytest.mark.parametrize("record", MEASURED, ids=label)
def test_the_weights_are_met_by_the_allocator_s_rules(record: gpu_vllm.Record) -> None:
    each = compared(record)["weights"]
    assert abs(each.planned - each.real) <= 15 * MIB, each


@pytest.mark.parametrize("record", MEASURED, ids=label)
def test_no_more_tokens_are_planned_than_the_cache_holds(record: gpu_vllm.Record) -> None:
    each = compared(record).get("KV tokens")
    if each is not None:
        assert -0.02 <= each.error <= 0, each


@pytest.mark.parametrize("record", [each for each in MEASURED if each["complete"]], ids=label)
def test_the_device_never_holds_more_than_was_planned(record: gpu_vllm.Record) -> None:
    each = compared(record)["device total"]
    assert 0 <= each.error <= 0.03, each

"""Plans for llama.cpp on one H200 beside what it took there."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimind.devices import hardware
from aimind.estimate import overhead
from aimind.estimate.overhead import Matrices, Work
from aimind.types import Measurement
from benchmarks import gpu_llama

MIB = 1 << 20
RECORDS = gpu_llama.records()
(H200,) = hardware.parse(str(gpu_llama.HOST)).devices
QUANTIZED = Matrices(floats=False, float_width=0, quantized_width=4096, largest_elements=2**24, heads=32)


@cache
def compared(number: int) -> Mapping[str, gpu_llama.Comparison]:
    return {each.component: each for each in gpu_llama.comparisons(RECORDS[number])}


@pytest.fixture(params=range(len(RECORDS)), ids=lambda number: gpu_llama.label(RECORDS[number]))
def found(request: pytest.FixtureRequest) -> Mapping[str, gpu_llama.Comparison]:
    return compared(request.param)


def test_no_record_is_left_out() -> None:
    assert len(RECORDS) == 11


@pytest.mark.parametrize("component", ["weights", "KV cache", "state"])
def test_what_is_kept_is_met(component: str, found: Mapping[str, gpu_llama.Comparison]) -> None:
    """To the hundredth of a MiB that each of its buffers is logged with."""
    assert abs(found[component].excess_bytes) <= 0.01 * MIB


def test_what_is_computed_with_is_bounded(found: Mapping[str, gpu_llama.Comparison]) -> None:
    """The plan is for a newer llama.cpp, whose steps may mix tokens and embeddings."""
    assert 0 <= found["compute"].excess_bytes <= 16.5 * MIB


@pytest.mark.parametrize("component", ["overhead", "process total"])
def test_the_process_never_holds_more_than_was_planned(
    component: str, found: Mapping[str, gpu_llama.Comparison]
) -> None:
    assert 0 <= found[component].excess_bytes <= 150 * MIB


def test_a_run_that_was_measured_when_ready_is_enough_for_the_next(
    found: Mapping[str, gpu_llama.Comparison], request: pytest.FixtureRequest
) -> None:
    """The growth from then until the peak is counted on top, whatever the model."""
    record = RECORDS[request.node.callspec.params["found"]]
    shard = gpu_llama.planned(record, measured=(measurement(record),)).shards[0]
    excess = shard.estimate.overhead_bytes - record["overhead_at_peak"]
    assert 0 <= excess <= 120 * MIB


def measurement(record: gpu_llama.Record, **fields: object) -> Measurement:
    """What was to be remembered of the record's run when it was ready."""
    kind = gpu_llama.planned(record).measured_as
    found = Measurement(
        device="NVIDIA H200",
        driver="580.159.04",
        backend="llama-server",
        version="11669",
        kind=kind,
        ready_bytes=record["overhead_at_load"],
        most_bytes=record["overhead_at_load"],
    )
    return dataclasses.replace(found, **fields)  # type: ignore[arg-type]


def overhead_with(*measured: Measurement) -> tuple[int, tuple[str, ...]]:
    """Of the plan for qwen3-8b, and its reasons."""
    decided = gpu_llama.planned(RECORDS[1], measured=measured)
    reasons = tuple(reason.sentence for reason in decided.reasons if reason.field == "overhead_bytes")
    return decided.shards[0].estimate.overhead_bytes, reasons


def test_the_largest_of_earlier_runs_counts_and_the_plan_says_so() -> None:
    runs = [measurement(RECORDS[1], ready_bytes=300 * MIB, most_bytes=size * MIB) for size in (340, 350, 310)]
    size, reasons = overhead_with(*runs)
    assert size == 350 * MIB
    assert reasons == ("earlier runs on this machine used 350 MiB beside the buffers on NVIDIA H200",)


def test_runs_with_cublas_count_for_others_with_their_figure_when_ready() -> None:
    other = measurement(RECORDS[3], ready_bytes=300 * MIB, most_bytes=450 * MIB)
    size, reasons = overhead_with(other)
    assert size == 320 * MIB
    assert reasons


@pytest.mark.parametrize(
    "another", [{"device": "NVIDIA A"}, {"driver": "1"}, {"backend": "xllamacpp"}, {"version": "1"}]
)
def test_runs_of_another_device_driver_or_build_do_not_count(another: dict[str, str]) -> None:
    assert overhead_with(measurement(RECORDS[1], most_bytes=900 * MIB, **another)) == (612 * MIB, ())


def test_the_context_is_that_which_was_measured() -> None:
    measured = json.loads((gpu_llama.DATA / "gpu_h200.json").read_text())["contexts"]["CUDA context"]
    assert overhead.context_bytes(H200) == measured


def test_options_that_are_not_known_are_no_plan() -> None:
    with pytest.raises(ValueError, match="--swa-full"):
        gpu_llama.planned({"model": "qwen3-8b.Q4_K_M", "setting": "--swa-full"})


@pytest.mark.parametrize(
    ("name", "capability", "multiprocessors"),
    [("NVIDIA B200", "10.0", 148), ("NVIDIA GeForce RTX 5090", "12.0", 170), ("GPU 24G", "8.9", 132)],
)
def test_a_context_grows_with_the_multiprocessors(name: str, capability: str, multiprocessors: int) -> None:
    device = dataclasses.replace(H200, name=name, capability=capability)
    size = overhead.context_bytes(device)
    assert size == pytest.approx(518 * MIB * multiprocessors / 132, abs=MIB)


def test_volta_multiplies_copies_in_16_bits() -> None:
    work = Work(QUANTIZED, tokens=512, cells=8192, flash=True)
    volta = dataclasses.replace(H200, name="Tesla V100", capability="7.0")
    assert overhead.uses_cublas(volta, work)
    assert not overhead.uses_cublas(H200, work)
    assert overhead.device_bytes(volta, work) >= overhead.device_bytes(H200, work) + 2 * 2**24


works = st.builds(
    Work,
    st.builds(
        Matrices,
        floats=st.booleans(),
        float_width=st.integers(0, 2**17),
        quantized_width=st.integers(0, 2**17),
        largest_elements=st.integers(0, 2**28),
        heads=st.integers(0, 128),
    ),
    tokens=st.integers(1, 4096),
    cells=st.integers(256, 2**18),
    flash=st.booleans(),
)
capabilities = st.sampled_from(["5.2", "6.1", "7.0", "7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0", None])


@given(works, capabilities, st.integers(1, 4096))
def test_more_work_never_needs_less(work: Work, capability: str | None, more: int) -> None:
    device = dataclasses.replace(H200, capability=capability)
    size = overhead.device_bytes(device, work)
    assert size >= 612 * MIB
    larger = dataclasses.replace(work, tokens=work.tokens + more)
    assert overhead.device_bytes(device, larger) >= size
    assert overhead.device_bytes(device, dataclasses.replace(work, flash=False)) >= overhead.device_bytes(
        device, dataclasses.replace(work, flash=True)
    )

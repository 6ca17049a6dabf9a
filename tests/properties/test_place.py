"""Laws of placement: whatever the model and the machine, these hold."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aimind.errors import DoesNotFitError, UsageError
from aimind.launchers import vllm, vllm_memory
from aimind.place import place
from aimind.place.placement import CONTEXT_FLOOR, CONTEXT_MINIMUM, Placement
from aimind.types import (
    Device,
    Host,
    LayeredMemory,
    MemoryPolicy,
    Metadata,
    Request,
    WholeMemory,
)
from tests.samples import device, host, llama

GGUF = LayeredMemory(expert_offload=True)
PAGED = vllm.MEMORY
WHOLE = WholeMemory()

shapes = st.builds(
    llama,
    layers=st.integers(1, 24),
    hidden=st.sampled_from([512, 1024, 2048, 4096]),
    vocab=st.sampled_from([1024, 32000, 151936]),
    safetensors=st.just(value=False),
    experts=st.sampled_from([0, 0, 8]),
)
folders = st.builds(
    llama,
    layers=st.integers(1, 24),
    hidden=st.sampled_from([1024, 2048, 4096]),
    vocab=st.sampled_from([32000, 151936]),
    safetensors=st.just(value=True),
)
frees = st.just(0.0) | st.floats(0.0, 24.0)
machines = st.builds(
    lambda sizes, ram: host(*(device(i, free_gib=size) for i, size in enumerate(sizes)), ram_gib=ram),
    st.lists(frees, max_size=4),
    st.floats(0.5, 32.0),
)


def placed(
    metadata: Metadata, machine: Host, request: Request, *, memory: MemoryPolicy = GGUF
) -> Placement | None:
    try:
        return place(metadata, machine, request, memory=memory)
    except DoesNotFitError:
        return None


def rank(placement: Placement | None) -> tuple[int, ...]:
    """How good it is: placed at all, a long context, layers on devices, experts there, and few devices."""
    if placement is None:
        return (0,)
    settings = placement.settings
    layers, experts_in_ram = settings.gpu_layers or 0, settings.cpu_moe_layers or 0
    return 1, settings.max_model_len or 0, layers, -experts_in_ram, -len(placement.shards)


def paged_rank(placement: Placement | None) -> tuple[int, ...]:
    """How good it is: placed at all, a useful context."""
    if placement is None:
        return (0,)
    return 1, (placement.settings.max_model_len or 0) >= CONTEXT_FLOOR


def richer(machine: Host, index: int, more: int) -> Host:
    """The machine with more memory free on a device, or in RAM with an index of -1."""
    if index < 0:
        return dataclasses.replace(machine, ram_free_bytes=machine.ram_free_bytes + more)
    devices = list(machine.devices)
    old = devices[index]
    devices[index] = dataclasses.replace(
        old, free_bytes=old.free_bytes + more, total_bytes=old.total_bytes + more
    )
    return dataclasses.replace(machine, devices=tuple(devices))


@settings(deadline=None, max_examples=60)
@given(shapes, machines)
def test_every_layer_is_placed_once_and_nothing_overflows(metadata: Metadata, machine: Host) -> None:
    """Law: a device never holds more than it has free, nor RAM, and no layer is lost or placed twice."""
    found = placed(metadata, machine, Request())
    if found is None:
        return
    assert all(shard.estimate.total_bytes <= shard.device.free_bytes for shard in found.shards)
    assert found.host.total_bytes <= machine.ram_free_bytes
    assert sum(shard.layers or 0 for shard in found.shards) == (found.settings.gpu_layers or 0)
    assert (found.settings.gpu_layers or 0) <= len(metadata.layers) + 1
    weights = sum(shard.estimate.weights_bytes for shard in found.shards) + found.host.weights_bytes
    assert weights >= metadata.weight_bytes


@settings(deadline=None, max_examples=80)
@given(shapes, machines, st.floats(0.0, 8.0), st.data())
def test_more_memory_never_makes_a_plan_worse(
    metadata: Metadata, machine: Host, more_gib: float, data: st.DataObject
) -> None:
    """Law: with more memory the context is no shorter, and at the same context no layer leaves a device."""
    index = data.draw(st.integers(-1, len(machine.devices) - 1))
    before = placed(metadata, machine, Request())
    after = placed(metadata, richer(machine, index, int(more_gib * (1 << 30))), Request())
    assert rank(after) >= rank(before)


@settings(deadline=None, max_examples=60)
@given(folders, machines, st.floats(0.0, 8.0), st.data())
def test_more_memory_never_makes_a_plan_of_ranks_worse(
    metadata: Metadata, machine: Host, more_gib: float, data: st.DataObject
) -> None:
    """Law: with more of anything free the model still fits, and what had a useful context has one."""
    index = data.draw(st.integers(-1, len(machine.devices) - 1))
    before = placed(metadata, machine, Request(), memory=PAGED)
    after = placed(metadata, richer(machine, index, int(more_gib * (1 << 30))), Request(), memory=PAGED)
    assert paged_rank(after) >= paged_rank(before)


@settings(deadline=None, max_examples=60)
@given(shapes | folders, machines, st.randoms(use_true_random=False))
def test_the_order_of_devices_does_not_matter(metadata: Metadata, machine: Host, random: object) -> None:
    """Law: the plan is the same however the driver lists the devices."""
    memory = PAGED if metadata.format == "safetensors" else GGUF
    devices = list(machine.devices)
    random.shuffle(devices)  # type: ignore[attr-defined]
    one = placed(metadata, machine, Request(), memory=memory)
    other = placed(metadata, dataclasses.replace(machine, devices=tuple(devices)), Request(), memory=memory)
    assert one == other


@settings(deadline=None, max_examples=80)
@given(shapes | folders, machines, st.integers(2048, 65536), st.integers(1, 65536))
def test_a_plan_for_many_tokens_is_one_for_fewer(
    metadata: Metadata, machine: Host, tokens: int, fewer: int
) -> None:
    """Law: what is accepted with N tokens is accepted with less."""
    memory = PAGED if metadata.format == "safetensors" else GGUF
    if placed(metadata, machine, Request(max_model_len=tokens), memory=memory) is not None:
        shorter = Request(max_model_len=max(2048, tokens - fewer))
        assert placed(metadata, machine, shorter, memory=memory) is not None


@settings(deadline=None, max_examples=60)
@given(shapes | folders, machines)
def test_no_plan_is_shorter_than_of_use(metadata: Metadata, machine: Host) -> None:
    """Law: a context that nobody asked for has 2048 tokens at least, and 8192 in as good a place."""
    memory = PAGED if metadata.format == "safetensors" else GGUF
    found = placed(metadata, machine, Request(), memory=memory)
    if found is None:
        return
    context = found.settings.max_model_len or 0
    assert context >= CONTEXT_MINIMUM
    if context < CONTEXT_FLOOR and found.shards:
        wanted = placed(metadata, machine, Request(max_model_len=CONTEXT_FLOOR), memory=memory)
        assert rank(wanted) < rank(found) or wanted is None


@settings(deadline=None, max_examples=60)
@given(shapes, machines)
def test_without_cpu_offload_all_is_on_devices_or_nothing_is(metadata: Metadata, machine: Host) -> None:
    """Law: --no-cpu-offload takes the plans that are wholly on devices anyway, or else a shorter context."""
    usual = placed(metadata, machine, Request())
    strict = placed(metadata, machine, Request(cpu_offload=False))
    whole = len(metadata.layers) + 1
    if usual is not None and usual.settings.gpu_layers == whole and not usual.settings.cpu_moe_layers:
        assert strict is not None
        assert strict.shards == usual.shards
    elif strict is not None:
        assert usual is not None
        assert (strict.settings.max_model_len or 0) < (usual.settings.max_model_len or 0)
    if strict is not None:
        assert strict.settings.gpu_layers == whole
        assert not strict.settings.cpu_moe_layers


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(2.0, 80.0), min_size=1, max_size=8), st.floats(0.3, 1.0), st.integers(2, 32))
def test_ranks_never_take_more_than_is_free(sizes: list[float], free: float, layers: int) -> None:
    """Law: the share of vLLM is at most what is free on every device that it uses."""
    devices: list[Device] = [device(i, free_gib=size * free, total_gib=size) for i, size in enumerate(sizes)]
    metadata = llama(layers=layers, safetensors=True)
    found = placed(metadata, host(*devices), Request(), memory=PAGED)
    if found is None:
        return
    for shard in found.shards:
        share = found.settings.gpu_memory_utilization or 0.0
        assert shard.device.total_bytes * share <= shard.device.free_bytes
        assert shard.estimate.total_bytes <= shard.device.free_bytes


@settings(deadline=None, max_examples=60)
@given(
    folders,
    folders,
    st.floats(8.0, 200.0),
    st.floats(0.1, 0.8),
    st.sampled_from(["0.26.0", "0.32.0", "0.33.0"]),
)
def test_two_models_side_by_side_fit(
    one: Metadata, other: Metadata, gib: float, share: float, version: str
) -> None:
    """Law: what two plans count fits the device, and vLLM finds the second share free when it starts."""
    empty = device(0, free_gib=gib)
    asked = Request(gpu_memory_utilization=share)
    try:
        first = place(one, host(empty), asked, memory=PAGED, version=version)
        held = first.shards[0].estimate.total_bytes
        left = dataclasses.replace(empty, free_bytes=empty.free_bytes - held)
        second = place(other, host(left), Request(), memory=PAGED, version=version)
    except DoesNotFitError:
        return
    assert held + second.shards[0].estimate.total_bytes <= empty.total_bytes
    at_start = left.free_bytes - vllm_memory.CONTEXT_BYTES
    assert (second.settings.gpu_memory_utilization or 0) * left.total_bytes <= at_start


@pytest.mark.parametrize(
    ("sizes", "context", "expected"),
    [
        ((24.0,), None, 1),
        ((12.0, 12.0), None, 2),
        ((12.0, 12.0, 12.0), 8192, 2),
        ((12.0, 12.0, 12.0), None, 3),  # a longer context
        ((40.0, 40.0), None, 1),
    ],
)
def test_the_fewest_devices_are_taken(sizes: tuple[float, ...], context: int | None, expected: int) -> None:
    machine = host(*(device(i, free_gib=size) for i, size in enumerate(sizes)))
    found = placed(llama(), machine, Request(max_model_len=context))
    assert found is not None
    assert len(found.shards) == expected


def test_sizes_that_cannot_be_are_refused_with_the_number() -> None:
    metadata = llama(safetensors=True)
    with pytest.raises(UsageError, match="tensor parallel 2 needs 2 devices, and there is 1"):
        place(metadata, host(device()), Request(tensor_parallel_size=2), memory=PAGED)
    machine = host(device(0), device(1), device(2))
    with pytest.raises(UsageError, match="tensor parallel 3 cannot divide 32 attention heads"):
        place(metadata, machine, Request(tensor_parallel_size=3), memory=PAGED)
    with pytest.raises(DoesNotFitError, match=r"15\.0 GiB of weights per rank"):
        place(metadata, host(device()), Request(max_model_len=131072), memory=PAGED)


@settings(deadline=None, max_examples=60)
@given(folders, machines)
def test_a_whole_model_is_in_one_place_that_holds_it(metadata: Metadata, machine: Host) -> None:
    """Law: it is on one device, or in RAM where a request can be longer, and neither holds too much."""
    found = placed(metadata, machine, Request(), memory=WHOLE)
    on_device = placed(metadata, machine, Request(cpu_offload=False), memory=WHOLE)
    if found is None:
        assert on_device is None
        return
    if on_device is not None and not found.shards:
        assert (on_device.settings.max_model_len or 0) < (found.settings.max_model_len or 0) <= CONTEXT_FLOOR
    assert all(shard.estimate.total_bytes <= shard.device.free_bytes for shard in found.shards)
    if not found.shards:
        assert found.host.total_bytes <= machine.ram_free_bytes
    assert CONTEXT_MINIMUM <= (found.settings.max_model_len or 0) <= (metadata.max_model_len or 0)

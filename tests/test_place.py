"""Where models go, and why: the cases that the laws of tests/properties do not tell apart."""

from __future__ import annotations

import dataclasses

import pytest

from aimind.errors import DoesNotFitError, UsageError
from aimind.place import place
from aimind.place.placement import Placement
from aimind.types import Device, LayeredMemory, Metadata, PagedMemory, Request
from tests.samples import GIB, device, host, llama

GGUF = LayeredMemory(expert_offload=True)
PAGED = PagedMemory()


def on(*devices: Device, request: Request | None = None, metadata: Metadata | None = None) -> Placement:
    metadata = metadata or llama()
    memory = PAGED if metadata.format == "safetensors" else GGUF
    return place(metadata, host(*devices), request or Request(), memory=memory)


# ── Layers ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_experts_leave_a_device_before_layers_do() -> None:
    mixtral = llama(layers=16, experts=8)
    found = on(device(free_gib=20), metadata=mixtral)
    assert found.settings.gpu_layers == 17
    assert 0 < (found.settings.cpu_moe_layers or 0) < 16
    assert "experts of" in found.reasons[0].sentence
    one_less = dataclasses.replace(
        Request(), cpu_moe_layers=(found.settings.cpu_moe_layers or 0) - 1, gpu_layers=17
    )
    with pytest.raises(DoesNotFitError):
        on(device(free_gib=20), metadata=mixtral, request=one_less)


def test_where_the_backend_cannot_part_with_experts_layers_go() -> None:
    found = place(llama(layers=16, experts=8), host(device(free_gib=20)), Request(), memory=LayeredMemory())
    assert found.settings.cpu_moe_layers is None
    assert 0 < (found.settings.gpu_layers or 0) < 17


def test_a_shorter_context_comes_before_layers_in_ram() -> None:
    found = on(device(free_gib=15.7))
    assert found.settings.gpu_layers == 33
    assert 2048 <= (found.settings.max_model_len or 0) < 8192


def test_several_devices_come_before_a_shorter_context() -> None:
    found = on(device(0, free_gib=15.7), device(1, free_gib=15.7))
    assert len(found.shards) == 2
    assert (found.settings.max_model_len or 0) >= 8192


def test_a_device_that_is_nearly_full_does_not_keep_the_other_from_its_part() -> None:
    alone = on(device(0, free_gib=8))
    found = on(device(0, free_gib=8), device(1, free_gib=0.3, total_gib=24))
    assert found.settings.gpu_layers == alone.settings.gpu_layers
    assert [shard.device.index for shard in found.shards] == [0]


def test_no_cpu_offload_refuses_with_the_numbers() -> None:
    with pytest.raises(
        DoesNotFitError, match=r"all layers with 2048 tokens need 14\.\d GiB .*device 0 has 8\.0 GiB"
    ):
        on(device(free_gib=8), request=Request(cpu_offload=False))
    with pytest.raises(DoesNotFitError, match="no device is used"):
        on(request=Request(cpu_offload=False), metadata=llama(safetensors=True))


def test_a_context_that_is_a_slip_of_the_pen() -> None:
    with pytest.raises(UsageError, match="2048 at least") as caught:
        on(device(), request=Request(max_model_len=32))
    assert "--context 32k" in caught.value.hint
    assert on(device(), request=Request(max_model_len=32, force=True)).settings.max_model_len == 32
    short = dataclasses.replace(llama(), max_model_len=512)
    assert on(device(), metadata=short).settings.max_model_len == 512


# ── Ranks ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_busy_device_is_given_no_more_than_vllm_accepts() -> None:
    """It compares the share with what is free once its own context is there."""
    busy = device(free_gib=20, total_gib=24)
    found = on(busy, metadata=llama(safetensors=True))
    share = found.settings.gpu_memory_utilization or 0
    assert 0.7 < share <= (20 - 0.5) / 24
    with pytest.raises(DoesNotFitError, match="vLLM would not start") as caught:
        on(busy, metadata=llama(safetensors=True), request=Request(gpu_memory_utilization=0.9))
    assert f"--gpu-memory-utilization {share:g}" in caught.value.hint


def test_an_embedding_model_takes_what_it_needs() -> None:
    metadata = dataclasses.replace(
        llama(layers=8, hidden=2048, safetensors=True), category="embedding", max_model_len=8192
    )
    small = on(device(free_gib=80), metadata=metadata)
    whole = on(device(free_gib=80), metadata=dataclasses.replace(metadata, category="llm"))
    assert (small.settings.gpu_memory_utilization or 1) < 0.2
    assert (whole.settings.gpu_memory_utilization or 0) >= 0.89
    shard = small.shards[0].estimate
    assert shard.total_bytes <= 80 * GIB * (small.settings.gpu_memory_utilization or 0)


def test_pipeline_where_tensor_parallel_cannot_be() -> None:
    metadata = dataclasses.replace(llama(safetensors=True), num_heads=31, num_kv_heads=31)
    found = on(device(0, free_gib=12), device(1, free_gib=12), metadata=metadata)
    assert (found.settings.tensor_parallel_size, found.settings.pipeline_parallel_size) == (1, 2)

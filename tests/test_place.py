"""Where models go, and why: the cases that the laws of tests/properties do not tell apart."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import pytest

from aimind.errors import DeviceError, DoesNotFitError, UsageError
from aimind.launchers import vllm, vllm_memory
from aimind.place import place
from aimind.place.placement import SPENDABLE, Placement
from aimind.types import (
    BatchSizes,
    Device,
    LayeredMemory,
    Metadata,
    Need,
    PagedMemory,
    RankedRun,
    Reason,
    Request,
    WholeMemory,
)
from tests.properties.test_choice import real
from tests.samples import GIB, device, host, llama, speech

MIB = 1 << 20
GGUF = LayeredMemory(expert_offload=True)
PAGED = vllm.MEMORY


def on(*devices: Device, request: Request | None = None, metadata: Metadata | None = None) -> Placement:
    metadata = metadata or llama()
    memory = PAGED if metadata.format == "safetensors" else GGUF
    return place(metadata, host(*devices), request or Request(), memory=memory)


# ── Layers ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_split_by_rows_is_refused() -> None:
    with pytest.raises(UsageError, match="--split-mode row is not supported"):
        on(device(free_gib=20), request=Request(split_mode="row"))


def test_without_a_split_one_device_is_used() -> None:
    two = (device(free_gib=4), device(1, free_gib=4))
    assert len(on(*two).shards) == 2
    assert len(on(*two, request=Request(split_mode="none")).shards) == 1


@pytest.mark.parametrize(
    ("asked", "hint"),
    [(32, "--context 32k"), (1, "--context 2048"), (0, "--context 8k"), (-5, "--context 8k")],
)
def test_a_context_that_is_too_short_is_answered_with_one_that_is_not(asked: int, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        on(device(), request=Request(max_model_len=asked))
    assert hint in caught.value.hint


def test_a_shorter_context_is_named_for_devices() -> None:
    assert on(device()).shorter == {"max_model_len": 8192}
    assert on(device(), request=Request(max_model_len=16384)).shorter is None
    smaller = on(device(), metadata=llama(safetensors=True)).shorter
    assert smaller is not None
    assert set(smaller) == {"max_model_len", "gpu_memory_utilization"}


def test_experts_leave_a_device_before_layers_do() -> None:
    mixtral = llama(layers=16, experts=8)
    found = on(device(free_gib=20), metadata=mixtral)
    assert found.settings.gpu_layers == 17
    assert 0 < (found.settings.cpu_moe_layers or 0) < 16
    assert "experts of" in found.reasons[0].sentence
    one_less = Request(
        max_model_len=found.settings.max_model_len,
        cpu_moe_layers=(found.settings.cpu_moe_layers or 0) - 1,
        gpu_layers=17,
    )
    with pytest.raises(DoesNotFitError):
        on(device(free_gib=20), metadata=mixtral, request=one_less)


def test_where_the_backend_cannot_part_with_experts_layers_go() -> None:
    found = place(llama(layers=16, experts=8), host(device(free_gib=20)), Request(), memory=LayeredMemory())
    assert found.settings.cpu_moe_layers is None
    assert 0 < (found.settings.gpu_layers or 0) < 17


def test_a_useful_context_comes_before_the_last_layers_on_devices() -> None:
    """With 8192 tokens a layer or two stay in RAM; --no-cpu-offload has all of them with fewer tokens."""
    found = on(device(free_gib=15.7))
    assert found.settings.gpu_layers in (31, 32)
    assert found.settings.max_model_len == 8192
    strict = on(device(free_gib=15.7), request=Request(cpu_offload=False))
    assert strict.settings.gpu_layers == 33
    assert 2048 <= (strict.settings.max_model_len or 0) < 8192


def test_without_experts_no_layer_is_given_up_for_more_than_a_useful_context() -> None:
    found = on(device(free_gib=12))
    assert found.settings.max_model_len == 8192
    assert 0 < (found.settings.gpu_layers or 0) < 33


def test_experts_stay_in_ram_for_a_context_that_costs_few_of_them() -> None:
    """128 KiB a token; an eighth of Mixtral's weights are 5.6 GiB, which is the cache of 46,000 tokens."""
    found = on(device(free_gib=24), metadata=llama(layers=16, experts=8))
    assert found.settings.gpu_layers == 17
    assert (found.settings.cpu_moe_layers or 0) > 0
    assert (found.settings.max_model_len or 0) > 8192


def test_slots_come_after_the_context_of_one_request() -> None:
    """Each slot of a hybrid has states of its own: with room for one of them there is one slot."""
    falcon = real("falcon-h1-34b")
    one = on(device(free_gib=24), metadata=falcon)
    assert one.settings.gpu_layers == len(falcon.layers) + 1
    assert (one.settings.max_model_len or 0) >= 8192
    assert one.settings.max_num_seqs == 1
    several = on(device(free_gib=80), metadata=falcon)
    assert several.settings.max_num_seqs == 4


def test_a_longer_context_that_idle_devices_would_give_is_named() -> None:
    metadata = dataclasses.replace(llama(), max_model_len=1 << 20)
    found = on(device(0, free_gib=40), device(1, free_gib=40), metadata=metadata)
    assert len(found.shards) == 1
    sentence = next(reason.sentence for reason in found.reasons if reason.field == "devices")
    context = int(sentence.split("--context ")[1].split()[0])
    longer = on(
        device(0, free_gib=40),
        device(1, free_gib=40),
        metadata=metadata,
        request=Request(max_model_len=context),
    )
    assert len(longer.shards) == 2


def test_several_devices_come_before_a_shorter_context() -> None:
    found = on(device(0, free_gib=15.7), device(1, free_gib=15.7))
    assert len(found.shards) == 2
    assert (found.settings.max_model_len or 0) >= 8192


def test_as_many_devices_as_there_are_shares() -> None:
    """Also where one would hold it all: whoever shares it out wants it so."""
    two = (device(0, free_gib=40), device(1, free_gib=40))
    found = on(*two, request=Request(split=(3.0, 1.0)))
    assert [len(found.shards), found.settings.devices] == [2, (0, 1)]
    assert found.shards[0].estimate.weights_bytes > 2 * found.shards[1].estimate.weights_bytes
    with pytest.raises(UsageError, match="3 shares for 2 devices"):
        on(*two, request=Request(split=(1.0, 1.0, 1.0)))
    for shares in ((0.0, 0.0), (math.nan, 1.0), (-1.0, 2.0), (math.inf, 1.0)):
        with pytest.raises(UsageError, match="at least one share above 0"):
            on(*two, request=Request(split=shares))


def test_a_device_that_is_nearly_full_does_not_keep_the_other_from_its_part() -> None:
    alone = on(device(0, free_gib=8))
    found = on(device(0, free_gib=8), device(1, free_gib=0.3, total_gib=24))
    assert found.settings.gpu_layers == alone.settings.gpu_layers
    assert [shard.device.index for shard in found.shards] == [0]


def test_no_cpu_offload_refuses_with_the_numbers() -> None:
    with pytest.raises(
        DoesNotFitError,
        match=r"all layers with a context of 2,048 tokens need 15\.\d GiB .*device 0 has 8\.0 GiB",
    ):
        on(device(free_gib=8), request=Request(cpu_offload=False))
    with pytest.raises(DoesNotFitError, match="no device is used"):
        on(request=Request(cpu_offload=False), metadata=llama(safetensors=True))


def test_a_prompt_cache_that_is_asked_for_takes_ram() -> None:
    """llama.cpp drops old prompts before it keeps a new one beyond the limit."""
    without = on(device(free_gib=24))
    found = on(device(free_gib=24), request=Request(prompt_cache_mib=4096))
    assert found.host.prompt_cache_bytes == 4 * GIB
    assert found.host.total_bytes - without.host.total_bytes == 4 * GIB
    assert found.shards == without.shards
    with pytest.raises(DoesNotFitError, match=r"64\.0 GiB for the prompt cache") as caught:
        on(device(free_gib=24), request=Request(prompt_cache_mib=64 * 1024))
    assert caught.value.changes[0] == {"prompt_cache_mib": 0}


def test_a_context_that_is_a_slip_of_the_pen() -> None:
    with pytest.raises(UsageError, match="2,048") as caught:
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
    with pytest.raises(DoesNotFitError, match="the backend would not start") as caught:
        on(busy, metadata=llama(safetensors=True), request=Request(gpu_memory_utilization=0.9))
    assert caught.value.changes == ({"gpu_memory_utilization": share},)


def test_an_embedding_model_takes_what_it_needs() -> None:
    metadata = dataclasses.replace(
        llama(layers=8, hidden=2048, safetensors=True), category="embedding", max_model_len=8192
    )
    small = on(device(free_gib=80), metadata=metadata)
    whole = on(device(free_gib=80), metadata=dataclasses.replace(metadata, category="llm"))
    assert (small.settings.gpu_memory_utilization or 1) < 0.2
    assert (whole.settings.gpu_memory_utilization or 0) >= 0.89
    shard = small.shards[0].estimate
    before_the_share = vllm_memory.CONTEXT_BYTES + vllm_memory.CUBLAS_BYTES
    inside = shard.total_bytes - before_the_share
    assert inside <= 80 * GIB * (small.settings.gpu_memory_utilization or 0)


class HalfRule:
    """The rule of an engine that nobody has: a share is of the free memory, and one GiB is for the rest."""

    measured = False
    sources: Mapping[str, str] = {"weights_bytes": "a guess"}
    share_meaning = "of what is free"

    def describe_share(self, share: float) -> str:
        return f"{share:g} of what is free"

    def batch_sizes(self, devices: tuple[Device, ...], request: Request, *, version: str) -> BatchSizes:
        return BatchSizes(request.max_num_batched_tokens or 100, request.max_num_seqs or 7)

    def weights(self, run: RankedRun) -> int:
        return run.weights_bytes

    def compute(self, run: RankedRun) -> int:
        return run.batch.tokens * MIB

    def graphs(self, run: RankedRun) -> int:
        return 0

    def overhead(self, run: RankedRun) -> int:
        return GIB - self.compute(run)

    def available(self, run: RankedRun, share: float) -> int:
        return int(run.free_bytes * share) - self.weights(run)

    def largest_share(self, run: RankedRun) -> float:
        return 0.5

    def share_for(self, run: RankedRun, cache_bytes: int) -> None:
        return None


def test_an_engine_brings_its_own_rule() -> None:
    """And nothing of the placement knows the engine."""
    metadata = llama(safetensors=True)
    memory = PagedMemory(rule=HalfRule(), in_ram=False)
    found = place(metadata, host(device(free_gib=40)), Request(), memory=memory)
    estimate = found.shards[0].estimate
    assert (found.settings.max_num_batched_tokens, found.settings.max_num_seqs) == (100, 7)
    assert estimate.compute_bytes == 100 * MIB
    assert estimate.compute_bytes + estimate.overhead_bytes == GIB
    assert estimate.weights_bytes + estimate.kv_cache_bytes == int(int(40 * GIB * SPENDABLE) * 0.5)
    assert Reason("gpu_memory_utilization", "0.5 of what is free") in found.reasons
    asked = Request(max_num_batched_tokens=2000, max_model_len=131072)
    with pytest.raises(DoesNotFitError, match=r"2\.0 GiB for a step of 2,000 tokens"):
        place(metadata, host(device(free_gib=30)), asked, memory=memory)


def test_pipeline_where_tensor_parallel_cannot_be() -> None:
    metadata = dataclasses.replace(llama(safetensors=True), num_heads=31, num_kv_heads=31)
    found = on(device(0, free_gib=12), device(1, free_gib=12), metadata=metadata)
    assert (found.settings.tensor_parallel_size, found.settings.pipeline_parallel_size) == (1, 2)


# ── Whole ──────────────────────────────────────────────────────────────────────────────────────────────────

WHOLE = WholeMemory(
    needs=(
        Need("faster-whisper", GIB // 2, 2 * GIB, 3 * GIB),
        Need("faster-whisper", 4 * GIB, 10 * GIB, 15 * GIB),
    ),
    needs_source="by experience",
)


def whole(*devices: Device, metadata: Metadata, request: Request | None = None, ram: float = 64) -> Placement:
    return place(metadata, host(*devices, ram_gib=ram), request or Request(), memory=WHOLE)


def test_speech_is_on_the_emptiest_device_that_holds_it() -> None:
    found = whole(device(0, free_gib=6), device(1, free_gib=8), metadata=speech())
    assert found.settings.devices == (1,)
    assert found.shards[0].estimate.total_bytes == 2 * GIB
    assert not found.shards[0].estimate.exact
    assert found.settings.max_model_len is None
    assert found.kv_cache_tokens is None


def test_speech_that_no_device_holds_is_in_ram_and_that_is_said() -> None:
    found = whole(device(0, free_gib=8), metadata=speech(gib=3))
    assert (found.shards, found.settings.devices) == ((), ())
    assert found.host.total_bytes == 15 * GIB
    assert "it needs 10.0 GiB, and device 0 has 8.0 GiB free" in found.reasons[0].sentence
    with pytest.raises(DoesNotFitError, match=r"needs 10\.0 GiB.*; --no-cpu-offload forbids the use of RAM"):
        whole(device(0, free_gib=8), metadata=speech(gib=3), request=Request(cpu_offload=False))
    with pytest.raises(DoesNotFitError, match=r"no device is used; in RAM it needs 15\.0 GiB, and 8\.0 GiB"):
        whole(metadata=speech(gib=3), ram=8)


def test_speech_of_which_no_figure_is_known_takes_twice_its_files() -> None:
    found = whole(device(), metadata=speech("funasr", gib=1))
    assert found.shards[0].estimate.total_bytes == 2 * GIB
    assert "no figure is known for funasr" in found.sources["compute_bytes"]


def test_a_language_model_has_a_cache_for_one_request() -> None:
    """128 KiB a token: 32 layers of 8 heads of keys and of values, 128 elements of 16 bit each."""
    metadata = llama(safetensors=True)
    found = whole(device(free_gib=80), metadata=metadata, request=Request(max_model_len=8192))
    estimate = found.shards[0].estimate
    assert estimate.weights_bytes == metadata.weight_bytes
    assert estimate.kv_cache_bytes == 8192 * 128 * 1024
    assert estimate.approximate >= {"kv_cache_bytes", "compute_bytes", "overhead_bytes"}
    assert found.settings.max_num_seqs == 1


def test_a_short_context_on_a_device_gives_way_to_a_longer_one_in_ram() -> None:
    metadata = llama(safetensors=True)  # 15.0 GiB of weights
    short = whole(device(free_gib=17.5), metadata=metadata, request=Request(cpu_offload=False))
    assert 2048 <= (short.settings.max_model_len or 0) < 8192
    found = whole(device(free_gib=17.5), metadata=metadata)
    assert (found.settings.max_model_len, found.settings.devices) == (8192, ())
    where, context = (reason.sentence for reason in found.reasons)
    assert where.startswith("the model is in RAM: it needs ")
    assert where.endswith(" for a context of 8,192 tokens, and device 0 has 17.5 GiB free")
    assert context == "8,192 tokens is the default in RAM on a machine with devices; see --context"
    assert whole(device(free_gib=24), metadata=metadata).settings.devices == (0,)
    assert (whole(metadata=metadata).settings.max_model_len or 0) > 8192


def test_several_requests_have_a_cache_each() -> None:
    metadata = llama(safetensors=True)
    asked = Request(max_model_len=8192, max_num_seqs=3)
    found = place(metadata, host(device(free_gib=80)), asked, memory=WholeMemory(slots=4))
    assert found.shards[0].estimate.kv_cache_bytes == 3 * 8192 * 128 * 1024
    assert found.kv_cache_tokens == 3 * 8192


@pytest.mark.parametrize(
    "request_",
    [
        Request(kv_cache_dtype="q8_0"),
        Request(gpu_layers=3),
        Request(tensor_parallel_size=2),
        Request(devices=(0, 1)),
        Request(max_num_seqs=4),
        Request(gpu_memory_utilization=0.5),
    ],
)
def test_what_such_a_backend_has_not_is_refused(request_: Request) -> None:
    with pytest.raises(UsageError, match="this backend"):
        whole(device(0), device(1), metadata=llama(safetensors=True), request=request_)


def test_a_context_of_speech_is_refused() -> None:
    with pytest.raises(UsageError, match="--context does not apply"):
        whole(device(), metadata=speech(), request=Request(max_model_len=4096))


def test_hints_about_another_machine_name_its_devices() -> None:
    there = dataclasses.replace(host(device(free_gib=8), device(1, free_gib=6)), elsewhere=True)
    metadata = llama(safetensors=True)
    with pytest.raises(DoesNotFitError) as caught:
        place(metadata, there, Request(), memory=PAGED)
    assert caught.value.hint == (
        "--hardware describes device 0 with 8.0 GiB free, device 1 with 6.0 GiB free"
    )
    with pytest.raises(DeviceError) as missing:
        place(metadata, there, Request(devices=(7,)), memory=PAGED)
    assert missing.value.hint == "choose from the devices there: 0, 1"
    with pytest.raises(DoesNotFitError) as without:
        place(metadata, dataclasses.replace(there, devices=()), Request(cpu_offload=False), memory=PAGED)
    assert without.value.hint == "--hardware describes a machine without devices"

"""The limits of a step that vLLM chooses, data parallelism, and flags of several machines."""

from __future__ import annotations

import dataclasses

import pytest

from aimind import plan
from aimind.errors import DoesNotFitError, UsageError
from aimind.launchers import LAUNCHERS, vllm, vllm_memory
from aimind.launchers.vllm_defaults import default_batch_sizes
from aimind.types import BatchSizes, Device, Host, Metadata, Plan, RankedRun, Request
from tests.samples import device, host, llama, model

SMALL, LARGE, LARGEST = BatchSizes(2048, 256), BatchSizes(8192, 1024), BatchSizes(16384, 1024)


def named(name: str, gib: float, capability: str = "9.0") -> Device:
    return dataclasses.replace(device(free_gib=gib), name=name, capability=capability)


@pytest.mark.parametrize(
    ("used", "version", "sizes"),
    [
        (named("NVIDIA GeForce RTX 4090", 24), "0.32.0", SMALL),
        (named("NVIDIA L40S", 48), "0.33.0", SMALL),
        (named("NVIDIA H100 80GB HBM3", 79.6), "0.32.0", LARGE),
        (named("NVIDIA A100-SXM4-80GB", 80), "0.32.0", SMALL),
        (named("NVIDIA H200", 139.8), "0.33.0", LARGE),
        (named("NVIDIA B200", 179, "10.0"), "0.32.0", LARGEST),
        (named("NVIDIA B200", 179, "10.0"), "0.26.0", LARGE),
        (named("NVIDIA GB10", 119, "12.1"), "0.32.0", LARGE),
        (named("NVIDIA GB10", 119, "12.1"), "0.33.0", SMALL),
        (named("NVIDIA GB10", 119, "12.1"), "", SMALL),
    ],
)
def test_each_device_has_the_sizes_of_its_tier(used: Device, version: str, sizes: BatchSizes) -> None:
    assert default_batch_sizes((used,), ranks=1, version=version, doubled=False) == sizes


def test_the_cpu_s_sizes_grow_with_the_ranks() -> None:
    assert default_batch_sizes((), ranks=1, version="0.32.0", doubled=False) == BatchSizes(2048, 128)
    assert default_batch_sizes((), ranks=2, version="0.32.0", doubled=False) == BatchSizes(4096, 256)


def planned(machine: Host, *extra: str, metadata: Metadata | None = None) -> Plan:
    metadata = metadata or llama(safetensors=True)
    request = Request(backend="vllm", extra=extra)
    return plan.make(model(metadata), metadata, machine, request, LAUNCHERS)


def argv(decided: Plan) -> tuple[str, ...]:
    return vllm.command(decided, "/weights").argv


@pytest.mark.parametrize("gib", [24, 80, 180])
def test_what_vllm_chooses_itself_is_planned_and_not_passed(gib: int) -> None:
    machine = host(device(free_gib=gib))
    decided = planned(machine)
    own = default_batch_sizes(machine.devices, ranks=1, version=decided.backend.version, doubled=False)
    settings = decided.settings
    assert (settings.max_num_batched_tokens, settings.max_num_seqs) == (own.tokens, own.sequences)
    assert not {"--max-num-batched-tokens", "--max-num-seqs"} & set(argv(decided))


def test_other_sizes_are_passed_each_where_it_differs() -> None:
    decided = planned(host(device(free_gib=80)), "--max-num-seqs", "64")
    assert decided.settings.max_num_batched_tokens == 8192
    words = argv(decided)
    assert words[words.index("--max-num-seqs") + 1] == "64"
    assert "--max-num-batched-tokens" not in words


def test_fewer_tokens_limit_the_sequences_as_in_vllm() -> None:
    decided = planned(host(device(free_gib=80)), "--max-num-batched-tokens", "512")
    assert decided.settings.max_num_seqs == 512
    assert "--max-num-seqs" not in argv(decided)


def test_a_version_whose_sizes_are_not_known_is_told_them() -> None:
    machine = host(device(free_gib=80))
    decided = planned(machine)
    older = dataclasses.replace(decided, backend=dataclasses.replace(decided.backend, version="0.29.0"))
    assert {"--max-num-batched-tokens", "--max-num-seqs"} <= set(argv(older))


def test_throughput_doubles_both_and_is_counted() -> None:
    machine = host(device(free_gib=80))
    usual, doubled = planned(machine), planned(machine, "--performance-mode", "throughput")
    assert (doubled.settings.max_num_batched_tokens, doubled.settings.max_num_seqs) == (16384, 2048)
    assert doubled.shards[0].estimate.compute_bytes > usual.shards[0].estimate.compute_bytes
    words = argv(doubled)
    assert words[words.index("--performance-mode") + 1] == "throughput"
    assert not {"--max-num-batched-tokens", "--max-num-seqs"} & set(words)


def test_more_graphs_for_small_steps_are_counted() -> None:
    machine = host(device(free_gib=24))
    usual, quick = planned(machine), planned(machine, "--performance-mode", "interactivity")
    assert quick.shards[0].estimate.graphs_bytes > usual.shards[0].estimate.graphs_bytes
    assert quick.settings.max_num_seqs == usual.settings.max_num_seqs


def test_what_is_made_before_the_first_snapshot_is_outside_the_share() -> None:
    """0.33 makes cuBLAS's handles there: its devices hold more at the same share than those of 0.32."""
    run = RankedRun(
        metadata=llama(safetensors=True),
        version="0.32.0",
        device=device(free_gib=24),
        free_bytes=23 << 30,
        tensor_parallel_size=1,
        pipeline_parallel_size=1,
        batch=SMALL,
        weights_bytes=15 << 30,
    )
    newer = dataclasses.replace(run, version="0.33.0")
    older = dataclasses.replace(run, version="0.26.0")
    outside = [held(each) - int(0.9 * run.device.total_bytes) for each in (older, run, newer)]
    assert outside[1] == vllm_memory.CONTEXT_BYTES
    assert outside[2] == outside[1] + vllm_memory.CUBLAS_BYTES
    graphs = vllm.MEMORY.rule.graphs(older)
    assert outside[0] > outside[1] + graphs  # and the sampler's state


def held(run: RankedRun) -> int:
    rule = vllm.MEMORY.rule
    besides = rule.weights(run) + rule.compute(run) + rule.graphs(run) + rule.overhead(run)
    return besides + rule.available(run, 0.9)


def test_data_parallel_groups_have_devices_of_their_own() -> None:
    machine = host(*(device(index, free_gib=24) for index in range(4)))
    one = planned(machine, "--tensor-parallel-size", "2")
    two = planned(machine, "--tensor-parallel-size", "2", "--data-parallel-size", "2")
    assert (len(one.shards), len(two.shards)) == (2, 4)
    assert two.shards[0].estimate == one.shards[0].estimate
    assert two.kv_cache_tokens == 2 * (one.kv_cache_tokens or 0)
    words = argv(two)
    assert words[words.index("--data-parallel-size") + 1] == "2"


def test_experts_are_cut_over_all_groups() -> None:
    metadata = llama(layers=8, safetensors=True)
    expert = "model.layers.{}.mlp.experts.0.w{}.weight"
    layers = tuple(
        dataclasses.replace(
            layer,
            num_experts=8,
            num_experts_used=2,
            expert_feed_forward_size=14336,
            tensors=tuple(
                dataclasses.replace(tensor, name=expert.format(index, number))
                if "mlp" in tensor.name
                else tensor
                for number, tensor in enumerate(layer.tensors)
            ),
        )
        for index, layer in enumerate(metadata.layers)
    )
    metadata = dataclasses.replace(metadata, architecture="MixtralForCausalLM", layers=layers)
    machine = host(*(device(index, free_gib=24) for index in range(2)))
    one = planned(machine, "--tensor-parallel-size", "1", metadata=metadata).shards[0].estimate
    two = (
        planned(machine, "--tensor-parallel-size", "1", "--data-parallel-size", "2", metadata=metadata)
        .shards[0]
        .estimate
    )
    experts = sum(
        tensor.size_bytes for layer in layers for tensor in layer.tensors if "experts" in tensor.name
    )
    assert abs(one.weights_bytes - two.weights_bytes - experts // 2) < 1 << 20


def test_more_groups_than_devices_are_refused() -> None:
    with pytest.raises(UsageError, match="--data-parallel-size 3 needs at least 3 devices, and there are 2"):
        planned(host(device(0), device(1)), "--data-parallel-size", "3")
    with pytest.raises(UsageError, match="--data-parallel-size 2 needs 2 devices, and none is used"):
        planned(host(), "--data-parallel-size", "2")
    with pytest.raises((UsageError, DoesNotFitError), match="tensor parallel 2 needs 2 devices"):
        planned(host(device(0), device(1)), "-tp", "2", "-dp", "2")


@pytest.mark.parametrize(
    "flags",
    [("--nnodes", "2"), ("-n", "2"), ("--headless",), ("--node-rank=1",), ("--data-parallel-rank", "1")],
)
def test_several_machines_or_servers_are_refused_in_a_sentence(flags: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=f"{flags[0].partition('=')[0]} cannot be passed to vllm: aimind"):
        planned(host(device()), *flags)

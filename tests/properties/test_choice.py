"""Laws of what llama.cpp, vLLM and SGLang are given: how context and layers depend on the free memory."""

from __future__ import annotations

import functools
import itertools
import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from aimind import metadata as headers
from aimind.errors import DoesNotFitError
from aimind.launchers import mlx, sglang, transformers, vllm
from aimind.place import place
from aimind.place.dealing import balanced
from aimind.place.placement import CONTEXT_MINIMUM, CONTEXT_STEP, Placement, context_ladder
from aimind.types import File, Host, LayeredMemory, MemoryPolicy, Metadata, Model, Reference, Request
from tests import models
from tests.properties.test_place import folders, richer, shapes
from tests.samples import GIB, FileReader, device, host

MEMORY = LayeredMemory(expert_offload=True)
# Dense, with windows, with experts, with recurrent states, with latent attention; and for texts.
NAMES = (
    "bge-m3.F16",
    "deepseek-v2-lite.Q4_K_M",
    "falcon-h1-7b.Q4_K_M",
    "gemma-3-4b.Q4_K_M",
    "gpt-oss-20b.MXFP4",
    "gpt-oss-120b.MXFP4",
    "granite-4.0-h-tiny.Q4_K_M",
    "llama-3.1-8b.Q4_K_M",
    "nemotron-3-nano-30b-a3b.Q4_K_M",
    "qwen3-30b-a3b.Q4_K_M",
)
frees = st.just(0.0) | st.floats(0.0, 12.0) | st.floats(0.0, 80.0)
machines = st.builds(
    lambda sizes, ram: host(*(device(i, free_gib=size) for i, size in enumerate(sizes)), ram_gib=ram),
    st.lists(frees, min_size=1, max_size=4),
    st.floats(0.5, 16.0) | st.floats(0.5, 96.0),
)


@functools.cache
def real(name: str) -> Metadata:
    """The metadata of a recorded header."""
    with tempfile.TemporaryDirectory() as folder:
        path = models.header(name, Path(folder))
        model = Model(
            reference=Reference(source="local", name=f"./{path.name}"),
            files=(File(path.name, path.stat().st_size),),
            root=folder,
        )
        return headers.read(model, lambda _: FileReader(path))


@functools.cache
def configured(name: str) -> Metadata:
    """The metadata of a recorded config.json."""
    recorded = json.loads((models.DATA / "models" / "gpu_h200.json").read_text())
    return headers.from_config(json.dumps(recorded[name]).encode(), "config.json")


def placed(
    metadata: Metadata, machine: Host, request: Request, *, memory: MemoryPolicy = MEMORY
) -> Placement | None:
    try:
        return place(metadata, machine, request, memory=memory)
    except DoesNotFitError:
        return None


def on_devices(placement: Placement) -> tuple[int, int]:
    """How much of the model: layers, and less those whose experts stay in RAM."""
    return placement.settings.gpu_layers or 0, -(placement.settings.cpu_moe_layers or 0)


def assert_no_worse(before: Placement | None, after: Placement | None) -> None:
    if before is None:
        return
    assert after is not None
    contexts = [found.settings.max_model_len or 0 for found in (before, after)]
    assert contexts[1] >= contexts[0]
    if contexts[1] == contexts[0]:
        assert on_devices(after) >= on_devices(before)


metadatas = shapes | st.sampled_from(NAMES).map(real)
requests = st.sampled_from([Request()] * 6 + [Request(max_num_seqs=2), Request(kv_cache_dtype="q8_0")])


@settings(deadline=None, max_examples=60)
@given(metadatas, machines, requests, st.floats(0.0, 1.0) | st.floats(0.0, 40.0), st.data())
def test_more_memory_never_shortens_the_context_nor_at_the_same_context_takes_layers_from_devices(
    metadata: Metadata, machine: Host, request: Request, more_gib: float, data: st.DataObject
) -> None:
    index = data.draw(st.integers(-1, len(machine.devices) - 1))
    before = placed(metadata, machine, request)
    after = placed(metadata, richer(machine, index, int(more_gib * GIB)), request)
    assert_no_worse(before, after)


@settings(deadline=None, max_examples=15)
@given(metadatas, st.floats(0.0, 16.0), st.integers(1, 3), st.floats(4.0, 64.0))
def test_the_law_holds_from_step_to_step(metadata: Metadata, least: float, count: int, ram: float) -> None:
    """Small steps, where a rule with thresholds would go up and down."""
    before = None
    for step in range(8):
        sizes = [least + step * 0.4] * count
        machine = host(*(device(i, free_gib=size) for i, size in enumerate(sizes)), ram_gib=ram)
        after = placed(metadata, machine, Request())
        assert_no_worse(before, after)
        before = after


# Devices of one kind, below the size from which vLLM computes larger steps by default.
TOTAL_GIB = 64.0
shared_devices = st.lists(st.floats(0.0, TOTAL_GIB) | st.floats(2.0, 24.0), min_size=1, max_size=8)
ranked_models = folders | st.sampled_from(("gemma-3-4b", "llama-3.1-8b", "qwen3-30b-a3b")).map(configured)
engines = st.sampled_from((vllm.MEMORY, sglang.MEMORY))


def partly_free(frees: list[float]) -> Host:
    devices = (device(index, free_gib=free, total_gib=TOTAL_GIB) for index, free in enumerate(frees))
    return host(*devices)


@settings(deadline=None, max_examples=40)
@given(ranked_models, shared_devices, engines, st.floats(0.0, 1.0) | st.floats(0.0, TOTAL_GIB), st.data())
def test_more_free_memory_never_shortens_the_context_of_ranks(
    metadata: Metadata, frees: list[float], memory: MemoryPolicy, more: float, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(frees) - 1))
    before = placed(metadata, partly_free(frees), Request(), memory=memory)
    frees[index] = min(TOTAL_GIB, frees[index] + more)
    after = placed(metadata, partly_free(frees), Request(), memory=memory)
    assert_no_worse(before, after)


@settings(deadline=None, max_examples=10)
@given(ranked_models, st.floats(1.0, 40.0), st.integers(1, 8), engines)
def test_larger_devices_never_shorten_the_context_of_ranks(
    metadata: Metadata, least: float, count: int, memory: MemoryPolicy
) -> None:
    """Small steps around a size where fewer devices begin to suffice."""
    before = None
    for step in range(8):
        size = least + step * 2.0
        machine = host(*(device(index, free_gib=size) for index in range(count)))
        after = placed(metadata, machine, Request(), memory=memory)
        assert_no_worse(before, after)
        before = after


@settings(deadline=None, max_examples=60)
@given(
    folders,
    st.lists(frees, max_size=3),
    st.floats(0.5, 64.0),
    st.sampled_from((transformers.MEMORY, mlx.MEMORY)),
    st.floats(0.0, 1.0) | st.floats(0.0, 40.0),
    st.data(),
)
def test_more_free_memory_never_shortens_the_context_of_a_model_in_one_place(
    metadata: Metadata,
    frees: list[float],
    ram: float,
    memory: MemoryPolicy,
    more_gib: float,
    data: st.DataObject,
) -> None:
    machine = host(*(device(index, free_gib=size) for index, size in enumerate(frees)), ram_gib=ram)
    index = data.draw(st.integers(-1, len(frees) - 1))
    before = placed(metadata, machine, Request(), memory=memory)
    after = placed(metadata, richer(machine, index, int(more_gib * GIB)), Request(), memory=memory)
    assert_no_worse(before, after)
    if before is not None and after is not None and len(after.shards) < len(before.shards):
        assert (after.settings.max_model_len or 0) > (before.settings.max_model_len or 0)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.integers(1, 9), min_size=3, max_size=7),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), min_size=2, max_size=3),
)
def test_layers_are_dealt_out_wherever_there_is_a_way(
    layers: list[int], devices: list[tuple[int, int]]
) -> None:
    """Law: a way to cut the layers is found just where trying all ways finds one."""
    fixed, free = [each[0] for each in devices], [each[1] for each in devices]

    def holds(counts: tuple[int, ...]) -> bool:
        rest = iter(layers)
        held = [sum(itertools.islice(rest, count)) for count in counts]
        return all(a + b <= c for a, b, c in zip(held, fixed, free, strict=True))

    ways = itertools.product(range(1, len(layers) + 1), repeat=len(devices))
    possible = any(holds(counts) for counts in ways if sum(counts) == len(layers))
    found = balanced(layers, fixed, free)
    assert (found is not None) == possible
    if found is not None:
        assert sum(found) == len(layers)
        assert holds(found)


@given(st.integers(1, 1 << 24))
def test_each_step_of_the_ladder_of_contexts_is_at_most_an_eighth(limit: int) -> None:
    ladder = context_ladder(limit)
    assert ladder[0] == min(limit, CONTEXT_MINIMUM)
    assert ladder[-1] == limit
    assert all(short < long <= short + short // 8 for short, long in itertools.pairwise(ladder))
    assert all(context % CONTEXT_STEP == 0 for context in ladder[:-1])

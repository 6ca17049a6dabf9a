"""Laws of the estimates: whatever the model and the flags, these hold."""

from __future__ import annotations

import dataclasses
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from aimind.estimate import ggml
from aimind.types import Estimate
from benchmarks import estimates

FAMILIES = (
    "qwen2.5-0.5b.Q8_0",
    "llama-3.1-8b.Q4_K_M",
    "gemma-3-4b.Q4_K_M",
    "deepseek-v2-lite.Q4_K_M",
    "granite-4.0-h-tiny.Q4_K_M",
)


@cache
def profiles() -> dict[str, ggml.Profile]:
    found = estimates.gguf_models(estimates.DATA / "models" / "gguf")
    return {name: ggml.profile(described) for name, described in found if name in FAMILIES}


flags = st.builds(
    ggml.Settings,
    n_ctx=st.integers(1, 1 << 17),
    n_seq=st.integers(1, 8),
    kv_unified=st.booleans(),
    n_ubatch=st.sampled_from([128, 512, 2048]),
    type_k=st.sampled_from(["f16", "q8_0", "q4_0"]),
    type_v=st.just("f16"),
    flash_attention=st.booleans(),
    n_outputs=st.sampled_from([None, 1, 8]),
    swa_full=st.booleans(),
    gpu_layers=st.just(0),
)
names = st.sampled_from(FAMILIES)


def everything(usage: ggml.Usage) -> tuple[Estimate, ...]:
    return (*usage.devices, usage.host)


def on_one_device(model: ggml.Profile, chosen: ggml.Settings) -> ggml.Usage:
    count = len(model.metadata.layers) + 1
    return ggml.estimate(model, dataclasses.replace(chosen, gpu_layers=count), (count,))


@given(names, flags, st.data())
@settings(max_examples=60, deadline=None)
def test_no_component_is_negative_and_every_layer_weighs_somewhere(
    name: str, chosen: ggml.Settings, data: st.DataObject
) -> None:
    model = profiles()[name]
    first = data.draw(st.integers(0, len(model.metadata.layers)))
    layers = tuple(n for n in (first, data.draw(st.integers(0, len(model.metadata.layers) + 1 - first))) if n)
    usage = ggml.estimate(model, dataclasses.replace(chosen, gpu_layers=sum(layers), mmap=False), layers)
    for part in everything(usage):
        assert min(part.components.values()) >= 0
    held = sum(part.weights_bytes for part in everything(usage))
    assert held >= model.metadata.weight_bytes
    assert held <= model.metadata.weight_bytes * 1.01 + sum(t.size_bytes for t in model.metadata.others) + (
        1 << 20
    )


@given(names, flags, st.integers(1, 1 << 16))
@settings(max_examples=60, deadline=None)
def test_more_tokens_never_take_less(name: str, chosen: ggml.Settings, more: int) -> None:
    """Of a handful of tokens ggml's allocator may fit one step's tensors worse than of a few hundred."""
    model = profiles()[name]
    fewer = on_one_device(model, chosen)
    longer = on_one_device(model, dataclasses.replace(chosen, n_ctx=chosen.n_ctx + more))
    for low, high in zip(everything(fewer), everything(longer), strict=True):
        assert low.kv_cache_bytes <= high.kv_cache_bytes
        assert low.total_bytes - high.total_bytes <= 0.2 * low.compute_bytes


@given(names, flags)
@settings(max_examples=60, deadline=None)
def test_more_sequences_never_remember_less(name: str, chosen: ggml.Settings) -> None:
    model = profiles()[name]
    more = dataclasses.replace(chosen, n_seq=2 * chosen.n_seq, n_ctx=2 * chosen.n_ctx)
    low, high = (on_one_device(model, used).devices[0] for used in (chosen, more))
    assert low.kv_cache_bytes <= high.kv_cache_bytes
    assert low.state_bytes <= high.state_bytes


@given(names, flags, st.data())
@settings(max_examples=60, deadline=None)
def test_more_layers_on_a_device_move_weights_and_caches_there(
    name: str, chosen: ggml.Settings, data: st.DataObject
) -> None:
    model = profiles()[name]
    count = data.draw(st.integers(1, len(model.metadata.layers)))
    fewer, more = (
        ggml.estimate(model, dataclasses.replace(chosen, gpu_layers=n), (n,)) for n in (count, count + 1)
    )
    for component in ("weights_bytes", "kv_cache_bytes", "state_bytes"):
        assert getattr(fewer.devices[0], component) <= getattr(more.devices[0], component)
        assert getattr(fewer.host, component) >= getattr(more.host, component)


@given(names, flags)
@settings(max_examples=30, deadline=None)
def test_a_cheaper_cache_type_never_takes_more(name: str, chosen: ggml.Settings) -> None:
    model = profiles()[name]
    sizes = [
        on_one_device(model, dataclasses.replace(chosen, type_k=kind)).devices[0].kv_cache_bytes
        for kind in ("q4_0", "q8_0", "f16", "f32")
    ]
    assert sizes == sorted(sizes)

"""Estimates of llama.cpp against what it reserves itself, for all recorded models and flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cache

import pytest

from aimind.estimate import ggml
from aimind.estimate.network import understands
from aimind.types import Attention, Layer, Metadata, Tensor
from benchmarks import estimates
from tests.models import NAMES

# Working the figures out takes half a minute: once, in one process.
pytestmark = pytest.mark.xdist_group("figures of llama.cpp")
SETTINGS = ggml.Settings(n_ctx=8192, n_seq=4, kv_unified=True, n_outputs=4, gpu_layers=0)


@cache
def models() -> dict[str, Metadata]:
    return dict(estimates.gguf_models(estimates.DATA / "models" / "gguf"))


@cache
def figures() -> Sequence[estimates.Figure]:
    headers = estimates.DATA / "models" / "gguf"
    found: list[estimates.Figure] = []
    for name in ("ground_truth_gguf.json.gz", "ground_truth_experts.json.gz"):
        report = estimates.gguf_report(headers, estimates.DATA / name)
        assert not report.missing
        found += report.figures
    return found


def of(component: str, *setups: str) -> list[estimates.Figure]:
    found = [f for f in figures() if f.component == component and f.setup in setups]
    assert found
    return found


# The last three have 1, 7, 15 or 22 of the layers' experts in RAM, or layers in RAM beside two devices.
ALL = ("cpu", "gpu1", "gpu1-half", "gpu2", "gpu1-cpumoe", "gpu1-moe", "gpu2-moe", "gpu2-half")
DEVICES = ALL[1:]


@pytest.mark.parametrize("component", ["device model", "device context", "host model", "host context"])
def test_weights_and_caches_are_exact(component: str) -> None:
    setups = ALL if component.startswith("host") else DEVICES
    wrong = {f.record: (f.estimated, f.real) for f in of(component, *setups) if f.estimated != f.real}
    assert not wrong


@pytest.mark.parametrize(
    ("setup", "under", "over"),
    [
        ("gpu1", 0.0, 0.0001),
        ("gpu2", 0.0, 0.0002),
        ("gpu1-cpumoe", 0.0, 0.0001),
        ("gpu1-half", 0.0006, 0.004),
        ("gpu1-moe", 0.0, 0.0001),
        ("gpu2-moe", 0.0, 0.0001),
        ("gpu2-half", 0.0, 0.0001),
    ],
)
def test_total_of_devices(setup: str, under: float, over: float) -> None:
    line = estimates.summary(of("device total", setup))
    errors = [f.error for f in of("device total", setup)]
    assert min(errors) >= -under, line
    assert max(errors) <= over, line
    assert line["median"] == 0.0


def test_nine_of_ten_compute_buffers_are_exact() -> None:
    for setup in ("gpu1", "gpu1-half", "gpu2"):
        found = of("device compute", setup)
        assert sum(f.estimated == f.real for f in found) >= 0.9 * len(found), setup


@pytest.mark.parametrize("setup", ALL)
def test_total_of_ram_is_within_a_thousandth(setup: str) -> None:
    assert max(abs(f.error) for f in of("host total", setup)) < 0.001


def test_few_layers_stand_for_all_of_a_row_of_equal_ones() -> None:
    """What a search asks for: seldom off, and then by no more than a fiftieth of what a device holds."""
    model = ggml.profile(models()["qwen3-30b-a3b.Q4_K_M"])
    for layers, experts in (((49,), 0), ((49,), 20), ((25, 24), 7), ((30,), 0), ((), 0)):
        flags = dataclasses.replace(SETTINGS, gpu_layers=sum(layers), experts_on_cpu=experts)
        exact = ggml.estimate(model, flags, layers)
        quick = ggml.estimate(model, flags, layers, compute="quick")
        for few, every in zip((*quick.devices, quick.host), (*exact.devices, exact.host), strict=True):
            assert few.total_bytes == pytest.approx(every.total_bytes, rel=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_every_recorded_family_is_understood(name: str) -> None:
    assert ggml.profile(models()[name]).understood


def test_a_layer_with_an_unknown_part_is_not_understood() -> None:
    layer = models()["llama-3.1-8b.Q4_K_M"].layers[0]
    without = tuple(tensor for tensor in layer.tensors if "ffn_down" not in tensor.name)
    assert understands(layer)
    assert not understands(dataclasses.replace(layer, tensors=without))


@pytest.mark.parametrize("name", ["llama-3.1-8b.Q4_K_M", "qwen3-30b-a3b.Q4_K_M", "gemma-3-4b.Q4_K_M"])
def test_an_unknown_architecture_gets_a_bound_that_is_not_too_low(name: str) -> None:
    described = models()[name]
    known, unknown = (ggml.profile(dataclasses.replace(described, known=known)) for known in (True, False))
    count = len(described.layers)
    for layers in ((count + 1,), (count // 2,), ()):
        flags = dataclasses.replace(SETTINGS, gpu_layers=sum(layers))
        exact, bound = (ggml.estimate(model, flags, layers) for model in (known, unknown))
        pairs = zip((*exact.devices, exact.host), (*bound.devices, bound.host), strict=True)
        assert all(high.compute_bytes >= low.compute_bytes for low, high in pairs)


def test_repacked_weights_come_on_top_of_the_mapped_file() -> None:
    """ESTIMATES of RAM: an 8B model in Q4_K_M takes 3.4 GB more than its file."""
    model = ggml.profile(models()["llama-3.1-8b.Q4_K_M"])
    mapped, read, plain = (
        ggml.estimate(model, dataclasses.replace(SETTINGS, mmap=mmap, repack=repack), ()).host.repacked_bytes
        for mmap, repack in ((True, True), (False, True), (True, False))
    )
    assert mapped == 3_359_637_504
    assert plain == read == 0


def test_a_device_needs_its_context_besides() -> None:
    model = ggml.profile(models()["qwen2.5-0.5b.Q8_0"])
    count = len(model.metadata.layers) + 1
    flags = dataclasses.replace(SETTINGS, gpu_layers=count)
    usage = ggml.estimate(model, flags, (count,), overhead_bytes=5)
    assert usage.devices[0].overhead_bytes == 5
    assert usage.host.overhead_bytes == 0
    assert not usage.devices[0].exact


@pytest.mark.parametrize(
    ("flags", "layers"),
    [
        (dataclasses.replace(SETTINGS, gpu_layers=3), (2,)),
        (dataclasses.replace(SETTINGS, gpu_layers=99), (99,)),
        (dataclasses.replace(SETTINGS, type_k="q9_0"), ()),
    ],
)
def test_what_cannot_be_is_refused(flags: ggml.Settings, layers: tuple[int, ...]) -> None:
    model = ggml.profile(models()["qwen2.5-0.5b.Q8_0"])
    with pytest.raises(ValueError, match=r"layers asked for|no cache has the type"):
        ggml.estimate(model, flags, layers)


def test_flash_attention_is_off_where_a_device_has_no_kernel() -> None:
    """Heads of 48 elements have none in ggml-cuda: the scores are then stored."""
    size, hidden = 48, 768

    def tensor(name: str, *shape: int) -> Tensor:
        count = 1
        for length in shape:
            count *= length
        return Tensor(f"blk.0.{name}.weight", shape, "F16", 2 * count)

    layer = Layer(
        tensors=(
            *(tensor(name, hidden, hidden) for name in ("attn_q", "attn_k", "attn_v", "attn_output")),
            tensor("attn_norm", hidden),
            tensor("ffn_norm", hidden),
            *(tensor(name, hidden, 4 * hidden) for name in ("ffn_up", "ffn_gate")),
            tensor("ffn_down", 4 * hidden, hidden),
        ),
        memory=(Attention(num_heads=16, num_kv_heads=16, key_size=size, value_size=size),),
        feed_forward_size=4 * hidden,
    )
    base = models()["llama-3.1-8b.F16"]
    named = {t.name: t for t in base.others}
    others = tuple(
        Tensor(name, (hidden, *named[name].shape[1:]), "F16", 2 * hidden * named[name].shape[-1])
        for name in ("token_embd.weight", "output.weight")
    )
    small = dataclasses.replace(base, layers=(layer,), others=others, hidden_size=hidden)
    model = ggml.profile(small)
    flags = dataclasses.replace(SETTINGS, n_ctx=65536, gpu_layers=2)
    on, off = (
        ggml.estimate(model, dataclasses.replace(flags, flash_attention=flash), (2,))
        for flash in (True, False)
    )
    assert on == off
    assert on.devices[0].compute_bytes > 16 * 512 * 65536 * 4

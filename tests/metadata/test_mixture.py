"""Mixed precision: what the plan calls it, which parts there are, and what backends say of each."""

from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimind.errors import UnsupportedError
from aimind.launchers import LAUNCHERS
from aimind.metadata import mixture
from aimind.metadata.config import Config, Json
from aimind.metadata.quantization import Quantization
from aimind.select import choose
from aimind.types import OTHER_LAYERS, Host, Metadata, Request
from tests.launchers.test_vllm_models import having
from tests.metadata.local import read
from tests.samples import device, host

DATA = Path(__file__).parents[1] / "data" / "models" / "mixed"
HIDDEN, EXPERT, VOCABULARY, EXPERTS, LAYERS = 256, 128, 1024, 4, 2
WIDTHS = {"q": 512, "k": 128, "v": 128}


def write_weights(path: Path) -> int:
    """A file with the tensors of the configurations in `DATA`, FP8 and NVFP4 as their tools write them."""
    entries: dict[str, object] = {}
    at = 0

    def add(name: str, dtype: str, item_bytes: int, *shape: int) -> None:
        nonlocal at
        size = item_bytes
        for dimension in shape:
            size *= dimension
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size

    add("model.embed_tokens.weight", "BF16", 2, VOCABULARY, HIDDEN)
    add("lm_head.weight", "BF16", 2, VOCABULARY, HIDDEN)
    for layer in range(LAYERS):
        for name, (out, into) in {
            **{name: (width, HIDDEN) for name, width in WIDTHS.items()},
            "o": (HIDDEN, WIDTHS["q"]),
        }.items():
            add(f"model.layers.{layer}.self_attn.{name}_proj.weight", "F8_E4M3", 1, out, into)
            add(f"model.layers.{layer}.self_attn.{name}_proj.weight_scale", "F32", 4)
        for expert in range(EXPERTS):
            for name in ("gate_proj", "up_proj", "down_proj"):
                out, into = (HIDDEN, EXPERT) if name == "down_proj" else (EXPERT, HIDDEN)
                module = f"model.layers.{layer}.mlp.experts.{expert}.{name}"
                add(f"{module}.weight", "U8", 1, out, into // 2)
                add(f"{module}.weight_scale", "F8_E4M3", 1, out, into // 16)
                add(f"{module}.weight_scale_2", "F32", 4)
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + at)
    return at


def folder(path: Path, name: str) -> int:
    """Make the folder of one of the configurations, and return the bytes of its weights."""
    config = json.loads(
        (DATA / "modelopt.json" if name == "hf_quant_config.json" else DATA / name).read_text()
    )
    if name == "hf_quant_config.json":
        del config["quantization_config"]
        (path / name).write_bytes((DATA / name).read_bytes())
    (path / "config.json").write_text(json.dumps(config))
    return write_weights(path / "model.safetensors")


@pytest.mark.parametrize("name", ["modelopt.json", "hf_quant_config.json", "compressed_tensors.json"])
def test_a_model_in_mixed_precision(tmp_path: Path, name: str) -> None:
    size = folder(tmp_path, name)
    metadata = read(tmp_path)
    assert metadata.quantization == "FP8 attention, NVFP4 experts"
    assert [(group.part, group.quantization, group.bits) for group in metadata.mixture] == [
        ("attention", "FP8", 8),
        ("experts", "NVFP4", 4),
    ]
    assert metadata.weight_bytes == size
    attention = HIDDEN * (2 * WIDTHS["q"] + WIDTHS["k"] + WIDTHS["v"])
    experts = 3 * EXPERTS * HIDDEN * EXPERT
    assert metadata.parameters == 2 * VOCABULARY * HIDDEN + LAYERS * (attention + experts)
    of_attention, of_experts = metadata.by_quantization()
    assert {layer.num_experts for layer in of_attention.layers} == {0}
    assert {layer.memory for layer in of_experts.layers} == {()}
    assert {layer.num_experts for layer in of_experts.layers} == {EXPERTS}
    assert (of_experts.quantization, of_experts.group_size, of_experts.mixture) == ("NVFP4", 16, ())


def quantized(**section: Json) -> Quantization:
    config = Config({"quantization_config": section}, "config.json")
    return Quantization.of(config, config)


def by_modelopt(**algorithms: str) -> Quantization:
    """`quantized_layers` of these modules, in which `__` stands for a dot."""
    layers: dict[str, Json] = {
        name.replace("__", "."): {"quant_algo": algorithm} for name, algorithm in algorithms.items()
    }
    return quantized(quant_method="modelopt", quant_algo="MIXED_PRECISION", quantized_layers=layers)


def test_one_quantization_in_many_layers_is_not_mixed() -> None:
    found = by_modelopt(a__self_attn__q_proj="NVFP4", a__mlp__up_proj="NVFP4")
    assert (found.name, found.bits, found.groups) == ("NVFP4", 4, ())


@pytest.mark.parametrize("layers", [None, {}, {"a": 1}, [], "x"])
def test_mixed_precision_that_does_not_tell_its_layers(layers: Json) -> None:
    found = quantized(quant_method="modelopt", quant_algo="MIXED_PRECISION", quantized_layers=layers)
    assert (found.name, found.groups) == ("MIXED_PRECISION", ())


def test_parts_of_one_kind_are_named_together() -> None:
    found = by_modelopt(
        a__self_attn__q_proj="FP8",
        a__mlp__up_proj="FP8",
        a__mlp__shared_experts__up_proj="FP8",
        a__mlp__experts__0__up_proj="W4A16_NVFP4",
        lm_head="NVFP4",
    )
    assert found.name == ("FP8 attention, feed-forward and shared experts, NVFP4 experts and output head")
    traits = {group.part: "weight-only" in group.traits for group in found.groups}
    assert traits["experts"]
    assert not traits["output head"]


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ("Linear", (OTHER_LAYERS,)),
        ("re:.*self_attn.*", ("attention",)),
        ("re:.*mlp.experts.*(gate|up|down)_proj$", ("experts",)),
        ("re:.*(self_attn|mlp).*", ("attention", "feed-forward")),
        ("model.layers.3.mlp.down_proj", ("feed-forward",)),
        ("model.layers.3.mlp.shared_expert.down_proj", ("shared experts",)),
        ("backbone.layers.3.mixer.in_proj", ("mixers",)),
        ("lm_head", ("output head",)),
    ],
)
def test_targets(target: str, parts: tuple[str, ...]) -> None:
    assert mixture.parts_of(target) == parts


@given(targets=st.lists(st.text(max_size=30) | st.integers() | st.none(), max_size=70))
def test_targets_of_any_kind_make_a_name(targets: list[str | int | None]) -> None:
    groups: dict[str, Json] = {
        str(number): {"targets": [target], "weights": {"num_bits": 2 + number % 7}}
        for number, target in enumerate(targets)
    }
    found = quantized(quant_method="compressed-tensors", config_groups=groups)
    assert found.name
    assert found.bits >= 2


# ── What backends say of each part ─────────────────────────────────────────────────────────────────────────


def refused(metadata: Metadata, machine: Host) -> dict[str, str]:
    """What each backend says against the model."""
    try:
        choice = choose(metadata, machine, Request(), LAUNCHERS)
    except UnsupportedError as problem:
        found: dict[str, str] = {}
        for each in problem.hint.split("; "):
            names, _, sentence = each.partition(": ")
            found |= dict.fromkeys(names.split(", "), sentence)
        return found
    return {each.backend: each.sentence for each in choice.refused}


def test_on_a_device_of_each_age(tmp_path: Path) -> None:
    folder(tmp_path, "modelopt.json")
    metadata = read(tmp_path)
    for capability, vllm, sglang in (("7.0", False, False), ("7.5", True, False), ("8.0", True, True)):
        machine = host(dataclasses.replace(device(), capability=capability))
        for name, serves in (("vllm", vllm), ("sglang", sglang)):
            found = choose_one(metadata, machine, name)
            assert (found is None) == serves, (capability, name, found)
    t4 = host(dataclasses.replace(device(), capability="7.5"))
    assert (choose_one(metadata, t4, "sglang") or "").endswith("needs 8.0 for FP8 (in its attention)")


def choose_one(metadata: Metadata, machine: Host, name: str) -> str | None:
    try:
        choose(metadata, machine, Request(backend=name), LAUNCHERS)
    except UnsupportedError as problem:
        return problem.message
    return None


def test_on_a_cpu_each_part_is_judged(tmp_path: Path) -> None:
    folder(tmp_path, "compressed_tensors.json")
    said = refused(read(tmp_path), host())
    assert said["vllm"].endswith("has no kernels for NVFP4 (in its experts)")
    assert "weights in FP8 (in its attention)" in said["transformers"]


def test_experts_without_a_kernel_beside_layers_with_one(tmp_path: Path) -> None:
    """FP8 by channel computes on any processor, and W4A16 has a kernel there for plain layers."""
    folder(tmp_path, "compressed_tensors.json")
    config = json.loads((tmp_path / "config.json").read_text())
    groups = config["quantization_config"]["config_groups"]
    groups["group_1"]["weights"] = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}
    groups["group_1"]["input_activations"] = None
    (tmp_path / "config.json").write_text(json.dumps(config))
    metadata = read(tmp_path)
    assert metadata.quantization == "FP8 attention, W4A16 experts"
    machine = having(host(), frozenset({"cpu_gemm_wna16"}))
    assert "no kernel for experts in W4A16" in refused(metadata, machine)["vllm"]
    groups["group_1"]["targets"] = ["re:.*mlp.(gate|up|down)_proj$"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "vllm" not in refused(read(tmp_path), machine)

"""What vLLM cannot load: by its own table of architectures, and by how weights are quantized."""

from __future__ import annotations

import dataclasses

import pytest

from aimind.devices import cpu
from aimind.errors import UnsupportedError
from aimind.launchers import LAUNCHERS, sglang_models, vllm_cpu, vllm_models
from aimind.launchers.vllm import VERSION
from aimind.metadata.config import Config, Json
from aimind.metadata.quantization import Quantization
from aimind.select import choose
from aimind.types import Host, Metadata, Request
from tests.samples import device, host, llama

KNOWN = frozenset({"LlamaForCausalLM", "Qwen3ForCausalLM", "LlavaForConditionalGeneration"})


def knowing(machine: Host, architectures: frozenset[str] | None = KNOWN, version: str = VERSION) -> Host:
    """The machine where vLLM is installed and has this table."""
    backends = [
        dataclasses.replace(each, architectures=architectures, version=version)
        if each.name == "vllm"
        else each
        for each in machine.backends
    ]
    return dataclasses.replace(machine, backends=tuple(backends))


def of(architecture: str) -> Metadata:
    return dataclasses.replace(llama(safetensors=True), architecture=architecture)


def quantized(**section: Json) -> Metadata:
    config = Config({"quantization_config": section}, "config.json")
    found = Quantization.of(config, config)
    return dataclasses.replace(
        llama(safetensors=True),
        quantization=found.name,
        quantization_bits=found.bits,
        quantization_traits=found.traits,
        mixture=found.groups,
        group_size=found.group_size,
    )


def gptq(**section: Json) -> Metadata:
    return quantized(quant_method="gptq", **{"group_size": 128, **section})


def compressed(weights: dict[str, Json], computed_bits: int | None) -> Metadata:
    """As the library compressed-tensors writes it; bits: of activations, where these are quantized, too."""
    inputs: Json = {"num_bits": computed_bits} if computed_bits else None
    groups: Json = {"group_0": {"weights": weights, "input_activations": inputs}}
    return quantized(quant_method="compressed-tensors", config_groups=groups)


def integers(bits: int, activations: int | None = None) -> Metadata:
    return compressed({"num_bits": bits, "type": "int", "group_size": 128}, activations)


def floats(strategy: str, *, computed: bool) -> Metadata:
    """FP8; computed: activations are in FP8, too."""
    weights: dict[str, Json] = {"num_bits": 8, "type": "float", "strategy": strategy}
    return compressed(weights, 8 if computed else None)


def on_processor(level: str) -> Host:
    return dataclasses.replace(host(), cpu_features=cpu.LEVELS[level])


def having(machine: Host, operations: frozenset[str]) -> Host:
    """The machine where vLLM is installed, and its library has these operations."""
    backends = [dataclasses.replace(each, operations=operations) for each in machine.backends]
    return dataclasses.replace(machine, backends=tuple(backends))


ARM = dataclasses.replace(host(), arch="arm64", cpu_features=frozenset({"asimd", "i8mm"}))
FP8_IN_BLOCKS = quantized(quant_method="fp8", weight_block_size=[128, 128])


def with_experts(metadata: Metadata) -> Metadata:
    first, *others = metadata.layers
    mixture = dataclasses.replace(first, num_experts=8, num_experts_used=2, expert_feed_forward_size=128)
    return dataclasses.replace(metadata, layers=(mixture, *others))


def refused(metadata: Metadata, machine: Host, request: Request | None = None) -> str:
    """What is said of vLLM, which another backend is taken for."""
    try:
        choice = choose(metadata, machine, request or Request(), LAUNCHERS)
    except UnsupportedError as problem:
        said = dict(each.split(": ", 1) for each in problem.hint.split("; ") if each.startswith("vllm: "))
        return said.get("vllm", "")
    return next((each.sentence for each in choice.refused if each.backend == "vllm"), "")


def test_an_architecture_that_its_table_has_not() -> None:
    machine = knowing(host(device()))
    choice = choose(of("Grok1ForCausalLM"), machine, Request(), LAUNCHERS)
    assert choice.backend.name == "sglang"
    assert f"vllm {VERSION} does not know the architecture Grok1ForCausalLM" in [
        each.sentence for each in choice.refused
    ]
    choice = choose(of("GPTNeoForCausalLM"), knowing(host()), Request(), LAUNCHERS)
    assert choice.backend.name == "transformers"


@pytest.mark.parametrize(
    "architecture",
    [
        "LlamaForCausalLM",
        "Qwen3ForSequenceClassification",  # it makes one of Qwen3ForCausalLM
        "LlavaForSequenceClassification",
        "Qwen3Model",
        "llama",  # config.json names no architecture
    ],
)
def test_an_architecture_that_it_can_load(architecture: str) -> None:
    model = dataclasses.replace(of(architecture), category="embedding")
    assert refused(model, knowing(host(device()))) == ""


def test_of_what_is_not_installed_nothing_is_claimed() -> None:
    assert refused(of("NovelForCausalLM"), knowing(host(device()), None, version="0.1.0")) == ""


def test_of_the_version_that_aimind_installs_a_table_is_here() -> None:
    machine = knowing(host(device()), None)
    novel = f"vllm {VERSION} does not know the architecture Grok1ForCausalLM"
    assert refused(of("Grok1ForCausalLM"), machine) == novel
    assert refused(of("LlamaForCausalLM"), machine) == ""


def test_a_model_may_bring_its_architecture() -> None:
    brought = dataclasses.replace(of("NovelForCausalLM"), needs_remote_code=True)
    assert refused(brought, knowing(host(device()))) == ""


def test_by_force_it_is_tried_all_the_same() -> None:
    request = Request(backend="vllm", force=True)
    choice = choose(of("NovelForCausalLM"), knowing(host(device())), request, LAUNCHERS)
    assert "this refusal of vllm: vllm" in choice.reason.sentence


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        (quantized(quant_method="awq", bits=8), "AWQ with 4 bits only, and these weights have 8"),
        (gptq(bits=2), "GPTQ with 4 or 8 bits only, and these weights have 2"),
        (gptq(bits=3), "GPTQ with 4 or 8 bits only, and these weights have 3"),
        (gptq(bits=4, sym=False), "symmetric GPTQ only, and these 4-bit weights are not"),
        (gptq(bits=4, desc_act=True), "a group size of 128"),
        (quantized(quant_method="bitsandbytes", load_in_4bit=True), "does not support weights in BNB-4bit"),
        (quantized(quant_method="aqlm"), "does not support weights in AQLM"),
        (quantized(quant_method="exl2", bits=4.65, head_bits=6), "does not support weights in EXL2"),
        (quantized(quant_method="exl3", bits=3.5), "does not support weights in EXL3"),
        (quantized(quant_method="auto-round", bits=3.5), "AUTO-ROUND) have several"),
    ],
)
def test_quantizations_that_it_reads_nowhere(metadata: Metadata, why: str) -> None:
    for machine in (host(), host(device())):
        assert why in refused(metadata, machine)
        assert f"vLLM {VERSION}" in refused(metadata, machine)


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        (gptq(bits=8, sym=True), "kernels for weights of 4 and 16 bits, and these (GPTQ) have 8"),
        (integers(8), "kernels for weights of 4 and 16 bits, and these (W8A16) have 8"),
        (quantized(quant_method="modelopt", quant_algo="NVFP4"), "no kernels for NVFP4"),
        (quantized(quant_method="modelopt", quant_algo="MXFP8"), "no kernels for MXFP8"),
    ],
)
def test_quantizations_that_its_build_for_the_cpu_has_no_kernels_for(metadata: Metadata, why: str) -> None:
    assert why in refused(metadata, host())
    assert refused(metadata, host(device())) == ""


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        (quantized(quant_method="fp8"), "for FP8 with one scale for all on a processor without AMX"),
        (floats("tensor", computed=True), "for FP8 with one scale for all on a processor without AMX"),
        (floats("channel", computed=False), "no kernels for FP8 weights with 16-bit activations"),
        (FP8_IN_BLOCKS, "for FP8 in blocks on a processor without AMX"),
        (with_experts(FP8_IN_BLOCKS), "for FP8 in blocks on a processor without AMX"),
        (with_experts(floats("channel", computed=True)), "FP8 experts only with a scale per block"),
        (
            with_experts(quantized(quant_method="awq", bits=4)),
            "for experts in AWQ on a processor without AMX",
        ),
        (with_experts(gptq(bits=4, sym=True)), "for experts in GPTQ on a processor without AMX"),
        (with_experts(integers(8, 8)), "for experts in W8A8 on a processor without AMX"),
        (with_experts(quantized(quant_method="mxfp4")), "for experts in MXFP4 on a processor without AMX"),
    ],
)
def test_what_its_build_for_the_cpu_computes_by_amx_or_not_at_all(metadata: Metadata, why: str) -> None:
    assert why in refused(metadata, host())
    assert (refused(metadata, on_processor("amx")) == "") == ("AMX" in why)
    assert refused(metadata, host(device())) == ""


FOUR_BITS = [
    quantized(quant_method="awq", bits=4, group_size=128),
    gptq(bits=4, sym=True),
    gptq(bits=4, group_size=-1, desc_act=True),
    integers(4),
    integers(4, 8),
]


@pytest.mark.parametrize("metadata", FOUR_BITS)
def test_without_avx_512_its_build_for_the_cpu_computes_no_weights_of_4_bits(metadata: Metadata) -> None:
    why = "has no kernel for weights of 4 bits"
    assert f"{why} ({metadata.quantization}) on a processor without AVX-512" in refused(
        metadata, on_processor("avx2")
    )
    assert f"{why} ({metadata.quantization}) on ARM processors" in refused(metadata, ARM)
    for machine in (on_processor("avx512"), on_processor("amx")):
        assert refused(metadata, machine) == ""


def test_the_same_build_computes_the_rest_without_avx_512() -> None:
    for metadata in (integers(8, 8), floats("channel", computed=True), llama(safetensors=True)):
        for machine in (on_processor("avx2"), ARM):
            assert refused(metadata, machine) == ""


def test_tiles_without_the_other_instructions_do_not_load_the_full_library() -> None:
    """A virtual machine may show some instruction sets of its processor and hide others."""
    machine = host()
    hidden = dataclasses.replace(machine, cpu_features=cpu.LEVELS["amx"] - {"avx512_bf16"})
    assert "for FP8 in blocks on a processor without AMX" in refused(FP8_IN_BLOCKS, hidden)


def test_the_operations_of_an_installed_library_decide() -> None:
    machine = on_processor("avx512")
    model = integers(4)
    assert refused(model, having(machine, frozenset({vllm_cpu.GEMM_4_BIT}))) == ""
    assert "no kernel for weights of 4 bits" in refused(model, having(machine, frozenset()))
    assert refused(model, having(on_processor("avx2"), frozenset({vllm_cpu.GEMM_4_BIT}))) == ""


def test_a_processor_without_avx2_has_no_build() -> None:
    old = dataclasses.replace(host(), cpu_features=frozenset())
    assert (
        refused(llama(safetensors=True), old)
        == "its build for the CPU needs AVX2, which this processor does not have"
    )
    assert (
        refused(llama(safetensors=True), dataclasses.replace(host(device()), cpu_features=frozenset())) == ""
    )


def test_whole_numbers_need_no_tiles_on_arm() -> None:
    assert refused(with_experts(integers(8, 8)), ARM) == ""
    assert "no kernel for experts in MXFP4 on ARM processors" in refused(
        with_experts(quantized(quant_method="mxfp4")), ARM
    )


@pytest.mark.parametrize(
    "metadata",
    [
        floats("channel", computed=True),
        quantized(quant_method="awq"),
        *FOUR_BITS,
        integers(8, 8),
        llama(safetensors=True),
    ],
)
def test_quantizations_that_it_reads(metadata: Metadata) -> None:
    for machine in (host(), host(device())):
        assert refused(metadata, machine) == ""


def test_of_other_versions_nothing_is_claimed() -> None:
    older = knowing(host(device()), version="0.10.2")
    assert refused(quantized(quant_method="bitsandbytes", load_in_4bit=True), older) == ""


@pytest.mark.parametrize(("method", "in_sglang"), [("gptq", "gptq_marlin"), ("awq", "awq")])
def test_a_quantization_that_config_json_does_not_name_is_named_to_the_engines(
    method: str, in_sglang: str
) -> None:
    named = quantized(quant_method=method, bits=4)
    separate = quantized(quant_method=method, bits=4, separate=True)
    assert vllm_models.arguments(named) == sglang_models.arguments(named) == ()
    assert vllm_models.arguments(separate) == ("--quantization", method)
    assert sglang_models.arguments(separate) == ("--quantization", in_sglang)

"""What real vLLM, its CPU build, says of architectures and of quantized weights: as aimind says."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aimind import supervise
from aimind.devices import cpu
from aimind.environments import libraries
from aimind.environments.install import ensure
from aimind.environments.models import known
from aimind.launchers import vllm, vllm_cpu
from aimind.launchers.architectures import shipped
from aimind.select import version_refusal
from aimind.steps.equipping import with_abilities
from aimind.types import INDEX_NAME, Backend, Host, Metadata
from tests.launchers.test_strays import planned
from tests.launchers.test_vllm_models import quantized, with_experts
from tests.live.served import AIMIND, DATA, environment
from tests.samples import host

pytestmark = pytest.mark.live

LAYERS = Path(__file__).with_name("vllm_layers.py")
# vLLM's own steps for an architecture that is not in its table (`_try_resolve_transformers`).
LISTED = """
import json, transformers
from vllm.model_executor.models import ModelRegistry
found = set(ModelRegistry.get_supported_archs())
ends = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")
for name in dir(transformers):
    if name.endswith(ends) and not name.startswith("Auto"):
        model = getattr(transformers, name)
        if issubclass(model, transformers.PreTrainedModel) and (
            model.is_backend_compatible() or model._can_set_attn_implementation()
        ):
            found.add(name)
print("found: " + json.dumps(sorted(found)))
"""
# Which weights vLLM's loader reads, by folder and its arguments; an empty list where it fails.
LOADED = """
import json, os, sys
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
found = {}
for name, words in json.load(sys.stdin).items():
    folder = words[words.index("serve") + 1]
    chosen = words[words.index("--load-format") + 1] if "--load-format" in words else "auto"
    loader = DefaultModelLoader(LoadConfig(load_format=chosen))
    try:
        paths = loader._prepare_weights(folder, None, None, True, None)[1]
    except RuntimeError:
        paths = []
    found[name] = sorted(map(os.path.basename, paths))
print("found: " + json.dumps(found))
"""
Answers = Callable[[str], tuple[dict[str, str], frozenset[str]]]
GENERATE = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")


def compressed(written: str, weights: dict[str, Any], inputs: dict[str, Any] | None) -> dict[str, Any]:
    """As the library compressed-tensors writes it."""
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    return {
        "quant_method": "compressed-tensors",
        "format": written,
        "ignore": [],
        "config_groups": {"group_0": group},
    }


def integers(bits: int, activations: bool = False) -> dict[str, Any]:
    kind = {"num_bits": bits, "type": "int", "symmetric": True}
    if activations:
        inputs = {**kind, "strategy": "token", "dynamic": True}
        return compressed("int-quantized", {**kind, "strategy": "channel"}, inputs)
    return compressed("pack-quantized", {**kind, "strategy": "group", "group_size": 128}, None)


def gptq(bits: int, **more: object) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": bits, "group_size": 128, "sym": True, "desc_act": False, **more}


def floats(strategy: str, activations: str | None, **more: object) -> dict[str, Any]:
    kind = {"num_bits": 8, "type": "float", "symmetric": True}
    inputs = {**kind, "strategy": activations, "dynamic": activations != "tensor"}
    if activations == "group":
        inputs["group_size"] = 128
    weights = {**kind, "strategy": strategy, **more}
    return compressed("float-quantized", weights, inputs if activations else None)


def mixed(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The first one's quantization for attention, the second one's for the feed-forward."""
    groups = {}
    for name, section, targets in (("group_0", first, "self_attn"), ("group_1", second, "mlp")):
        [group] = section["config_groups"].values()
        groups[name] = {**group, "targets": [f"re:.*{targets}.*"], "format": section["format"]}
    return {**first, "format": "mixed-precision", "config_groups": groups}


def mixed_by_modelopt(first: str, second: str) -> dict[str, Any]:
    """The same by ModelOpt's names of algorithms."""
    return {
        "quant_method": "modelopt_mixed",
        "quant_algo": "MIXED_PRECISION",
        "ignore": [],
        "quantized_layers": {
            "model.layers.0.self_attn.q_proj": {"quant_algo": first},
            "model.layers.0.mlp.up_proj": {"quant_algo": second},
        },
    }


NVFP4 = compressed(
    "nvfp4-pack-quantized",
    {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group", "group_size": 16},
    {
        "num_bits": 4,
        "type": "float",
        "symmetric": True,
        "strategy": "tensor_group",
        "group_size": 16,
        "dynamic": "local",
    },
)
QUANTIZED: dict[str, dict[str, Any]] = {
    **{
        f"awq {bits}": {"quant_method": "awq", "bits": bits, "group_size": 128, "zero_point": True}
        for bits in (4, 8)
    },
    **{f"gptq {bits}": gptq(bits) for bits in (2, 3, 4, 8)},
    "gptq asymmetric": gptq(4, sym=False),
    "gptq by activation": gptq(4, desc_act=True),
    "gptq by activation in columns": gptq(4, desc_act=True, group_size=-1),
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "aqlm": {"quant_method": "aqlm"},
    "integers 4": integers(4),
    "integers 8": integers(8),
    "integers 8, computed in 8": integers(8, activations=True),
    "fp8": {"quant_method": "fp8", "activation_scheme": "dynamic"},
    "fp8 in blocks": {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [128, 128],
    },
    "floats by tensor": floats("tensor", "tensor"),
    "floats by channel": floats("channel", "token"),
    "floats by channel, computed in 16": floats("channel", None),
    "floats in blocks": floats("block", "group", block_structure=[128, 128]),
    "integers 4, computed in 8": compressed(
        "pack-quantized",
        {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128},
        {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True},
    ),
    "nvfp4": {
        "quant_method": "modelopt_fp4",
        "quantization": {
            "quant_algo": "NVFP4",
            "group_size": 16,
            "kv_cache_quant_algo": None,
            "exclude_modules": [],
        },
    },
    "mixed by modelopt": mixed_by_modelopt("FP8_PER_CHANNEL_PER_TOKEN", "NVFP4"),
    "mixed by modelopt, fp8 and mxfp8": mixed_by_modelopt("FP8", "MXFP8"),
    "mixed by modelopt with awq": mixed_by_modelopt("FP8_PER_CHANNEL_PER_TOKEN", "W4A8_AWQ"),
    "mixed floats": mixed(floats("channel", "token"), NVFP4),
    "mixed floats and integers": mixed(floats("channel", "token"), integers(4)),
    "mixed integers": mixed(integers(8, activations=True), integers(4)),
    "mixed integers with 8 beside 16": mixed(integers(4), integers(8)),
    "awq by modelopt": {"quant_method": "modelopt", "quantization": {"quant_algo": "W4A16_AWQ"}},
    "fp8 by modelopt by channel": {
        "quant_method": "modelopt",
        "quantization": {"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"},
    },
    "mxfp8 by modelopt": {
        "quant_method": "modelopt_mxfp8",
        "quantization": {"quant_algo": "MXFP8", "kv_cache_quant_algo": None, "exclude_modules": []},
    },
    "experts in awq 4": {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True},
    "experts in gptq 4": gptq(4),
    "experts in integers 4": integers(4),
    "experts in integers 8, computed in 8": integers(8, activations=True),
    "experts in mxfp4": {"quant_method": "mxfp4"},
    "experts in fp8": {"quant_method": "fp8", "activation_scheme": "dynamic"},
    "experts in fp8 in blocks": {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [128, 128],
    },
    "experts in floats by channel": floats("channel", "token"),
}
# What a processor can be without -> its remaining instruction sets. On one that lacks them anyway all three
# are the same.
PROCESSORS = {
    "": cpu.features(),
    "avx512_bf16": frozenset(
        feature for feature in cpu.features() if not feature.startswith(("avx512_bf16", "amx"))
    ),
    "avx512": frozenset(feature for feature in cpu.features() if not feature.startswith(("avx512", "amx"))),
}


@pytest.fixture(scope="module")
def backend() -> Backend:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIMIND_DATA_DIR", str(DATA))
        return ensure("vllm", vllm.source(host()), progress=print)


def ask(backend: Backend, *arguments: str, given: str = "", marks: tuple[str, ...]) -> list[Any]:
    """The JSON that it prints after each of the marks."""
    done = subprocess.run(
        [backend.executable, *arguments],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    return [
        json.loads(next(line for line in lines if line.startswith(mark)).removeprefix(mark)) for mark in marks
    ]


def test_the_architectures_that_it_can_load(backend: Backend) -> None:
    """Read from its source in a fifth of a second, they are those that vLLM itself finds in twenty."""
    found = known(backend, vllm.REGISTRY) or frozenset()
    own = set(ask(backend, "-c", LISTED, marks=("found: ",))[0])
    assert len(own) > 300
    ours = {name for name in found if name.endswith(GENERATE) and not name.startswith("Auto")}
    assert ours == {name for name in own if name.endswith(GENERATE)}
    assert shipped(vllm.table(backend)) == found


@pytest.mark.parametrize("without", PROCESSORS)
@pytest.mark.parametrize("name", QUANTIZED)
def test_quantized_weights(backend: Backend, answers: Answers, name: str, without: str) -> None:
    metadata = quantized(**QUANTIZED[name])
    if name.startswith("experts"):
        metadata = with_experts(metadata)
    machine = on_processor(without)
    said = answers(without)[0][name]
    why = why_not(metadata, machine, backend)
    assert (why == "") == (said == ""), (why, said)


@pytest.mark.parametrize("without", PROCESSORS)
def test_the_operations_of_each_library(backend: Backend, answers: Answers, without: str) -> None:
    """As read from the file that is loaded, as PyTorch lists them, and as assumed before installing."""
    machine = on_processor(without)
    file = vllm_cpu.library(machine) or ""
    registered = frozenset(name for name in vllm_cpu.OPERATIONS if f"_C::{name}" in answers(without)[1])
    assert libraries.operations(backend, file, vllm_cpu.OPERATIONS) == registered
    assert libraries.operations(backend, file, vllm_cpu.OPERATIONS) == registered  # remembered
    assert vllm_cpu.operations(machine, dataclasses.replace(backend, operations=None)) == registered


def on_processor(without: str) -> Host:
    return dataclasses.replace(host(), arch=cpu.architecture(), cpu_features=PROCESSORS[without])


def why_not(metadata: Metadata, machine: Host, backend: Backend) -> str:
    return version_refusal(vllm, metadata, machine, with_abilities(vllm, machine, backend)) or ""


@pytest.fixture(scope="module")
def answers(backend: Backend) -> Answers:
    """What vLLM's layers say to each configuration on a processor, nothing where they compute; operations."""

    @functools.cache
    def ask_once(without: str) -> tuple[dict[str, str], frozenset[str]]:
        lines = ask(
            backend, str(LAYERS), without, given=json.dumps(QUANTIZED), marks=("said: ", "operations: ")
        )
        return lines[0], frozenset(lines[1])

    return ask_once


def test_it_loads_the_planned_weights_whatever_lies_beside_them(backend: Backend, tmp_path: Path) -> None:
    """Where aimind changes the command, vLLM would load others without that."""
    shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    copies = ("consolidated.safetensors", "params.json", "tekken.json")
    indexed = (*shards, INDEX_NAME)
    folders = {
        "shards": indexed,
        "shards and Mistral's": (*indexed, *copies),
        "Mistral's in a folder": (*indexed, "original/consolidated.safetensors"),
        "without an index": (*shards, *copies),
        "an adapter": ("model.safetensors", "adapter_model.safetensors"),
        "an adapter and pickles": ("pytorch_model.bin", "adapter_model.safetensors"),
        "Mistral's alone": ("consolidated.safetensors",),
    }
    expected: dict[str, list[str]] = {}
    commands: dict[str, list[str]] = {}
    for name, files in folders.items():
        folder = tmp_path / name
        plan = planned(folder, *files, indexed=shards if INDEX_NAME in files else None)
        if INDEX_NAME in files:
            (folder / INDEX_NAME).write_text(
                json.dumps({"weight_map": dict(zip(shards, shards, strict=True))})
            )
        plan = dataclasses.replace(plan, scratch=str(tmp_path / "run" / name))
        command = vllm.command(plan, str(folder))
        for overlay in command.overlays:
            supervise.make_overlay(overlay)
        weights = [file.path for file in plan.model.files if file.path.endswith((".safetensors", ".bin"))]
        expected |= {name: sorted(weights)}
        commands |= {name: list(command.argv), f"{name}, plainly": ["serve", str(folder)]}
    [found] = ask(backend, "-c", LOADED, given=json.dumps(commands), marks=("found: ",))
    assert {name: found[name] for name in folders} == expected
    wrong = {name for name in folders if found[f"{name}, plainly"] != expected[name]}
    assert wrong == set(folders) - {"shards", "Mistral's alone"}


def test_a_model_that_it_does_not_know_goes_to_the_next(backend: Backend, tmp_path: Path) -> None:
    """The demo model under a name that is in nobody's table, and under one that transformers has."""
    folder = Path(vllm.__file__).parents[1] / "demo" / "huggingface"
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").unlink()

    def refused(architecture: str) -> str:
        (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": [architecture]}))
        done = subprocess.run(
            [str(AIMIND), "plan", str(tmp_path), "--json", "--device", "none"],
            capture_output=True,
            text=True,
            check=False,
            env=environment(),
        )
        if done.returncode == 7:
            return done.stderr.splitlines()[0]
        document = json.loads(done.stdout)
        assert document["backend"]["name"] == ("vllm" if architecture in known_ones else "transformers")
        return " ".join(each["sentence"] for each in document["refused"] if each["backend"] == "vllm")

    known_ones = (*config["architectures"], "GPTNeoXForCausalLM")
    assert [refused(name) for name in known_ones] == ["", ""]
    of_transformers = f"vllm {backend.version} does not know the architecture GPTNeoForCausalLM"
    assert refused("GPTNeoForCausalLM") == of_transformers
    assert refused("NovelForCausalLM").startswith(
        f"error: No backend knows the architecture NovelForCausalLM (vllm {backend.version}, transformers "
    )

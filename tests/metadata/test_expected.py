"""Tensors that a config.json implies: against vLLM's weights and the parameters that authors published."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from aimind.metadata.config import Config
from aimind.metadata.expected import tensors_of, tensors_of_size

DATA = Path(__file__).parents[1] / "data"
RUNS = {run["dir"]: run for run in json.loads((DATA / "ground_truth_vllm.json").read_text())}


def config(**values: Any) -> Config:
    return Config(values, "config.json")


@pytest.mark.parametrize("name", RUNS)
def test_weights_are_those_that_vllm_loads(name: str) -> None:
    values = json.loads((DATA / "models" / "vllm" / f"{name}.config.json").read_text())
    assert sum(tensor.size_bytes for tensor in tensors_of(config(**values))) == RUNS[name]["weight_bytes"]


LLAMA = {"model_type": "llama", "num_key_value_heads": 8, "vocab_size": 128256}
PUBLISHED: list[tuple[str, dict[str, Any], int]] = [
    ("Llama 3.1 8B", {**LLAMA, "intermediate_size": 14336}, 8_030_261_248),
    (
        "Llama 3.1 70B",
        {
            **LLAMA,
            "hidden_size": 8192,
            "intermediate_size": 28672,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
        },
        70_553_706_496,
    ),
    (
        "Qwen3 30B A3B",
        {
            "model_type": "qwen3_moe",
            "hidden_size": 2048,
            "num_hidden_layers": 48,
            "head_dim": 128,
            "num_key_value_heads": 4,
            "num_attention_heads": 32,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
            "vocab_size": 151936,
            "tie_word_embeddings": False,
        },
        30_532_122_624,
    ),
    (
        "gpt-oss 20B",
        {"model_type": "gpt_oss", "num_hidden_layers": 24, "num_local_experts": 32},
        20_914_757_184,
    ),
    (
        "Gemma 2 9B",
        {
            "model_type": "gemma2",
            "hidden_size": 3584,
            "intermediate_size": 14336,
            "num_hidden_layers": 42,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
        },
        9_241_705_984,
    ),
    ("GPT-2", {"model_type": "gpt2"}, 124_439_808),
    ("OPT 125M", {"model_type": "opt"}, 125_239_296),
    (
        "Mamba 130M",
        {"model_type": "mamba", "hidden_size": 768, "num_hidden_layers": 24},
        129_135_360,
    ),
    (
        "DeepSeek V3",
        {"model_type": "deepseek_v3"},
        671_026_419_200,
    ),
]


@pytest.mark.parametrize(
    ("values", "parameters"), [case[1:] for case in PUBLISHED], ids=[case[0] for case in PUBLISHED]
)
def test_parameters_are_those_that_were_published(values: dict[str, Any], parameters: int) -> None:
    assert sum(math.prod(tensor.shape) for tensor in tensors_of(config(**values))) == parameters


def test_dtype_is_the_configurations() -> None:
    def size(**values: Any) -> int:
        return sum(tensor.size_bytes for tensor in tensors_of(config(**LLAMA, **values)))

    assert size(dtype="bfloat16") == size(torch_dtype="float16") == size(dtype="float32") // 2


@pytest.mark.parametrize(
    "values",
    [
        {"model_type": "brandnew", "hidden_size": 64, "num_hidden_layers": 2},
        {"model_type": "gemma3n_text"},
        {**LLAMA, "quantization_config": {"quant_method": "awq"}},
    ],
)
def test_what_is_not_known_is_left_out(values: dict[str, Any]) -> None:
    assert tensors_of(config(**values)) == []


def test_sizes_must_agree() -> None:
    whole = config(**LLAMA, torch_dtype="bfloat16")
    size = sum(tensor.size_bytes for tensor in tensors_of(whole))
    assert tensors_of_size(whole, size + 50_000) == tensors_of(whole)
    assert tensors_of_size(whole, 2 * size) == []

"""Estimates of vLLM against 18 real runs of it: weights, blocks, tokens and the length that it chose."""

from __future__ import annotations

import dataclasses
import json

import pytest

from aimind.estimate import paged
from aimind.types import Metadata, RecurrentState
from benchmarks import estimates
from tests.samples import llama

RUNS = json.loads((estimates.DATA / "ground_truth_vllm.json").read_text())


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run["run"])
def test_a_real_run_is_met_exactly(run: estimates.Record) -> None:
    figures = list(estimates.vllm_figures(estimates.DATA / "models" / "vllm", run))
    assert {f.component: f.estimated for f in figures} == {f.component: f.real for f in figures}


# ── What tensor parallelism demands ────────────────────────────────────────────────────────────────────────


def told(metadata: Metadata, ranks: int) -> str:
    return paged.refusal(metadata, tensor_parallel=ranks, pipeline_parallel=1) or ""


def test_sizes_that_divide_are_accepted() -> None:
    metadata = llama(safetensors=True)
    assert [ranks for ranks in range(1, 9) if not told(metadata, ranks)] == [1, 2, 4, 8]
    assert told(metadata, 1) == ""


@pytest.mark.parametrize(
    ("changes", "ranks", "sentence"),
    [
        ({"num_heads": 14, "num_kv_heads": 2}, 3, "tensor parallel 3: 14 heads do not divide"),
        ({"num_heads": 14, "num_kv_heads": 2}, 7, "2 key-value heads do not divide"),
        ({"num_heads": 21, "num_kv_heads": 21, "vocab_size": 151936}, 3, "a vocabulary of 151936"),
        ({"num_heads": 12, "num_kv_heads": 12, "vocab_size": 192 * 100}, 3, "a feed-forward of 14336"),
        ({"group_size": 128, "intermediate_size": 14400}, 4, "quantization groups of 128"),
        ({"quantization": "AWQ", "intermediate_size": 14400}, 4, "no multiple of Marlin's 128"),
    ],
)
def test_the_rule_that_is_broken_is_named(changes: dict[str, object], ranks: int, sentence: str) -> None:
    metadata = dataclasses.replace(llama(safetensors=True), **changes)  # type: ignore[arg-type]
    assert sentence in told(metadata, ranks)


def test_heads_and_groups_of_mamba_2_divide_too() -> None:
    state = RecurrentState(kind="mamba2", conv_elements=1, ssm_elements=1, num_heads=24, num_groups=1)
    metadata = llama(safetensors=True)
    layer = dataclasses.replace(metadata.layers[0], memory=(state,))
    metadata = dataclasses.replace(metadata, layers=(layer, *metadata.layers[1:]))
    assert told(metadata, 8) == ""
    assert "24 Mamba heads" in told(metadata, 16)
    grouped = dataclasses.replace(layer, memory=(dataclasses.replace(state, num_groups=2),))
    assert "2 Mamba groups" in told(dataclasses.replace(metadata, layers=(grouped,)), 4)


def test_more_stages_than_layers_are_refused() -> None:
    broken = paged.refusal(llama(layers=2, safetensors=True), tensor_parallel=1, pipeline_parallel=4)
    assert broken == "pipeline parallel 4: there are 2 layers"

"""Estimates of vLLM against 18 real runs of it: weights, blocks, tokens and the length that it chose."""

from __future__ import annotations

import dataclasses
import json

import pytest

from aimind.estimate import paged
from aimind.types import Attention, Metadata, RecurrentState
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


def changed(*, heads: int = 32, kv_heads: int = 8, forward: int = 14336, **changes: object) -> Metadata:
    """A Llama with other sizes: the same in its layers and in what sums them up."""
    metadata = llama(safetensors=True)
    memory = Attention(num_heads=heads, num_kv_heads=kv_heads, key_size=128, value_size=128)
    layers = tuple(
        dataclasses.replace(layer, memory=(memory,), feed_forward_size=forward, tensors=())
        for layer in metadata.layers
    )
    changes |= {"num_heads": heads, "num_kv_heads": kv_heads, "intermediate_size": forward, "layers": layers}
    return dataclasses.replace(metadata, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("metadata", "ranks", "sentence"),
    [
        (changed(heads=14, kv_heads=2), 3, "tensor parallel 3: 14 heads do not divide"),
        (changed(heads=14, kv_heads=2), 7, "2 key-value heads do not divide, nor does 7 by them"),
        (changed(heads=21, kv_heads=21, vocab_size=151936), 3, "a vocabulary of 151936 does not divide"),
        (changed(heads=12, kv_heads=12, vocab_size=192 * 100), 3, "a feed-forward of 14336 does not divide"),
        (changed(forward=14400, quantization="AWQ", group_size=128), 4, "quantization groups of 128"),
        (changed(heads=12, quantization="AWQ", group_size=256), 4, "attention outputs of 384 per rank"),
    ],
)
def test_the_rule_that_is_broken_is_named(metadata: Metadata, ranks: int, sentence: str) -> None:
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

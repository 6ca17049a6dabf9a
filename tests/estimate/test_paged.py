"""Estimates of vLLM against 18 real runs of it: weights, blocks, tokens and the length that it chose."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from aimind.estimate import paged
from aimind.estimate.shares import stages
from aimind.metadata import from_config
from aimind.types import Attention, Metadata, RecurrentState, Tensor
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
        (changed(heads=14, kv_heads=2), 3, "tensor parallel 3 cannot divide 14 attention heads"),
        (changed(heads=14, kv_heads=2), 7, "2 key-value heads"),
        (changed(heads=21, kv_heads=21, vocab_size=151936), 3, "a vocabulary of 151,936"),
        (changed(heads=12, kv_heads=12, vocab_size=192 * 100), 3, "a feed-forward size of 14,336"),
        (changed(forward=14400, quantization="AWQ", group_size=128), 4, "quantization groups of 128"),
        (changed(heads=12, quantization="AWQ", group_size=256), 4, "the attention outputs"),
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
    assert broken == "pipeline parallel 4 needs as many layers, and the model has 2"


def published(name: str) -> Metadata:
    config = json.loads((estimates.DATA / "models" / "published.json").read_text())[name]["config"]
    return from_config(json.dumps(config).encode(), "config.json")


@pytest.mark.parametrize(
    ("name", "ranks", "sentence"),
    [
        ("deepseek-v3", 16, ""),
        ("deepseek-v3", 32, "a feed-forward size into quantization groups of 128: it would be 576 per rank"),
        ("gpt-oss-20b", 8, ""),  # 360 of 32 each: padded while it loads
        ("qwen3-next-80b-a3b", 16, ""),
        ("falcon-h1-7b", 12, "a vocabulary of 130,112"),
        ("zamba2-1.2b", 16, ""),
        ("openelm-270m", 5, "12 attention heads"),
        ("openelm-270m", 4, "3 key-value heads"),
    ],
)
def test_published_models_divide_as_they_do_in_vllm(name: str, ranks: int, sentence: str) -> None:
    assert sentence in told(published(name), ranks)
    assert bool(sentence) == bool(told(published(name), ranks))


def test_blocks_of_fp8_divide_outputs_too_and_are_refined_for_experts() -> None:
    fp8: dict[str, Any] = {"quantization": "FP8", "group_size": 128}
    assert told(changed(**fp8), 8) == ""
    assert "the keys into quantization groups of 128" in told(halved(changed(**fp8)), 8)
    layers = tuple(
        dataclasses.replace(layer, num_experts=8, num_experts_used=2, expert_feed_forward_size=768)
        for layer in changed().layers
    )
    experts = dataclasses.replace(changed(**fp8), layers=layers)
    assert told(experts, 4) == ""  # 192 of 128: refined to 64
    assert told(experts, 8) == ""  # 96: refined to 32
    assert "48 per rank" in told(experts, 16)


def halved(metadata: Metadata) -> Metadata:
    """With heads of 64, of which each rank has one of keys at 8 ranks."""
    memory = Attention(num_heads=32, num_kv_heads=8, key_size=64, value_size=64)
    layers = tuple(dataclasses.replace(layer, memory=(memory,)) for layer in metadata.layers)
    return dataclasses.replace(metadata, layers=layers)


# ── Pipelines ──────────────────────────────────────────────────────────────────────────────────────────────


def test_what_does_not_divide_goes_to_the_last_stages_but_one() -> None:
    assert [len(stage) for stage in stages(32, 2)] == [16, 16]
    assert [len(stage) for stage in stages(32, 3)] == [11, 11, 10]
    assert [len(stage) for stage in stages(7, 4)] == [2, 2, 2, 1]


@pytest.mark.parametrize(
    ("name", "tensor", "heaviest"),
    [  # parameters that vLLM 0.32 builds on the heavier of two stages
        ("llama-3.1-8b", 1, 8_030_265_344),
        ("llama-3.1-8b", 2, 4_015_267_840),
        ("llama-3.2-1b", 1, 1_498_484_736),
        ("qwen3-30b-a3b", 1, 31_154_454_528),
        ("qwen3-next-80b-a3b", 1, 80_296_724_352),
    ],
)
def test_a_stage_holds_what_vllm_gives_it(name: str, tensor: int, heaviest: int) -> None:
    held = paged.weights_bytes(published(name), tensor_parallel=tensor, pipeline_parallel=2)
    assert held == pytest.approx(heaviest, rel=1e-5)


@pytest.mark.parametrize(("ranks", "forward"), [(1, 2944), (8, 8 * 384)])
def test_experts_in_mxfp4_are_padded_to_what_kernels_want(ranks: int, forward: int) -> None:
    metadata = published("gpt-oss-20b")
    bytes_each = 2880 * 2880 // 2
    experts = Tensor("model.layers.0.mlp.experts.down_proj_blocks", (32, 2880, 90, 16), "U8", 32 * bytes_each)
    layer = dataclasses.replace(metadata.layers[0], tensors=(experts,))
    metadata = dataclasses.replace(metadata, layers=(layer,), others=())
    held = paged.weights_bytes(metadata, tensor_parallel=ranks, pipeline_parallel=1)
    assert held == 32 * 3072 * forward // 2 // ranks


def test_a_stage_caches_its_own_layers() -> None:
    def block_bytes(stages: int) -> int:
        layout = paged.layout(
            published("gemma-3-1b"), ranks=(1, stages), cache_dtype="auto", dtype=None, block_size=16
        )
        return layout.block_bytes

    assert block_bytes(2) < block_bytes(1) <= 2 * block_bytes(2)


# ── Layers that differ ─────────────────────────────────────────────────────────────────────────────────────


def test_layers_of_one_kind_are_one_group_however_wide() -> None:
    """OpenELM: full attention in all layers, 3 to 5 heads of keys and values in 16 layers."""
    layout = paged.layout(
        published("openelm-270m"), ranks=(1, 1), cache_dtype="auto", dtype=None, block_size=16
    )
    heads = 5 * 3 + 7 * 4 + 4 * 5
    assert (len(layout.groups), layout.block_bytes) == (1, 16 * heads * 64 * 2 * 2)


# ── What a step needs ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-30b-a3b", "deepseek-v3", "qwen3-next-80b-a3b"])
def test_a_larger_step_needs_no_less(name: str) -> None:
    def needed(tokens: int, sequences: int, ranks: int = 1) -> int:
        return paged.activation_bytes(
            published(name), tensor_parallel=ranks, tokens=tokens, sequences=sequences
        )

    assert needed(2048, 256) <= needed(8192, 256) <= needed(8192, 1024)
    assert needed(8192, 256, ranks=8) <= needed(8192, 256)


def test_the_sampler_has_a_row_of_logits_for_each_sequence() -> None:
    metadata = published("gemma-3-1b")  # its vocabulary is 227 times as wide as its hidden state
    rows = [
        paged.activation_bytes(metadata, tensor_parallel=1, tokens=2048, sequences=n) for n in (512, 1024)
    ]
    assert rows[1] - rows[0] == 512 * 14 * metadata.vocab_size

"""Estimates of vLLM against 18 real runs of it: weights, blocks, tokens and the length that it chose."""

from __future__ import annotations

import json

import pytest

from benchmarks import estimates

RUNS = json.loads((estimates.DATA / "ground_truth_vllm.json").read_text())


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run["run"])
def test_a_real_run_is_met_exactly(run: estimates.Record) -> None:
    figures = list(estimates.vllm_figures(estimates.DATA / "models" / "vllm", run))
    assert {f.component: f.estimated for f in figures} == {f.component: f.real for f in figures}

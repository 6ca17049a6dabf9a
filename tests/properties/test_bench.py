"""Laws of measurements: they are what numpy, and so vLLM, makes of the same times."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimind.api import Answer, Server
from aimind.bench.result import percentile, result_of

SECONDS = st.floats(0, 100)


@given(st.lists(SECONDS, min_size=1), st.floats(0, 100))
def test_a_percentile_is_numpys(values: list[float], percent: float) -> None:
    assert percentile(values, percent) == pytest.approx(float(np.percentile(values, percent)))


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    """An answer of so many pieces, each later than the one before."""
    answer = Answer(Server("http://127.0.0.1:1"), "completions", {})
    answer.started_at = moment = draw(SECONDS)
    for pause in draw(st.lists(SECONDS, min_size=1, max_size=5)):
        moment += pause
        answer.piece_times.append(moment)
    answer.prompt_tokens = draw(st.integers(1, 100))
    answer.completion_tokens = draw(st.none() | st.integers(1, 20))
    return answer


@given(st.lists(answers(), min_size=1, max_size=5), st.integers(0, 3))
def test_the_figures_are_vllms(found: list[Answer], failed: int) -> None:
    """Formulas of `calculate_metrics` in vllm/benchmarks/serve.py, written with numpy."""
    result = result_of(found, failed=failed, max_concurrency=4, duration=10.0)
    ttfts = [each.piece_times[0] - each.started_at for each in found]
    itls = [gap for each in found for gap in np.diff(each.piece_times)]
    latencies = [each.piece_times[-1] - each.started_at for each in found]
    counts = [each.output_tokens for each in found]
    tpots = [
        (latency - ttft) / (count - 1)
        for latency, ttft, count in zip(latencies, ttfts, counts, strict=True)
        if count > 1
    ]
    for name, values in {"ttft": ttfts, "itl": itls, "tpot": tpots, "e2el": latencies}.items():
        times = np.array(values or [0.0]) * 1000
        expected = [np.mean(times), np.median(times), np.std(times), np.percentile(times, 99)]
        shown = [getattr(result, f"{which}_{name}_ms") for which in ("mean", "median", "std", "p99")]
        assert shown == pytest.approx([float(each) for each in expected], abs=1e-6), name
    assert (result.completed, result.failed, result.num_prompts) == (len(found), failed, len(found) + failed)
    assert result.output_throughput == pytest.approx(sum(counts) / 10)
    assert result.total_token_throughput == pytest.approx(
        (sum(counts) + sum(each.prompt_tokens or 0 for each in found)) / 10
    )
    assert 1 <= result.max_concurrent_requests <= len(found)

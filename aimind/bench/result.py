"""What a measurement comes to, with the field names and the formulas of vLLM.

They are those of vLLM 0.32, vllm/benchmarks/serve.py: `calculate_metrics` and the result that
`vllm bench serve --save-result` writes.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from aimind.api import Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One measurement. Times are in milliseconds where the name ends in `_ms`, else in seconds.

    Attributes:
        max_concurrency: requests at once.
        num_prompts: requests in all; completed, failed: how many of them.
        duration: from the first request to the end of the last answer.
        ttft: time to the first token; tpot: time per token after the first one, an average of each answer;
            itl: time between two pieces of text; e2el: time to the whole answer.
        max_output_tokens_per_s, max_concurrent_requests: the most within one second.
    """

    max_concurrency: int
    num_prompts: int
    completed: int
    failed: int
    duration: float
    total_input_tokens: int
    total_output_tokens: int
    request_throughput: float
    output_throughput: float
    total_token_throughput: float
    max_output_tokens_per_s: float
    max_concurrent_requests: int
    mean_ttft_ms: float
    median_ttft_ms: float
    std_ttft_ms: float
    p99_ttft_ms: float
    mean_tpot_ms: float
    median_tpot_ms: float
    std_tpot_ms: float
    p99_tpot_ms: float
    mean_itl_ms: float
    median_itl_ms: float
    std_itl_ms: float
    p99_itl_ms: float
    mean_e2el_ms: float
    median_e2el_ms: float
    std_e2el_ms: float
    p99_e2el_ms: float


def result_of(answers: Sequence[Answer], *, failed: int, max_concurrency: int, duration: float) -> Result:
    """Return the figures of whole answers, of which each has at least one piece of text.

    Args:
        answers: those that are whole.
        failed: how many others there were.
        max_concurrency: requests at once.
        duration: in seconds.
    """
    times: dict[str, list[float]] = {"ttft": [], "tpot": [], "itl": [], "e2el": []}
    for answer in answers:
        first, latency = answer.ttft_seconds or 0.0, answer.latency_seconds
        times["ttft"].append(first)
        times["e2el"].append(latency)
        times["itl"] += [after - before for before, after in itertools.pairwise(answer.piece_times)]
        if answer.output_tokens > 1:
            times["tpot"].append((latency - first) / (answer.output_tokens - 1))
    input_tokens = sum(answer.prompt_tokens or 0 for answer in answers)
    output_tokens = sum(answer.output_tokens for answer in answers)
    most_tokens, most_requests = _peaks(answers)
    summaries: dict[str, float] = {}
    for name, values in times.items():
        summaries |= _summary(name, values)
    return Result(
        max_concurrency=max_concurrency,
        num_prompts=len(answers) + failed,
        completed=len(answers),
        failed=failed,
        duration=duration,
        total_input_tokens=input_tokens,
        total_output_tokens=output_tokens,
        request_throughput=len(answers) / duration,
        output_throughput=output_tokens / duration,
        total_token_throughput=(input_tokens + output_tokens) / duration,
        max_output_tokens_per_s=most_tokens,
        max_concurrent_requests=most_requests,
        **summaries,
    )


def read_result(document: Mapping[str, object]) -> Result:
    """Return the figures that `vllm bench serve --save-result` has written.

    Raises:
        KeyError: one is missing.
    """
    return Result(**{field.name: document[field.name] for field in fields(Result)})  # type: ignore[arg-type]


def percentile(values: Sequence[float], percent: float) -> float:
    """Interpolate linearly between the two nearest values, as numpy.percentile does; 0 of no values."""
    if not values:
        return 0.0
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low, high = math.floor(place), math.ceil(place)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _summary(name: str, seconds: Sequence[float]) -> dict[str, float]:
    return {
        f"mean_{name}_ms": statistics.fmean(seconds) * 1000 if seconds else 0.0,
        f"median_{name}_ms": percentile(seconds, 50) * 1000,
        f"std_{name}_ms": statistics.pstdev(seconds) * 1000 if seconds else 0.0,
        f"p99_{name}_ms": percentile(seconds, 99) * 1000,
    }


def _peaks(answers: Sequence[Answer]) -> tuple[float, int]:
    """The most pieces of text, and the most requests under way, in one of the seconds since the start."""
    if not answers:
        return 0.0, 0
    start = min(answer.started_at for answer in answers)
    pieces: dict[int, int] = {}
    requests: dict[int, int] = {}
    for answer in answers:
        for moment in answer.piece_times:
            second = int(moment - start)
            pieces[second] = pieces.get(second, 0) + 1
        first, last = int(answer.started_at - start), int(answer.piece_times[-1] - start)
        for second in range(first, last + 1):
            requests[second] = requests.get(second, 0) + 1
    return float(max(pieces.values())), max(requests.values())

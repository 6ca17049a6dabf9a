"""Numbers that no backend can keep: 32 bits for counts, and llama.cpp's own limit of requests."""

from __future__ import annotations

from typing import Any

import pytest

from aimind import plan
from aimind.errors import UsageError
from aimind.launchers import LAUNCHERS
from aimind.types import Plan, Request
from tests.samples import device, host, llama, model

INT_MAX = (1 << 31) - 1


def make(backend: str, words: tuple[str, ...] = (), **asked: Any) -> Plan:
    metadata = llama(safetensors=backend != "llama-server", layers=2, hidden=512)
    request = Request(backend=backend, extra=words, **asked)
    return plan.make(model(metadata), metadata, host(device()), request, LAUNCHERS)


@pytest.mark.parametrize(
    ("backend", "asked", "flag"),
    [
        ("vllm", {"max_model_len": INT_MAX + 1}, "--max-model-len"),
        ("llama-server", {"max_model_len": -1}, "--context"),
        ("sglang", {"max_num_seqs": INT_MAX + 1}, "--max-running-requests"),
        ("transformers", {"max_model_len": INT_MAX + 1}, "--context"),
        ("llama-server", {"max_num_seqs": 0}, "--parallel"),
        ("llama-server", {"gpu_layers": INT_MAX + 1}, "--n-gpu-layers"),
        ("vllm", {"tensor_parallel_size": 0}, "--tensor-parallel-size"),
        ("vllm", {"pipeline_parallel_size": INT_MAX + 1}, "--pipeline-parallel-size"),
        ("vllm", {"gpu_memory_utilization": 1.01}, "--gpu-memory-utilization"),
        ("vllm", {"words": ("--max-num-batched-tokens", "0")}, "--max-num-batched-tokens"),
        ("vllm", {"words": ("--kv-cache-memory-bytes", str(1 << 63))}, "--kv-cache-memory-bytes"),
        ("llama-server", {"words": ("--ubatch-size", str(INT_MAX + 1))}, "--ubatch-size"),
    ],
)
def test_numbers_out_of_range_are_refused_with_the_flag(
    backend: str, asked: dict[str, Any], flag: str
) -> None:
    with pytest.raises(UsageError, match="is out of range") as caught:
        make(backend, **asked)
    assert caught.value.message.startswith(f"{flag} ")
    assert " to " in (caught.value.hint or "")


def test_llama_cpp_serves_at_most_256_requests_at_once() -> None:
    assert make("llama-server", max_num_seqs=256).settings.max_num_seqs == 256
    with pytest.raises(UsageError, match="at most 256 requests at once, not 257") as caught:
        make("llama-server", max_num_seqs=257)
    assert caught.value.hint == "use --parallel 256"

"""SGLang: the shim that brings its key, its share of a device, and what it refuses."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aimind import plan
from aimind.errors import DeviceError, DoesNotFitError, UnsupportedError
from aimind.launchers import LAUNCHERS, sglang
from aimind.types import Backend, Device, Plan, Request
from tests.samples import GIB, device, host, llama, model

KEY = "canary-4f1d"
# Logs its arguments as the real one does, and starts a process as the real one does.
STAND_IN = """
import logging, multiprocessing, os, sys

def child():
    print("child", __name__, "SGLANG_API_KEY" in os.environ, flush=True)

if __name__ == "__main__":
    logging.basicConfig(level="INFO")
    logging.info(f"server_args={dict(api_key=sys.argv[-1])}")
    logging.info("%s and %s", sys.argv[-1], 7)
    logging.info("one too many", sys.argv[-1])
    print("arguments", sys.argv[1:], flush=True)
    process = multiprocessing.get_context("spawn").Process(target=child)
    process.start()
    process.join(60)
"""


def run(folder: Path, **env: str) -> tuple[str, str]:
    package = folder / "sglang"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "launch_server.py").write_text(STAND_IN)
    done = subprocess.run(
        [sys.executable, sglang.SHIM, "--port", "1"],
        env={**os.environ, "PYTHONPATH": str(folder), **env},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout, done.stderr


def test_the_key_becomes_an_argument_after_the_start_and_is_in_no_log(tmp_path: Path) -> None:
    out, log = run(tmp_path, SGLANG_API_KEY=KEY)
    assert f"arguments ['--port', '1', '--api-key={KEY}']" in out
    assert "child __mp_main__ False" in out
    assert KEY not in log
    assert "server_args={'api_key': '--api-key=***'}" in log
    assert "--api-key=*** and 7" in log
    assert "one too many ('--api-key=***',)" in log


def test_without_a_key_nothing_is_added(tmp_path: Path) -> None:
    out, _ = run(tmp_path)
    assert "arguments ['--port', '1']" in out


def planned(*devices: Device, request: Request | None = None) -> Plan:
    metadata = llama(safetensors=True)
    asked = dataclasses.replace(request or Request(), backend="sglang")
    return plan.make(model(metadata), metadata, host(*devices), asked, LAUNCHERS)


def test_its_share_is_of_what_is_free_and_holds_weights_and_cache_alone() -> None:
    """Law: what it computes with has room beside the share."""
    busy = device(free_gib=40, total_gib=80)
    decided = planned(busy)
    share = decided.settings.gpu_memory_utilization or 0
    (shard,) = decided.shards
    held = shard.estimate.weights_bytes + shard.estimate.kv_cache_bytes
    assert held <= 39 * GIB * share
    assert (shard.estimate.compute_bytes or 0) >= 3.5 * GIB  # 512 MB, and 1.5 MB for each of 2048 tokens
    assert share > 0.8
    assert shard.estimate.total_bytes <= busy.free_bytes
    assert shard.estimate.approximate >= {"weights_bytes", "kv_cache_bytes", "compute_bytes", "graphs_bytes"}


def test_a_share_that_leaves_too_little_is_refused_with_the_largest() -> None:
    best = planned(device()).settings.gpu_memory_utilization or 0
    assert planned(device(), request=Request(gpu_memory_utilization=best)).settings.max_model_len
    with pytest.raises(DoesNotFitError, match="more than any device has free") as caught:
        planned(device(), request=Request(gpu_memory_utilization=0.95))
    assert f"{best:g}" in caught.value.message
    assert {"gpu_memory_utilization": best} in caught.value.changes


def test_it_needs_a_device() -> None:
    with pytest.raises(UnsupportedError, match="only on NVIDIA devices"):
        planned()
    with pytest.raises(DeviceError, match="needs a GPU"):
        planned(device(), request=Request(devices=()))
    old = dataclasses.replace(device(), capability="7.0")
    with pytest.raises(UnsupportedError, match=r"capability 7\.0, and SGLang needs 7\.5"):
        planned(old)


def test_it_is_told_that_a_model_shall_embed() -> None:
    """Of a language model it cannot know that by itself."""
    speaks = llama(safetensors=True)
    embeds = dataclasses.replace(speaks, category="embedding", max_model_len=8192)
    for metadata, asked in (
        (embeds, Request(backend="sglang")),
        (speaks, Request(backend="sglang", category="embedding")),
    ):
        machine = host(device(free_gib=80))
        decided = plan.make(model(metadata), metadata, machine, asked, LAUNCHERS)
        assert "--is-embedding" in sglang.command(decided, "/weights").argv
    speaking = planned(device())
    assert "--is-embedding" not in sglang.command(speaking, "/weights").argv


@pytest.mark.parametrize(
    ("name", "bits", "traits", "why"),
    [
        ("GPTQ", 3, (), "supports GPTQ with 4 or 8 bits only, and these weights have 3"),
        ("AWQ", 3, (), "supports AWQ with 4 or 8 bits only, and these weights have 3"),
        ("GPTQ", 4, ("asymmetric",), "supports symmetric GPTQ only, and these 4-bit weights are not"),
        ("AQLM", 2, (), "does not support weights in AQLM"),
        ("GPTQ", 8, ("act-order",), None),
        ("AWQ", 4, (), None),
        ("BNB-4bit", 4, (), None),
        ("W4A16", 4, (), None),
        (None, None, (), None),
    ],
)
def test_quantizations_that_it_reads(
    name: str | None, bits: int | None, traits: tuple[str, ...], why: str | None
) -> None:
    weights = dataclasses.replace(
        llama(safetensors=True),
        quantization=name,
        quantization_bits=bits,
        quantization_traits=frozenset(traits),
    )
    backend = Backend(name="sglang", version=sglang.source(host()).version, executable="/x")
    said = sglang.lacks(weights, host(device()), backend)
    assert said is None if why is None else why in (said or "")
    other = dataclasses.replace(backend, version="0.4.9")
    assert sglang.lacks(weights, host(device()), other) is None, "of other versions nothing is claimed"


def test_rerankers_are_not_for_it() -> None:
    metadata = dataclasses.replace(llama(safetensors=True), category="reranker")
    with pytest.raises(
        UnsupportedError, match="language models and embeddings, and this model is for reranker"
    ):
        plan.make(model(metadata), metadata, host(device()), Request(backend="sglang"), LAUNCHERS)

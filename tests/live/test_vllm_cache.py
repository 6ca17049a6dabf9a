"""The bytes of vLLM's KV cache types, as its own layers give them, and which types there are."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from aimind.environments.install import ensure
from aimind.estimate.cache_types import CACHE_TYPES
from aimind.launchers import vllm, vllm_cache
from tests.live.served import DATA
from tests.samples import host

pytestmark = pytest.mark.live
# Those whose backends can be imported on a CPU.
BACKENDS = ("triton_attn.TritonAttentionBackend", "turboquant_attn.TurboQuantAttentionBackend")
PACKED = ("turboquant", "per_token_head")
SCRIPT = """
import importlib, json, sys, typing
import torch
from vllm.config.cache import CacheDType
from vllm.utils.torch_utils import STR_DTYPE_TO_TORCH_DTYPE
from vllm.v1.kv_cache_interface import FullAttentionSpec, get_kv_quant_mode
found = {}
for name in typing.get_args(CacheDType):
    spec = FullAttentionSpec(
        block_size=1, num_kv_heads=8, head_size=128, kv_quant_mode=get_kv_quant_mode(name),
        dtype=STR_DTYPE_TO_TORCH_DTYPE.get(name, torch.bfloat16),
    )
    for path in sys.argv[1:]:
        module, _, backend = path.partition(".")
        made = importlib.import_module("vllm.v1.attention.backends." + module)
        spec = getattr(made, backend).customize_spec(spec)
    found[name] = spec.page_size_bytes
print("found: " + json.dumps(found))
"""


def test_a_token_has_as_many_bytes_as_vllm_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIMIND_DATA_DIR", str(DATA))
    backend = ensure("vllm", vllm.source(host()), progress=print)
    done = subprocess.run(
        [backend.executable, "-c", SCRIPT, *BACKENDS],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("found: "))
    found: dict[str, int] = json.loads(line.removeprefix("found: "))
    assert found.keys() == {name for name in vllm_cache.TYPES if not name.startswith("octave")}
    plain = ("auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2", "fp8_inc")
    compared = [name for name in found if name in plain or any(part in name for part in PACKED)]
    assert len(compared) == 14
    ours = {name: 8 * CACHE_TYPES[name].head_bytes(128, 128, 2) for name in compared}
    assert ours == {name: found[name] for name in compared}

"""The limits of a step that real vLLM would choose: its own function, asked about described devices."""

from __future__ import annotations

import dataclasses
import json
import subprocess

import pytest

from aimind.environments.install import ensure
from aimind.launchers import vllm
from aimind.launchers.vllm_defaults import default_batch_sizes
from aimind.types import Backend, Device
from tests.live.served import DATA
from tests.samples import device, host

pytestmark = pytest.mark.live

ASK = """
import json, sys
from types import SimpleNamespace
import vllm.engine.arg_utils as arguments
from vllm.usage.usage_lib import UsageContext

found = []
for total, name, capability, cpu, ranks in json.loads(sys.argv[1]):
    arguments.current_platform = SimpleNamespace(
        get_device_total_memory=lambda total=total: total,
        get_device_name=lambda name=name: name,
        is_device_capability=lambda asked, capability=capability: list(asked) == capability,
        is_tpu=lambda: False,
        is_cpu=lambda cpu=cpu: cpu,
    )
    sizes = arguments.EngineArgs.get_batch_defaults(ranks)
    found.append([each[UsageContext.OPENAI_API_SERVER] for each in sizes])
print("found: " + json.dumps(found))
"""
USED = [
    (24, "NVIDIA GeForce RTX 4090", "8.9"),
    (80, "NVIDIA H100 80GB HBM3", "9.0"),
    (80, "NVIDIA A100-SXM4-80GB", "8.0"),
    (119, "NVIDIA GB10", "12.1"),
    (179, "NVIDIA B200", "10.0"),
]


@pytest.fixture(scope="module")
def backend() -> Backend:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIMIND_DATA_DIR", str(DATA))
        return ensure("vllm", vllm.source(host()), progress=print)


def test_the_table_is_vllm_s_own(backend: Backend) -> None:
    devices = [named(gib, name, capability) for gib, name, capability in USED]
    asked: list[list[object]] = [
        [each.total_bytes, each.name, [int(part) for part in (each.capability or "").split(".")], False, 1]
        for each in devices
    ]
    asked += [[0, "", [], True, ranks] for ranks in (1, 2)]
    done = subprocess.run(
        [backend.executable, "-c", ASK, json.dumps(asked)], capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer = next(line for line in done.stdout.splitlines() if line.startswith("found: "))
    version = backend.version
    ours = [default_batch_sizes((each,), ranks=1, version=version, doubled=False) for each in devices]
    ours += [default_batch_sizes((), ranks=ranks, version=version, doubled=False) for ranks in (1, 2)]
    assert json.loads(answer.removeprefix("found: ")) == [[each.tokens, each.sequences] for each in ours]


def named(gib: float, name: str, capability: str) -> Device:
    return dataclasses.replace(device(free_gib=gib), name=name, capability=capability)

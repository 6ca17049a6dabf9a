"""The parts of `make test-gpu` that need neither a GPU nor a build."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from scripts.gpu import carry, report
from scripts.gpu.__main__ import CASES, CPU_MODELS
from scripts.gpu.measure import Measured, buffers
from scripts.gpu.nvml import Use
from tests.fakes import nvml
from tests.models import NAMES

MIB = 2**20
LOG = """\
load_tensors:   CPU_Mapped model buffer size =   500.79 MiB
load_tensors:        CUDA0 model buffer size =   100.00 MiB
load_tensors:    CUDA_Host model buffer size =     5.00 MiB
llama_context:  CUDA_Host  output buffer size =     0.50 MiB
llama_kv_cache:      CUDA0 KV buffer size =    24.00 MiB
llama_kv_cache:      CUDA0 KV buffer size =     8.00 MiB
llama_memory_recurrent:      CUDA0 RS buffer size =    50.25 MiB
sched_reserve:      CUDA0 compute buffer size =    30.00 MiB
sched_reserve:      CUDA0 compute buffer size =    39.25 MiB
sched_reserve:  CUDA_Host compute buffer size =     7.25 MiB
"""


def measured(*, real_mib: int, told: bool = True) -> Measured:
    """600 MiB are planned, 100 of them as overhead; another process holds 50."""
    logged = {"weights": 300 * MIB, "kv_cache": 100 * MIB, "state": 0, "compute": 100 * MIB}
    use = Use(real_mib * MIB if told else None, (real_mib + 50) * MIB)
    return Measured(
        model="m",
        setting="--context 8k",
        planned={**logged, "overhead": 100 * MIB, "total": 600 * MIB},
        logged=logged,
        before=Use(None, 50 * MIB),
        loaded=use,
        peak=use,
        seconds=1.0,
    )


def test_buffers_are_summed_where_the_layers_are() -> None:
    on_device = {"weights": 100 * MIB, "kv_cache": 32 * MIB, "state": 50.25 * MIB, "compute": 39.25 * MIB}
    assert buffers(LOG, on_device=True) == on_device
    in_ram = {"weights": round(505.79 * MIB), "kv_cache": 0, "state": 0, "compute": 7.75 * MIB}
    assert buffers(LOG, on_device=False) == pytest.approx(in_ram, abs=1)


@pytest.mark.parametrize("told", [True, False])
def test_what_no_buffer_holds_is_the_overhead(told: bool) -> None:
    assert report.overhead_bytes(measured(real_mib=590, told=told)) == 90 * MIB


def test_a_plan_may_be_too_low_by_one_per_cent() -> None:
    assert report.too_low([measured(real_mib=605)]) == []
    assert report.too_low([measured(real_mib=607)]) == ["too low: m --context 8k: -1.15%"]


def test_cases_are_recorded_models() -> None:
    assert {case.model for case in CASES} <= set(NAMES)
    assert set(CPU_MODELS) <= {case.model for case in CASES}


@pytest.mark.skipif(sys.platform != "linux" or nvml.COMPILER is None, reason="needs Linux and a C compiler")
def test_the_driver_is_asked_about_one_process(tmp_path: Path) -> None:
    machine = nvml.write(tmp_path / "machine", nvml.Gpu(name="Fake", compute={42: 300 * MIB, 43: None}))
    environment = nvml.environment(nvml.build(tmp_path), machine)
    program = (
        "from scripts.gpu.nvml import FirstDevice; device = FirstDevice();"
        "print(device.words['name'], device.architecture);"
        "print(*[device.use(pid).process_bytes for pid in (42, 43)])"
    )
    said = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.split() == ["Fake", "89", str(300 * MIB), "None"]


def test_everything_carried_is_pinned_with_its_hash() -> None:
    lines = carry.pins().splitlines()
    assert [line.split("==")[0] for line in lines if "==" in line] == carry.PACKAGES
    assert all("--hash=sha256:" in line for line in lines if line.startswith(" "))


def test_the_sources_are_cut_to_those_of_a_server_and_always_the_same(tmp_path: Path) -> None:
    kept = ["CMakeLists.txt", "ggml/src/ggml-cuda/template-instances/a.cu", "tools/server/server.cpp"]
    dropped = ["ggml/src/ggml-metal/a.m", "docs/a.md", "tools/ui/src/a.ts", "tools/mtmd/test-1.jpeg"]
    made = []
    for index, paths in enumerate(([*kept, *dropped], [*dropped, *reversed(kept)])):
        with tarfile.open(tmp_path / f"{index}.tar.gz", "w:gz") as sdist:
            for path in paths:
                member = tarfile.TarInfo(f"llama_cpp_python-1/vendor/llama.cpp/{path}")
                member.size, member.mtime = 1, index
                sdist.addfile(member, io.BytesIO(b"x"))
        carry.trim(tmp_path / f"{index}.tar.gz", tmp_path / str(index) / "llama.cpp.tar.xz")
        made.append(tmp_path / str(index) / "llama.cpp.tar.xz")
    with tarfile.open(made[0]) as archive:
        assert archive.getnames() == [f"llama.cpp/{path}" for path in kept]
    assert made[0].read_bytes() == made[1].read_bytes()

"""What vLLM compiles at a first start is there at the second, and the plan knows."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from aimind.launchers import vllm_compile
from tests.leftovers import nothing_left
from tests.live.served import plan, serve
from tests.supervisor.harness import LINUX

pytestmark = [pytest.mark.live, LINUX]


def libraries(folder: Path) -> set[Path]:
    """The kernels that were compiled."""
    return set(folder.rglob("*.so"))


def test_the_second_start_compiles_no_kernel(demo_folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"  # vLLM compiles anew for each path
    shutil.copytree(demo_folder, model)
    words = (str(model), "--backend", "vllm", "--device", "none", "--context", "2048")
    first = plan(*words)
    assert first["compile_cache"] == "cold"
    code = Path(first["command"]["env"][vllm_compile.ROOT_VARIABLE], vllm_compile.COMPILE_FOLDER)
    before = libraries(code)
    with nothing_left() as variables, serve(*words, env=variables):
        pass
    compiled = libraries(code)
    assert compiled - before
    assert plan(*words)["compile_cache"] == "warm"
    with nothing_left() as variables, serve(*words, env=variables):
        pass
    assert libraries(code) == compiled

"""What vLLM holds of tiny models of seven families, against the plans that it was started with."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from aimind.estimate import paged
from aimind.launchers.vllm import MEMORY
from tests.live.families import FAMILIES, write
from tests.live.served import plan
from tests.metadata.local import read

pytestmark = pytest.mark.live

Found = dict[str, Any]


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Found]:
    """Of every family, as `aimind plan` has it."""
    folder = tmp_path_factory.mktemp("families")
    return {family: plan(str(write(folder / family, family)), "--backend", "vllm") for family in FAMILIES}


@pytest.fixture(scope="module")
def engines(plans: dict[str, Found], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Found]:
    """What vLLM's engine says of itself, started with the arguments of each plan."""
    python = plans["dense"]["command"]["argv"][0]
    quick = ("--enforce-eager", "--skip-tokenizer-init")
    architectures = [str(name) for config in FAMILIES.values() for name in config["architectures"]]
    commands = [found["command"]["argv"] for found in plans.values()]
    arguments = [[*argv[argv.index("serve") + 1 :], *quick] for argv in commands]
    done = subprocess.run(
        [python, str(Path(__file__).with_name("engines.py")), *architectures],
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        timeout=400,
        env={
            **os.environ,
            **plans["dense"]["command"]["env"],
            "VLLM_CACHE_ROOT": str(tmp_path_factory.mktemp("vllm")),
        },
    )
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [line.partition(": ")[2] for line in done.stdout.splitlines() if line.startswith("engine: ")]
    return dict(zip(plans, map(json.loads, lines), strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_plan_is_what_the_engine_holds(
    family: str, plans: dict[str, Found], engines: dict[str, Found]
) -> None:
    planned, found = plans[family], engines[family]
    assert planned["host"]["weights_bytes"] == found["weights_bytes"]
    assert planned["max_model_len"] == found["max_model_len"]
    assert planned.get("kv_cache_tokens") == found["tokens"]
    if family == "encoder":
        assert found["cache_bytes"] == 0
        return
    model = next(Path(path) for path in planned["command"]["argv"] if path.endswith(f"/{family}"))
    layout = paged.layout(
        read(model),
        ranks=(1, 1),
        cache_dtype="auto",
        dtype=None,
        block_size=paged.ram_block_size(read(model), MEMORY.cpu_block_size),
    )
    assert layout.block_size == found["block_size"]
    assert planned["host"]["kv_cache_bytes"] == found["blocks"] * layout.block_bytes == found["cache_bytes"]

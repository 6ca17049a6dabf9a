"""Plans for vLLM beside what it took on a GPU: `python benchmarks/gpu_vllm.py`, or as part of estimates.py.

Each record of tests/data/gpu_h200.json is planned anew from the model's config.json, for the recorded host,
with the version and the arguments of the run. Nothing of what was measured goes into a plan.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aimind import metadata, plan
from aimind.devices import hardware
from aimind.estimate import paged
from aimind.launchers import LAUNCHERS, vllm
from aimind.launchers.vllm_memory import VllmMemory
from aimind.types import (
    Backend,
    BatchSizes,
    File,
    Metadata,
    Model,
    Plan,
    RankedRun,
    Reference,
    Request,
)

DATA = Path(__file__).parent.parent / "tests" / "data"
HOST = DATA / "hosts" / "H200.json"
MIB = 1 << 20
Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One component of one record: bytes, or tokens."""

    record: str
    component: str
    planned: int
    real: int

    @property
    def error(self) -> float:
        """Relative; positive where the plan is too high."""
        return self.planned / self.real - 1


def records() -> list[Record]:
    """All runs of vLLM, also those that were stopped or never measured."""
    found: list[Record] = json.loads((DATA / "gpu_h200.json").read_text())["vllm"]
    return found


def described(record: Record) -> Metadata:
    """The model of a record."""
    configs = json.loads((DATA / "models" / "gpu_h200.json").read_text())
    return metadata.from_config(json.dumps(configs[record["model"]]).encode(), "config.json")


def planned(record: Record) -> Plan:
    """The plan for a run of the record's version, with the arguments that it was given."""
    argv = record["argv"]
    version = json.loads((DATA / "gpu_h200.json").read_text())["machine"]["vllm"].partition(",")[0]
    backend = Backend(name="vllm", version=version, executable="/vllm/bin/python")
    host = dataclasses.replace(hardware.parse(str(HOST)), backends=(backend,))
    request = Request(
        backend="vllm",
        backend_version=version,
        max_num_seqs=int(_value(argv, "--max-num-seqs")),
        max_num_batched_tokens=int(_value(argv, "--max-num-batched-tokens")),
        gpu_memory_utilization=float(_value(argv, "--gpu-memory-utilization")),
    )
    file = File("model.safetensors", 1)
    model = Model(reference=Reference(source="local", name=record["model"]), files=(file,), root="/models")
    return plan.make(model, described(record), host, request, LAUNCHERS)


def _value(argv: list[str], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def comparisons(record: Record) -> Iterator[Comparison]:
    """Every component that the run got to."""
    name, real = record["model"], record["real"]
    decided = planned(record)
    estimate = decided.shards[0].estimate
    pairs = {
        "weights": (estimate.weights_bytes, real.get("weights")),
        "activation peak": (estimate.compute_bytes, real.get("activation_peak")),
        "context and libraries": (
            _context_and_libraries(decided),
            _sum(real, "context_before_first_snapshot", "non_torch_increase"),
        ),
        "graphs": (estimate.graphs_bytes, real.get("graphs_actual")),
        "KV cache": (estimate.kv_cache_bytes, real.get("available_kv")),
        "KV tokens": (decided.kv_cache_tokens or 0, real.get("kv_tokens")),
        "device total": (estimate.total_bytes, real.get("peak_device")),
    }
    for component, (estimated, measured) in pairs.items():
        if measured is not None:
            yield Comparison(name, component, estimated, measured)


def _context_and_libraries(decided: Plan) -> int:
    """Of the overhead what the log tells: the rest it does not name."""
    rule = vllm.MEMORY.rule
    if not isinstance(rule, VllmMemory):
        raise TypeError(rule)
    settings, device = decided.settings, decided.shards[0].device
    run = RankedRun(
        metadata=decided.metadata,
        version=decided.backend.version,
        device=device,
        free_bytes=device.free_bytes,
        tensor_parallel_size=settings.tensor_parallel_size or 1,
        pipeline_parallel_size=settings.pipeline_parallel_size or 1,
        batch=BatchSizes(settings.max_num_batched_tokens or 0, settings.max_num_seqs or 0),
        weights_bytes=paged.weights_bytes(decided.metadata, tensor_parallel=1, pipeline_parallel=1),
    )
    return rule.outside_before_snapshot(run) + rule.libraries(run)


def _sum(real: Mapping[str, int], *names: str) -> int | None:
    if any(name not in real for name in names):
        return None
    return sum(real[name] for name in names)


def print_table() -> None:
    """A line for each component of each record; MiB, and tokens as they are."""
    print("| record | component | planned | real | error |")
    print("|---|---|---|---|---|")
    for record in records():
        found = list(comparisons(record)) if record["real"] else []
        if not found:
            print(f"| {record['model']} | nothing was measured | | | |")
        for each in found:
            shown = [f"{size:,}" for size in (each.planned, each.real)]
            if each.component != "KV tokens":
                shown = [f"{size / MIB:,.1f}" for size in (each.planned, each.real)]
            print(f"| {each.record} | {each.component} | {shown[0]} | {shown[1]} | {each.error:+.2%} |")


if __name__ == "__main__":
    print_table()
    sys.exit(0)

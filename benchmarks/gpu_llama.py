"""Plans for llama.cpp beside what it took on a GPU: `python -m benchmarks.gpu_llama`; also in estimates.py.

Each record of tests/data/gpu_h200.json is planned anew from the model's header, for the recorded host, with
the options of the run. Nothing of what was measured goes into a plan.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aimind import metadata, plan
from aimind.devices import hardware
from aimind.launchers import LAUNCHERS
from aimind.parameters import parse_tokens
from aimind.types import Backend, File, Measurement, Model, Plan, Reference, Request
from tests import models

DATA = Path(__file__).parent.parent / "tests" / "data"
HOST = DATA / "hosts" / "H200.json"
MIB = 1 << 20
Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Bytes of one component of one record."""

    record: str
    component: str
    planned: int
    real: int

    @property
    def excess_bytes(self) -> int:
        """Negative where the plan is too low."""
        return self.planned - self.real


def records() -> list[Record]:
    """All servers of llama.cpp that were measured."""
    found: list[Record] = json.loads((DATA / "gpu_h200.json").read_text())["llama_cpp"]
    return found


def label(record: Record) -> str:
    """The model and its options."""
    return f"{record['model']} {record['setting']}".strip()


def planned(record: Record, measured: tuple[Measurement, ...] = ()) -> Plan:
    """The plan for the record's model with the record's options, after these earlier runs."""
    backend = Backend(name="llama-server", version="11669", executable="/usr/bin/llama-server")
    host = dataclasses.replace(hardware.parse(str(HOST)), backends=(backend,), measurements=measured)
    request = dataclasses.replace(_request(record["setting"]), backend=backend.name)
    with tempfile.TemporaryDirectory() as folder:
        path = models.header(record["model"], Path(folder))
        file = File(path.name, path.stat().st_size)
        model = Model(reference=Reference(source="local", name=str(path)), files=(file,), root=folder)
        described = metadata.read(model, lambda _: _Header(path))
        return plan.make(model, described, host, request, LAUNCHERS)


def comparisons(record: Record) -> Iterator[Comparison]:
    """Every component that llama.cpp logs, what it held beside these, and the driver's figure for all."""
    name, logged = label(record), record["logged"]
    (shard,) = planned(record).shards
    estimate = shard.estimate
    pairs = {
        "weights": (estimate.weights_bytes, logged["weights"]),
        "KV cache": (estimate.kv_cache_bytes, logged["kv_cache"]),
        "state": (estimate.state_bytes, logged["state"]),
        "compute": (estimate.compute_bytes, logged["compute"]),
        "overhead": (estimate.overhead_bytes, record["peak_process"] - sum(logged.values())),
        "process total": (estimate.total_bytes, record["peak_process"]),
    }
    for component, (estimated, real) in pairs.items():
        yield Comparison(name, component, estimated, real)


def print_table() -> None:
    """A line for each component of each record, in MiB."""
    print("| record | component | planned | real | difference |")
    print("|---|---|---|---|---|")
    for record in records():
        for each in comparisons(record):
            if each.planned or each.real:
                sizes = (
                    f"{each.planned / MIB:,.1f} | {each.real / MIB:,.1f} | {each.excess_bytes / MIB:+,.1f}"
                )
                print(f"| {each.record} | {each.component} | {sizes} |")


def _request(setting: str) -> Request:
    """The options of a record, as they were typed.

    Raises:
        ValueError: one that is not known here, so that no record is planned with less than it was given.
    """
    match setting.split():
        case []:
            return Request()
        case ["--context", context]:
            return Request(max_model_len=parse_tokens(context))
    raise ValueError(f"the options of a record are not known: {setting!r}")


class _Header:
    """A recorded header as `metadata.read` wants a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size_bytes = path.stat().st_size

    def read(self, offset: int, length: int) -> bytes:
        with self._path.open("rb") as file:
            file.seek(offset)
            return file.read(length)


if __name__ == "__main__":
    print_table()
    sys.exit(0)

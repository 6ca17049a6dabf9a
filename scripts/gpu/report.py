"""What came of the measurements: a table for a person, the same as JSON, and whether a plan was too low."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.gpu.measure import Measured

# A plan may be lower than what is taken by this share of it.
TOLERANCE = 0.01
COMPONENTS = ("weights", "kv_cache", "state", "compute")
HEAD = f"{'MiB, planned / logged':42}" + "".join(f"{name:>20}" for name in COMPONENTS)
DEVICE_HEAD = "".join(
    f"{name:>10}" for name in ("overhead:", "planned", "loaded", "peak", "TOTAL:", "plan", "real")
)


def line(found: Measured) -> str:
    """One row of the table."""
    pairs = (f"{mib(found.planned[name])} / {mib(found.logged[name])}" for name in COMPONENTS)
    return (
        f"{f'{found.model} {found.setting}':42}" + "".join(f"{pair:>20}" for pair in pairs) + _device(found)
    )


def _device(found: Measured) -> str:
    if found.peak is None or found.loaded is None:
        return ""
    figures = (
        "",
        mib(found.planned["overhead"]),
        mib(overhead_bytes(found, loaded=True)),
        mib(overhead_bytes(found)),
        "",
        mib(found.planned["total"]),
        mib(found.taken_bytes(found.peak)),
    )
    return "".join(f"{figure:>10}" for figure in figures) + f"  {error(found):+.2%}"


def mib(count: int) -> str:
    """In the unit of llama.cpp's log."""
    return f"{count / 2**20:.2f}"


def overhead_bytes(found: Measured, *, loaded: bool = False) -> int:
    """What the server takes of the device beside the buffers that it logs."""
    use = found.loaded if loaded else found.peak
    assert use is not None
    return found.taken_bytes(use) - sum(found.logged.values())


def error(found: Measured) -> float:
    """Of the plan's total; negative where it is too low."""
    assert found.peak is not None
    return found.planned["total"] / found.taken_bytes(found.peak) - 1


def summary(measured: Sequence[Measured]) -> list[str]:
    """Where the components differ from the log, and the spread of what no buffer holds."""
    said = []
    for name in COMPONENTS:
        # The log rounds each buffer to a hundredth of a MiB.
        off = [
            m.planned[name] - m.logged[name]
            for m in measured
            if abs(m.planned[name] - m.logged[name]) > 2**20 // 50
        ]
        worst = max(off, key=abs, default=0)
        said.append(
            f"{name}: {len(measured) - len(off)} of {len(measured)} as logged, worst {mib(worst)} MiB"
        )
    for when, loaded in (("loaded", True), ("peak", False)):
        overheads = [overhead_bytes(m, loaded=loaded) for m in measured if m.peak is not None]
        if overheads:
            spread = (min(overheads), statistics.median(overheads), max(overheads))
            said.append(
                f"overhead, {when}: "
                + ", ".join(
                    f"{name} {mib(int(value))} MiB"
                    for name, value in zip(("least", "median", "most"), spread, strict=True)
                )
            )
    return said


def too_low(measured: Sequence[Measured]) -> list[str]:
    """The cases in which more was taken than planned."""
    return [
        f"too low: {m.model} {m.setting}: {error(m):+.2%}"
        for m in measured
        if m.peak is not None and error(m) < -TOLERANCE
    ]


def write(path: Path, machine: Mapping[str, str], measured: Sequence[Measured], **others: object) -> None:
    """All of it as JSON, in bytes."""
    document = {"machine": machine, **others, "cases": [dataclasses.asdict(m) for m in measured]}
    path.write_text(json.dumps(document, indent=2) + "\n")

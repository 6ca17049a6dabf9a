#!/usr/bin/env python3
"""Ascend's `npu-smi`: a real executable that prints what the real one does, for a described machine.

    npu-smi info        a table of two rows a chip, and the processes
    npu-smi info -m     card, chip, chip logic ID, name
    npu-smi info -l     the cards
    npu-smi info -t usages|memory -i CARD [-c CHIP]

The machine is the JSON file that FAKE_NPU_SMI names: its `chips`, or `fail`, what it says instead of an
answer. The tables have the columns of the chips' generation.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

VERSION = "24.1.rc2"


@dataclass(frozen=True)
class Chip:
    """One chip; memory in MB as npu-smi has it. `logic` is `None` for a controller that computes nothing."""

    card: int
    logic: int | None
    chip: int = 0
    name: str = "910B3"
    health: str = "OK"
    used: int = 3379
    total: int = 65536
    bus: str = "0000:C1:00.0"
    processes: dict[int, tuple[str, int]] = field(default_factory=dict)


def write(path: Path, *chips: Chip, fail: str | None = None) -> Path:
    """Describe a machine."""
    path.write_text(json.dumps({"chips": [asdict(chip) for chip in chips], "fail": fail}))
    return path


def cards(count: int, **fields: object) -> list[Chip]:
    """A server of so many cards, each with the controller that `info -m` lists beside its chip."""
    made = []
    for number in range(count):
        made.append(Chip(card=number, logic=number, **fields))  # type: ignore[arg-type]
        made.append(Chip(card=number, logic=None, chip=1, name="Mcu"))
    return made


def installed(folder: Path) -> Path:
    """A folder for PATH in which this program is `npu-smi`."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "npu-smi"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).resolve()}" "$@"\n')
    program.chmod(0o755)
    return folder


def table(chips: list[Chip]) -> str:
    """What `npu-smi info` prints."""
    wide = any(chip.name.startswith("310P") for chip in chips)
    two_dies = any(chip.name == "Ascend910" for chip in chips)
    first, second, third = (31, 17, 54) if wide else (27, 15, 52)
    rule = f"+{'-' * first}+{'-' * second}+{'-' * third}+"
    line = rule.replace("-", "=")
    width = len(rule) - 2
    seat = "Chip    Device" if wide else "Chip  Phy-ID" if two_dies else "Chip"
    sizes = "Memory-Usage(MB)" if wide else "Memory-Usage(MB)  HBM-Usage(MB)"

    def row(*cells: str) -> str:
        spaces = (first, second, third)
        return "|" + "|".join(f" {c:<{n - 1}}" for c, n in zip(cells, spaces, strict=True)) + "|"

    rows = [
        f"+{'-' * width}+",
        f"|{f' npu-smi {VERSION}                   Version: {VERSION}':<{width}}|",
        rule,
        row("NPU   Name", "Health", "Power(W)    Temp(C)           Hugepages-Usage(page)"),
        row(seat, "Bus-Id", f"AICore(%)   {sizes}"),
        line,
    ]
    for chip in chips:
        memory = f"{chip.used:<5}/ {chip.total}"
        place = f"{chip.chip}     {chip.logic}" if wide or two_dies else f"{chip.chip}"
        rows += [
            row(f"{chip.card:<5} {chip.name}", chip.health, "101.8       43                0    / 0"),
            row(
                place,
                chip.bus,
                f"0           {memory}" if wide else f"0           0    / 0          {memory}",
            ),
            line,
        ]
    titles = " NPU     Chip              | Process id    | Process name             | Process memory(MB)"
    rows += [rule, f"|{titles:<{width}}|", line]
    for chip in chips:
        for pid, (name, used) in chip.processes.items():
            cells = f" {chip.card:<7} {chip.chip:<17} | {pid:<13} | {name:<24} | {used:<23}"
            rows.append(f"|{cells}|")
        if not chip.processes:
            rows.append(f"|{f' No running processes found in NPU {chip.card}':<{width}}|")
        rows.append(line)
    return "\n".join(rows)


def mapping(chips: list[Chip]) -> str:
    """What `npu-smi info -m` prints."""
    rows = ["\t" + "".join(f"{title:<31}" for title in ("NPU ID", "Chip ID", "Chip Logic ID", "Chip Name"))]
    for chip in chips:
        name = chip.name if chip.logic is None or chip.name.startswith("Ascend") else f"Ascend {chip.name}"
        logic = "-" if chip.logic is None else chip.logic
        rows.append("\t" + "".join(f"{cell:<31}" for cell in (chip.card, chip.chip, logic, name)))
    return "\n".join(rows)


def listing(chips: list[Chip]) -> str:
    """What `npu-smi info -l` prints."""
    numbers = list(dict.fromkeys(chip.card for chip in chips))
    rows = [f"\tTotal Count                    : {len(numbers)}"]
    for number in numbers:
        count = sum(chip.card == number for chip in chips)
        rows += [
            "",
            f"\tNPU ID                         : {number}",
            f"\tChip Count                     : {count}",
        ]
    return "\n".join(rows)


def facts(kind: str, chips: list[Chip]) -> str:
    """What `npu-smi info -t KIND -i CARD` prints."""
    rows = [f"\tNPU ID                         : {chips[0].card}"]
    for chip in chips:
        ddr = chip.name.startswith("310P")
        rows.append(f"\tDDR Capacity(MB)               : {chip.total if ddr else 0}")
        rows.append(f"\tHBM Capacity(MB)               : {0 if ddr else chip.total}")
        if kind == "usages":
            rows.append(f"\tHBM Usage Rate(%)              : {100 * chip.used // chip.total}")
        rows.append(f"\tChip ID                        : {chip.chip}")
    return "\n".join(rows)


def main(arguments: list[str]) -> int:
    machine = json.loads(Path(os.environ["FAKE_NPU_SMI"]).read_text())
    if machine["fail"]:
        print(machine["fail"])
        return 1
    everything = [Chip(**chip) for chip in machine["chips"]]
    computing = [chip for chip in everything if chip.logic is not None]
    match arguments:
        case ["info"]:
            print(table(computing))
        case ["info", "-m"]:
            print(mapping(everything))
        case ["info", "-l"]:
            print(listing(everything))
        case ["info", "-t", ("usages" | "memory") as kind, "-i", card, *_]:
            print(facts(kind, [chip for chip in computing if chip.card == int(card)]))
        case _:
            print("Error parameter of cmd")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

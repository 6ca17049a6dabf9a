"""An NVIDIA driver library of our own: `build` compiles it, `environment` makes a process load it.

The library answers for the machine in a text file (its words: nvml.c), so that any program can be run on any
machine:

    library = nvml.build(tmp_path)
    machine = nvml.write(tmp_path / "machine", nvml.Gpu(), nvml.Gpu(free_gib=3))
    subprocess.run(command, env={**os.environ, **nvml.environment(library, machine)})
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

COMPILER = shutil.which("cc")
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Mig:
    """A MIG instance."""

    uuid: str
    total_gib: float = 9.75


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU: by default an idle RTX 4090, whose driver keeps 346 MiB.

    `compute` and `graphics`: bytes (`None`: not told) by process id. `errors`: NVML's codes by function.
    `migs`: MIG mode is on, with these instances.
    """

    uuid: str = ""
    name: str = "NVIDIA GeForce RTX 4090"
    total_bytes: int = 24564 * 2**20
    reserved_bytes: int = 346 * 2**20
    free_bytes: int = 24218 * 2**20
    capability: tuple[int, int] = (8, 9)
    compute: Mapping[int, int | None] = field(default_factory=dict)
    graphics: Mapping[int, int | None] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    migs: tuple[Mig, ...] | None = None


def uuid(index: int) -> str:
    """The UUID of a GPU that was given none."""
    return f"GPU-{index}a7b2f58-0000-4000-8000-00000000000{index}"


def build(folder: Path) -> Path:
    """Compile the library into the folder, which is what `LD_LIBRARY_PATH` must name."""
    assert COMPILER, "the fake NVML needs a C compiler"
    options = ("-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror")
    source = Path(__file__).with_name("nvml.c")
    subprocess.run([COMPILER, *options, "-o", folder / "libnvidia-ml.so.1", source], check=True)
    return folder


def write(path: Path, *gpus: Gpu, driver: str = "560.35.03", errors: Mapping[str, int] | None = None) -> Path:
    """Describe a machine; `errors` are the driver's own."""
    lines = [f"driver {driver}", *_errors(errors or {})]
    for index, gpu in enumerate(gpus):
        lines += ["device", f"name {gpu.name}", f"uuid {gpu.uuid or uuid(index)}", *_errors(gpu.errors)]
        lines += [f"total {gpu.total_bytes}", f"reserved {gpu.reserved_bytes}", f"free {gpu.free_bytes}"]
        lines += [f"capability {gpu.capability[0]} {gpu.capability[1]}"]
        lines += [f"compute {pid} {_told(used)}" for pid, used in gpu.compute.items()]
        lines += [f"graphics {pid} {_told(used)}" for pid, used in gpu.graphics.items()]
        lines += ["mig_mode 1"] if gpu.migs is not None else []
        for mig in gpu.migs or ():
            memory = int(mig.total_gib * GIB)
            lines += ["mig", f"name {gpu.name} MIG", f"uuid {mig.uuid}", f"total {memory}", f"free {memory}"]
    # Whole or not at all: a program may be reading it.
    unfinished = path.with_suffix(".part")
    unfinished.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return unfinished.replace(path)


def environment(library: Path, machine: Path) -> dict[str, str]:
    """The variables that make a process see the machine."""
    paths = [str(library), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return {"LD_LIBRARY_PATH": os.pathsep.join(paths), "FAKE_NVML": str(machine)}


def _errors(errors: Mapping[str, int]) -> list[str]:
    return [f"error {function} {code}" for function, code in errors.items()]


def _told(used: int | None) -> str:
    return "-" if used is None else str(used)

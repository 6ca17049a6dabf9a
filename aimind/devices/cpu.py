"""Processors and memory of this machine, within what its control groups allow.

On Linux the files are read here: importing psutil costs 35 ms and knows nothing of control groups.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aimind.devices import cgroup
from aimind.errors import DeviceError, UnsupportedError

_SYSTEMS: dict[str, Literal["linux", "macos", "windows"]] = {
    "linux": "linux",
    "darwin": "macos",
    "win32": "windows",
}
_ARCHITECTURES: dict[str, Literal["x86_64", "arm64"]] = {
    "x86_64": "x86_64",
    "amd64": "x86_64",
    "arm64": "arm64",
    "aarch64": "arm64",
}

# Instruction sets that decide what backends can compute, by their names in Linux's /proc/cpuinfo: what
# PyTorch's dispatch and vLLM's build for the CPU (0.32) ask for.
FEATURES: dict[Literal["x86_64", "arm64"], frozenset[str]] = {
    "x86_64": frozenset(
        "avx2 fma f16c avx_vnni avx512f avx512bw avx512cd avx512dq avx512vl avx512_vnni avx512_bf16 "
        "avx512_fp16 amx_tile amx_bf16 amx_int8 amx_fp16".split()
    ),
    "arm64": frozenset("asimd asimdhp asimddp bf16 i8mm sve sve2".split()),
}
_AVX2 = frozenset("avx2 fma f16c".split())
_AVX512 = _AVX2 | frozenset("avx512f avx512bw avx512cd avx512dq avx512vl avx512_vnni".split())
# What a described machine can have: the processors of most desktops; servers since 2019 (Cascade Lake) or
# 2022 (EPYC 9004); Intel's servers since 2023 (Sapphire Rapids).
LEVELS = {
    "avx2": _AVX2,
    "avx512": _AVX512,
    "amx": _AVX512 | frozenset("avx512_bf16 avx512_fp16 amx_tile amx_bf16 amx_int8".split()),
}
USUAL_LEVEL = "avx512"


@dataclass(frozen=True, slots=True)
class Memory:
    """RAM that this process may use, and how much of it is free."""

    total_bytes: int
    free_bytes: int


def memory(root: Path = Path("/")) -> Memory:
    """RAM within the tightest control group; swap is not counted.

    Raises:
        DeviceError: the kernel does not say.
    """
    if sys.platform != "linux":
        import psutil  # slow, and Linux does without

        machine = psutil.virtual_memory()
        return Memory(machine.total, machine.available)
    rooms = [_machine(root / "proc/meminfo"), *cgroup.memory_rooms(root)]
    return Memory(min(total for total, _ in rooms), min(free for _, free in rooms))


def cores(root: Path = Path("/")) -> int:
    """Processors that this process may run on, at least 1: affinity, and whole ones of a quota.

    A quota is rounded down: with more threads than it pays for, all of them are stopped together.
    """
    if sys.platform != "linux":
        return os.cpu_count() or 1
    return max(1, int(min([len(os.sched_getaffinity(0)), *cgroup.cpu_quotas(root)])))


def features(root: Path = Path("/")) -> frozenset[str]:
    """The instruction sets of the processor that are in `FEATURES`; none where the system does not list them.

    Only Linux has /proc/cpuinfo: `flags` on x86-64, `Features` on ARM. A virtual machine may hide some.
    """
    known = FEATURES["x86_64"] | FEATURES["arm64"]
    with suppress(OSError), (root / "proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
        for line in file:
            name, _, words = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return known & set(words.split())
    return frozenset()


def operating_system() -> Literal["linux", "macos", "windows"]:
    """This machine's, in aimind's words."""
    if sys.platform not in _SYSTEMS:
        raise UnsupportedError(f"aimind does not run on {sys.platform}.", hint="Use Linux or macOS.")
    return _SYSTEMS[sys.platform]


def architecture() -> Literal["x86_64", "arm64"]:
    """This machine's, in aimind's words."""
    machine = os.environ.get("PROCESSOR_ARCHITECTURE", "") if os.name == "nt" else os.uname().machine
    if machine.lower() not in _ARCHITECTURES:
        raise UnsupportedError(
            f"aimind does not run on {machine or 'this'} processors.", hint="Use x86-64 or ARM, 64 bits."
        )
    return _ARCHITECTURES[machine.lower()]


def _machine(meminfo: Path) -> tuple[int, int]:
    """MemTotal and MemAvailable, in bytes: what could be allocated without swapping (proc_meminfo(5))."""
    try:
        fields = dict(line.split(":", 1) for line in meminfo.read_text(encoding="utf-8").splitlines())
        return _kibibytes(fields["MemTotal"]), _kibibytes(fields["MemAvailable"])
    except (OSError, KeyError, ValueError) as error:
        raise DeviceError(
            f"{meminfo} does not report the memory ({error!r}).",
            hint="aimind needs /proc to be mounted, with MemTotal and MemAvailable.",
        ) from error


def _kibibytes(text: str) -> int:
    return int(text.removesuffix("kB")) * 1024

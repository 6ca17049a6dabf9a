"""Memory and processors, read from files laid out as the kernel lays them out."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from aimind.devices import cpu
from aimind.errors import DeviceError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and control groups")

GIB = 2**30
V2 = "30 23 0:26 {inside} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 23 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n"
    "32 31 0:28 {inside} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "33 31 0:29 {inside} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
)


def kernel(
    root: Path,
    *,
    cgroup: str = "",
    mounts: str = "",
    inside: str = "/",
    files: Mapping[str, str] | None = None,
) -> Path:
    """A machine of 64 GiB, 48 of them available, and its control groups below sys/fs/cgroup."""
    texts = {
        "proc/meminfo": f"MemTotal: {64 * 2**20} kB\nMemFree: 1024 kB\nMemAvailable: {48 * 2**20} kB\n",
        "proc/self/cgroup": cgroup,
        "proc/self/mountinfo": mounts.format(inside=inside),
        **{f"sys/fs/cgroup/{path}": text for path, text in (files or {}).items()},
    }
    for path, text in texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="ascii")
    return root


def limit_v2(folder: str, *, limit: str, used: int, cache: int = 0, high: str = "max") -> dict[str, str]:
    return {
        f"{folder}memory.max": f"{limit}\n",
        f"{folder}memory.high": f"{high}\n",
        f"{folder}memory.current": f"{used}\n",
        f"{folder}memory.stat": f"anon 1\nfile {cache}\ninactive_file {cache}\nactive_file 0\n",
    }


def limit_v1(folder: str, *, limit: int, used: int, cache: int = 0) -> dict[str, str]:
    return {
        f"{folder}memory.limit_in_bytes": f"{limit}\n",
        f"{folder}memory.usage_in_bytes": f"{used}\n",
        f"{folder}memory.stat": f"cache 7\ninactive_file 7\ntotal_inactive_file {cache}\n",
    }


def gib(memory: cpu.Memory) -> tuple[float, float]:
    return memory.total_bytes / GIB, memory.free_bytes / GIB


def test_without_control_groups_the_machine_counts(tmp_path: Path) -> None:
    assert gib(cpu.memory(kernel(tmp_path))) == (64, 48)


def test_version_2_limit_with_reclaimable_cache(tmp_path: Path) -> None:
    files = limit_v2("app/", limit=str(8 * GIB), used=5 * GIB, cache=2 * GIB)
    root = kernel(tmp_path, cgroup="0::/app\n", mounts=V2, files=files)
    assert gib(cpu.memory(root)) == (8, 5)


def test_version_2_without_a_limit(tmp_path: Path) -> None:
    files = limit_v2("app/", limit="max", used=5 * GIB)
    root = kernel(tmp_path, cgroup="0::/app\n", mounts=V2, files=files)
    assert gib(cpu.memory(root)) == (64, 48)


def test_a_limit_of_an_ancestor_holds_too(tmp_path: Path) -> None:
    files = limit_v2("slice/", limit=str(6 * GIB), used=4 * GIB)
    files |= limit_v2("slice/app/", limit=str(8 * GIB), used=GIB)
    root = kernel(tmp_path, cgroup="0::/slice/app\n", mounts=V2, files=files)
    assert gib(cpu.memory(root)) == (6, 2)


def test_memory_high_is_a_limit(tmp_path: Path) -> None:
    files = limit_v2("app/", limit=str(8 * GIB), used=GIB, high=str(4 * GIB))
    root = kernel(tmp_path, cgroup="0::/app\n", mounts=V2, files=files)
    assert gib(cpu.memory(root)) == (4, 3)


def test_a_container_with_its_own_namespace_sees_its_limit_at_the_mount(tmp_path: Path) -> None:
    root = kernel(tmp_path, cgroup="0::/\n", mounts=V2, files=limit_v2("", limit=str(8 * GIB), used=0))
    assert gib(cpu.memory(root)) == (8, 8)


@pytest.mark.parametrize("inside", ["/docker/1234", "/../../docker/1234"])
def test_a_container_whose_path_is_told_from_the_host(tmp_path: Path, inside: str) -> None:
    files = limit_v1("memory/", limit=8 * GIB, used=3 * GIB, cache=GIB)
    root = kernel(tmp_path, cgroup="4:memory:/docker/1234\n", mounts=V1, inside=inside, files=files)
    assert gib(cpu.memory(root)) == (8, 6)


def test_a_path_outside_the_namespace_never_leaves_the_mount(tmp_path: Path) -> None:
    files = {**limit_v2("", limit=str(8 * GIB), used=0), "../outside/memory.max": "1\n"}
    root = kernel(tmp_path, cgroup="0::/../outside\n", mounts=V2, files=files)
    assert gib(cpu.memory(root)) == (8, 8)


def test_version_1_limits_of_the_whole_path(tmp_path: Path) -> None:
    files = limit_v1("memory/", limit=9223372036854771712, used=20 * GIB)
    files |= limit_v1("memory/job/", limit=16 * GIB, used=10 * GIB, cache=2 * GIB)
    root = kernel(tmp_path, cgroup="5:cpu,cpuacct:/\n4:memory:/job\n0::/\n", mounts=V1, files=files)
    assert gib(cpu.memory(root)) == (16, 8)


def test_both_versions_side_by_side(tmp_path: Path) -> None:
    mounts = V1 + "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
    files = limit_v1("memory/job/", limit=16 * GIB, used=0)
    root = kernel(tmp_path, cgroup="4:memory:/job\n0::/\n", mounts=mounts, files=files)
    assert gib(cpu.memory(root)) == (16, 16)


def test_usage_above_the_limit_leaves_nothing(tmp_path: Path) -> None:
    files = limit_v2("app/", limit=str(GIB), used=2 * GIB)
    root = kernel(tmp_path, cgroup="0::/app\n", mounts=V2, files=files)
    assert gib(cpu.memory(root)) == (1, 0)


def test_a_limit_of_unknown_usage_is_an_error(tmp_path: Path) -> None:
    root = kernel(tmp_path, cgroup="0::/app\n", mounts=V2, files={"app/memory.max": f"{GIB}\n"})
    with pytest.raises(DeviceError, match="not how much of it is used"):
        cpu.memory(root)


def test_a_limit_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    root = kernel(tmp_path, cgroup="0::/app\n", mounts=V2, files={"app/memory.max": "plenty\n"})
    with pytest.raises(DeviceError, match="should hold a number, not 'plenty'"):
        cpu.memory(root)


@pytest.mark.parametrize("text", ["", "MemTotal: 5 kB\n", "MemTotal: many kB\nMemAvailable: 5 kB\n", "?"])
def test_memory_that_cannot_be_read_is_an_error(tmp_path: Path, text: str) -> None:
    kernel(tmp_path)
    (tmp_path / "proc/meminfo").write_text(text, encoding="ascii")
    with pytest.raises(DeviceError, match="does not report the memory"):
        cpu.memory(tmp_path)


def test_no_proc_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="does not report the memory"):
        cpu.memory(tmp_path)


def test_this_machine() -> None:
    memory = cpu.memory()
    assert (
        0
        < memory.free_bytes
        <= memory.total_bytes
        <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    )
    assert 1 <= cpu.cores() <= len(os.sched_getaffinity(0))
    assert cpu.operating_system() == "linux"
    assert cpu.architecture() in ("x86_64", "arm64")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f amx_tile amx_int8\n", {"avx512f", "amx_tile", "amx_int8"}),
        ("processor\t: 0\nflags\t\t: fpu avx2\nbugs\t\t: amx_tile\n\nflags\t\t: avx512f\n", {"avx2"}),
        ("processor\t: 0\nvmx flags\t: avx2\nFeatures\t: fp asimd sve i8mm\n", {"asimd", "sve", "i8mm"}),
        ("processor\t: 0\n", set()),
        (None, set()),
    ],
)
def test_instruction_sets(tmp_path: Path, text: str | None, expected: set[str]) -> None:
    if text is not None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/cpuinfo").write_text(text)
    assert cpu.features(tmp_path) == expected


def test_levels_are_of_known_instruction_sets() -> None:
    """Each has more than the one before; in the order of the table."""
    levels = list(cpu.LEVELS.values())
    assert all(less < more for less, more in itertools.pairwise(levels))
    assert levels[-1] <= cpu.FEATURES["x86_64"]


AVAILABLE = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", AVAILABLE),
        ("50000 100000", 1),
        ("190000 100000", 1),
        ("100000000 100000", AVAILABLE),
    ],
)
def test_version_2_quota_in_whole_processors(tmp_path: Path, quota: str, expected: int) -> None:
    root = kernel(tmp_path, cgroup="0::/app\n", mounts=V2, files={"app/cpu.max": f"{quota}\n"})
    assert cpu.cores(root) == expected


@pytest.mark.parametrize(("quota", "expected"), [(-1, AVAILABLE), (100000, 1), (10**8, AVAILABLE)])
def test_version_1_quota(tmp_path: Path, quota: int, expected: int) -> None:
    files = {
        "cpu,cpuacct/job/cpu.cfs_quota_us": f"{quota}\n",
        "cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
    }
    root = kernel(tmp_path, cgroup="5:cpu,cpuacct:/job\n", mounts=V1, files=files)
    assert cpu.cores(root) == expected

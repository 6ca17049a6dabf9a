"""Control groups: how much of a Linux machine this process may use.

Both versions can be mounted side by side, and a limit holds for everything below it, so every hierarchy is
walked from this process's own folder up to where it is mounted. Formats: cgroups(7), proc_pid_mountinfo(5),
and the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from aimind.errors import DeviceError


def memory_rooms(root: Path) -> Iterator[tuple[int, int]]:
    """The limit of each control group around this process and what is free below it, both in bytes.

    Free is the limit − (usage − inactive file cache): the kernel drops that cache before it refuses memory.
    """
    for folder in _folders(root, ""):
        # Above `memory.high` the kernel only slows a process down, but to a crawl: no memory to plan with.
        limits = [_number(folder / "memory.max"), _number(folder / "memory.high")]
        known = [limit for limit in limits if limit is not None]
        if known:
            yield min(known), _free(folder, min(known), names=("memory.current", "inactive_file"))
    for folder in _folders(root, "memory"):
        limit = _number(folder / "memory.limit_in_bytes")
        if limit is not None:
            yield limit, _free(folder, limit, names=("memory.usage_in_bytes", "total_inactive_file"))


def cpu_quotas(root: Path) -> Iterator[float]:
    """Processors' worth of time that each control group around this process may spend."""
    for folder in _folders(root, ""):
        words = (_text(folder / "cpu.max") or "max").split()
        if words[0] != "max":
            yield int(words[0]) / int(words[1])
    for folder in _folders(root, "cpu"):
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota is not None and period and quota > 0:
            yield quota / period


def _free(folder: Path, limit: int, *, names: tuple[str, str]) -> int:
    usage = _number(folder / names[0])
    statistics = dict(line.split() for line in (_text(folder / "memory.stat") or "").splitlines())
    if usage is None or names[1] not in statistics:
        raise DeviceError(
            f"The memory limit of {folder} can be read, but not how much of it is used.",
            hint=f"Make {names[0]} and memory.stat in that folder readable.",
        )
    return max(0, limit - (usage - int(statistics[names[1]])))


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """This process's folder in each mounted hierarchy of a controller (`""`: version 2), and those above."""
    paths = {}
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    if controller not in paths:
        return
    for line in (_text(root / "proc/self/mountinfo") or "").splitlines():
        mount, _, system = line.partition(" - ")
        kind, _, options = system.split(" ", 2)
        wanted = kind == "cgroup" and controller in options.split(",") if controller else kind == "cgroup2"
        if wanted:
            _, _, _, inside, point = mount.split(" ")[:5]
            yield from _upwards(root / point.lstrip("/"), inside=inside, path=paths[controller])


def _upwards(mounted: Path, *, inside: str, path: str) -> Iterator[Path]:
    # A container may see its own folder mounted and its path from the host's view: nothing is there then, and
    # the walk ends at the mount, which is its folder.
    folder = mounted / path.removeprefix(inside).strip("/")
    if ".." in folder.parts:
        folder = mounted
    while folder != mounted:
        yield folder
        folder = folder.parent
    yield mounted


def _number(file: Path) -> int | None:
    text = _text(file)
    if text is None or text.strip() == "max":
        return None
    try:
        return int(text)
    except ValueError:
        raise DeviceError(
            f"{file} should hold a number, not {text.strip()[:40]!r}.",
            hint="Check how control groups are mounted here.",
        ) from None


def _text(file: Path) -> str | None:
    """The file's text; `None` where there is no such file, which here means no such limit."""
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DeviceError(f"{file} cannot be read: {error.strerror}.", hint="Make it readable.") from error

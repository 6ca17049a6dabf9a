"""Writes the part of docs/backends.md that the launchers themselves tell: `python -m scripts.backends`.

tests/test_backends_document.py sees that it is what the launchers say now.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

from aimind.launchers import LAUNCHERS
from aimind.launchers.abilities import RAM, Machine, abilities, machines, models, uses
from aimind.launchers.base import Launcher
from aimind.phrases import gib
from aimind.types import Fix, Host, LayeredMemory, Metadata, Package, PagedMemory, Program

DOCUMENT = Path(__file__).parents[1] / "docs" / "backends.md"
BEGIN, END = "<!-- written by python -m scripts.backends -->", "<!-- until here -->"
# Drivers that are told apart: NVIDIA's of CUDA 12, 13.0 and 13.2, ROCm 7 and 6.
_DRIVERS = {
    "NVIDIA": (
        ("NVIDIA, driver before 580", {"driver": "550.54.15"}),
        ("NVIDIA, driver 580 to 594", {"driver": "580.95.05"}),
        ("NVIDIA, driver 595 and later", {"driver": "595.58.03"}),
    ),
    "AMD": (("AMD, ROCm 7", {"rocm": "7.2.3"}), ("AMD, ROCm 6", {"rocm": "6.4.1"})),
}
_FORMATS = {"gguf": "GGUF", "ctranslate2": "CTranslate2", "pickle": "pickle", "safetensors": "safetensors"}


def written() -> str:
    """The document with its part made anew."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return "\n".join([before + BEGIN, "", *part(), "", END + after])


def part() -> Iterator[str]:
    """The lines that are told by the launchers."""
    yield "## How is a backend chosen?"
    yield ""
    yield "aimind uses the first backend in the row that it finds or can install, and that accepts the model:"
    yield ""
    yield from _diagram()
    yield ""
    yield "## What does each backend serve?"
    yield ""
    yield from _table(
        ("backend", "formats", "categories", "platforms", "devices", "source", "version", "memory"),
        (_row(launcher) for launcher in LAUNCHERS),
    )
    yield ""
    yield "## Which build is installed?"
    yield ""
    yield from _table(
        ("backend", "platform and device", "distribution", "build", "index", "Python", "size"), _builds()
    )
    yield ""
    yield "## Which dependencies are replaced?"
    yield ""
    yield from _table(("backend", "versions", "replacement or removal", "reason"), _fixes())


def _diagram() -> Iterator[str]:
    """Kinds of models, an arrow for each way through the backends, and on which machines it is that."""
    ways: dict[tuple[str, str], list[str]] = {}
    for model in models():
        for machine in machines():
            names = [
                launcher.NAME
                for launcher in LAUNCHERS
                if launcher.refuse(model, machine.host) is None and _serves(launcher, machine)
            ]
            if names:
                kind = f"{_FORMATS[model.format]}: {_kind(model)}"
                place = f"{machine.platform}, {machine.device}"
                places = ways.setdefault((kind, " → ".join(names)), [])
                if place not in places:
                    places.append(place)
    kinds: dict[tuple[tuple[str, tuple[str, ...]], ...], list[str]] = {}
    for kind in dict.fromkeys(kind for kind, _ in ways):
        paths = tuple((way, tuple(places)) for (of, way), places in ways.items() if of == kind)
        kinds.setdefault(paths, []).append(kind)
    yield "```mermaid"
    yield "flowchart LR"
    for number, (paths, names) in enumerate(kinds.items(), 1):
        yield f'  m{number}["{"<br>".join(names)}"]'
        for other, (way, where) in enumerate(paths, 1):
            label = f'|"{"<br>".join(_merged(where))}"|' if len(paths) > 1 else ""
            yield f'  m{number} -->{label} w{number}_{other}["{way}"]'
    yield "```"


def _serves(launcher: Launcher, machine: Machine) -> bool:
    """It uses the device, or does without: then RAM is what it uses."""
    memory = launcher.MEMORY
    return uses(launcher, machine) or not isinstance(memory, PagedMemory) or memory.in_ram


def _kind(model: Metadata) -> str:
    special = "" if model.quantization is None else f", {model.quantization}"
    return f"{model.category}{special}"


def _merged(places: Iterable[str]) -> list[str]:
    """Each platform once, with its devices."""
    found: dict[str, list[str]] = {}
    for place in places:
        platform, _, maker = place.partition(", ")
        found.setdefault(platform, []).append(maker)
    return [f"{platform}: {', '.join(makers)}" for platform, makers in found.items()]


def _row(launcher: Launcher) -> tuple[str, ...]:
    able = abilities(launcher)
    source = launcher.source(next(machines()).host)
    package = isinstance(source, Package)
    return (
        launcher.NAME,
        ", ".join(_FORMATS[name] for name in able.formats),
        ", ".join(able.categories),
        ", ".join(able.platforms),
        ", ".join(able.devices),
        "aimind installs it" if package else "your system",
        source.version if isinstance(source, Package) else "as installed",
        _memory(launcher),
    )


def _memory(launcher: Launcher) -> str:
    match launcher.MEMORY:
        case LayeredMemory() as memory:
            return "whole layers on devices, the rest in RAM" if memory.vendors else "RAM"
        case PagedMemory() as memory:
            return f"a share {memory.rule.share_meaning}" + (", or RAM" if memory.in_ram else "")
        case memory:
            return "whole on one device, or in RAM" if memory.vendors else "RAM"


def _builds() -> Iterator[tuple[str, ...]]:
    """Each package once for all machines that it is for."""
    for launcher in LAUNCHERS:
        found: dict[Package, list[str]] = {}
        for where, host in _hosts():
            source = launcher.source(host)
            if isinstance(source, Program) or all(launcher.refuse(model, host) for model in models()):
                continue
            for build in source.builds:
                for each in (dataclasses.replace(build, instead=(), slim=None), *build.instead):
                    found.setdefault(each, []).append(where)
        for package, places in found.items():
            chosen = f" (only if you choose it: {package.origin})" if _is_third(launcher, package) else ""
            yield (
                launcher.NAME,
                "<br>".join(_shortened(places)),
                f"`{package.distribution}`{chosen}",
                package.variant + (f" (only {package.only})" if package.only else ""),
                f"`{package.index.format(version=package.version)}`" if package.index else "the registry",
                package.python,
                gib(package.size_bytes) if package.size_bytes else "",
            )


def _is_third(launcher: Launcher, package: Package) -> bool:
    usual = {
        source.distribution for _, host in _hosts() if isinstance(source := launcher.source(host), Package)
    }
    return package.distribution not in usual


def _hosts() -> Iterator[tuple[str, Host]]:
    for machine in machines():
        if machine.device in _DRIVERS:
            for name, facts in _DRIVERS[machine.device]:
                yield f"{machine.platform}: {name}", dataclasses.replace(machine.host, **facts)  # type: ignore[arg-type]
        else:
            device = "no device" if machine.device == RAM else machine.device
            yield f"{machine.platform}: {device}", machine.host


def _shortened(places: list[str]) -> list[str]:
    """`Linux x86-64: …` and `Linux ARM64: …` are `Linux: …`, and the devices of a platform are one line."""
    by_device: dict[str, list[str]] = {}
    for place in places:
        platform, _, device = place.partition(": ")
        by_device.setdefault(device, []).append(platform)
    lines: dict[str, list[str]] = {}
    for device, platforms in by_device.items():
        lines.setdefault(", ".join(_systems(platforms)), []).append(device)
    return [f"{platforms}: {'; '.join(_makers(devices))}" for platforms, devices in lines.items()]


def _makers(devices: list[str]) -> Iterator[str]:
    """With all of its drivers it is the maker."""
    whole = {maker for maker, drivers in _DRIVERS.items() if {name for name, _ in drivers} <= set(devices)}
    yield from dict.fromkeys(
        maker if (maker := device.partition(",")[0]) in whole else device for device in devices
    )


def _systems(platforms: list[str]) -> Iterator[str]:
    """Both processors of a system are the system."""
    for system in dict.fromkeys(platform.split()[0] for platform in platforms):
        of = [platform for platform in platforms if platform.startswith(f"{system} ")]
        yield from [system] if len(of) > 1 else of


def _fixes() -> Iterator[tuple[str, ...]]:
    for launcher in LAUNCHERS:
        fixes: dict[Fix, None] = {}
        for _, host in _hosts():
            source = launcher.source(host)
            if isinstance(source, Package):
                fixes |= dict.fromkeys(fix for build in source.builds for fix in build.fixes)
        for fix in fixes:
            yield (
                launcher.NAME,
                fix.versions.replace("|", "\\|") or "all",
                "<br>".join(_what(fix)),
                fix.reason,
            )


def _what(fix: Fix) -> Iterator[str]:
    absent = [line.partition(" ;")[0] for line in fix.overrides if "never" in line]
    yield from (f"`{line}`" for line in fix.overrides if "never" not in line)
    yield from (f"built with `{line}`" for line in fix.build_constraints)
    yield from (f"without the files `{pattern}`" for pattern in fix.removed)
    if len(absent) > 4:
        yield f"without {len(absent)} packages"
    elif absent:
        yield f"without {', '.join(absent)}"


def _table(titles: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(titles)} |"
    yield f"|{'---|' * len(titles)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


if __name__ == "__main__":
    DOCUMENT.write_text(written(), encoding="utf-8")

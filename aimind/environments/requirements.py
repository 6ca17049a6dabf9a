"""What uv is asked for, to make the environment of a version of a package."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from aimind.environments.uv import located
from aimind.types import Fix, Package


def arguments(package: Package, version: str, folder: Path) -> list[str]:
    """The arguments of `uv pip install`. The files that it reads remain in the folder, for inspection."""
    local = f"+{package.local}" if package.local and "+" not in version else ""
    found = [f"{package.distribution}=={version}{local}", *package.requirements]
    needed = fixes(package, version)
    for flag, name, lines in (
        ("--overrides", "overrides.txt", _lines(needed, "overrides")),
        ("--build-constraints", "build-constraints.txt", _lines(needed, "build_constraints")),
    ):
        if text := "\n".join(lines):
            (folder / name).write_text(text + "\n", encoding="utf-8")
            found += (flag, str(folder / name))
    if package.index:
        found += ("--index", package.index.format(version=version))
    return found + _torch(package.torch)


def as_of(package: Package, version: str) -> list[str]:
    """Further arguments that choose among what was there on the day of the version that aimind is made for.

    Folders of wheels have no dates, and are taken as they are. A package's own index tells none.
    """
    if not package.resolved or version != package.version:
        return []
    undated = ["--exclude-newer-package", f"{package.distribution}=false"] if package.index else []
    return ["--exclude-newer", package.resolved, *undated]


def fixes(package: Package, version: str) -> tuple[Fix, ...]:
    """The fixes for this version."""
    from packaging.specifiers import SpecifierSet

    return tuple(
        fix for fix in package.fixes if SpecifierSet(fix.versions).contains(version, prereleases=True)
    )


def _lines(needed: tuple[Fix, ...], kind: str) -> Iterator[str]:
    """The requirements of a kind, under the reason for each group."""
    for fix in needed:
        if lines := getattr(fix, kind):
            yield f"# {fix.reason}"
            yield from lines


def _torch(build: str | None) -> list[str]:
    """Where PyTorch comes from: its own index, or the folders of wheels that this machine has for its CPU."""
    if build is None:
        return []
    links = located(os.environ.get("PIP_FIND_LINKS", "")).split()
    if build == "cpu" and (links or os.environ.get("UV_FIND_LINKS")):
        # The best version wherever it is, or the registry's build for CUDA would win by being there.
        return [f"--find-links={link}" for link in links] + ["--index-strategy", "unsafe-best-match"]
    return ["--torch-backend", build]

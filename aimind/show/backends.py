"""The backends: what each can serve and where, and what of it is here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from aimind.phrases import gib
from aimind.show.terminal import console, escape, grid
from aimind.types import Backend, Package, Program

if TYPE_CHECKING:
    from aimind.launchers.abilities import Abilities


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """One backend as it is on this machine.

    Attributes:
        name, summary: of the launcher.
        abilities: what it serves, and where.
        source: where it comes from here.
        here: what of it is here, the preferred first; those with a problem last.
        against: why it can serve nothing here, as a sentence.
    """

    name: str
    summary: str
    abilities: Abilities
    source: Package | Program
    here: tuple[Backend, ...]
    against: str | None


def backends(overviews: Sequence[Overview]) -> None:
    """Each backend: what it is for, where it runs, which versions are here and where, and why not."""
    screen = console()
    for overview in overviews:
        screen.print(f"[bold]{overview.name}[/]  {overview.summary}")
        rows = grid()
        able = overview.abilities
        rows.add_row("  serves", f"{', '.join(able.categories)} ({', '.join(able.formats)})")
        rows.add_row("  runs on", f"{', '.join(able.platforms)}; {', '.join(able.devices)}")
        for backend in overview.here:
            rows.add_row(f"  {backend.version}", escape("  ".join(_facts(backend, overview.source))))
        if not overview.here:
            rows.add_row("  not here", escape(_how(overview)))
        if overview.against is not None:
            rows.add_row("  unusable", f"[yellow]{escape(overview.against)}[/]")
        screen.print(rows)
        screen.print()


def backends_document(overviews: Sequence[Overview]) -> dict[str, object]:
    """The same as a document; what is unknown is left out."""
    return {"schema": 1, "backends": [_document(overview) for overview in overviews]}


def _document(overview: Overview) -> dict[str, object]:
    source, able = overview.source, overview.abilities
    return _known(
        name=overview.name,
        summary=overview.summary,
        formats=able.formats,
        categories=able.categories,
        platforms=able.platforms,
        devices=able.devices,
        default_version=source.version if isinstance(source, Package) else None,
        problem=overview.against,
        install=None if overview.here else _how(overview),
        versions=[
            _known(
                version=backend.version,
                path=_where(backend, source),
                executable=backend.executable,
                disk_bytes=backend.size_bytes,
                python=backend.python or None,
                only=backend.only or None,
                origin=backend.origin or None,
                problem=_problem(backend),
            )
            for backend in overview.here
        ],
    )


def _facts(backend: Backend, source: Package | Program) -> list[str]:
    facts = [_where(backend, source)]
    if backend.size_bytes:
        facts.append(gib(backend.size_bytes))
    if backend.python:
        facts.append(f"Python {backend.python}")
    if backend.only:
        facts.append(f"{backend.only} alone")
    if backend.origin:
        facts.append(backend.origin)
    problem = _problem(backend)
    return [*facts, f"unusable: {problem}"] if problem else facts


def _problem(backend: Backend) -> str | None:
    if backend.problem is None and not backend.sees_devices:
        return "it sees no accelerator: it is a build for the CPU"
    return backend.problem


def _where(backend: Backend, source: Package | Program) -> str:
    """The folder of an environment, the program of a user's."""
    path = PurePath(backend.executable)
    return str(path.parents[1] if isinstance(source, Package) else path)


def _how(overview: Overview) -> str:
    source = overview.source
    if isinstance(source, Package):
        size = f", about {gib(source.size_bytes)}" if source.size_bytes else ""
        return f"`aimind backends install {overview.name}` brings {source.version}{size}"
    where = "on PATH" if source.home is None else f"in {source.home.folder}"
    return f"{source.names[0]} is not {where}: {source.remedy}"


def _known(**fields: object) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}

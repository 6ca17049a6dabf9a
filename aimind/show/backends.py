"""The backends: what each can serve and where, and what of it is here."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

import typer

from aimind.phrases import gib
from aimind.show.columns import Cell, Column, Row, print_facts, print_table
from aimind.show.terminal import look, note
from aimind.supervisor.screen import BOLD
from aimind.types import Backend, Package, Program

if TYPE_CHECKING:
    from aimind.launchers.abilities import Abilities


_COLUMNS = (
    Column("BACKEND"),
    Column("VERSION"),
    Column("STATE"),
    Column("SIZE", rank=2, right=True),
    Column("SERVES", rank=3),
    Column("FORMATS", rank=1),
)


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


def backends(overviews: Sequence[Overview], *, why: bool) -> None:
    """Print the backends: what each serves, and which versions are installed.

    `why` adds where each runs, where its versions are, and why one cannot be used.
    """
    if why:
        for overview in overviews:
            _print_whole(overview)
        return
    print_table(_COLUMNS, [row for overview in overviews for row in _rows(overview)])
    note("`aimind backends install NAME` installs one; --why shows more.")


def _rows(overview: Overview) -> list[Row]:
    """A row for each installed version, or one that gives the state of the backend."""
    able = overview.abilities
    serves = [", ".join(able.categories), ", ".join(able.formats)]
    if not overview.here:
        is_ours = isinstance(overview.source, Package) and overview.against is None
        state = "not installed" if is_ours else "cannot be used here" if overview.against else "not found"
        return [[overview.name, "", Cell(state, "dim"), "", *serves]]
    return [
        [
            overview.name,
            backend.version,
            Cell("unusable", "red") if _problem(backend) or overview.against else Cell("installed", "green"),
            gib(backend.size_bytes) if backend.size_bytes else "",
            *serves,
        ]
        for backend in overview.here
    ]


def _print_whole(overview: Overview) -> None:
    able = overview.abilities
    typer.echo(f"{look(sys.stdout).paint(overview.name, BOLD)}  {overview.summary}", color=True)
    facts: list[tuple[str, str | Cell]] = [
        ("  serves", f"{', '.join(able.categories)} ({', '.join(able.formats)})"),
        ("  runs on", f"{', '.join(able.platforms)}; {', '.join(able.devices)}"),
    ]
    facts += [
        (f"  {backend.version}", "  ".join(_facts(backend, overview.source))) for backend in overview.here
    ]
    if not overview.here:
        facts.append(("  missing", _how(overview)))
    if overview.against is not None:
        facts.append(("  unusable", Cell(overview.against, "yellow")))
    print_facts(facts)
    typer.echo()


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
        return "it is a build for the CPU and uses no accelerator"
    return backend.problem


def _where(backend: Backend, source: Package | Program) -> str:
    """The folder of an environment, the program of a user's."""
    path = PurePath(backend.executable)
    return str(path.parents[1] if isinstance(source, Package) else path)


def _how(overview: Overview) -> str:
    source = overview.source
    if isinstance(source, Package):
        size = f", about {gib(source.size_bytes)}" if source.size_bytes else ""
        return f"`aimind backends install {overview.name}` installs {source.version}{size}"
    where = "on PATH" if source.home is None else f"in {source.home.folder}"
    return f"{source.names[0]} is not {where}: {source.remedy}"


def _known(**fields: object) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}

"""What hubs found and what is in their caches, as a person reads it, and as JSON documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import typer

from aimind.phrases import age, gib
from aimind.reference import unparse
from aimind.show.columns import Cell, Column, print_table
from aimind.show.terminal import note
from aimind.types import Cached, Found, Leftover, Reference

if TYPE_CHECKING:
    from aimind.rough import Guess

NOTHING = "The caches have no models. `aimind pull MODEL` downloads one."
_FOUND = (
    Column("NAME"),
    Column("SIZE", right=True),
    Column("WOULD FIT"),
    Column("DOWNLOADS", rank=1, right=True),
    Column("FORMATS", rank=2),
)
_CACHED = (
    Column("NAME"),
    Column("SIZE", right=True),
    Column("STATE"),
    Column("LAST USED", rank=1, right=True),
    Column("HUB", rank=2),
)


def found(results: Sequence[tuple[Found, Guess | None]]) -> None:
    """Print what a search found: names, sizes, whether they would fit, and how often each is downloaded."""
    rows = [
        (
            unparse(each.reference) + (" (gated)" if each.gated else ""),
            _size(guess),
            _fit(guess),
            "" if each.downloads is None else f"{each.downloads:,}",
            ", ".join(each.formats),
        )
        for each, guess in results
    ]
    print_table(_FOUND, rows)
    note("SIZE counts the weights alone; `aimind plan NAME` counts everything.")


def _fit(guess: Guess | None) -> Cell:
    if guess is None:
        return Cell("")
    if guess.where == "nowhere":
        return Cell("no", "red")
    return Cell("on devices" if guess.where == "devices" else f"in {guess.where}", "green")


def found_document(results: Sequence[tuple[Found, Guess | None]]) -> dict[str, object]:
    """The same, with what is not known left out: docs/models.md."""
    return {"models": [_found(each, guess) for each, guess in results]}


def cached(models: Sequence[Cached], leftovers: Sequence[Leftover], total_bytes: int) -> None:
    """Print the models in the caches; `total_bytes`: what both caches take on their disks."""
    if models:
        rows = [
            (
                unparse(each.reference),
                gib(each.size_bytes),
                _state(each),
                f"{age(each.last_used)} ago",
                each.reference.source,
            )
            for each in models
        ]
        print_table(_CACHED, rows)
        note(f"{gib(total_bytes)} on the disk")
    else:
        typer.echo(NOTHING)
    left_bytes = sum(each.size_bytes for each in leftovers if not each.busy)
    if any(not each.busy for each in leftovers):
        note(f"{gib(left_bytes)} of interrupted downloads: `aimind models --prune` removes them")


def cached_document(
    models: Sequence[Cached], leftovers: Sequence[Leftover], total_bytes: int
) -> dict[str, object]:
    """The same: docs/models.md."""
    return {
        "models": [_cached(each) for each in models],
        "leftovers": [_leftover(each) for each in leftovers],
        "size_bytes": total_bytes,
    }


def pruned_document(removed: Sequence[Leftover]) -> dict[str, object]:
    """What was removed."""
    freed = sum(each.size_bytes for each in removed)
    return {"removed": [_leftover(each) for each in removed], "freed_bytes": freed}


def _size(guess: Guess | None) -> str:
    if guess is None:
        return ""
    return gib(guess.size_bytes) + (f" ({guess.quantization})" if guess.quantization else "")


def _state(each: Cached) -> Cell:
    if each.downloading:
        return Cell("downloading" if each.missing else "complete; more of it is downloading", "yellow")
    return Cell(f"incomplete: {each.missing}", "yellow") if each.missing else Cell("complete", "green")


def _reference(reference: Reference) -> dict[str, object]:
    return _present(
        {
            "reference": unparse(reference),
            "hub": reference.source,
            "name": reference.name,
            "revision": reference.revision,
            "quantization": reference.quantization,
        }
    )


def _found(each: Found, guess: Guess | None) -> dict[str, object]:
    return _reference(each.reference) | _present(
        {
            "downloads": each.downloads,
            "formats": list(each.formats),
            "parameters": each.parameters,
            "quantizations": list(each.quantizations),
            "gated": each.gated,
            "about": None
            if guess is None
            else _present(
                {"size_bytes": guess.size_bytes, "quantization": guess.quantization, "fits": guess.where}
            ),
        }
    )


def _cached(each: Cached) -> dict[str, object]:
    return _reference(each.reference) | _present(
        {
            "commit": each.commit,
            "folder": each.folder,
            "files": [{"path": file.path, "size_bytes": file.size_bytes} for file in each.files],
            "size_bytes": each.size_bytes,
            "last_used": each.last_used,
            "complete": each.missing is None,
            "missing": each.missing,
            "downloading": each.downloading,
        }
    )


def _leftover(each: Leftover) -> dict[str, object]:
    return _present(
        {
            "path": each.path,
            "size_bytes": each.size_bytes,
            "half": each.half,
            "busy": each.busy,
            "reference": None if each.reference is None else unparse(each.reference),
        }
    )


def _present(fields: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}

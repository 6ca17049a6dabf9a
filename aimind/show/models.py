"""What hubs found and what is in their caches, as a person reads it, and as JSON documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import typer

from aimind.phrases import age, gib
from aimind.reference import unparse
from aimind.show.terminal import console, escape, note, table
from aimind.types import Cached, Found, Leftover, Reference

if TYPE_CHECKING:
    from aimind.rough import Guess

NOTHING = "no models are here: `aimind pull MODEL` brings one"


def found(results: Sequence[tuple[Found, Guess | None]]) -> None:
    """What was found: how often it is downloaded, about how large it is, and about where it fits."""
    rows = table("name", "downloads", "about", "formats", "would fit")
    for each, guess in results:
        rows.add_row(
            escape(unparse(each.reference)) + (" (gated)" if each.gated else ""),
            "" if each.downloads is None else f"{each.downloads:,}",
            _size(guess),
            ", ".join(each.formats),
            ""
            if guess is None
            else {"nowhere": "no", "devices": "on devices"}.get(guess.where, f"in {guess.where}"),
        )
    console().print(rows)
    note("about: weights alone, against what is free now; `aimind plan NAME` says exactly")


def found_document(results: Sequence[tuple[Found, Guess | None]]) -> dict[str, object]:
    """The same, with what is not known left out: docs/models.md."""
    return {"models": [_found(each, guess) for each, guess in results]}


def cached(models: Sequence[Cached], leftovers: Sequence[Leftover], total_bytes: int) -> None:
    """What is in the caches; `total_bytes`: of both, on their disks."""
    if not models:
        typer.echo(NOTHING)
    else:
        rows = table("name", "hub", "size", "last used", "state")
        for each in models:
            rows.add_row(
                escape(unparse(each.reference)),
                each.reference.source,
                gib(each.size_bytes),
                f"{age(each.last_used)} ago",
                escape(_state(each)),
            )
        console().print(rows)
        note(f"together {gib(total_bytes)} on the disk")
    left = sum(each.size_bytes for each in leftovers if not each.busy)
    if any(not each.busy for each in leftovers):
        note(f"of downloads that were broken off: {gib(left)}; `aimind models --prune` removes that")


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


def _state(each: Cached) -> str:
    if each.downloading:
        return "downloading" if each.missing else "complete; more of it is downloading"
    return f"incomplete: {each.missing}" if each.missing else "complete"


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

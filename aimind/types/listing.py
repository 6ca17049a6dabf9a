"""What a hub finds, and what is in the caches: repositories that nobody has resolved yet."""

from __future__ import annotations

from dataclasses import dataclass

from aimind.types.model import File, Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A repository as a hub's search tells of it.

    Attributes:
        reference: its name.
        downloads: as the hub counts them (Hugging Face: of the last 30 days); `None` where it does not say.
        formats: of its weights, as the hub's tags name them: `gguf`, `safetensors`, `pytorch`, `mlx`, `onnx`.
        parameters: their number.
        weights_bytes: of its weights, where it has them in one precision.
        quantizations: those that its GGUF files are named after; none where the hub lists no files.
        gated: one has to ask for it.
    """

    reference: Reference
    downloads: int | None = None
    formats: tuple[str, ...] = ()
    parameters: int | None = None
    weights_bytes: int | None = None
    quantizations: tuple[str, ...] = ()
    gated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cached:
    """One model in a hub's cache: of a GGUF repository each quantization is one.

    Attributes:
        reference: what serves it; its revision is a branch, or a commit that none is at any more.
        commit: where the cache knows it.
        files: that it is made of.
        folder: in which they lie under their names.
        size_bytes: of the files.
        last_used: when one of them was last read or written, in seconds since 1970.
        missing: why it cannot be served from here, as a sentence; `None` where it is complete.
        downloading: another program is fetching files of its repository.
    """

    reference: Reference
    commit: str | None
    files: tuple[File, ...]
    folder: str
    size_bytes: int
    last_used: float
    missing: str | None = None
    downloading: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """What a download that was broken off has left in a cache.

    Attributes:
        path: of the file or folder.
        size_bytes: on the disk.
        half: the first part of a file, with which the next download goes on.
        busy: a download that runs may be writing it.
        reference: of the repository that it is of, where that can be told.
    """

    path: str
    size_bytes: int
    half: bool
    busy: bool
    reference: Reference | None = None

"""Models in a folder, read as the hub's own reader would, with an account of what was read."""

from __future__ import annotations

from pathlib import Path

from aimind import metadata
from aimind.types import File, Metadata, Model, Reference


class Account:
    """A reader that remembers how often it was asked, and up to where."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self.size_bytes = path.stat().st_size
        self.reads = 0
        self.bytes_read = 0
        self.furthest = 0

    def read(self, offset: int, length: int) -> bytes:
        self.reads += 1
        self.bytes_read += length
        self.furthest = max(self.furthest, offset + length)
        self._file.seek(offset)
        return self._file.read(length)

    def __del__(self) -> None:
        self._file.close()


class Text:
    """A reader of bytes at hand."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self.size_bytes = len(text)

    def read(self, offset: int, length: int) -> bytes:
        return self._text[offset : offset + length]


def model(folder: Path, name: str = "owner/model") -> Model:
    """All files below the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return Model(
        reference=Reference(source="local", name=name),
        files=tuple(File(path.relative_to(folder).as_posix(), path.stat().st_size) for path in files),
        root=str(folder),
    )


def read(folder: Path, name: str = "owner/model") -> Metadata:
    """The metadata of the model in a folder."""
    return metadata.read(model(folder, name), lambda file: Account(folder / file.path))

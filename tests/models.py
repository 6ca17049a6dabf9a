"""The recorded headers of well-known models, as sparse GGUF files of their true size."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

RECORDED = Path(__file__).parent / "data" / "models" / "gguf"
_INDEX = json.loads((RECORDED / "index.json").read_text())
SIZES: dict[str, int] = {entry["name"]: entry["size_bytes"] for entry in _INDEX}
HEADER_SIZES: dict[str, int] = {entry["name"]: entry["header_bytes"] for entry in _INDEX}
REAL_HEADER_SIZES: dict[str, int] = {entry["name"]: entry["real_header_bytes"] for entry in _INDEX}
NAMES = tuple(sorted(SIZES))


def header(name: str, folder: Path) -> Path:
    """A file `name.gguf` in the folder: the recorded header, then a hole as large as the weights."""
    path = folder / f"{name}.gguf"
    with path.open("wb") as file:
        file.write(gzip.decompress((RECORDED / f"{name}.header.gz").read_bytes()))
        file.truncate(SIZES[name])
    return path

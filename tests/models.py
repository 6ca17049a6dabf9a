"""The recorded headers of well-known models, as sparse GGUF files of their true size.

`NAMES` are those of tests/data/models/gguf, of which every test knows everything. `header` also finds those
of other folders: `made` has headers written from published hyper-parameters.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

DATA = Path(__file__).parent / "data"
RECORDED = DATA / "models" / "gguf"
_OTHERS = (DATA / "models" / "made", DATA / "families", DATA / "gguf_new")
_INDEX = json.loads((RECORDED / "index.json").read_text())
SIZES: dict[str, int] = {entry["name"]: entry["size_bytes"] for entry in _INDEX}
HEADER_SIZES: dict[str, int] = {entry["name"]: entry["header_bytes"] for entry in _INDEX}
REAL_HEADER_SIZES: dict[str, int] = {entry["name"]: entry["real_header_bytes"] for entry in _INDEX}
NAMES = tuple(sorted(SIZES))


def header(name: str, folder: Path) -> Path:
    """A file `name.gguf` in the folder: the recorded header, then a hole as large as the weights."""
    found = next(each for each in (RECORDED, *_OTHERS) if (each / f"{name}.header.gz").exists())
    index = json.loads((found / "index.json").read_text())
    size_bytes: int = next(entry["size_bytes"] for entry in index if entry["name"] == name)
    path = folder / f"{name}.gguf"
    with path.open("wb") as file:
        file.write(gzip.decompress((found / f"{name}.header.gz").read_bytes()))
        file.truncate(size_bytes)
    return path

"""Families beyond the recorded models: headers of true size, and what llama.cpp reserves for them.

The hyper-parameters are those of the published models; which tensors there are and their shapes llama.cpp
itself told. tests/data/families has both, for llama.cpp as vendored by llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from aimind.estimate import families, ggml
from aimind.metadata.gguf import Header, read_header
from aimind.metadata.gguf_model import describe
from benchmarks import estimates

FOLDER = estimates.DATA / "families"
SIZES: dict[str, int] = {e["name"]: e["size_bytes"] for e in json.loads((FOLDER / "index.json").read_text())}
RECORDS: list[dict[str, Any]] = json.loads(gzip.decompress((FOLDER / "ground_truth.json.gz").read_bytes()))


class Sparse:
    """A file of a model's true size that holds its header."""

    def __init__(self, name: str) -> None:
        self.content = gzip.decompress((FOLDER / f"{name}.header.gz").read_bytes())
        self.size_bytes = SIZES[name]

    def read(self, offset: int, length: int) -> bytes:
        missing = min(length, self.size_bytes - offset)
        return self.content[offset : offset + length].ljust(missing, b"\0")


@cache
def header(name: str) -> Header:
    return read_header(Sparse(name), f"{name}.gguf")


@cache
def figures(name: str) -> list[estimates.Figure]:
    """Of the family as it is, for each of its records."""
    records = [record for record in RECORDS if record["file"] == name]
    assert records
    model = ggml.profile(describe([header(name)]))
    assert model.understood
    return [figure for record in records for figure in estimates.gguf_figures(model, record)]


def asking(record: dict[str, Any], *, flash_attention: str) -> dict[str, Any]:
    """The same record of a server with another `--flash-attn`."""
    return {**record, "params": {**record["params"], "fa": flash_attention}}


def renamed(name: str, *, keys: bool) -> Header:
    """The same file as if a later llama.cpp had written it, for an architecture of its own."""
    first = header(name)
    architecture = first.values["general.architecture"]
    values = {"general.architecture": "newcomer"}
    for key, value in first.values.items():
        prefix, _, rest = key.partition(".")
        if prefix == architecture and keys:
            values[f"newcomer.{rest}"] = value  # type: ignore[assignment]
    return dataclasses.replace(first, values=values)


# The figures are worked out once, in one process.
@pytest.mark.xdist_group("figures of families")
@pytest.mark.parametrize("name", SIZES)
def test_a_family_is_estimated_as_llama_cpp_reserves(name: str) -> None:
    for figure in figures(name):
        if figure.component in ("device model", "device context", "host model", "host context"):
            assert figure.estimated == figure.real, figure
        elif figure.component == "device total":
            assert -0.01 <= figure.error <= 0.06, figure


@pytest.mark.xdist_group("figures of families")
def test_most_estimates_of_families_are_exact() -> None:
    errors = sorted(
        abs(figure.error) for name in SIZES for figure in figures(name) if figure.component == "device total"
    )
    assert errors[len(errors) * 8 // 10] <= 0.001


@pytest.mark.parametrize("keys", [True, False])
@pytest.mark.parametrize("name", SIZES)
def test_an_unknown_architecture_gets_an_upper_bound(name: str, keys: bool) -> None:
    metadata = describe([renamed(name, keys=keys)])
    assert not metadata.known
    known = describe([header(name)])
    assert metadata.weight_bytes + sum(t.size_bytes for t in metadata.draft) >= known.weight_bytes
    model = ggml.profile(metadata)
    records = [record for record in RECORDS if record["file"] == name]
    if known.architecture in families.WITHOUT_FLASH_ATTENTION:  # which llama.cpp knows by their names
        records = [asking(record, flash_attention="off") for record in records]
    assert records
    for figure in (figure for record in records for figure in estimates.gguf_figures(model, record)):
        if figure.component == "device total":
            assert figure.estimated >= figure.real, figure


def test_the_data_is_small() -> None:
    assert sum(path.stat().st_size for path in Path(FOLDER).iterdir()) < 300_000

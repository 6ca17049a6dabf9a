"""Files that llama.cpp refuses for their keys; tests/live/test_gguf_defects.py asks it about the same."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path

import pytest

from aimind import plan
from aimind.errors import MetadataError
from aimind.launchers import LAUNCHERS
from aimind.metadata.gguf_defects import _required
from aimind.metadata.gguf_families import KNOWN
from aimind.types import File, Metadata, Model, Plan, Reference, Request
from tests import models
from tests.metadata import altered
from tests.metadata.local import read
from tests.samples import host

DATA = Path(__file__).parents[1] / "data"
FAMILIES = sorted(path for name in ("families", "gguf_new") for path in (DATA / name).glob("*.header.gz"))


def planned(metadata: Metadata, path: Path, request: Request | None = None) -> Plan:
    model = Model(
        reference=Reference(source="local", name=f"./{path.name}"),
        files=(File(path.name, path.stat().st_size),),
    )
    return plan.make(model, metadata, host(), request or Request(), LAUNCHERS)


@pytest.mark.parametrize(("changes", "word"), altered.REFUSED)
def test_what_llama_cpp_refuses_is_refused_with_the_key(
    changes: Mapping[str, int | None], word: str, tmp_path: Path
) -> None:
    path = altered.write(tmp_path / "model.gguf", changes)
    with pytest.raises(MetadataError) as caught:
        planned(read(path.parent), path)
    assert word in caught.value.message
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("changes", altered.LOADED)
def test_what_it_loads_is_not(changes: Mapping[str, int | None], tmp_path: Path) -> None:
    path = altered.write(tmp_path / "model.gguf", changes)
    assert read(path.parent).defects == ()
    assert planned(read(path.parent), path).backend.name == "llama-server"


def test_by_force_it_is_tried_all_the_same(tmp_path: Path) -> None:
    path = altered.write(tmp_path / "model.gguf", {"llama.context_length": None})
    found = planned(read(path.parent), path, Request(force=True, max_model_len=4096))
    assert "llama.context_length is missing" in found.notes[0]


@pytest.mark.parametrize("name", models.NAMES)
def test_no_recorded_model_has_a_defect(name: str, tmp_path: Path) -> None:
    models.header(name, tmp_path)
    assert read(tmp_path).defects == ()


@pytest.mark.parametrize("path", FAMILIES, ids=lambda path: path.name.partition(".")[0])
def test_no_model_of_any_family_has_a_defect(path: Path, tmp_path: Path) -> None:
    with (tmp_path / "model.gguf").open("wb") as file:
        file.write(gzip.decompress(path.read_bytes()))
        file.truncate(1 << 40)  # a hole
    # Of these headers the tokens were not recorded.
    assert [each for each in read(tmp_path).defects if each != "tokenizer.ggml.tokens is missing"] == []


def test_every_architecture_that_is_known_has_its_keys() -> None:
    """But those of which llama.cpp itself stops before it has asked for all of them."""
    assert len(KNOWN - _required().keys()) == 0
    assert ".ssm.conv_kernel" in _required()["mamba"]
    assert ".attention.q_lora_rank" not in _required()["deepseek2"]  # DeepSeek-V2-Lite has none

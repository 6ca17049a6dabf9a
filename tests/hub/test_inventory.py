"""What is in the caches, where they are strange, and what is removed of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir
from huggingface_hub.utils import _shared_blobs

from aimind.errors import ModelNotFoundError
from aimind.hub import inventory, leftovers, places, removal
from aimind.reference import parse, unparse
from aimind.types import Cached

COMMIT, OTHER = "a" * 40, "b" * 40


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two empty caches."""
    monkeypatch.delenv("AIMIND_HUB", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "ms"))
    return tmp_path


def put(caches: Path, name: str, files: dict[str, bytes], commit: str = COMMIT, branch: str = "main") -> Path:
    """A revision in Hugging Face's cache: links to blobs, named after what they hold."""
    repository = caches / "hf" / f"models--{name.replace('/', '--')}"
    for path, content in files.items():
        blob = repository / "blobs" / content[:32].hex().ljust(64, "0")
        link = repository / "snapshots" / commit / path
        for folder in (blob.parent, link.parent):
            folder.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / branch).write_text(commit)
    return repository


def here() -> dict[str, Cached]:
    return {unparse(each.reference): each for each in inventory.models()}


def test_there_is_no_cache() -> None:
    assert (inventory.models(), leftovers.find(), leftovers.prune(), list(places.names())) == ((), (), (), [])
    assert inventory.disk_bytes() == 0


def test_what_else_lies_there_is_left_alone(caches: Path) -> None:
    for path in (
        "hf/datasets--o--d/snapshots/x/data.parquet",
        "hf/models--gpt2/snapshots/x/model.safetensors",
        "hf/version.txt",
        "ms/datasets/o--d/snapshots/master/data.csv",
        "ms/hub/datasets/o/d/data.csv",
        "ms/.lock/file_1.lock",
        "ms/models/o---x/snapshots/master/model.safetensors",
        "ms/ast_indexer",
    ):
        (caches / path).parent.mkdir(parents=True, exist_ok=True)
        (caches / path).write_bytes(b"x")
    assert inventory.models() == ()
    assert leftovers.prune() == ()
    assert list(places.names()) == []


def test_a_file_in_the_place_of_a_folder(caches: Path) -> None:
    (caches / "hf").write_bytes(b"")
    (caches / "ms").mkdir()
    (caches / "ms" / "models").write_bytes(b"")
    assert inventory.models() == ()


def test_one_name_for_each_that_leads_to_it_again(caches: Path) -> None:
    put(
        caches,
        "o/many",
        {
            "a-Q4_K_M.gguf": b"1",
            "b-Q4_K_M.gguf": b"2",
            "c-00001-of-00002.gguf": b"3",
            "c-00002-of-00002.gguf": b"4",
            "UD-Q2_K_XL/d.gguf": b"5",
            "mmproj-F16.gguf": b"6",
            "config.json": b"7",
            "model.safetensors": b"8",
        },
    )
    names = [
        "o/many/a-Q4_K_M.gguf",
        "o/many/b-Q4_K_M.gguf",
        "o/many/c-00001-of-00002.gguf",
        "o/many:UD-Q2_K_XL",
        "o/many",
    ]
    found = here()
    assert sorted(found) == sorted(names)
    assert {each.missing for each in found.values()} == {None}
    for name in names[:-1]:
        (chosen,) = removal.select(parse(name))
        gone = {path.name for path in chosen.paths}
        assert gone == {Path(file.path).name for file in found[name].files} - {"mmproj-F16.gguf"}


def test_branches_and_commits(caches: Path) -> None:
    put(caches, "o/n", {"model.safetensors": b"old"}, OTHER, "v1")
    repository = put(caches, "o/n", {"model.safetensors": b"new"})
    assert sorted(here()) == ["o/n", "o/n@v1"]
    (repository / "refs" / "v1").unlink()
    assert sorted(here()) == ["o/n", f"o/n@{OTHER}"]
    with pytest.raises(ModelNotFoundError, match="is not in the cache"):
        removal.select(parse("o/n@bbbbbb"))  # six digits are few
    (chosen,) = removal.select(parse("o/n@bbbbbbb"))
    assert (removal.size_bytes(chosen), removal.remove(chosen)) == (3, 3)
    assert sorted(here()) == ["o/n"]
    assert not scan_cache_dir(caches / "hf").warnings


def test_contents_that_repositories_have_in_common(caches: Path) -> None:
    """As the client of 2026 keeps them: a repository's blob is a link, too."""
    hash_ = "c" * 64
    for name in ("o/one", "o/two"):
        repository = put(caches, name, {"model.safetensors": b"shared" * 100})
        (blob,) = (repository / "blobs").iterdir()
        assert _shared_blobs.publish_blob_to_shared_store(
            blob_path=str(blob), xet_hash=hash_, cache_dir=caches / "hf", expected_size=600
        )
        assert blob.is_symlink()
    assert sorted(here()) == ["o/one", "o/two"]
    assert {each.size_bytes for each in here().values()} == {600}
    assert leftovers.prune() == ()
    before = inventory.disk_bytes()
    (one,), (two,) = removal.select(parse("o/one")), removal.select(parse("o/two"))
    assert removal.remove(one) < 600
    assert here()["o/two"].missing is None
    assert removal.remove(two) >= 600
    assert inventory.models() == ()
    assert before - inventory.disk_bytes() >= 600


def test_a_removal_that_was_killed_can_be_made_again(caches: Path) -> None:
    repository = put(caches, "o/n", {"a-Q8_0.gguf": b"1" * 50, "b-Q4_0.gguf": b"2" * 60})
    (repository / "snapshots" / COMMIT / "a-Q8_0.gguf").unlink()  # killed between the name and the content
    assert sorted(here()) == ["o/n:Q4_0"]
    assert [each.size_bytes for each in leftovers.prune()] == [50]
    (chosen,) = removal.select(parse("o/n"))
    assert removal.remove(chosen) == 60 + 40
    assert not repository.exists()


def test_what_a_removal_concerns(caches: Path) -> None:
    repository = put(caches, "o/n", {"model.safetensors": b"1"})
    (chosen,) = removal.select(parse("o/n"))
    snapshot = repository / "snapshots" / COMMIT
    (caches / "link").symlink_to(snapshot / "model.safetensors")
    assert all(
        map(chosen.concerns, (snapshot / "model.safetensors", snapshot, caches / "hf", caches / "link"))
    )
    assert not chosen.concerns(caches / "elsewhere")
    put(caches, "o/n", {"other-Q8_0.gguf": b"2"})
    (one,) = removal.select(parse("o/n:Q8_0"))
    assert one.concerns(snapshot)
    assert one.concerns(snapshot / "other-Q8_0.gguf")
    assert not one.concerns(snapshot / "model.safetensors")
    (chosen,) = removal.select(parse("o/n"))
    removal.remove(chosen)
    with pytest.raises(ModelNotFoundError, match="o/n is not in"):
        removal.select(parse("o/n"))

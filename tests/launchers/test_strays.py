"""Other safetensors beside the planned ones: the backend loads the planned ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from aimind import files, hub
from aimind.launchers import mlx, sglang, vllm
from aimind.types import INDEX_NAME, Backend, Command, Plan, Reference, Request
from tests.samples import llama

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
MISTRALS = ("params.json", "tekken.json", "consolidated.safetensors", "consolidated.safetensors.index.json")
HF_FORMAT = ("--load-format", "safetensors", "--config-format", "hf", "--tokenizer-mode")


def planned(folder: Path, *names: str, indexed: tuple[str, ...] | None = None) -> Plan:
    """A plan of a folder with these files beside a configuration, as it is when it is started."""
    for name in ("config.json", *names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}")
    found = hub.resolve(Reference(source="local", name=str(folder)))
    [model] = files.candidates(found, indexed=frozenset(indexed) if indexed else None)
    return Plan(
        model=model,
        metadata=llama(safetensors=True),
        backend=Backend(name="vllm", version=vllm.VERSION, executable="/env/python"),
        settings=Request(address="127.0.0.1", port=8000),
        scratch="/run/here",
        strays=hub.strays(model),
    )


def contains(command: Command, *words: str) -> bool:
    return f" {' '.join(words)} " in f" {' '.join(command.argv)} "


def loaded(command: Command, plan: Plan) -> set[str]:
    """The safetensors in the folder that the backend gets."""
    if command.overlays:
        [links] = command.overlays
        assert contains(command, links.path)
        assert links.path == "/run/here/model"
        assert (links.source, links.edits) == (plan.model.root, {})
        names = set(links.links)
    else:
        assert contains(command, plan.model.root or "")
        names = {path.name for path in Path(plan.model.root or "").iterdir()}
    return {name for name in names if name.endswith(".safetensors")}


def test_vllm_is_kept_to_the_usual_shards_beside_those_of_mistral(tmp_path: Path) -> None:
    plan = planned(tmp_path, *SHARDS, INDEX_NAME, "tokenizer.json", *MISTRALS, indexed=SHARDS)
    assert plan.strays == ("consolidated.safetensors",)
    command = vllm.command(plan, str(tmp_path))
    assert contains(command, *HF_FORMAT, "hf")
    assert command.overlays == ()  # its own index says which files are loaded
    assert sglang.command(plan, str(tmp_path)).overlays == ()


def test_vllm_looks_for_those_of_mistral_in_all_folders(tmp_path: Path) -> None:
    plan = planned(tmp_path, "model.safetensors", "tokenizer.json", "original/consolidated.safetensors")
    assert contains(vllm.command(plan, str(tmp_path)), *HF_FORMAT, "hf")


def test_a_tokenizer_in_the_format_of_mistral_alone(tmp_path: Path) -> None:
    alone = planned(tmp_path / "alone", "model.safetensors", "tekken.json")
    assert contains(vllm.command(alone, str(tmp_path / "alone")), "--tokenizer-mode", "mistral")
    both = planned(tmp_path / "both", *SHARDS, INDEX_NAME, *MISTRALS, indexed=SHARDS)
    assert contains(vllm.command(both, str(tmp_path / "both")), *HF_FORMAT, "mistral")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
def test_no_flags_without_files_of_mistral(tmp_path: Path, name: str) -> None:
    plan = planned(tmp_path, "model.safetensors", name, "tekken.json")
    command = vllm.command(plan, str(tmp_path))
    assert plan.strays == ()
    assert not any(word.endswith(("-format", "-mode")) for word in command.argv)


def test_weights_in_the_format_of_mistral_that_were_planned_are_loaded_so(tmp_path: Path) -> None:
    plan = planned(tmp_path, "consolidated.safetensors", "tokenizer.json")
    assert plan.strays == ()
    assert "--load-format" not in vllm.command(plan, str(tmp_path)).argv


@pytest.mark.parametrize("stray", ["consolidated.safetensors", "adapter_model.safetensors"])
@pytest.mark.parametrize("launcher", [vllm, sglang])
def test_without_an_index_the_backend_gets_links(tmp_path: Path, stray: str, launcher: object) -> None:
    plan = planned(tmp_path, *SHARDS, "tokenizer.json", stray, "1_Pooling/config.json")
    assert plan.strays == (stray,)
    command = launcher.command(plan, str(tmp_path))  # type: ignore[attr-defined]
    assert loaded(command, plan) == set(SHARDS)
    assert "1_Pooling/config.json" in command.overlays[0].links


def test_an_adapter_beside_pickled_weights_is_not_loaded_instead(tmp_path: Path) -> None:
    plan = planned(tmp_path, "pytorch_model.bin", "adapter_model.safetensors")
    assert loaded(vllm.command(plan, str(tmp_path)), plan) == set()


def test_mlx_reads_no_index(tmp_path: Path) -> None:
    plan = planned(
        tmp_path, *SHARDS, INDEX_NAME, "model-old.safetensors", "other.safetensors", indexed=SHARDS
    )
    plan = dataclasses.replace(plan, backend=Backend(name="mlx", version="0.31.0", executable="/env/python"))
    assert loaded(mlx.command(plan, str(tmp_path)), plan) == set(SHARDS)
    other = dataclasses.replace(plan, strays=("other.safetensors",))
    assert mlx.command(other, str(tmp_path)).overlays == ()


def test_of_a_folder_that_is_not_there_yet_nothing_is_known(tmp_path: Path) -> None:
    plan = planned(tmp_path, "model.safetensors", "consolidated.safetensors")
    gone = dataclasses.replace(plan.model, root=str(tmp_path / "gone"))
    assert hub.strays(gone) == ()

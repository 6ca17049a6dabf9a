"""The settings of both hubs' clients, as they themselves read them, and what a cache may hold."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from aimind import hub as source
from aimind.errors import HubError
from aimind.hub.base import same_on_this_disk
from aimind.types import File, Model, Reference
from tests.hub.samples import HUGGING_FACE, Kind

HF_NAMES = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME")
CACHE = source.hub_of("huggingface").cache


def said(program: str) -> str:
    """By a program in a process of its own: clients read the environment when they are imported."""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=dict(os.environ)
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"XDG_CACHE_HOME": "/xdg"},
        {"HF_HOME": "~/hf", "XDG_CACHE_HOME": "/xdg"},
        {"HF_HOME": "$HOME/hf"},
        {"HF_HUB_CACHE": "/cache", "HUGGINGFACE_HUB_CACHE": "/old", "HF_HOME": "/hf"},
        {"HUGGINGFACE_HUB_CACHE": "/old", "HF_HOME": "/hf"},
    ],
)
def test_the_folder_of_hugging_face(settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in HF_NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    theirs = said("from huggingface_hub import constants; print(constants.HF_HUB_CACHE)")
    assert str(CACHE.folder()) == theirs


@pytest.mark.parametrize("settings", [{}, {"MODELSCOPE_CACHE": "~/ms"}, {"MODELSCOPE_CACHE": "/ms"}])
def test_the_folder_of_modelscope(settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODELSCOPE_CACHE", raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    theirs = said("from modelscope_hub.config import HubConfig; print(HubConfig().cache_dir)")
    assert str(source.hub_of("modelscope").cache.folder()) == theirs


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"MODELSCOPE_ENDPOINT": "modelscope.ai/"},
        {"MODELSCOPE_ENDPOINT": "http://127.0.0.1:1"},
        {"MODELSCOPE_DOMAIN": "www.modelscope.cn"},
    ],
)
def test_the_address_of_modelscope(settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODELSCOPE_ENDPOINT")
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    theirs = said("from modelscope_hub.config import HubConfig; print(HubConfig().endpoint)")
    assert source.hub_of("modelscope").site().endpoint == theirs


def test_the_locks_are_those_of_the_clients(kind: Kind) -> None:
    model = Model(reference=kind.reference, files=(), commit="0" * 40)
    file = File("a/b.gguf", 1, "f" * 64)
    ours = source.hub_of(kind.source).cache.locks(model, file)[0]
    if kind == HUGGING_FACE:
        theirs = str(CACHE.folder() / ".locks" / "models--owner--model" / f"{file.sha256}.lock")
    else:
        theirs = said(
            "from modelscope_hub import HubApi\n"
            "lock = HubApi().downloader._lock_path\n"
            f"print(lock({kind.reference.name!r}, 'model', file_path={file.path!r}))"
        )
    assert str(ours) == theirs


@pytest.mark.parametrize(
    ("value", "offline"),
    [("1", True), ("true", True), ("YES", True), ("on", True), ("0", False), ("", False)],
)
def test_offline(value: str, offline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert source.is_offline() is offline
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", value)
    assert source.is_offline() is offline


@pytest.mark.parametrize("revision", ["../../escape", "/etc/passwd", "a\0b"])
def test_no_revision_leads_outside(kind: Kind, revision: str, tmp_path: Path) -> None:
    reference = replace(kind.reference, revision=revision)
    cache = source.hub_of(kind.source).cache
    with pytest.raises(HubError, match="unsafe"):
        cache.resolve(reference)
    with pytest.raises(HubError, match="unsafe"):
        cache.remember(Model(reference=reference, files=(), commit="0" * 40))
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("content", ["", "nonsense", "../../../etc", "0" * 39])
def test_a_damaged_ref_is_none(content: str) -> None:
    ref = CACHE.folder() / "models--owner--name" / "refs" / "main"
    ref.parent.mkdir(parents=True)
    ref.write_text(content)
    assert CACHE.resolve(Reference(source="huggingface", name="owner/name")) is None


def test_names_that_some_disks_take_for_one() -> None:
    files = [File("a/Model.gguf", 1), File("b", 1), File("A/model.gguf", 1)]
    assert same_on_this_disk(files) == ("a/Model.gguf", "A/model.gguf")
    assert same_on_this_disk(files[:2]) is None

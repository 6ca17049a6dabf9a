"""The settings of Hugging Face's client, as its own documentation has them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aimind.errors import HubError
from aimind.hub import cache
from aimind.types import Model, Reference

NAMES = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME")


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
def test_the_folder_is_that_of_the_client(settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle is the client, which reads the environment when it is imported."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    program = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    theirs = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=dict(os.environ)
    ).stdout.strip()
    assert str(cache.folder()) == theirs


@pytest.mark.parametrize(
    ("value", "offline"),
    [("1", True), ("true", True), ("YES", True), ("on", True), ("0", False), ("", False)],
)
def test_offline(value: str, offline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert cache.is_offline() is offline
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", value)
    assert cache.is_offline() is offline


@pytest.mark.parametrize("revision", ["../../escape", "/etc/passwd", "a\0b"])
def test_no_revision_leads_outside(revision: str, tmp_path: Path) -> None:
    reference = Reference(source="huggingface", name="owner/name", revision=revision)
    with pytest.raises(HubError, match="unsafe"):
        cache.resolve(reference)
    with pytest.raises(HubError, match="unsafe"):
        cache.remember(Model(reference=reference, files=(), commit="0" * 40))
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("content", ["", "nonsense", "../../../etc", "0" * 39])
def test_a_damaged_ref_is_none(content: str) -> None:
    ref = cache.folder() / "models--owner--name" / "refs" / "main"
    ref.parent.mkdir(parents=True)
    ref.write_text(content)
    assert cache.resolve(Reference(source="huggingface", name="owner/name")) is None

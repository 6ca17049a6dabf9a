"""A hub on loopback for each test, and a home of its own for the client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from tests.fakes.hub import Hub


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub; what is written below `hub.folder` is on it."""
    for name in (
        "HF_TOKEN",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    # The client read these when it was imported, in the name of whoever runs the tests.
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "home" / "token"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("aimind.hub.failures.WAITS_SECONDS", (0.0, 0.0))
    folder = tmp_path / "repositories"
    folder.mkdir()
    with Hub(folder) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running

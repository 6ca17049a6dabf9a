"""A hub on loopback for each test, which both clients of ours use, and a home of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from aimind import redaction
from tests.fakes.hub import Hub
from tests.hub.samples import KINDS, Kind


@pytest.fixture(params=KINDS, ids=lambda kind: kind.source)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each of the two hubs."""
    found: Kind = request.param
    return found


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub; what is written below `hub.folder` is on it."""
    for name in (
        "AIMIND_HUB",
        "HF_TOKEN",
        "HF_TOKEN_PATH",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "MODELSCOPE_API_TOKEN",
    ):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(home))
    monkeypatch.setenv("MODELSCOPE_HOME", str(home / "modelscope"))
    # The real client read these when it was imported, in the name of whoever runs the tests.
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(redaction, "_known", set())  # the tokens of other tests are words here
    folder = tmp_path / "repositories"
    folder.mkdir()
    with Hub(folder) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", running.url)
        yield running

"""The one door to all sources."""

from __future__ import annotations

import http.client
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.hub import Hub


def test_a_hub_that_has_ended_answers_nobody(tmp_path: Path) -> None:
    """Else a client that keeps connections would ask it again when the next hub has got its port."""
    with Hub(tmp_path / "repositories") as other:
        connection = http.client.HTTPConnection(other.url.removeprefix("http://"), timeout=30)
        connection.request("GET", "/api/models/a/b")
        connection.getresponse().read()
        assert connection.sock is not None
    connection.request("GET", "/api/models/a/b")
    with pytest.raises((http.client.HTTPException, OSError)):
        connection.getresponse()


def test_a_local_model_needs_no_client(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    program = (
        "import sys; from aimind import hub; from aimind.types import Reference\n"
        "model = hub.resolve(Reference(source='local', name=sys.argv[1]))\n"
        "assert hub.open_file(model, model.files[0]).read(0, 4) == b'GGUF'\n"
        "print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "m.gguf")], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "aimind.hub.local" in loaded
    assert not {
        "aimind.hub.remote",
        "logging",
        "pickle",
        "huggingface_hub",
        "httpx",
        "httpx2",
        "requests",
        "tqdm",
        "numpy",
        "rich",
    } & set(loaded)

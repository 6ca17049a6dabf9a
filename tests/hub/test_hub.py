"""The one door to all sources."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


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

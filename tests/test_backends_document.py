"""docs/backends.md says what the launchers say. `make golden` writes it again."""

from __future__ import annotations

import os

from aimind.launchers import LAUNCHERS
from scripts import backends


def test_the_document_is_what_the_launchers_say() -> None:
    made = backends.written()
    if os.environ.get("AIMIND_WRITE_GOLDEN"):
        backends.DOCUMENT.write_text(made, encoding="utf-8")
    assert made == backends.DOCUMENT.read_text(encoding="utf-8"), "`make golden` writes it again"


def test_every_backend_has_its_row() -> None:
    part = list(backends.part())
    assert all(any(line.startswith(f"| {launcher.NAME} | ") for line in part) for launcher in LAUNCHERS)

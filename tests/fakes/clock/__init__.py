"""A wall clock of our own: what `build` compiles and `environment` preloads shifts it by a file's seconds."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

COMPILER = shutil.which("cc")


def build(folder: Path) -> Path:
    """Compile the library into the folder."""
    assert COMPILER, "the fake clock needs a C compiler"
    library = folder / "clock.so"
    options = ("-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror")
    source = Path(__file__).with_name("clock.c")
    subprocess.run([COMPILER, *options, "-o", library, source, "-ldl"], check=True)
    return library


def environment(library: Path, shift: Path) -> dict[str, str]:
    """The variables that make a process, and all that it starts, read that clock."""
    return {"LD_PRELOAD": str(library), "FAKE_CLOCK": str(shift)}

"""What is asked of llama-fit-params, and how its answer is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from aimind.errors import ExactSizesError
from aimind.exact import Exact, exact
from aimind.types import Command, Probe

# It refuses what the real one does not know, and answers in its form (llama.cpp 0.7.0 of Debian).
PROGRAM = """\
#!/bin/sh
for word in "$@"; do
    case "$word" in
        --alias|--host|--port|--kv-unified|--nonsense) echo "error: invalid argument: $word" >&2; exit 1;;
    esac
done
printf 'CUDA0 100 20 3 \\nCUDA1 90 20 30 \\nHost 5 8 6 \\n'
"""


def ask(folder: Path, *flags: str) -> tuple[Exact, ...]:
    argv = (str(folder / "llama-server"), "--model", "m.gguf", *flags)
    return exact(Command(argv=argv, ready=Probe(url=""), url=""))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    program = tmp_path / "llama-fit-params"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    return tmp_path


def test_devices_come_first_and_sizes_are_rounded_down(folder: Path) -> None:
    found = ask(folder, "--alias", "m", "--host", "127.0.0.1", "--kv-unified", "--parallel", "4")
    mib = 1 << 20
    assert found == (
        Exact("CUDA0", 100 * mib, 20 * mib, 3 * mib, mib - 1),
        Exact("CUDA1", 90 * mib, 20 * mib, 30 * mib, mib - 1),
        Exact("host", 5 * mib, 8 * mib, 6 * mib, mib - 1),
    )


def test_its_own_words_are_said_when_it_refuses(folder: Path) -> None:
    with pytest.raises(ExactSizesError, match="invalid argument: --nonsense"):
        ask(folder, "--nonsense")


def test_without_it_no_llama_server_can_tell(tmp_path: Path) -> None:
    with pytest.raises(ExactSizesError, match="needs llama-fit-params") as caught:
        ask(tmp_path)
    assert "xllamacpp" in caught.value.hint

"""The environment of an installed backend is damaged later: xllamacpp, with the demo model."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import real
from tests.faults.table import LLAMA_CPP, Seen, fault, sentence
from tests.instances.conftest import Home
from tests.leftovers import MARK
from tests.supervisor.harness import LINUX

pytestmark = [pytest.mark.live, LINUX]
NETWORK = ("UV_", "PIP_", "SSL_", "HTTP_", "HTTPS_", "NO_PROXY", "ALL_PROXY", "http", "https", "no_proxy")
# Found before a test has a home of its own: what was downloaded once is there.
UV_CACHE = os.environ.get("UV_CACHE_DIR") or str(Path.home() / ".cache" / "uv")
SERVE = ("serve", "demo", "--backend", "xllamacpp", "--device", "none", "--port", "0")
ANEW = "`aimind backends install` reinstalls it"


@pytest.fixture(scope="module")
def installed() -> Path:
    """The environment that other tests use, too."""
    return Path(real.command("demo", backend="xllamacpp").argv[0]).parents[1]


@pytest.fixture
def aimind(tmp_path: Path, installed: Path) -> Iterator[Home]:
    """A home with a copy of the environment; its files are links, and must be replaced, not changed."""
    folder = tmp_path / "aimind"
    folder.mkdir()
    found = Home(folder)
    found.env |= {MARK: os.environ[MARK], "TMPDIR": os.environ["TMPDIR"]}
    found.env |= {name: value for name, value in os.environ.items() if name.startswith(NETWORK)}
    found.env["UV_CACHE_DIR"] = UV_CACHE
    copy = environment(found) / installed.name
    copy.parent.mkdir(parents=True)
    shutil.copytree(installed, copy, symlinks=True, copy_function=os.link)
    try:
        yield found
    finally:
        found.close()


def environment(aimind: Home) -> Path:
    return Path(aimind.env["AIMIND_DATA_DIR"]) / "environments" / "xllamacpp"


def library(aimind: Home) -> Path:
    (file,) = environment(aimind).glob("*/lib/python3*/site-packages/xllamacpp/*.so")
    return file


def replace(file: Path, content: bytes) -> None:
    file.unlink()
    file.write_bytes(content)


@fault(
    "the backend's library is cut to half its size",
    f"it is not started; the file and the command are named; {ANEW}",
    on=LLAMA_CPP,
)
def test_a_library_is_cut(aimind: Home, seen: Seen) -> None:
    whole = library(aimind).read_bytes()
    replace(library(aimind), whole[: len(whole) // 2])
    refused = aimind.run(*SERVE)
    assert refused.returncode == 10, refused.stderr
    assert f"xllamacpp/{library(aimind).name} has {len(whole) // 2} bytes instead of {len(whole)}" in (
        refused.stderr
    )
    assert "unusable: xllamacpp/" in aimind.good("backends", "--why")
    seen("exit code 10 with the file, its size and the size that it should have")
    seen(sentence(refused.stderr, "hint:"))
    aimind.good("backends", "install", "xllamacpp")
    assert library(aimind).read_bytes() == whole
    assert "unusable: xllamacpp/" not in aimind.good("backends", "--why")
    seen("as it was after `aimind backends install`")


@fault(
    "the first block of the backend's library is zeros, as after a power failure",
    f"the backend dies; its environment and the command are named; {ANEW}",
    on=LLAMA_CPP,
)
def test_a_library_holds_zeros(aimind: Home, seen: Seen) -> None:
    whole = library(aimind).read_bytes()
    replace(library(aimind), bytes(4096) + whole[4096:])
    failed = aimind.run(*SERVE)
    assert failed.returncode == 1, failed.stderr
    assert str(environment(aimind)) in failed.stderr
    seen("exit code 1", sentence(failed.stderr, "cause:"), sentence(failed.stderr, "hint:"))
    aimind.good("backends", "install", "xllamacpp")
    assert library(aimind).read_bytes() == whole


@fault(
    "the Python of the backend's environment is removed",
    "`aimind backends` names it, and `aimind serve` makes the environment anew",
    on=LLAMA_CPP,
)
def test_the_python_is_gone(aimind: Home, seen: Seen) -> None:
    (python,) = environment(aimind).glob("*/bin/python")
    python.unlink()
    python.symlink_to("/nonexistent/bin/python3")
    assert "its Python, /nonexistent/bin/python3, is missing" in aimind.good("backends", "--why")
    served = aimind.good(*SERVE, "--detach")
    assert "ready" in served
    aimind.good("stop", "--all")
    seen("ready")

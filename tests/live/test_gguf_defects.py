"""What real llama.cpp, by xllamacpp, says of files with other keys than it wants: as aimind says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from aimind.environments.install import ensure
from aimind.errors import MetadataError
from aimind.launchers import xllamacpp
from aimind.launchers.architectures import shipped
from aimind.launchers.ggml import BUILD
from aimind.metadata.gguf_defects import _required
from scripts import gguf_keys
from tests.live.served import DATA
from tests.metadata import altered
from tests.metadata.local import read
from tests.samples import host

pytestmark = pytest.mark.live
CHANGES = (*(changes for changes, _ in altered.REFUSED), *altered.LOADED)
# One of each kind: dense, encoder, recurrent, hybrid, latent, experts.
ASKED = ("llama", "bert", "mamba2", "falcon-h1", "deepseek2", "qwen3moe", "gemma4", "t5")


@pytest.fixture(scope="module")
def python() -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIMIND_DATA_DIR", str(DATA))
        return ensure("xllamacpp", xllamacpp.source(host()), progress=print).executable


def is_refused(path: Path) -> bool:
    try:
        return bool(read(path.parent).defects)
    except MetadataError:
        return True


@pytest.mark.parametrize("changes", CHANGES)
def test_it_refuses_what_is_refused(changes: Mapping[str, int | None], python: str, tmp_path: Path) -> None:
    path = altered.write(tmp_path / "model.gguf", changes)
    said = gguf_keys.load(python, path)
    assert said.endswith("loaded") == (not is_refused(path)), said[-2000:]


@pytest.mark.parametrize("architecture", ASKED)
def test_it_requires_the_keys_of_the_table(architecture: str, python: str) -> None:
    assert set(gguf_keys.required(python, architecture)) == set(_required()[architecture])


def test_it_has_the_architectures_of_the_table(python: str) -> None:
    names = sorted(shipped(f"llama.cpp-{BUILD}") or ())
    unknown = "unknown model architecture"
    assert not [name for name in names if unknown in gguf_keys.ask(python, {"general.architecture": name})]
    assert unknown in gguf_keys.ask(python, {"general.architecture": "foobar"})

"""A home with a hub to pull from, where `aimind` is run as a shell would."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import models
from tests.fakes.hub import Hub
from tests.instances.conftest import Home

DEMO = Path(models.__file__).parents[1] / "aimind" / "demo"
GGUF = next(DEMO.glob("*.gguf")).read_bytes()
NAME = "owner/small-GGUF"


class Shop(Home):
    """A home with a hub to pull from, and no backend.

    Attributes:
        hub: with two quantizations of a model, and a folder in safetensors.
        cache: of Hugging Face; modelscope: of ModelScope.
    """

    def __init__(self, folder: Path, hub: Hub) -> None:
        super().__init__(folder)
        (folder / "programs").rename(folder / "backends")
        self.hub = hub
        self.cache, self.modelscope = folder / "huggingface" / "hub", folder / "modelscope"
        del self.env["HF_HUB_OFFLINE"]
        self.env |= {
            "HF_ENDPOINT": hub.url,
            "MODELSCOPE_ENDPOINT": hub.url,
            "HF_HOME": str(folder / "huggingface"),
            "MODELSCOPE_CACHE": str(self.modelscope),
        }
        repository = hub.folder / NAME
        repository.mkdir(parents=True)
        (repository / "small-Q4_K_M.gguf").write_bytes(GGUF)
        (repository / "small-Q8_0.gguf").write_bytes(GGUF + bytes(4096))
        shutil.copytree(DEMO / "huggingface", hub.folder / "owner" / "safe")

    def json(self, *words: str) -> Any:
        return json.loads(self.good(*words, "--json"))

    def here(self) -> dict[str, dict[str, Any]]:
        """What `aimind models` shows, by reference."""
        return {each["reference"]: each for each in self.json("models")["models"]}

    def fails(self, code: int, said: str, *words: str) -> str:
        done = self.run(*words)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
        assert said in done.stderr
        assert done.stderr.count("error: ") == 1
        assert "hint: " in done.stderr
        return done.stderr

    def repository(self, name: str = NAME) -> Path:
        return self.cache / f"models--{name.replace('/', '--')}"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    (tmp_path / "repositories").mkdir()
    with Hub(tmp_path / "repositories") as hub:
        made = Shop(tmp_path, hub)
        yield made
        made.close()


def half(shop: Shop, name: str = NAME, content: bytes = b"x" * 5000) -> Path:
    """The first part of a file, as a download that was killed leaves it."""
    path = shop.repository(name) / "blobs" / f"{'ab' * 32}.incomplete"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@contextlib.contextmanager
def serving(shop: Shop, *model: str) -> Iterator[None]:
    """An instance called chat, of the fake backend."""
    shop.env["PATH"] = f"{shop.folder / 'backends'}:/usr/bin:/bin"
    shop.good("serve", "-d", *model, "--backend", "llama-server", "--port", "0", "--name", "chat")
    yield

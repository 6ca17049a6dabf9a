"""Repositories to put on the hub, what differs between both, and a progress that is remembered."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aimind import hub as source
from aimind.types import Reference, Source
from tests.fakes.hub import Hub

NAME = "owner/model"
CONFIG = b'{"model_type": "llama"}'
WEIGHTS = bytes(range(256)) * 1024

# As often as for users, but at once.
resolve = partial(source.resolve, waits=(0.0, 0.0))
open_file = partial(source.open_file, waits=(0.0, 0.0))
fetch = partial(source.fetch, waits=(0.0, 0.0, 0.0, 0.0))


@dataclass(frozen=True)
class Kind:
    """One of the two hubs.

    Attributes:
        lists, files: patterns of the paths of requests, for faults; `/cdn/` is that of both.
        home, endpoint, token: the variables.
        login: how to log in.
        page: of the sample repository.
        blobs: the folder of contents, below `home`.
    """

    source: Source
    lists: str
    files: str
    home: str
    endpoint: str
    token: str
    login: str
    page: str
    repository: str

    @property
    def reference(self) -> Reference:
        return Reference(source=self.source, name=NAME)


HUGGING_FACE = Kind(
    source="huggingface",
    lists="/api/models/",
    files="/resolve/",
    home="HF_HOME",
    endpoint="HF_ENDPOINT",
    token="HF_TOKEN",
    login="hf auth login",
    page=NAME,
    repository="hub/models--owner--model",
)
MODELSCOPE = Kind(
    source="modelscope",
    lists="/repo/files",
    files="/repo$",
    home="MODELSCOPE_CACHE",
    endpoint="MODELSCOPE_ENDPOINT",
    token="MODELSCOPE_API_TOKEN",
    login="modelscope login",
    page=f"models/{NAME}",
    repository="models/owner--model",
)
KINDS = (HUGGING_FACE, MODELSCOPE)


def publish(hub: Hub, contents: Mapping[str, bytes], name: str = NAME) -> Path:
    """Put files into a repository."""
    folder = hub.folder / name
    for path, content in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def publish_model(hub: Hub) -> Path:
    """A small repository with a large file (in LFS) and a small one."""
    return publish(hub, {"config.json": CONFIG, "model.safetensors": WEIGHTS})


class Progress:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.started: list[dict[str, int]] = []
        self.bytes: Counter[str] = Counter()
        self.waited: list[str] = []
        self.finished = 0
        self._lock = threading.Lock()

    def start(self, sizes: Mapping[str, int]) -> None:
        self.started.append(dict(sizes))

    def advance(self, path: str, count_bytes: int) -> None:
        with self._lock:
            self.bytes[path] += count_bytes

    def wait(self, path: str) -> None:
        with self._lock:
            self.waited.append(path)

    def finish(self) -> None:
        self.finished += 1

"""Repositories to put on the hub, and a progress that is remembered."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

from tests.fakes.hub import Hub

NAME = "owner/model"
CONFIG = b'{"model_type": "llama"}'
WEIGHTS = bytes(range(256)) * 1024


def publish(hub: Hub, contents: dict[str, bytes], name: str = NAME) -> Path:
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
        self.started: list[tuple[int, int]] = []
        self.bytes: Counter[str] = Counter()
        self.finished = 0
        self._lock = threading.Lock()

    def start(self, total_bytes: int, files: int) -> None:
        self.started.append((total_bytes, files))

    def advance(self, path: str, count_bytes: int) -> None:
        with self._lock:
            self.bytes[path] += count_bytes

    def finish(self) -> None:
        self.finished += 1

"""What an instance may be called."""

from __future__ import annotations

import re
from collections.abc import Iterator

from aimind.errors import UsageError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def check(name: str) -> str:
    """The name, found good: of a folder, and of a word in a shell.

    Raises:
        UsageError: it is neither.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be the name of an instance",
            hint="use up to 63 of a-z, 0-9, dot, dash and underscore, and begin with a letter or a digit",
        )
    return name


def good(name: str) -> bool:
    """Whether a folder of this name can be an instance's."""
    return _NAME.fullmatch(name) is not None


def proposals(model: str) -> Iterator[str]:
    """Names for an instance of this model, the best first: `qwen3-8b`, then `qwen3-8b-2` and on."""
    slug = re.sub(r"[^a-z0-9._-]+", "-", model.rpartition("/")[2].lower()).strip("._-")[:58].rstrip("._-")
    slug = slug or "model"
    yield slug
    number = 2
    while True:
        yield f"{slug}-{number}"
        number += 1

"""A conversation as a language model is sent it."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aimind.errors import UsageError

Message = dict[str, object]


@dataclass(slots=True, kw_only=True)
class Settings:
    """What a person sets for answers; `None` leaves it to the server.

    Attributes:
        system: the system prompt.
        temperature: of sampling.
        max_tokens: the longest answer.
        statistics: whether they are shown after each answer.
    """

    system: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    statistics: bool = False


@dataclass(slots=True, kw_only=True)
class Conversation:
    """The messages so far, and how answers shall be made."""

    settings: Settings = field(default_factory=Settings)
    messages: list[Message] = field(default_factory=list)

    def ask(self, text: str, images: Sequence[str] = ()) -> None:
        """Add a message of the user's; `images` are data URLs (`image_url`)."""
        if not images:
            self.messages.append({"role": "user", "content": text})
            return
        parts: list[Message] = [{"type": "text", "text": text}]
        parts += [{"type": "image_url", "image_url": {"url": url}} for url in images]
        self.messages.append({"role": "user", "content": parts})

    def answer(self, text: str) -> None:
        """Add the model's answer to the last message."""
        self.messages.append({"role": "assistant", "content": text})

    def take_back(self) -> None:
        """Remove the last message, which was not answered."""
        self.messages.pop()

    def body(self) -> Message:
        """The fields of a request for the next answer of a chat."""
        system = [{"role": "system", "content": self.settings.system}] if self.settings.system else []
        return {"messages": [*system, *self.messages], **self._sampling()}

    def completion_body(self) -> Message:
        """The same for a model without a chat template: it continues the last message."""
        return {"prompt": self.messages[-1]["content"], **self._sampling()}

    def _sampling(self) -> Message:
        fields: Message = {
            "temperature": self.settings.temperature,
            "max_tokens": self.settings.max_tokens,
        }
        return {name: value for name, value in fields.items() if value is not None}


def image_url(path: Path) -> str:
    """The content of an image file as a data URL.

    Raises:
        UsageError: it cannot be read, or its name is not that of an image.
    """
    kind, _ = mimetypes.guess_type(path.name)
    if kind is None or not kind.startswith("image/"):
        raise UsageError(
            f"{path} does not have the file extension of an image",
            hint="use a file such as picture.png or photo.jpg",
        )
    return f"data:{kind};base64,{base64.b64encode(read_file(path)).decode()}"


def read_file(path: Path) -> bytes:
    """The content of a file that the user has named.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return path.expanduser().read_bytes()
    except OSError as problem:
        raise UsageError(
            f"cannot read {path}: {problem.strerror}",
            hint="check the path, which is relative to the current directory",
        ) from problem

"""What a model is used for here: chosen by its kind, and by whether there is a terminal."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from aimind import show
from aimind.chat import tasks
from aimind.chat.answering import answer
from aimind.chat.conversation import Conversation, Settings
from aimind.chat.session import Session
from aimind.chat.target import Target
from aimind.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a person wants of the model.

    Attributes:
        prompt: the text, or the sound file; `None` for a conversation, or for what is piped in.
        piped: the text that is piped in.
        images: data URLs that go with the first message.
        output: the file for a sound or an image.
        voice: of a model that speaks.
        settings: of answers.
    """

    prompt: str | None = None
    piped: str = ""
    images: tuple[str, ...] = ()
    output: Path | None = None
    voice: str | None = None
    settings: Settings = field(default_factory=Settings)


def use(target: Target, wish: Wish, *, ends_with_us: bool) -> None:
    """Use the model as its kind and the wish demand.

    `ends_with_us`: the server is stopped when this returns.

    Raises:
        UsageError: the wish does not go with the model.
        ApiError: the server refuses, or its answer breaks off.
    """
    kind = target.path
    if wish.images and kind != "chat/completions":
        raise UsageError(
            f"{target.title} does not support conversations, and therefore no --image", hint="omit it"
        )
    if kind == "audio/transcriptions":
        if wish.prompt is None:
            raise UsageError(
                f"{target.title} transcribes speech", hint="name an audio file, for example audio.wav"
            )
        tasks.transcribe(target, wish.prompt)
        return
    if kind in tasks.PURPOSES and wish.prompt is None and sys.stdin.isatty():
        _explain(target, ends_with_us=ends_with_us)
        return
    if kind not in ("audio/speech", "images/generations", *tasks.PURPOSES):
        _converse(target, wish)
        return
    text = _text(wish)
    if kind == "audio/speech":
        tasks.speak(target, text, output=wish.output, voice=wish.voice)
    elif kind == "images/generations":
        tasks.draw(target, text, output=wish.output)
    elif kind == "embeddings":
        tasks.embed(target, text)
    else:
        tasks.explain(target)


def _converse(target: Target, wish: Wish) -> None:
    """A conversation where there is a terminal and no prompt, else one answer."""
    if wish.prompt is None and sys.stdin.isatty() and sys.stdout.isatty():
        Session(target, wish.settings, list(wish.images)).run()
        return
    conversation = Conversation(settings=wish.settings)
    conversation.ask(_text(wish), wish.images)
    answer(target, conversation)


def _explain(target: Target, *, ends_with_us: bool) -> None:
    tasks.explain(target)
    if ends_with_us:
        show.note("the instance stops when you press Ctrl-D; use --keep to keep it running")
        sys.stdin.read()


def _text(wish: Wish) -> str:
    """The prompt, after what is piped in; without either, what is typed until Ctrl-D.

    Raises:
        UsageError: there is no text.
    """
    parts = [part for part in (wish.piped.strip("\n"), wish.prompt or "") if part.strip()]
    text = "\n\n".join(parts) or sys.stdin.read()
    if not text.strip():
        raise no_prompt()
    return text


def no_prompt() -> UsageError:
    """The error for a prompt that is empty."""
    return UsageError("there is no prompt", hint="pass it as an argument, or pipe it in")

"""A small request of a model's kind: what shows that it works, and what a user can try."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from aimind.types import Plan

# Voices that models of speech have; those of CosyVoice go by language.
_VOICES = {"bark": "v2/en_speaker_6", "dia": "English"}
_BOUNDARY = "aimind-7f2c41"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """A small request of the model's kind.

    Attributes:
        path: below `/v1/`, to POST to.
        body, content_type: what is sent.
        curl: the arguments with which curl sends one like it.
    """

    path: str
    body: str
    content_type: str = "application/json"
    curl: tuple[str, ...]


def hello(plan: Plan, *, tokens: int | None = None) -> Hello:
    """A small request of the model's kind; with `tokens` what is generated is that short."""
    name = plan.settings.served_name
    # Where the backend gives the model no name it is best not named.
    named = {} if name is None else {"model": name}
    most = {} if tokens is None else {"max_tokens": tokens}
    match plan.metadata.category:
        case "embedding":
            return _json("embeddings", {**named, "input": "Hello"})
        case "reranker":
            return _json("rerank", {**named, "query": "Hello", "documents": ["Hi", "Bye"]})
        case "image":
            return _json("images/generations", {**named, "prompt": "Hello", "n": 1, "size": "512x512"})
        case "speech-to-text":
            return Hello(
                path="audio/transcriptions",
                body=_form(named, _sound()),
                content_type=f"multipart/form-data; boundary={_BOUNDARY}",
                curl=("-F", "file=@speech.wav", *(("-F", f"model={name}") if named else ())),
            )
        case "text-to-speech":
            kind = plan.metadata.architecture
            voice = _VOICES.get(kind, "English Female")
            said = _json("audio/speech", {"model": name or kind, "input": "Hello", "voice": voice})
            return dataclasses.replace(said, curl=(*said.curl, "-o", "speech.mp3"))
    if plan.metadata.chat_template:
        chat = [{"role": "user", "content": "Hello"}]
        return _json("chat/completions", {**named, "messages": chat, **most})
    return _json("completions", {**named, "prompt": "Hello", **most})


def example(plan: Plan, url: str) -> tuple[str, ...]:
    """The arguments of curl for a small request to the server at `url`, its own URL first, without a key."""
    request = hello(plan)
    return (f"{url}/v1/{request.path}", *request.curl)


def _json(path: str, body: Mapping[str, object]) -> Hello:
    import json

    text = json.dumps(body, ensure_ascii=False)
    return Hello(path=path, body=text, curl=("-H", "Content-Type: application/json", "-d", text))


def _sound() -> str:
    """A quarter of a second of a hum as a WAV file: 8000 samples a second of 8 bits, each byte below 128."""
    samples = 2048
    header = b"RIFF" + (36 + samples).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
    for number, size in ((1, 2), (1, 2), (8000, 4), (8000, 4), (1, 2), (8, 2)):
        header += number.to_bytes(size, "little")
    hum = bytes(127 if index // 20 % 2 else 100 for index in range(samples))
    return (header + b"data" + samples.to_bytes(4, "little") + hum).decode("ascii")


def _form(fields: Mapping[str, str], sound: str) -> str:
    """A form with a file of sound, as text."""
    disposition = "Content-Disposition: form-data; name="
    parts = [f'{disposition}"{name}"\r\n\r\n{value}' for name, value in fields.items()]
    parts.append(f'{disposition}"file"; filename="hello.wav"\r\nContent-Type: audio/wav\r\n\r\n{sound}')
    return "".join(f"--{_BOUNDARY}\r\n{part}\r\n" for part in parts) + f"--{_BOUNDARY}--\r\n"

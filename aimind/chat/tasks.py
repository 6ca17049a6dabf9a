"""Models that are not for conversations: speech, images, vectors, rankings."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import typer

from aimind import show
from aimind.chat.conversation import read_file
from aimind.chat.target import Target
from aimind.errors import ApiError, UsageError

PURPOSES = {
    "embeddings": "turns texts into vectors (embeddings), for search and comparison",
    "rerank": "ranks documents by how well they answer a query",
}


def transcribe(target: Target, file: str) -> None:
    """Print what is said in a sound file.

    Raises:
        UsageError: it cannot be read.
        ApiError: the server does not answer.
    """
    path = Path(file)
    fields = {name: str(value) for name, value in target.template.items()}
    document = target.server.upload(target.path, fields=fields, name=path.name, content=read_file(path))
    typer.echo(str(document.get("text", "")).strip())


def speak(target: Target, text: str, *, output: Path | None, voice: str | None) -> None:
    """Write a sound file in which the text is said.

    Raises:
        UsageError: the file cannot be written.
        ApiError: the server does not answer.
    """
    body = {**target.template, "input": text}
    if voice is not None:
        body["voice"] = voice
    _save(target.server.download(target.path, body), output, default="speech.mp3")


def draw(target: Target, text: str, *, output: Path | None) -> None:
    """Write an image of what the text describes.

    Raises:
        UsageError: the file cannot be written.
        ApiError: the server does not answer with an image.
    """
    body = {**target.template, "prompt": text, "response_format": "b64_json"}
    document = target.server.post(target.path, body)
    images = document.get("data")
    first = images[0] if isinstance(images, list) and images else None
    content = first.get("b64_json") if isinstance(first, dict) else None
    if not isinstance(content, str):
        raise ApiError("the server answered without an image", hint="see its log for details")
    _save(base64.b64decode(content), output, default="image.png")


def embed(target: Target, text: str) -> None:
    """Print the vector of a text, as a JSON array.

    Raises:
        ApiError: the server does not answer with a vector.
    """
    document = target.server.post(target.path, {**target.template, "input": text})
    entries = document.get("data")
    first = entries[0] if isinstance(entries, list) and entries else None
    vector = first.get("embedding") if isinstance(first, Mapping) else None
    if not isinstance(vector, list):
        raise ApiError("the server answered without a vector", hint="see its log for details")
    typer.echo(json.dumps(vector))


def explain(target: Target) -> None:
    """Print what the model is for, and a line for the shell that tries it."""
    typer.echo(f"{target.title} {PURPOSES[target.path]}. Try it with:")
    typer.echo(show.curl(target.example, has_key=target.server.has_key))


def _save(content: bytes, output: Path | None, *, default: str) -> None:
    """Write the file that was named, or one of a name that is free; `-` is stdout.

    Raises:
        UsageError: it cannot be written.
    """
    if output == Path("-"):
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    path = output or _free_name(Path(default))
    try:
        path.write_bytes(content)
    except OSError as problem:
        raise UsageError(
            f"cannot write {path}: {problem.strerror}", hint="name another file with --output"
        ) from problem
    typer.echo(str(path))


def _free_name(path: Path) -> Path:
    """The name, or the first one with a number that no file has."""
    number, found = 1, path
    while found.exists():
        number += 1
        found = path.with_stem(f"{path.stem}-{number}")
    return found

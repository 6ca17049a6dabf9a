"""How one chats with a model of Hugging Face's form: its templates, and its tokenizer's added tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from posixpath import dirname, join

from aimind.errors import MetadataError
from aimind.metadata.folder import Folder
from aimind.types import Chat, File

LARGEST_TEMPLATE_BYTES = 1 << 20  # those of real models have up to 20 KB
_TOKENIZER = "tokenizer.json"
# Its added tokens come before the vocabulary: those of Llama 3 take 50 KB, a thousand 200 KB.
HEAD_BYTES = 1 << 18
_CONTENT = re.compile(r'"content":\s*("(?:[^"\\]|\\.)*")')


def read(folder: Folder) -> Chat:
    """The templates that transformers would take, and the tokens beside the vocabulary.

    Raises:
        MetadataError: a file of them is damaged.
    """
    template = "\n".join(_templates(folder))
    return Chat(template=template, tokens=frozenset(_tokens(folder)) if template else frozenset())


def _templates(folder: Folder) -> Iterator[str]:
    """Files of their own go before what is in other files; those with a name come beside the usual one."""
    own = folder.files.get("chat_template.jinja")
    if own is not None:
        yield _text(folder, own)
        named = join(folder.root, "additional_chat_templates")
        for file in folder.model.files:
            if dirname(file.path) == named and file.path.endswith(".jinja"):
                yield _text(folder, file)
        return
    for name in ("chat_template.json", "tokenizer_config.json"):
        config = folder.json(name)
        found = config.values.get("chat_template") if config else None
        if isinstance(found, str) and found:
            yield found
            return
        if isinstance(found, list) and found:
            templates = (each.get("template") for each in found if isinstance(each, dict))
            yield from (text for text in templates if isinstance(text, str))
            return


def _text(folder: Folder, file: File) -> str:
    reader = folder.open_file(file)
    if reader.size_bytes > LARGEST_TEMPLATE_BYTES:
        raise MetadataError(
            f"{file.path} has {reader.size_bytes:,} bytes, which is more than any valid file has",
            hint="Download the file again; if the repository itself has this file, it cannot be served.",
        )
    return reader.read(0, reader.size_bytes).decode(errors="replace")


def _tokens(folder: Folder) -> Iterator[str]:
    config = folder.json("tokenizer_config.json")
    added = config.values.get("added_tokens_decoder") if config else None
    if isinstance(added, dict) and added:
        for token in added.values():
            content = token.get("content") if isinstance(token, dict) else None
            if isinstance(content, str):
                yield content
        return
    others = folder.json("added_tokens.json")
    yield from others.values if others else ()
    if _TOKENIZER in folder.files:
        yield from _head(folder)


def _head(folder: Folder) -> Iterator[str]:
    """What the tokenizer's own file has added, which may have megabytes: its beginning is enough."""
    reader = folder.open_file(folder.files[_TOKENIZER])
    text = reader.read(0, min(HEAD_BYTES, reader.size_bytes)).decode(errors="replace")
    added = text.partition('"added_tokens"')[2].partition('"normalizer"')[0]
    for match in _CONTENT.finditer(added):
        try:
            yield str(json.loads(match[1]))
        except ValueError as error:
            raise MetadataError(
                f"{_TOKENIZER} is not JSON: {error}", hint="Download the file again."
            ) from error

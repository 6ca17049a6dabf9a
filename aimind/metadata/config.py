"""A model's config.json: read with suspicion, asked by every name that a value goes by.

What config.json leaves out has the default of its `model_type`. Those are in config_defaults.json: the values
of the configuration classes of transformers 5.23.0 (src/transformers/models/*/configuration_*.py) that say
something about size or memory, with the periods that `__post_init__` makes `layer_types` from. A type without
values there is known too: its class is in the repository, and its config.json is complete.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import cast

from aimind.errors import MetadataError
from aimind.metadata.summary import shown
from aimind.types import Reader

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

LARGEST_CONFIG_BYTES = 16 << 20  # a tokenizer's too, which lists the words that were added
LARGEST_NUMBER = 1 << 40
LONGEST_WORD = 100
# An empty object of 3 bytes takes 64 bytes in memory. In an index and in the header of a shard there are more
# than 8 bytes to a value, so that memory stays within a small multiple of what was read.
MOST_VALUES = 1 << 19
BYTES_PER_VALUE = 8
LARGEST_LIST = 1024  # nothing that is asked for has more entries than a model has layers
# vLLM, SGLang and transformers look for the language model of a multimodal one under these names.
_TEXT_SECTIONS = ("text_config", "llm_config", "language_config", "thinker_config")
# What the whole says of its language model too.
_SHARED = ("tie_word_embeddings", "vocab_size", "torch_dtype", "dtype")
_HINT = "Download the file again; if the repository itself has this file, it cannot be served."


def read_json(reader: Reader, path: str, most_bytes: int = LARGEST_CONFIG_BYTES) -> dict[str, Json]:
    """The object in a JSON file.

    Raises:
        MetadataError: it is too large, no JSON, or no object.
    """
    if reader.size_bytes > most_bytes:
        raise MetadataError(
            f"{path} has {reader.size_bytes:,} bytes, which is more than any valid file has", hint=_HINT
        )
    return parse_json(reader.read(0, reader.size_bytes), path)


def parse_json(text: bytes, path: str, *, unique: bool = False) -> dict[str, Json]:
    """The object in this JSON text. Of equal names the last one counts, as in transformers.

    `Infinity` and `NaN`, which transformers writes and reads, are floats.

    Args:
        text: in UTF-8.
        path: for messages.
        unique: refuse equal names, as the safetensors format does, and numbers that are not finite.

    Raises:
        MetadataError: it is not JSON, is nested too deeply, has too many values, or is not an object.
    """
    if sum(map(text.count, (b",", b"[", b"{"))) > max(MOST_VALUES, len(text) // BYTES_PER_VALUE):
        raise MetadataError(f"{path} contains more values than any valid file", hint=_HINT)
    hook = _unique if unique else None
    constant = _refuse_constant if unique else None
    try:
        value: Json = json.loads(text.decode(), parse_constant=constant, object_pairs_hook=hook)
    except (ValueError, RecursionError) as error:
        raise MetadataError(f"{path} is not JSON: {str(error)[:100]}", hint=_HINT) from error
    if not isinstance(value, dict):
        raise MetadataError(f"{path} does not contain a JSON object", hint=_HINT)
    return value


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a name appears twice")
    return values


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a valid JSON number")


@cache
def _defaults() -> Mapping[str, Mapping[str, Json]]:
    text = Path(__file__).with_name("config_defaults.json").read_bytes()
    return cast("Mapping[str, Mapping[str, Json]]", json.loads(text))


class Config:
    """One object of config.json, with the defaults of its type below it."""

    def __init__(self, values: Mapping[str, Json], path: str, model_type: str | None = None) -> None:
        self.path = path
        self.values = values
        self.model_type = self.text("model_type") or model_type or ""
        # Multimodal models of one level (the first Qwen2-VL) have the values of their text part.
        if self.model_type not in _defaults() and f"{self.model_type}_text" in _defaults():
            self.model_type += "_text"
        self._defaults = _defaults().get(self.model_type, {})

    @property
    def known(self) -> bool:
        """Whether the type is one whose rules are known."""
        return self.model_type in _defaults()

    def raw(self, *names: str) -> Json:
        """The value of the first of these names; what config.json says goes before defaults, even null."""
        for values in (self.values, self._defaults):
            present = [values[name] for name in names if name in values]
            if present:
                return next((value for value in present if value is not None), None)
        return None

    def integer(self, *names: str) -> int | None:
        """A whole number that is not negative; `None` where there is none, or a word such as `auto`.

        Raises:
            MetadataError: a number that makes no sense.
        """
        value = self.raw(*names)
        if value is None or isinstance(value, str):
            return None
        if isinstance(value, list):
            return max(self.integers(*names), default=None)
        return self._whole(names[0], value)

    def integers(self, *names: str) -> tuple[int, ...]:
        """A list of such numbers, empty where there is none."""
        return tuple(self._whole(names[0], item) for item in self._entries(*names))

    def number(self, name: str) -> float | None:
        """A number, whole or not."""
        value = self.raw(name)
        return float(value) if isinstance(value, int | float) and abs(value) < LARGEST_NUMBER else None

    def numbers(self, name: str) -> tuple[float, ...]:
        """A list of numbers, empty where there is none."""
        entries = self._entries(name)
        return tuple(float(v) for v in entries if isinstance(v, int | float) and 0 <= v < LARGEST_NUMBER)

    def text(self, *names: str) -> str:
        """A word, empty where there is none."""
        value = next((self.values[name] for name in names if self.values.get(name)), "")
        return value if isinstance(value, str) and value.isprintable() else ""

    def flag(self, *names: str) -> bool:
        """Whether it says yes."""
        return self.raw(*names) is True

    def words(self, *names: str) -> tuple[str, ...]:
        """A list of words, empty where there is none."""
        return tuple(word(item) for item in self._entries(*names))

    def _entries(self, *names: str) -> list[Json]:
        value = self.raw(*names)
        if not isinstance(value, list):
            return []
        if len(value) > LARGEST_LIST:
            raise MetadataError(f"{self.path} is damaged: {names[0]} has {len(value):,} entries", hint=_HINT)
        return value

    def section(self, *names: str) -> Config | None:
        """The first of these objects that is there."""
        for name in names:
            value = self.values.get(name)
            if isinstance(value, dict):
                return Config(value, self.path)
        return None

    def sections(self, name: str) -> tuple[Config, ...]:
        """A list of objects, empty where there is none."""
        return tuple(Config(item, self.path) for item in self._entries(name) if isinstance(item, dict))

    def language_model(self) -> Config:
        """The part that describes the language model; what only the whole says counts there too."""
        inner = self.section(*_TEXT_SECTIONS)
        if inner is None:
            return self
        merged = {**{name: self.values[name] for name in _SHARED if name in self.values}, **inner.values}
        own = self.model_type if self.model_type.endswith("_text") else "llama"  # as LLaVA's has it
        return Config(merged, self.path, own).language_model()

    def _whole(self, name: str, value: Json) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < LARGEST_NUMBER:
            raise MetadataError(f"{self.path} is damaged: {name} is {shown(value)}", hint=_HINT)
        return value


def word(value: Json) -> str:
    """At a length that a line can hold, and without what would confuse a terminal."""
    return value[:LONGEST_WORD] if isinstance(value, str) and value.isprintable() else shown(value)

"""What Python of its own a model names, and whether backends need it: told by names, nothing of it is run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from aimind.metadata.config import LARGEST_LIST, Config, Json, word

# What vox-box 0.0.21 has itself, or calls in CosyVoice's own configurations.
_COSYVOICE = re.compile(
    r"!(?:ref|tuple)|!(?:new|name|apply):(?:(?:cosyvoice|matcha)\.[\w.]+|(?:numpy\.)?random\.seed"
    r"|torch\.(?:cuda\.)?manual_seed(?:_all)?|whisper\.tokenizer\.get_tokenizer|omegaconf\.DictConfig)"
)
_TAG = re.compile(rb"!\S*|^%.*", re.MULTILINE)


def named(*configs: Config | None) -> tuple[str, ...]:
    """The classes that these name in their `auto_map`, as they name them.

    `modeling_x.X` is class X in modeling_x.py, `owner/other--modeling_x.X` in that of another repository.
    """
    maps = [config.raw("auto_map") for config in configs if config]
    classes = [name for each in maps for value in _values(each) for name in _values(value)]
    return tuple(dict.fromkeys(word(name) for name in classes if isinstance(name, str)))[:LARGEST_LIST]


def needed(whole: Config, tokenizer: Config | None, names: frozenset[str]) -> bool:
    """Whether it brings a class, for its configuration or its tokenizer, that backends have not.

    They have those of native_types.txt: the model types of transformers 5.23.0 and of vLLM 0.32's
    `_CONFIG_REGISTRY` (vllm/transformers_utils/config.py). native_tokenizers.txt holds the types among them
    that have a tokenizer in one of both, and the tokenizers' classes (transformers' tokenization_auto.py);
    a type's tokenizer is made from tokenizer.json.
    """
    kind = whole.text("model_type")
    if auto_classes(whole) and kind not in _native("native_types.txt"):
        return True
    if tokenizer is None or "AutoTokenizer" not in auto_classes(tokenizer):
        return False
    native = _native("native_tokenizers.txt")
    by_type = kind in native and "tokenizer.json" in names
    return tokenizer.text("tokenizer_class") not in native and not by_type


def of_cosyvoice(text: bytes) -> bool:
    """Whether cosyvoice.yaml calls more than what vox-box has: HyperPyYAML calls any Python that is named."""
    return not all(_COSYVOICE.fullmatch(tag.decode(errors="replace")) for tag in _TAG.findall(text))


def auto_classes(config: Config) -> frozenset[str]:
    """The kinds of classes that it brings: `AutoConfig`, `AutoModelForCausalLM`."""
    classes = config.raw("auto_map")
    return frozenset(classes) if isinstance(classes, dict) else frozenset()


def _values(value: Json) -> Iterable[Json]:
    """A tokenizer is named by a pair: the slow one, the fast one."""
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else (value,)


def _native(file: str) -> list[str]:
    return Path(__file__).with_name(file).read_text(encoding="utf-8").split()

"""Chat templates, wherever a folder keeps them, and the tokens that come beside the vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aimind.errors import MetadataError
from aimind.metadata import chat
from aimind.types import Chat
from tests.metadata.local import read

DEMO = Path(__file__).parents[2] / "aimind" / "demo" / "huggingface"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model without anything that tells how one chats with it."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(DEMO / name)
    return tmp_path


def write(folder: Path, name: str, values: object) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(values if isinstance(values, str) else json.dumps(values))


def test_without_a_template_nothing_is_told(folder: Path) -> None:
    assert read(folder).chat == Chat()
    write(folder, "tokenizer_config.json", {"added_tokens_decoder": {"0": {"content": "<think>"}}})
    assert read(folder).chat == Chat()


def test_a_file_of_its_own_goes_before_all_others(folder: Path) -> None:
    write(folder, "tokenizer_config.json", {"chat_template": "third"})
    assert read(folder).chat.template == "third"
    write(folder, "chat_template.json", {"chat_template": "second"})
    assert read(folder).chat.template == "second"
    write(folder, "chat_template.jinja", "first")
    assert read(folder).chat.template == "first"
    write(folder, "additional_chat_templates/tool_use.jinja", "with tools")
    write(folder, "additional_chat_templates/notes.txt", "nothing")
    assert read(folder).chat.template == "first\nwith tools"


def test_templates_with_names_all_count(folder: Path) -> None:
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "with tools"}, "?"]
    write(folder, "tokenizer_config.json", {"chat_template": named})
    assert read(folder).chat.template == "plain\nwith tools"


def test_added_tokens_are_where_the_version_that_wrote_them_kept_them(folder: Path) -> None:
    write(folder, "chat_template.jinja", "{{ messages }}")
    added = {"added_tokens": [{"id": 7, "content": "<\uff5ca\uff5c>"}, {"id": 8, "content": 'a "b"'}]}
    write(folder, "tokenizer.json", {**added, "normalizer": {"content": "none"}, "model": {}})
    assert read(folder).chat.tokens == {"<\uff5ca\uff5c>", 'a "b"'}
    write(folder, "added_tokens.json", {"<think>": 9})
    assert read(folder).chat.tokens == {"<\uff5ca\uff5c>", 'a "b"', "<think>"}
    decoder = {"0": {"content": "<s>"}, "1": "?", "2": {"id": 2}}
    write(folder, "tokenizer_config.json", {"added_tokens_decoder": decoder})
    assert read(folder).chat.tokens == {"<s>"}


def test_of_a_large_tokenizer_the_beginning_is_read(folder: Path) -> None:
    write(folder, "chat_template.jinja", "{{ messages }}")
    vocabulary = {f"word{number}": number for number in range(60_000)}
    tokenizer = {"added_tokens": [{"content": "<think>"}], "normalizer": None, "model": {"vocab": vocabulary}}
    write(folder, "tokenizer.json", tokenizer)
    assert (folder / "tokenizer.json").stat().st_size > 4 * chat.HEAD_BYTES
    assert read(folder).chat.tokens == {"<think>"}


def test_what_no_real_file_holds_is_an_error(folder: Path) -> None:
    write(folder, "chat_template.jinja", "{{ messages }}")
    write(folder, "tokenizer.json", '{"added_tokens": [{"content": "\\x"}]}')
    with pytest.raises(MetadataError, match=r"tokenizer\.json is not JSON"):
        read(folder)
    write(folder, "chat_template.jinja", " " * (chat.LARGEST_TEMPLATE_BYTES + 1))
    with pytest.raises(MetadataError, match=r"chat_template\.jinja has 1,048,577 bytes, which is more than"):
        read(folder)

"""The command line accepts every `aimind …` command of the documents, and their links lead somewhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer._click.exceptions import ClickException
from typer.core import TyperGroup

from aimind.cli.app import load, split
from aimind.cli.commands import COMMANDS
from aimind.cli.habits import ALIASES

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")} - {ROOT / "CHANGELOG.md"})
BLOCK = re.compile(r"^```(?:sh|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")
NAMES = re.compile(r"^#+ (.*)$", re.MULTILINE)


def commands(text: str) -> Iterator[list[str]]:
    """The words after `aimind` of each command line in blocks of shell."""
    for block in BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            found = re.search(r"(?:^|[|&] |sudo |env \S+ )(?:\$ )?aimind ([^|;>&]*)", line)
            if found:
                yield shlex.split(found[1], comments=True)


EVERY = [
    pytest.param(words, id=f"{path.relative_to(ROOT)}: {shlex.join(words)}")
    for path in DOCUMENTS
    for words in commands(path.read_text("utf-8"))
]


def test_there_are_commands() -> None:
    assert len(EVERY) > 100


@pytest.mark.parametrize("words", EVERY)
def test_a_command_is_accepted(words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its name, its options and their values; a file that an option names exists for the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIMIND_HUB", "huggingface")  # --hub sets it
    own = [present(word, tmp_path) for word in split(words)[0]]
    if not own or own[0].startswith("-"):
        return
    name = ALIASES.get(own[0], own[0])
    assert name in COMMANDS
    try:
        accept(load(name), own[1:])
    except ClickException as error:
        pytest.fail(error.format_message())


def present(word: str, folder: Path) -> str:
    """The word; if it looks like the file of an option, such a file in a folder."""
    if not word.endswith((".lock", ".toml", ".key", ".token")) and word not in ("key", "token"):
        return word
    path = folder / Path(word).name
    path.touch()
    return str(path)


def accept(command: Any, words: list[str]) -> None:
    """Parse the words, with those of a command below the command."""
    if isinstance(command, TyperGroup) and words and words[0] in command.commands:
        accept(command.commands[words[0]], words[1:])
    else:
        command.make_context(command.name, words)


def anchors(path: Path) -> set[str]:
    """The fragments by which the headings of a document are linked."""
    headings = (
        re.sub(r"[^\w\- ]", "", heading.lower()) for heading in NAMES.findall(path.read_text("utf-8"))
    )
    return {heading.strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target, fragment in LINK.findall(path.read_text("utf-8")):
        found = (path.parent / target).resolve() if target else path
        assert found.exists(), target
        if fragment:
            assert fragment in anchors(found), f"{target}#{fragment}"

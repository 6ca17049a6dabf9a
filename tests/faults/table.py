"""The table of faults: what was done to the program, what should follow, and what did."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import pytest

FAKE, LLAMA_CPP, VLLM = "fake", "llama.cpp", "vLLM"
HEAD = """\
# Faults, tried

`make faults` does all this to running programs, and `AIMIND_WRITE_FAULTS=1 make faults` writes this page from
what it saw. "On" is what stands behind aimind: a fake backend (a real executable that misbehaves on demand),
real llama.cpp, or real vLLM. A test fails, too, when anything that it started is still alive after it.

"""


def fault(title: str, expected: str, *, on: str = FAKE) -> pytest.MarkDecorator:
    """A test of one fault: its row of the table, but for what is seen."""
    return pytest.mark.fault(title=title, expected=expected, on=on)


class Seen:
    """What a test has seen, in words that are the same in every run."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def __call__(self, *words: str) -> None:
        self.words += [steady(word) for word in words]


def steady(text: str) -> str:
    """The text without what differs from run to run: durations, ports, folders, process ids."""
    text = re.sub(r"\b\d+(\.\d+)? s\b", "… s", text)
    text = re.sub(r"\bport \d+", "port …", text)
    text = re.sub(r"\bpid \d+", "pid …", text)
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:…", text)
    return re.sub(r"/\S*/(?=\w)", "…/", text)


def sentence(text: str, about: str) -> str:
    """The first of the program's lines that holds these words, as it is shown to a person."""
    line = next((line for line in text.splitlines() if about in line), None)
    assert line is not None, f"nothing about {about!r} in:\n{text}"
    return "“" + line.removeprefix("aimind: ").removesuffix(". Its last lines:") + "”"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fault; `place`: the file, the line, and which of its parameters."""

    place: tuple[str, int, str]
    title: str
    expected: str
    on: str
    seen: str


def ordered(rows: Iterable[Row]) -> list[Row]:
    """Those on the fake backend first."""
    return sorted(rows, key=lambda row: ((FAKE, LLAMA_CPP, VLLM).index(row.on), row.place))


def page(rows: Iterable[Row]) -> str:
    """The document."""
    lines = ["| fault | expected | seen | on |", "|---|---|---|---|"]
    for row in ordered(rows):
        cells = (row.title, row.expected, row.seen, row.on)
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return HEAD + "\n".join(lines) + "\n"

"""The table of faults: what was done to the program, what should follow, and what did."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import pytest

FAKE, LLAMA_CPP, VLLM = "fake", "llama.cpp", "vLLM"
HUGGING_FACE, MODELSCOPE = "Hugging Face", "ModelScope"
ORDER = (FAKE, LLAMA_CPP, VLLM, HUGGING_FACE, MODELSCOPE)
HEAD = """\
# Faults, tried

`make faults` does all this to running programs, and `AIMIND_WRITE_FAULTS=1 make faults` writes this page from
what it saw. "On" is what stands behind aimind: a fake backend (a real executable that misbehaves on demand),
real llama.cpp, or real vLLM. A test fails, too, when anything that it started is still alive after it.

"""

HUBS = """\
## Hubs

`make faults-hub` does this to downloads: a hub on loopback, with the real protocols of both, lists, redirects
and sends what it should not.

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
    """Those on the fake backend first, those on hubs last."""
    return sorted(rows, key=lambda row: (ORDER.index(row.on), row.place))


def page(rows: Iterable[Row], before: str = "") -> str:
    """The document; a section of which nothing was tried stays as it was before."""
    programs: list[Row] = []
    hubs: list[Row] = []
    for row in ordered(rows):
        (hubs if row.on in (HUGGING_FACE, MODELSCOPE) else programs).append(row)
    first, _, second = before.partition(HUBS)
    first = HEAD + _table(programs) if programs else first.strip() + "\n"
    return first + "\n" + HUBS + (_table(hubs) if hubs else second)


def _table(rows: Iterable[Row]) -> str:
    """Faults with which the same was seen on two are one row."""
    where: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        where.setdefault((row.title, row.expected, row.seen), []).append(row.on)
    lines = ["| fault | expected | seen | on |", "|---|---|---|---|"]
    for texts, on in where.items():
        cells = (*texts, ", ".join(dict.fromkeys(on)))
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines) + "\n"

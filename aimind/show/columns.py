"""Tables and lists of facts that fit their output: a column that lacks the room is left out, never cut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aimind.phrases import visible
from aimind.show.terminal import console

if TYPE_CHECKING:
    from rich.text import Text

GAP = 2  # blanks between two columns
NARROWEST_FACT = 20  # columns; where fewer are left, a fact is not wrapped


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        title: its heading.
        rank: 0 for a column that is always shown; of the others the highest rank is left out first.
        right: the cells are aligned to the right.
    """

    title: str
    rank: int = 0
    right: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """A text in a style of rich, for example `green`."""

    text: str
    style: str = ""


Row = Sequence[str | Cell]


def print_table(columns: Sequence[Column], rows: Sequence[Row], *, err: bool = False) -> None:
    """Print rows below their headings, as many columns as the terminal has room for.

    A file or a pipe gets all columns. Columns of a rank in which every cell is empty are left out.
    """
    from rich.cells import cell_len
    from rich.text import Text

    screen = console(err=err)
    cells = [[_text(cell) for cell in row] for row in rows]
    widths = [
        max(cell_len(text.plain) for text in (Text(column.title), *(row[at] for row in cells)))
        for at, column in enumerate(columns)
    ]
    is_empty = [not any(row[at].plain for row in cells) for at in range(len(columns))]
    candidates = [at for at, column in enumerate(columns) if column.rank == 0 or not is_empty[at]]
    shown = _fitting(columns, widths, candidates, screen.width if screen.is_terminal else None)
    for row in [[Text(column.title, style="dim") for column in columns], *cells]:
        screen.print(_line(columns, widths, shown, row), soft_wrap=True)


def _fitting(
    columns: Sequence[Column], widths: Sequence[int], candidates: Sequence[int], room: int | None
) -> list[int]:
    """Choose the columns to show, by number; `room` is `None` where lines may have any length."""
    shown = list(candidates)
    while room is not None and sum(widths[at] + GAP for at in shown) - GAP > room:
        last = max(shown, key=lambda at: (columns[at].rank, at))
        if columns[last].rank == 0:
            break
        shown.remove(last)
    return shown


def _line(
    columns: Sequence[Column], widths: Sequence[int], shown: Sequence[int], row: Sequence[Text]
) -> Text:
    from rich.cells import cell_len
    from rich.text import Text

    line = Text()
    for at in shown:
        blanks = " " * (widths[at] - cell_len(row[at].plain))
        parts = (blanks, row[at]) if columns[at].right else (row[at], blanks)
        line.append_text(Text.assemble(*parts, " " * GAP))
    line.rstrip()
    return line


def _text(cell: str | Cell) -> Text:
    from rich.text import Text

    if isinstance(cell, Cell):
        return Text(visible(cell.text), style=cell.style)
    return Text(visible(cell))


def print_facts(facts: Iterable[tuple[str, str | Cell]], *, err: bool = False) -> None:
    """Print names and what is known of each, one below the other; facts without a text are left out.

    On a terminal a long text goes on below its own beginning.
    """
    from rich.text import Text

    screen = console(err=err)
    texts = [(name, _text(fact)) for name, fact in facts]
    present = [(name, text) for name, text in texts if text.plain]
    indent = max((len(name) for name, _ in present), default=0) + GAP
    room = screen.width - indent
    for name, text in present:
        is_wrapped = screen.is_terminal and room >= NARROWEST_FACT
        lines = list(text.wrap(screen, room)) if is_wrapped else [text]
        for number, line in enumerate(lines):
            head = Text(name.ljust(indent) if number == 0 else " " * indent, style="dim")
            line.rstrip()
            screen.print(Text.assemble(head, line), soft_wrap=True)

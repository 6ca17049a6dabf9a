"""What all that is printed shares: lines, data and rich's console."""

from __future__ import annotations

import codecs
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TextIO

import typer

from aimind.phrases import visible, visible_json
from aimind.redaction import redacted, without_secrets

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from aimind.parameters import ColorChoice
    from aimind.supervisor.screen import Look


class _Verbosity:
    """How much is shown, and where, by all threads.

    Attributes:
        quiet: errors and warnings alone.
        color: when output is colored.
        above: where lines go while another line ticks below them; `None` for stderr.
    """

    quiet = False
    color: ColorChoice = "auto"
    above: Callable[[str], None] | None = None


SCHEMA = 1  # of every document that aimind prints


def be_quiet(*, quiet: bool) -> None:
    """Print only results, warnings and errors from now on."""
    _Verbosity.quiet = quiet


def is_quiet() -> bool:
    """Whether only results, warnings and errors are printed."""
    return _Verbosity.quiet


def put_above(write: Callable[[str], None] | None) -> None:
    """Send lines there from now on; `None`: to stderr."""
    _Verbosity.above = write


def is_live() -> bool:
    """Whether a line that ticks can be drawn on stderr: a terminal, of a user who wants more than errors."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not is_quiet()


def set_color(when: ColorChoice) -> None:
    """Decide when output is colored; `auto`: on a terminal, unless NO_COLOR is set or TERM is dumb."""
    _Verbosity.color = when


def is_colored(stream: TextIO) -> bool:
    """Whether what is written to a stream has colors."""
    if _Verbosity.color != "auto":
        return _Verbosity.color == "always"
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def look(stream: TextIO | None = None) -> Look:
    """What the terminal of a stream (default: stderr) can show."""
    from aimind.supervisor.screen import Look

    stream = stream or sys.stderr
    return Look(color=is_colored(stream), unicode=codecs.lookup(stream.encoding or "ascii").name == "utf-8")


def write(line: str) -> None:
    """One line on stderr as it is: with the colors of `look`, and so without any text that is not ours."""
    try:
        print(line, file=sys.stderr, flush=True)  # noqa: T201
    except BrokenPipeError:
        raise
    except OSError:  # as in `tell`
        return


def note(line: str) -> None:
    """One line for the person, on stderr, unless they wish for quiet."""
    if not is_quiet():
        tell(line)


def warn(line: str) -> None:
    """One line that matters, on stderr, unless they wish for quiet."""
    if not is_quiet():
        tell(f"warning: {line}")


def tell(line: str) -> None:
    """One line on stderr, also where quiet is wished; without secrets, which a library's message may quote.

    Where stderr cannot be written (a full disk, a terminal that has gone), nobody can be told.

    Raises:
        BrokenPipeError: nobody reads it any more.
    """
    if _Verbosity.above is not None:
        _Verbosity.above(line)
        return
    try:
        typer.echo(_painted(visible(without_secrets(line))), err=True, color=True)
    except BrokenPipeError:
        raise
    except OSError:
        return


def _painted(line: str) -> str:
    """The line with its label in color: `error:`, `hint:` or `warning:`."""
    from aimind.supervisor.screen import BOLD, CYAN, RED, YELLOW

    labels = {"error:": (BOLD, RED), "hint:": (CYAN,), "warning:": (YELLOW,)}
    label, blank, rest = line.partition(" ")
    return f"{look().paint(label, *labels[label])}{blank}{rest}" if label in labels else line


def data(value: Mapping[str, object], *, indent: int | None = 2) -> None:
    """Print a document, its texts without secrets; where stdout is not UTF-8, with the escapes of JSON.

    Every document has the version of its form, `schema`. `indent=None` prints it on one line.
    """
    is_utf8 = codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8"
    document = {"schema": SCHEMA, **value}
    typer.echo(visible_json(json.dumps(redacted(document), indent=indent, ensure_ascii=not is_utf8)))


def path(found: str) -> None:
    """A path that was asked for, on stdout: as it is for a program, as it can be shown on a terminal."""
    typer.echo(visible(found) if sys.stdout.isatty() else found)


def console(*, err: bool = False) -> Console:
    """Rich's console; a pipe gets lines as long as they are."""
    from rich.console import Console

    class _Console(Console):
        def on_broken_pipe(self) -> None:
            """Raise what rich has caught: it would exit with 1."""
            raise BrokenPipeError

        def render_str(self, text: str, **options: Any) -> Text:
            """Show what a terminal would obey, in cells and lines that nobody has escaped, too."""
            return super().render_str(visible(text), **options)

    stream = sys.stderr if err else sys.stdout
    return _Console(
        stderr=err,
        highlight=False,
        width=None if stream.isatty() else 200,
        color_system="standard" if is_colored(stream) else None,
        no_color=not is_colored(stream),
    )

"""Standard output and standard error: failures have a name, and any character can be written.

It imports nothing that takes long, since every command begins with it.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Iterator

from aimind.errors import OutputError

# What the text of plans and tables has beyond ASCII, for outputs that cannot show it.
_PLAIN = {"·": "-", "×": "x", "…": "...", "→": "->", "–": "-", "—": "-", "─": "-", "│": "|"}
_PLAIN |= {"“": '"', "”": '"', "‘": "'", "’": "'", "≤": "<=", "≥": ">=", "÷": "/", "≈": "~"}
_ERRORS = "aimind.plain"


class _Output(io.TextIOWrapper):
    """The standard output; where it cannot be written, the error says so."""

    def write(self, text: str) -> int:
        """Write, or raise OutputError; BrokenPipeError where nobody reads it any more."""
        with _named_failure():
            return super().write(text)

    def flush(self) -> None:
        """Flush likewise."""
        with _named_failure():
            super().flush()


@contextlib.contextmanager
def _named_failure() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as problem:
        raise OutputError(
            f"cannot write the output: {problem.strerror or problem}",
            hint="Make room there, or write the output elsewhere.",
        ) from problem


def prepare() -> None:
    """Name failures of the output, and replace characters that its encoding does not have."""
    codecs.register_error(_ERRORS, _plain)
    if type(sys.stdout) is io.TextIOWrapper:
        encoding, by_line = sys.stdout.encoding, sys.stdout.line_buffering
        sys.stdout = _Output(sys.stdout.detach(), encoding=encoding, line_buffering=by_line)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def discard_unwritten() -> None:
    """Give up what cannot be written, which Python would else try again when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, OutputError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            stream.flush()


def _plain(error: UnicodeError) -> tuple[str, int]:
    """What stands for the characters that cannot be encoded, and where to go on (PEP 293)."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    replaced = "".join(_PLAIN.get(each) or ascii(each)[1:-1] for each in characters)
    return replaced, error.end

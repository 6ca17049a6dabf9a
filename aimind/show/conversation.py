"""What a conversation in the terminal looks like: answers as they come, statistics, and the commands."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from aimind.phrases import visible
from aimind.show.terminal import look, tell

if TYPE_CHECKING:
    from aimind.api import Answer, Piece

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
COMMANDS = (
    ("/set system TEXT", "set the system prompt; without TEXT, remove it"),
    ("/set temperature N", "set the sampling temperature, for example 0.7"),
    ("/set max-tokens N", "end each answer after this many tokens"),
    ("/set verbose", "show statistics after each answer; /set quiet ends that"),
    ("/image FILE", "send an image with the next message"),
    ("/show", "show the model, the settings and the tokens so far"),
    ("/stats", "show the statistics of the last answer"),
    ("/clear", "begin a new conversation"),
    ("/bye", "leave; so do /exit, /quit and Ctrl-D"),
)


class AnswerView:
    """Writes an answer to stdout piece by piece.

    A terminal also shows the reasoning, in a dim color, and no control characters. A pipe or a file gets
    the answer alone, exactly as the model wrote it.
    """

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._dim = look(sys.stdout).color
        self._reasons = False
        self._at_line_start = True

    def piece(self, piece: Piece) -> None:
        """Write some of the text."""
        if not self._terminal:
            if not piece.reasoning:
                self._write(piece.text)
            return
        if piece.reasoning != self._reasons:
            self._turn(reasons=piece.reasoning)
        self._write(visible_text(piece.text))

    def end(self) -> None:
        """End the last line, also of an answer that was stopped."""
        if self._reasons:
            self._turn(reasons=False)
        if not self._at_line_start:
            self._write("\n")

    def _turn(self, *, reasons: bool) -> None:
        """Mark where the reasoning begins or ends: by the color, or by lines where there is none."""
        self._reasons = reasons
        if not reasons and not self._at_line_start:
            self._write("\n")
        if self._dim:
            sys.stdout.write(_DIM if reasons else _PLAIN)
        else:
            self._write("<think>\n" if reasons else "</think>\n")

    def _write(self, text: str) -> None:
        if text:
            sys.stdout.write(text)
            sys.stdout.flush()
            self._at_line_start = text.endswith("\n")


def visible_text(text: str) -> str:
    """The text with its lines and tabs, and with the other control characters as Python writes them."""
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join(visible(line) for line in lines)


def statistics(answer: Answer) -> str:
    """Tokens, the time to the first one, and the speed of the others."""
    parts = [f"{answer.output_tokens:,} tokens"]
    if answer.prompt_tokens is not None:
        parts.insert(0, f"{answer.prompt_tokens:,} prompt tokens")
    if answer.ttft_seconds is not None:
        parts.append(f"first after {answer.ttft_seconds:.2f} s")
        seconds = answer.latency_seconds - answer.ttft_seconds
        if seconds > 0 and answer.output_tokens > 1:
            parts.append(f"then {(answer.output_tokens - 1) / seconds:,.1f} tokens/s")
    return " · ".join(parts)


def chat_help() -> None:
    """The commands of a conversation."""
    tell('Type a message; begin and end one of several lines with """.')
    tell("Ctrl-C stops an answer, and the arrow keys bring earlier messages back.")
    for usage, meaning in COMMANDS:
        tell(f"  {usage:<18}  {meaning}")

"""The conversation in a terminal: a prompt, lines with a history, commands that begin with a slash."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from aimind import show
from aimind.chat.answering import answer
from aimind.chat.conversation import Conversation, Settings, image_url
from aimind.chat.target import CHAT, Target, wait_until_ready
from aimind.errors import AimindError, InstanceError, UsageError

if TYPE_CHECKING:
    from aimind.api import Answer

PROMPT, CONTINUED = ">>> ", "... "
QUOTES = '"""'
HISTORY_LINES = 1000
_LEAVE = ("/bye", "/exit", "/quit")
# A word such as /help is a command; a message may begin with a path such as /etc/hosts.
_COMMAND = re.compile(r"/[a-z?]+")


class _LeaveError(Exception):
    """The person wants to leave."""


class Session:
    """A conversation in a terminal, until the person leaves."""

    def __init__(self, target: Target, settings: Settings, images: list[str]) -> None:
        self._target = target
        self._conversation = Conversation(settings=settings)
        self._images = images
        self._last: Answer | None = None

    def run(self) -> None:
        """Read messages and show answers."""
        model = f", model {self._target.model}" if self._target.model else ""
        show.note(f"{self._target.title}{model}: /help shows the commands, Ctrl-D leaves")
        if self._target.path != CHAT:
            show.note("note: this model has no chat template: it continues the text of each message alone")
        with _line_editing(), contextlib.suppress(EOFError, _LeaveError):
            while True:
                self._turn()

    def _turn(self) -> None:
        """One message and its answer, or one command.

        Raises:
            EOFError, _LeaveError: the person leaves.
        """
        try:
            text = read_message()
        except KeyboardInterrupt:
            show.tell("")
            show.tell("(Ctrl-D or /bye leaves)")
            return
        command, _, rest = text.partition(" ")
        try:
            if _COMMAND.fullmatch(command):
                self._obey(command, rest.strip())
            elif text.strip():
                self._say(text)
        except KeyboardInterrupt:
            return
        except AimindError as problem:
            show.error(problem)

    def _say(self, text: str) -> None:
        if self._target.instance is not None:
            wait_until_ready(self._target.instance)
        self._conversation.ask(text, self._images)
        self._images = []
        self._last = answer(self._target, self._conversation)

    # ── Commands ───────────────────────────────────────────────────────────────────────────────────────────

    def _obey(self, command: str, rest: str) -> None:
        """Do what a command wants.

        Raises:
            UsageError: it does not exist, or cannot be understood.
            _LeaveError: it was one of those that leave.
        """
        if command in _LEAVE:
            raise _LeaveError
        if command in ("/help", "/?"):
            show.chat_help()
        elif command == "/clear":
            self._conversation.messages.clear()
            show.tell("the conversation was cleared")
        elif command == "/set":
            self._set(*rest.partition(" ")[::2])
        elif command == "/image":
            self._images.append(image_url(Path(rest)))
            show.tell(f"the next message includes {rest}")
        elif command == "/show":
            self._show()
        elif command == "/stats":
            show.tell(show.statistics(self._last) if self._last else "there is no answer yet")
        else:
            raise UsageError(f"{command} is not a command", hint="type /help to see the commands")

    def _set(self, name: str, value: str) -> None:
        settings = self._conversation.settings
        if name == "system":
            settings.system = value.strip() or None
        elif name == "temperature":
            settings.temperature = float(_number(value, whole=False))
        elif name == "max-tokens":
            settings.max_tokens = int(_number(value, whole=True))
        elif name in ("verbose", "quiet"):
            settings.statistics = name == "verbose"
        else:
            raise UsageError(
                f"/set does not know {name or 'what to set'}",
                hint="/set system, temperature, max-tokens, verbose or quiet",
            )
        self._show()

    def _show(self) -> None:
        settings, target = self._conversation.settings, self._target
        facts = {
            "model": target.model,
            "instance": target.instance,
            "address": target.server.url,
            "system": settings.system,
            "temperature": settings.temperature,
            "max-tokens": settings.max_tokens,
            "messages": len(self._conversation.messages),
        }
        if self._last is not None and self._last.prompt_tokens is not None:
            facts["tokens so far"] = f"{self._last.prompt_tokens + self._last.output_tokens:,}"
        for name, value in facts.items():
            if value is not None:
                show.tell(f"  {name:<14} {value}")


def read_message() -> str:
    """Read a line, or several between two triples of quotes.

    Raises:
        EOFError: there are no more (Ctrl-D).
    """
    line = input(PROMPT)
    if not line.startswith(QUOTES):
        return line
    lines = [line.removeprefix(QUOTES)]
    while not lines[-1].rstrip().endswith(QUOTES):
        lines.append(input(CONTINUED))
    lines[-1] = lines[-1].rstrip().removesuffix(QUOTES)
    return "\n".join(lines).strip("\n")


def _number(text: str, *, whole: bool) -> float:
    """The number that was typed, if it is one that is not negative.

    Raises:
        UsageError: it is not.
    """
    with contextlib.suppress(ValueError):
        number = int(text) if whole else float(text)
        if number >= 0:
            return number
    raise UsageError(f"{text!r} is not a valid number", hint="use for example /set temperature 0.7")


@contextlib.contextmanager
def _line_editing() -> Iterator[None]:
    """Arrow keys, a history that is kept between conversations, and pasted text of several lines."""
    try:
        import readline
    except ImportError:  # Windows, and Pythons that were built without it
        yield
        return
    readline.parse_and_bind("set enable-bracketed-paste on")  # Python turns it off, for its own prompt
    readline.set_completer(_complete)
    readline.set_completer_delims(" ")
    readline.parse_and_bind("tab: complete")
    path = _history_file()
    if path is not None and path.exists():
        with contextlib.suppress(OSError):
            readline.read_history_file(path)
    readline.set_history_length(HISTORY_LINES)
    try:
        yield
    finally:
        if path is not None:
            with contextlib.suppress(OSError):
                path.touch(mode=0o600)
                readline.write_history_file(path)


def _complete(text: str, state: int) -> str | None:
    commands = sorted({usage.split()[0] for usage, _ in show.CHAT_COMMANDS})
    found = [command for command in commands if text and command.startswith(text)]
    return found[state] if state < len(found) else None


def _history_file() -> Path | None:
    """Where the history is kept; `None` where there can be no such file."""
    from aimind.instances import records

    folder = records.state_folder()
    try:
        records.make_folder(folder)
    except InstanceError:
        return None
    return folder / "chat_history"

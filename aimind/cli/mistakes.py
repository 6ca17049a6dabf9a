"""What aimind answers to a command line that it cannot read."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

import typer

from aimind.cli.habits import TYPO
from aimind.errors import UsageError
from aimind.parameters import long_name

# typer's sentences, and ours.
_SENTENCES = {
    r"Got unexpected extra argument\(s\) \((.*)\)": r"unexpected argument: \1",
    r"Option '(.*)' requires an argument\.": r"\1 needs a value",
    r"Missing command\.": "the command is missing",
}


def usage_error(error: typer.TyperException) -> UsageError:
    """The error in aimind's form: what is wrong, and what to type instead."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "aimind"
    hint = f"`{command} --help` shows what it accepts"
    unknown = getattr(error, "option_name", None)
    if unknown is not None and hasattr(error, "possibilities"):
        return _unknown_option(unknown, error.possibilities or (), hint)
    parameter = getattr(error, "param", None)
    if parameter is None:
        return UsageError(_sentence(error.format_message()), hint=hint)
    is_option = parameter.param_type_name == "option"
    name = long_name(parameter) if is_option else parameter.display_name_raw
    if not error.message:
        return UsageError(f"{name} is missing", hint=hint)
    return UsageError(f"the value of {name} is invalid: {error.message}", hint=hint)


def _unknown_option(name: str, nearest: Sequence[str], hint: str) -> UsageError:
    near = next(iter(difflib.get_close_matches(name, nearest, n=1, cutoff=TYPO)), None)
    return UsageError(f"there is no option {name}", hint=f"did you mean {near}?" if near else hint)


def _sentence(message: str) -> str:
    """The message in the form of the project's errors: without a period, and not capitalized."""
    for pattern, sentence in _SENTENCES.items():
        if found := re.fullmatch(pattern, message):
            return found.expand(sentence)
    return (message[:1].lower() + message[1:]).rstrip(".")

"""Prints errors, bugs, and the address of a server that is ready."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from aimind import __version__
from aimind.errors import AimindError, BugError
from aimind.phrases import shell_join
from aimind.redaction import quoted, without_secrets
from aimind.show.terminal import data, tell
from aimind.types import API_KEY_VARIABLE, Command, Plan


def error(problem: AimindError) -> None:
    """Print an error and its hint."""
    tell(f"error: {problem.message}")
    for line in problem.output:
        tell(f"| {line}")
    tell(f"hint: {problem.hint}")


def traceback(problem: BaseException) -> None:
    """Where an error was raised (`--debug`)."""
    from traceback import format_exception

    for line in "".join(format_exception(problem)).rstrip().splitlines():
        tell(line)


def error_document(problem: AimindError) -> None:
    """The error as a document on one line: what --json prints instead of its result."""
    facts = {"message": problem.message, "hint": problem.hint, "exit_code": problem.exit_code}
    data({"error": facts}, indent=None)


def bug(problem: BaseException) -> BugError:
    """An error that should not be, in one line; a file has the rest."""
    import tempfile
    from traceback import format_exception

    text = "".join(format_exception(problem))
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", errors="backslashreplace", prefix="aimind-", suffix=".log", delete=False
    ) as file:
        file.write(f"aimind {__version__}, Python {sys.version}\n{without_secrets(text)}")
    return BugError(
        f"this is a bug in aimind: {type(problem).__name__}: {quoted(problem)}",
        hint=f"please report it with {file.name}",
    )


def announcement(plan: Plan, command: Command) -> str:
    """The lines for a server that is ready: its address, and a command to try it."""
    from aimind.launchers.hello import example

    line = curl(example(plan, command.url), has_key=plan.settings.api_key is not None)
    return f"ready: {command.url}\ntry:   {line}"


def curl(example: Sequence[str], *, has_key: bool) -> str:
    """A line for the shell from the arguments of `Instance.example`; a key comes from the environment."""
    key = f' -H "Authorization: Bearer ${API_KEY_VARIABLE}"' if has_key else ""
    return f"curl {example[0]}{key} {shell_join(example[1:])}"

"""The command line. `main` is where aimind exits."""

from __future__ import annotations

import gc
import os
import sys
from typing import NoReturn

import typer

from aimind import streams
from aimind.cli.app import COMPLETION_VARIABLE, app, complete_for_shell, split
from aimind.cli.mistakes import usage_error
from aimind.errors import AimindError, ModelNotFoundError, OutputError


def main() -> NoReturn:
    """Run the command line and exit; the only place that does."""
    gc.set_threshold(100_000)  # a command is short: looking for garbage would take a thirtieth of its time
    _open_closed_streams()
    streams.prepare()
    argv, backend_argv = split(sys.argv[1:])
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"]  # it may stand anywhere
    try:
        code = _run(argv, backend_argv, debug=debug)
        sys.stdout.flush()
    except BrokenPipeError:
        code = 141  # as of a program that signal 13 has ended, since nobody reads it any more
    except OutputError as error:
        code = _report(error, argv, debug=debug)
    streams.discard_unwritten()
    sys.exit(code)


def _run(argv: list[str], backend_argv: tuple[str, ...], *, debug: bool) -> int:
    """The exit code of the command, once its error is shown.

    Raises:
        BrokenPipeError: nobody reads what it prints.
        OutputError: what it prints cannot be written.
    """
    if COMPLETION_VARIABLE in os.environ:
        return complete_for_shell(os.environ[COMPLETION_VARIABLE])
    command = typer.main.get_command(app)
    try:
        with command.make_context("aimind", argv, obj=backend_argv) as context:
            command.invoke(context)
    except typer.Exit as done:
        return done.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except (BrokenPipeError, OutputError):
        raise
    except Exception as error:  # noqa: BLE001 - the last resort: a bug is reported, and never hides its traceback
        return _report(error, argv, debug=debug)
    return 0


def _report(error: Exception, argv: list[str], *, debug: bool) -> int:
    """Show what went wrong, with --json also as a document, and return its exit code."""
    from aimind import show

    if isinstance(error, typer.TyperException):
        error = usage_error(error)
    elif debug:
        show.traceback(error)
    if _is_for_want_of_a_folder(error) or _is_for_want_of_a_folder(error.__cause__):
        error = ModelNotFoundError(
            "the current folder has been removed", hint="Change to a folder that exists: cd ~"
        )
    if not isinstance(error, AimindError):
        error = show.bug(error)
    show.error(error)
    if "--json" in argv and not isinstance(error, OutputError):
        show.error_document(error)
    return error.exit_code


def _is_for_want_of_a_folder(error: BaseException | None) -> bool:
    """Whether a file was not found because the current folder has been removed."""
    if not isinstance(error, FileNotFoundError):
        return False
    try:
        os.getcwd()  # noqa: PTH109 - no path is needed
    except FileNotFoundError:
        return True
    return False


def _open_closed_streams() -> None:
    """Stand-ins for what the caller has closed; each takes the lowest free descriptor: its own."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - for good

"""The command line: each command is its steps, one a line; nothing else. `main` is where aimind exits."""

from __future__ import annotations

import gc
import os
import sys
from typing import NoReturn

import click

from aimind import show

# They add their commands to the group.
from aimind.cli import backends, config, instances, lock, machine, models, plan, serve, unit  # noqa: F401
from aimind.cli.group import cli, split
from aimind.errors import AimindError, UsageError


def main() -> NoReturn:
    """Run the command line and exit; the only place that does."""
    gc.set_threshold(100_000)  # a command is short: looking for garbage would take a thirtieth of its time
    _open_closed_streams()
    argv, backend_argv = split(sys.argv[1:])
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"]  # it may stand anywhere
    try:
        cli.main(args=argv, prog_name="aimind", standalone_mode=False, obj=backend_argv)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as problem:
        hint = problem.ctx.command_path if isinstance(problem, click.UsageError) and problem.ctx else "aimind"
        show.error(UsageError(problem.format_message(), hint=f"see `{hint} --help`"))
        sys.exit(2)
    except AimindError as problem:
        if debug:
            _traceback()
        show.error(problem)
        sys.exit(problem.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader has had enough; what is still buffered must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as bug:  # noqa: BLE001 - the last resort: a bug is reported, and never hides its traceback
        if debug:
            _traceback()
        show.bug(bug)
        sys.exit(70)
    sys.exit(0)


def _open_closed_streams() -> None:
    """Stand-ins for what the caller has closed; each takes the lowest free descriptor: its own."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - for good


def _traceback() -> None:
    import traceback

    traceback.print_exc()

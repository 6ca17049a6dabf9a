"""How options are declared: their panels in `--help`, and what every command has.

It imports nothing that takes long, since `aimind --help` needs it.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from aimind.parameters import ColorChoice

# The panels of `--help`.
MODEL = "Model"
PLACEMENT = "Memory and placement"
SERVER = "Server"
BACKEND = "Backend"
RUNNING = "Running"
OUTPUT = "Output"
ANSWERS = "Answers"
PANELS = (ANSWERS, MODEL, PLACEMENT, SERVER, BACKEND, RUNNING, OUTPUT)


def option(*names: str, panel: str, help: str, **settings: Any) -> Any:  # noqa: A002 - typer's word
    """An option in a panel; its help states its default."""
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False, **settings)


def argument(metavar: str, help: str, **settings: Any) -> Any:  # noqa: A002 - typer's word
    """An argument."""
    return typer.Argument(metavar=metavar, help=help, show_default=False, **settings)


def _be_quiet(value: bool) -> None:
    from aimind import show

    show.be_quiet(quiet=value)


def _set_color(value: ColorChoice) -> None:
    from aimind import show

    show.set_color(value)


Color = Annotated[
    ColorChoice,
    option(
        "--color",
        panel=OUTPUT,
        metavar="WHEN",
        help="When to color the output: auto, always or never (default: auto, without color if "
        "NO_COLOR is set).",
        callback=_set_color,
        expose_value=False,
        is_eager=True,
    ),
]
Quiet = Annotated[
    bool,
    option(
        "-q",
        "--quiet",
        panel=OUTPUT,
        help="Print only results and errors: no plan, no progress, no warnings.",
        callback=_be_quiet,
        expose_value=False,
        is_eager=True,
    ),
]

"""`aimind` itself: the group that the commands are of."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import click
from click.shell_completion import CompletionItem

from aimind import __version__, show
from aimind.errors import UsageError


class ClosedPipeError(Exception):
    """Nobody reads what is printed any more. It is no `OSError`, which click would end with exit code 1."""


class _Group(click.Group):
    """Lets `main` know of a closed pipe."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Where `--help` and `--version` print."""
        with _closed_pipes():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Where commands print."""
        with _closed_pipes():
            return super().invoke(ctx)


@contextlib.contextmanager
def _closed_pipes() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise ClosedPipeError from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, prog_name="aimind", message="%(prog)s %(version)s")
def cli(*, debug: bool) -> None:
    """Serve AI models on this machine, and know beforehand what that takes.

    MODEL is owner/name (Hugging Face), hf:… or ms:…, a path (./model.gguf, ~/models/x), or demo; behind it
    @REVISION and :QUANTIZATION. What stands after -- goes to the backend.
    """


def _be_quiet(_context: click.Context, _option: click.Parameter, value: bool) -> None:
    show.be_quiet(quiet=value)


quiet_option = click.option(
    "-q",
    "--quiet",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_be_quiet,
    help="No plan and no progress: only what was asked for, warnings and errors.",
)


def split(argv: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """What is for aimind, and what stands after `--` for the backend."""
    if "--" not in argv:
        return argv, ()
    at = argv.index("--")
    return argv[:at], tuple(argv[at + 1 :])


def complete_model(
    _context: click.Context, _option: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The models in the caches, `demo`, and where a path begins, files."""
    if incomplete.startswith((".", "/", "~")):
        return [CompletionItem(incomplete, type="file")]
    from aimind.cli.configured import hear_hub
    from aimind.hub import places

    with contextlib.suppress(UsageError):  # of a configuration: the command says it
        hear_hub()
    return [CompletionItem(name) for name in ("demo", *places.names()) if name.startswith(incomplete)]

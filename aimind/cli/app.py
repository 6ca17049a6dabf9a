"""`aimind` itself, and the class of all its commands."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from aimind import __version__
from aimind.cli.commands import COMMANDS, Entry
from aimind.cli.declare import OUTPUT, PANELS, Color, Quiet, option
from aimind.cli.habits import ALIASES, unknown_command
from aimind.parameters import use_light_conversion

COMPLETION_VARIABLE = "_AIMIND_COMPLETE"
_CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"]}


class Command(TyperCommand):
    """A command: it has the option --quiet, and its values are converted without pydantic."""

    def __init__(self, name: str | None, **settings: Any) -> None:
        """Add what all commands have."""
        super().__init__(name, **settings)
        self.params = sorted([*self.params, *_common_options()], key=_panel)
        _prepare(self)

    def get_help_option(self, ctx: Any) -> Any:
        """The option --help, in the panel of the other common options."""
        return _help_option(super().get_help_option(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        with _broken_pipe_raises():
            super().format_help(ctx, formatter)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:  # noqa: ARG002 - typer's signature
        """What follows the command's name in its usage line."""
        pieces = ["[OPTIONS]", *_usage_of_arguments(self.params)]
        return [*pieces, "[-- ARGUMENTS OF THE BACKEND]"] if takes_backend_arguments(self) else pieces


class Group(TyperGroup):
    """A command that consists of commands, such as `aimind backends`."""

    def __init__(self, **settings: Any) -> None:
        """Prepare the options and the help; a group that does something by itself has --quiet too."""
        super().__init__(**settings)
        if self.invoke_without_command:
            self.params = sorted([*self.params, *_common_options()], key=_panel)
        _prepare(self)

    def get_help_option(self, ctx: Any) -> Any:
        """The option --help, in the panel of the other common options."""
        return _help_option(super().get_help_option(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        with _broken_pipe_raises():
            super().format_help(ctx, formatter)


class _Unloaded(TyperCommand):
    """A command whose module is not imported yet: only what `aimind --help` shows."""

    def __init__(self, name: str, entry: Entry) -> None:
        """Make it of its entry."""
        super().__init__(name, help=entry.summary, rich_help_panel=entry.panel)


class _Aimind(Group):
    """The group of all commands, each of which is imported when it is called."""

    def __init__(self, **settings: Any) -> None:
        """Add the commands."""
        super().__init__(**settings)
        self.commands = {name: _Unloaded(name, entry) for name, entry in COMMANDS.items()}
        if self.epilog and _prefers_chinese():
            self.epilog += "\n\n中文入门: docs/zh/first-steps.md"

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help: the commands, and below them the examples, which name the options too."""
        options: list[Any] = self.get_params(ctx)
        for parameter in options:
            parameter.hidden = True
        try:
            super().format_help(ctx, formatter)
        finally:
            for parameter in options:
                parameter.hidden = False

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that was called, and its arguments."""
        if ctx.resilient_parsing and ALIASES.get(args[0], args[0]) not in COMMANDS:
            return None, None, args[1:]
        name = find_command(args[0])
        return name, load(name), args[1:]


def _prefers_chinese() -> bool:
    """Whether the user's messages are to be in Chinese, by the precedence of POSIX."""
    language = os.environ.get("LC_ALL") or os.environ.get("LC_MESSAGES") or os.environ.get("LANG") or ""
    return language.startswith("zh")


def find_command(word: str) -> str:
    """The command that is called by this name.

    Raises:
        UsageError: there is none; the hint names the command that is meant.
    """
    name = ALIASES.get(word, word)
    if name not in COMMANDS:
        raise unknown_command(word, [*COMMANDS, *ALIASES])
    return name


def load(name: str) -> Any:
    """A command by its name, from its module."""
    module = importlib.import_module(f"aimind.cli.{COMMANDS[name].module}")
    loaded = typer.main.get_command(module.app)
    if isinstance(loaded, TyperGroup) and loaded.name != name:
        loaded = loaded.commands[name]
    return loaded


def call(name: str, args: Sequence[str], backend_argv: tuple[str, ...]) -> None:
    """Run a command as if it had been typed."""
    command = load(name)
    with command.make_context(f"aimind {name}", list(args), obj=backend_argv, **_CONTEXT_SETTINGS) as context:
        command.invoke(context)


def complete_for_shell(instruction: str) -> int:
    """Print what a shell asks for, as typer calls it: `source_bash` its script, `complete_bash` "
    "completions."""
    from typer.completion import shell_complete
    from typer.main import get_install_completion_arguments

    get_install_completion_arguments()  # registers the shells
    return shell_complete(typer.main.get_command(app), {}, "aimind", COMPLETION_VARIABLE, instruction)


def takes_backend_arguments(command: Any) -> bool:
    """Whether a command serves or plans a model, so that arguments after `--` have a meaning."""
    return any(
        parameter.name == "backend" and parameter.opts[0] == "--backend" for parameter in command.params
    )


def split(argv: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """The arguments of aimind, and those after `--` for the backend."""
    if "--" not in argv:
        return argv, ()
    at = argv.index("--")
    return argv[:at], tuple(argv[at + 1 :])


# ── What commands share ────────────────────────────────────────────────────────────────────────────────────


def _common_options() -> list[Any]:
    """The options that every command has."""
    app = typer.Typer(add_completion=False)

    @app.command()
    def common(quiet: Quiet = False, color: Color = "auto") -> None:
        """Hold the options."""

    return typer.main.get_command(app).params


@contextlib.contextmanager
def _broken_pipe_raises() -> Iterator[None]:
    """Raise BrokenPipeError where rich would exit with 1 because nobody reads its output."""
    try:
        yield
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):
            raise end.__context__ from end
        raise


def _prepare(command: Command | Group) -> None:
    """Have a command convert its values without pydantic, and its help show what matters."""
    command.help = reflowed(command.help or "")
    use_light_conversion(command.params)
    for parameter in command.params:
        _simplify(parameter)


def _help_option(found: Any) -> Any:
    if found is not None:
        found.help = "Show this help."
        found.rich_help_panel = OUTPUT
        use_light_conversion([found])
        _simplify(found)
    return found


def _simplify(parameter: Any) -> None:
    """Leave out of the help what the text says already: that a flag is one, and the range of a number."""
    if parameter.metavar is None and parameter.param_type_name == "option":
        parameter.metavar = ""
    if parameter.param_type_name == "argument":
        parameter.display_type_rich = _no_type
    parameter.min = parameter.max = None


def _no_type(ctx: Any) -> None:  # noqa: ARG001 - typer's signature
    return None


def _panel(parameter: Any) -> int:
    """The place of a parameter among the panels; arguments come first."""
    panel = parameter.rich_help_panel
    return PANELS.index(panel) if panel in PANELS else -1


def _usage_of_arguments(parameters: Sequence[Any]) -> list[str]:
    pieces = []
    for parameter in parameters:
        if parameter.param_type_name == "argument":
            name = f"{parameter.display_name_raw}{'...' if parameter.nargs != 1 else ''}"
            pieces.append(name if parameter.required else f"[{name}]")
    return pieces


def reflowed(text: str) -> str:
    """The text with each paragraph on one line, but for paragraphs of indented lines, such as examples."""
    paragraphs = text.strip().split("\n\n")
    return "\n\n".join(each if "\n  " in each else each.replace("\n", " ") for each in paragraphs)


# ── The whole ──────────────────────────────────────────────────────────────────────────────────────────────

app = typer.Typer(
    cls=_Aimind,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings=_CONTEXT_SETTINGS,
    pretty_exceptions_enable=False,
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"aimind {__version__}")
        raise typer.Exit


@app.callback(
    epilog="""Examples:
  aimind serve demo
  aimind plan unsloth/Qwen3-8B-GGUF --context 32k
  aimind serve ./model.gguf --detach --name chat -- --threads 4

Options:
  -h, --help     Show this help, or that of a command: aimind serve --help.
  -V, --version  Show the version.
  --debug        Show the traceback of an error.

Documentation: README.md and docs/ beside the source of aimind."""
)
def aimind(
    *,
    version: Annotated[
        bool,
        option(
            "-V", "--version", panel=OUTPUT, help="Show the version.", callback=_show_version, is_eager=True
        ),
    ] = False,
    debug: Annotated[bool, option("--debug", panel=OUTPUT, help="Show the traceback of an error.")] = False,
) -> None:
    """Serve AI models on this machine, and see the whole plan before anything is started.

    MODEL is owner/name on Hugging Face, ms:owner/name on ModelScope, a path such as ./model.gguf, or demo;
    :QUANTIZATION or @REVISION may follow. Arguments after -- go to the backend.
    """

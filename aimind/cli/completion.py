"""`aimind completion`: the script that makes a shell complete aimind's commands."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from aimind.cli.app import Command, complete_for_shell
from aimind.cli.options import argument

app = typer.Typer(add_completion=False)


@app.command("completion", cls=Command)
def completion_command(
    shell: Annotated[
        Literal["bash", "zsh", "fish", "powershell", "pwsh"],
        argument("SHELL", "The shell: bash, zsh, fish, powershell or pwsh."),
    ],
) -> None:
    """Print the completion script for a shell.

    It completes commands, options, models, backends and the names of instances.

    Examples:
      echo 'eval "$(aimind completion bash)"' >> ~/.bashrc
      echo 'eval "$(aimind completion zsh)"' >> ~/.zshrc
      aimind completion fish > ~/.config/fish/completions/aimind.fish
      aimind completion powershell >> $PROFILE
    """
    complete_for_shell(f"source_{shell}")

"""`aimind completion`: the script that makes a shell complete aimind's commands."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from aimind.cli.app import COMPLETION_VARIABLE, Command, complete_for_shell
from aimind.cli.declare import argument

app = typer.Typer(add_completion=False)
# typer's own script passes the words as bash has split them, which is also at the colon of owner/name:Q4_K_M.
# This one passes the line. It leaves out the part of a completion before that colon, since bash replaces only
# the part after it.
BASH = f"""\
_aimind_completion() {{
    local line="${{COMP_LINE:0:COMP_POINT}}" words current IFS=$' \\t\\n'
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    current="${{words[-1]}}"
    IFS=$'\\n'
    COMPREPLY=($(env COMP_WORDS="$line" COMP_CWORD=$((${{#words[@]}} - 1)) \\
        {COMPLETION_VARIABLE}=complete_bash "$1"))
    if [[ $current == *:* && $COMP_WORDBREAKS == *:* ]]; then
        COMPREPLY=("${{COMPREPLY[@]#"${{current%"${{current##*:}}"}}"}}")
    fi
    [[ ${{COMPREPLY[0]}} == */ ]] && compopt -o nospace
    return 0
}}
complete -o default -F _aimind_completion aimind"""


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
    if shell == "bash":
        typer.echo(BASH)
    else:
        complete_for_shell(f"source_{shell}")

"""What people type by habit from other tools: commands by other names, and other tools' options.

The options come from the launchers' own tables of flags (`FLAGS` and `RESERVED`), which aimind uses to start
backends: no second list of them is kept here.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aimind.errors import UsageError
from aimind.parameters import long_name

# Other names under which commands can be called.
ALIASES: Mapping[str, str] = {"ls": "models", "list": "models", "rm": "remove", "kill": "stop"}
# What is meant by commands of other tools.
MEANT: Mapping[str, str] = {
    "bundle": "unit",
    "containers": "ps",
    "create": "serve",
    "delete": "remove",
    "del": "remove",
    "describe": "show",
    "detect": "devices",
    "down": "stop",
    "download": "pull",
    "estimate": "plan",
    "explain": "plan",
    "fetch": "pull",
    "find": "search",
    "generate": "run",
    "gpu": "devices",
    "gpus": "devices",
    "images": "models",
    "info": "show",
    "init": "config",
    "inspect": "show",
    "install": "backends install",
    "instances": "ps",
    "launch": "serve",
    "load": "serve",
    "log": "logs",
    "nodes": "devices",
    "prune": "models --prune",
    "quants": "files",
    "query": "chat",
    "runtimes": "backends",
    "server": "serve",
    "services": "ps",
    "settings": "config",
    "stats": "status",
    "systemd": "unit",
    "tags": "files",
    "tail": "logs",
    "top": "ps",
    "uninstall": "remove",
    "unload": "stop",
    "upgrade": "backends update",
    "update": "backends update",
}
_NOT_YET: Mapping[str, str] = {
    "up": "each instance is started by itself: `aimind serve --detach --name NAME MODEL`"
}
# Flags of backends that name the model, which is an argument of aimind.
_MODEL_FLAGS = (
    "m",
    "model",
    "model-path",
    "hf",
    "hfr",
    "hf-repo",
    "huggingface-repo-id",
    "model-scope-model-id",
)
# RamaLama's spelling of llama.cpp's --n-gpu-layers.
_FIELDS = {"ngl": "gpu_layers"}
# llama.cpp's --ctx-size is the whole cache; who types it means the context.
_SAME = {"kv_cache_tokens": "max_model_len"}
TYPO = 0.75  # how alike two options are at least where one is a typing error for the other


@dataclass(frozen=True, slots=True)
class _Line:
    """A command line: the arguments of a command, and those after `--`."""

    command: Any
    args: tuple[str, ...]
    backend_argv: tuple[str, ...]

    def __str__(self) -> str:
        """The command line for a shell."""
        behind = ("--", *self.backend_argv) if self.backend_argv else ()
        return shlex.join(["aimind", self.command.name, *self.args, *behind])


@dataclass(frozen=True, slots=True)
class _Foreign:
    """An option that a command does not have.

    Attributes:
        line: the command line that it is in.
        at: its place among the arguments.
        flag: as it was typed, without its value; attached: a value after `=`.
    """

    line: _Line
    at: int
    flag: str
    attached: str | None

    @property
    def bare(self) -> str:
        """The name alone: `ctx-size` for `--ctx_size`."""
        return _bare(self.flag)

    def value(self, *, is_switch: bool) -> tuple[str, ...]:
        """The option's value, if it has one: the next word unless that is an option."""
        if self.attached is not None:
            return (self.attached,)
        following = self.line.args[self.at + 1 : self.at + 2]
        if is_switch or not following or (following[0].startswith("-") and not _is_number(following[0])):
            return ()
        return following

    def replaced(self, instead: Sequence[str], value: Sequence[str], behind: Sequence[str] = ()) -> _Line:
        """The command line with something else for the option and its value, and more after `--`."""
        args = self.line.args
        after = self.at + (1 if self.attached is not None else 1 + len(value))
        return _Line(
            self.line.command,
            (*args[: self.at], *instead, *args[after:]),
            (*self.line.backend_argv, *behind),
        )


@dataclass(frozen=True, slots=True)
class _Answer:
    """What is answered to a foreign option: a sentence, and the right command line or another hint."""

    message: str
    right: _Line | None
    hint: str = ""


def check_options(command: Any, args: Sequence[str], backend_argv: tuple[str, ...]) -> None:
    """Find options of other tools among the arguments of a command that serves a model or plans it.

    Raises:
        UsageError: there is one; the hint is the command line with aimind's own options.
    """
    own = [spelling for parameter in command.params for spelling in parameter.opts] + ["-h", "--help"]
    first = answer = _answer(_Line(command, tuple(args), backend_argv), own)
    if first is None:
        return
    hint, right = first.hint, first.right
    while answer is not None and answer.right is not None:
        right = answer.right
        answer = _answer(right, own)
    raise UsageError(first.message, hint=f"{hint}`{right}`" if right is not None else hint)


def _answer(line: _Line, own: Sequence[str]) -> _Answer | None:
    """The answer to the first foreign option of a command line."""
    for at, text in enumerate(line.args):
        flag, equals, attached = text.partition("=")
        if len(flag) > 1 and flag.startswith("-") and flag not in own and not _is_number(flag):
            answer = _explain(_Foreign(line, at, flag, attached if equals else None), own)
            if answer is not None:
                return answer
    return None


def _explain(option: _Foreign, own: Sequence[str]) -> _Answer | None:
    """What is meant by an option; `None` where it is a typing error for one of aimind's own."""
    flag, command = option.flag, option.line.command
    reason = _reserved(flag)
    if reason is not None and option.bare in _MODEL_FLAGS:
        value = option.value(is_switch=False)
        return _Answer(
            f"{flag} is not needed: the model is an argument",
            option.replaced([_as_model(word) for word in value], value),
        )
    if reason is not None:
        message, _, remedy = reason.partition(": ")
        hint = remedy or f"`aimind {command.name} --help` shows aimind's options"
        return _Answer(f"there is no option {flag}: {message}", None, hint)
    field, is_switch = _field(option.bare)
    parameter = _parameter(command, field)
    if parameter is not None:
        name = long_name(parameter)
        value = option.value(is_switch=parameter.is_flag)
        translated = ("max",) if name == "--context" and value == ("0",) else value
        return _Answer(f"{flag} is {name} here", option.replaced((name, *translated), value))
    if field is None and _is_of_aimind(flag, own):
        return None
    value = option.value(is_switch=is_switch)
    behind = (option.line.args[option.at], *(value if option.attached is None else ()))
    return _Answer(
        f"there is no option {flag}",
        option.replaced((), value, behind),
        "options of the backend go after --: ",
    )


def _reserved(flag: str) -> str | None:
    """Why a launcher does not pass this flag on, if it does not."""
    from aimind.launchers import LAUNCHERS

    return next((each.RESERVED[flag] for each in LAUNCHERS if flag in each.RESERVED), None)


def _field(bare: str) -> tuple[str | None, bool]:
    """The field of the request that a launcher's flag decides, and whether the flag is a switch."""
    from aimind.launchers import LAUNCHERS

    for launcher in LAUNCHERS:
        for field, flag in launcher.FLAGS.items():
            if bare in map(_bare, flag.spellings):
                return _SAME.get(field, field), flag.kind == "switch"
    return _FIELDS.get(bare), False


def _parameter(command: Any, field: str | None) -> Any:
    """The command's own option for a field of the request."""
    from aimind.options import request_field

    if field is None:
        return None
    return next((each for each in command.params if request_field(each.name) == field), None)


def _is_of_aimind(flag: str, own: Sequence[str]) -> bool:
    """Whether this is several short options in one word, an option of other commands, or a typing error."""
    from aimind.cli.app import load

    if not flag.startswith("--"):
        return flag[:2] in own
    if any(flag in parameter.opts for name in ("serve", "plan") for parameter in load(name).params):
        return True
    return bool(difflib.get_close_matches(flag, own, n=1, cutoff=TYPO))


def _as_model(word: str) -> str:
    """The name of a model as aimind reads it: a file in the current folder begins with `./`."""
    is_path = word.endswith(".gguf") and "/" not in word
    return f"./{word}" if is_path else word


def _bare(flag: str) -> str:
    return flag.lstrip("-").replace("_", "-").lower()


def _is_number(text: str) -> bool:
    return text[1:].replace(".", "", 1).isdigit()


# ── Commands ───────────────────────────────────────────────────────────────────────────────────────────────


def unknown_command(name: str, known: Iterable[str]) -> UsageError:
    """The error for a command that there is not; it names the one that is meant, or is spelled alike."""
    if name in _NOT_YET:
        return UsageError(f"there is no command {name} yet", hint=_NOT_YET[name])
    if "/" in name or name.endswith(".gguf") or name == "demo":
        hint = f"`aimind serve {shlex.quote(_as_model(name))}` serves this model"
    elif meant := MEANT.get(name.lower()) or _nearest(name, known):
        hint = f"did you mean `aimind {meant}`?"
    else:
        hint = "`aimind --help` shows all commands"
    return UsageError(f"there is no command {name}", hint=hint)


def _nearest(name: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)

"""The user's own backend arguments, against the flags that the backend's version says it has."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from aimind.errors import UsageError
from aimind.launchers.arguments import plain
from aimind.launchers.base import Launcher, TellsFlags
from aimind.types import Backend, Help, Request, numbers

_FORCE = "--force passes it all the same"
# What parsers take for a value although it begins with a dash: a number, or what has a space in it.
_VALUE = re.compile(r"-|-\.?\d.*|-.*\s.*", re.DOTALL)


def check_flags(launcher: Launcher, request: Request, backend: Backend) -> tuple[str, ...]:
    """Whether the backend takes what `absorb` has left of the user's arguments.

    Where it was not asked for its flags yet, only what its version is known to have no more is told.

    Returns:
        What it does not take, as sentences, where the request is to go on all the same (`--force`).

    Raises:
        UsageError: it does not take one of them, or takes it for one that the plan has to know of.
    """
    if not isinstance(launcher, TellsFlags):
        return ()
    parser = _Parser(launcher, launcher.HELP, backend)
    preset = request.defaults.of(launcher.NAME)
    configured = set(map(flag_name, preset.args))
    problems = [
        UsageError(f"{preset.where}: {problem.message}", hint=problem.hint) if name in configured else problem
        for name in _names(request.extra)
        if (problem := parser.unknown(name)) is not None
    ]
    if problems and not request.force:
        raise problems[0]
    return tuple(f"{problem.message}; it is passed all the same" for problem in problems)


def _names(extra: tuple[str, ...]) -> list[str]:
    """The flags among the arguments, without their values."""
    end = extra.index("--") if "--" in extra else len(extra)
    return [name for word in extra[:end] if (name := flag_name(word)) is not None]


def flag_name(word: str) -> str | None:
    """The flag that the word is, without a value; `None` of a word that is a value itself."""
    name = word.partition("=")[0]
    return name if word.startswith("-") and not _VALUE.fullmatch(name) else None


@dataclass(frozen=True, slots=True)
class _Parser:
    """The backend's own, as far as it is known from outside."""

    launcher: Launcher
    help: Help
    backend: Backend

    def unknown(self, name: str) -> UsageError | None:
        """Why it does not take this flag.

        Raises:
            UsageError: it is cut short, and that must not be.
        """
        flag = plain(name)
        if self.backend.flags is None:
            since = self.help.dropped_since
            gone = flag in self.help.dropped and since and numbers(self.backend.version) >= numbers(since)
            return self._dropped(name, flag) if gone else None
        known = {plain(each) for each in (*self.backend.flags, *self.help.also)}
        if self.help.dotted and flag not in known:
            flag = flag.partition(".")[0]
        if flag in known:
            return None
        if flag in self.help.dropped:
            return self._dropped(name, flag)
        full = _completions(flag, known) if self.help.abbreviates else []
        if not full:
            return UsageError(f"{self._called} does not know {name}", hint=_hint(flag, known))
        if len(full) > 1:
            raise UsageError(f"{name} could be {_listed(full)}", hint="write it in full")
        self._check_shortened(name, full[0])
        return None

    @property
    def _called(self) -> str:
        return f"{self.backend.name} {self.backend.version}"

    def _dropped(self, name: str, flag: str) -> UsageError:
        return UsageError(f"{self._called} has {name} no more: {self.help.dropped[flag]}", hint=_FORCE)

    def _check_shortened(self, name: str, full: str) -> None:
        """Cut short, a flag that the plan depends on would go past it."""
        flags = self.launcher.FLAGS.values()
        planned = [each for flag in flags for each in (*flag.spellings, *flag.off, *dict(flag.presets))]
        if full in map(plain, (*planned, *self.launcher.RESERVED, *self.launcher.UNCOUNTED)):
            raise UsageError(
                f"{self.backend.name} would take {name} for {full}, which the plan has to know of",
                hint=f"write it in full, its value apart: {full}",
            )


def _completions(flag: str, known: set[str]) -> list[str]:
    """The flags that argparse takes it for: those that it begins; `-q` for `-q4`."""
    attached = [] if flag.startswith("--") else [flag[:2]] if flag[:2] in known else []
    return attached + sorted(each for each in known if each.startswith(flag))


def _hint(flag: str, known: set[str]) -> str:
    import difflib

    near = difflib.get_close_matches(flag, sorted(known), n=3, cutoff=0.7)
    return f"did you mean {_listed(near)}? {_FORCE}" if near else _FORCE


def _listed(flags: list[str]) -> str:
    return " or ".join([", ".join(flags[:-1]), flags[-1]] if flags[1:] else flags)


def whole_path(word: str, folder: Path) -> str:
    """A word for the backend; a path from this folder (`./…`) as one from anywhere."""
    name, equals, value = word.rpartition("=") if word.startswith("-") else ("", "", word)
    if not value.startswith(("./", "../")):
        return word
    return f"{name}{equals}{folder.absolute() / value}"

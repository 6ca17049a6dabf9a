"""Check the user's own backend arguments against the flags of the installed backend version."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from aimind.errors import UsageError
from aimind.launchers.arguments import plain
from aimind.launchers.base import Launcher, TellsFlags
from aimind.types import Backend, Help, Request, numbers

_FORCE = "use --force to pass it anyway"
# Parsers read these as values although they begin with a dash: numbers, and words with a space.
_VALUE = re.compile(r"-|-\.?\d.*|-.*\s.*", re.DOTALL)


def check_flags(launcher: Launcher, request: Request, backend: Backend) -> tuple[str, ...]:
    """Check the arguments that `absorb` left in `extra`.

    While the flags of the backend are unknown, only the flags that its version has removed are found.

    Returns:
        Warnings about unknown flags, as sentences, where `--force` is set.

    Raises:
        UsageError: the backend does not know a flag, or reads it as an abbreviation of one in the plan.
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
    return tuple(f"{problem.message}; it is passed because of --force" for problem in problems)


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
        """The error for a flag that the backend does not know.

        Raises:
            UsageError: the flag abbreviates one that must be written in full.
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
            return UsageError(f"{self._title} does not know {name}", hint=_hint(flag, known))
        if len(full) > 1:
            raise UsageError(
                f"{name} is ambiguous: it could be {_listed(full)}", hint="write the flag in full"
            )
        self._check_shortened(name, full[0])
        return None

    @property
    def _title(self) -> str:
        return f"{self.backend.name} {self.backend.version}"

    def _dropped(self, name: str, flag: str) -> UsageError:
        return UsageError(f"{self._title} no longer has {name}: {self.help.dropped[flag]}", hint=_FORCE)

    def _check_shortened(self, name: str, full: str) -> None:
        """Refuse an abbreviation of a flag that the plan depends on: the plan would not see it."""
        flags = self.launcher.FLAGS.values()
        planned = [each for flag in flags for each in (*flag.spellings, *flag.off, *dict(flag.presets))]
        if full in map(plain, (*planned, *self.launcher.RESERVED, *self.launcher.UNCOUNTED)):
            raise UsageError(
                f"{self.backend.name} would read {name} as {full}, which the plan depends on",
                hint=f"write the flag in full, with its value as a separate word: {full} VALUE",
            )


def _completions(flag: str, known: set[str]) -> list[str]:
    """The flags that argparse would match: those that begin with it; `-q` for `-q4`."""
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

"""How the backend is started and watched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aimind.types.decision import API_KEY_VARIABLE, NOTHING, TOKEN_VARIABLES

# Secrets that `aimind` itself needs, and no process that stays: the backend has the key under its own name.
SECRET_VARIABLES = (API_KEY_VARIABLE, *TOKEN_VARIABLES, "MODELSCOPE_API_TOKEN")
# What aimind, or the service manager that started it, has, and no other program gets.
PRIVATE_VARIABLES = (
    *SECRET_VARIABLES,
    "HF_TOKEN_PATH",
    "CREDENTIALS_DIRECTORY",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_*",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyRequest:
    """The smallest request of the model's kind: once it is answered, the backend really works.

    Attributes:
        url: to POST to; 2xx is an answer.
        body: text, of the content type.
        bearer_env: the variable of the command's environment that holds the key it wants, if any.
    """

    url: str
    body: str
    content_type: str = "application/json"
    bearer_env: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """How to ask whether the backend is ready.

    Attributes:
        url: to GET; 2xx is an answer.
        bearer_env: the variable of the command's environment that holds the key it wants, if any.
        lie: a regular expression; a body that matches it is not ready, whatever the status says. Its first
            group, if it has one, is the true status. It holds for the request's answer, too.
        request: made once, after the first answer; ready is when that is answered, too.
    """

    url: str
    bearer_env: str | None = None
    lie: str | None = None
    request: TinyRequest | None = None


@dataclass(frozen=True, slots=True)
class Signature:
    """What a line of the backend's log means.

    Attributes:
        pattern: a regular expression, searched in the line.
        phase: the phase that begins with it (`loading weights`), and how far that is where the pattern has a
            group `percent`, or a group `dots` with a dot for each percent; or
        cause: what kills the backend, as a sentence, with its remedy.
        fatal: with such a line it is of no use any more, though it may go on: it is ended.
        fallback: its cause counts only where no other signature names one.
    """

    pattern: str
    phase: str | None = None
    cause: str | None = None
    remedy: str | None = None
    fatal: bool = False
    fallback: bool = False


@dataclass(frozen=True, slots=True)
class BufferLine:
    """A line of the backend's log that names the size of a buffer on a device.

    Attributes:
        pattern: a regular expression, searched in the line. Its group `device` is the device's place among
            those that the backend was given, its group `size` a number.
        unit_bytes: of the size.
        replaces: a later line of the same device counts in place of the earlier one, not beside it.
    """

    pattern: str
    unit_bytes: int
    replaces: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFile:
    """A file that must be written before the start. `mode` as in chmod."""

    path: str
    text: str = field(repr=False)
    mode: int = 0o600


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """A folder that looks like another one but for a few JSON files, and is made anew before each start.

    Attributes:
        path: of the folder.
        source: the other one, of which nothing is changed.
        links: the files that are links to those of the source.
        edits: file -> what is merged into a copy of it, object by object; the source need not have it.
    """

    path: str
    source: str
    links: tuple[str, ...]
    edits: Mapping[str, Mapping[str, object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """How the backend is started and watched. All a supervisor needs.

    Attributes:
        argv: the program and its arguments; never a secret.
        env: added to the environment that aimind was started in.
        secret_env: likewise, and never shown.
        unset_env: names removed from it first; `LLAMA_ARG_*` stands for all that begin so.
        files: written before the start.
        overlays: folders that are made before the start.
        cwd: working folder.
        ready: the probe.
        signatures: the log's meaning.
        buffers: which lines of the log name buffers on devices; all of them together are all buffers.
        url: the base URL of its API.
        stop_seconds: patience after each TERM.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    secret_env: Mapping[str, str] = field(default_factory=lambda: NOTHING, repr=False)
    unset_env: tuple[str, ...] = ()
    files: tuple[TextFile, ...] = ()
    overlays: tuple[Overlay, ...] = ()
    cwd: str | None = None
    ready: Probe
    signatures: tuple[Signature, ...] = ()
    buffers: tuple[BufferLine, ...] = ()
    url: str
    stop_seconds: float = 10.0

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """The backend's: what is inherited, less `unset_env`, and then what the command adds."""
        kept = {name: value for name, value in inherited.items() if not self.removes(name)}
        return {**kept, **self.env, **self.secret_env}

    def removes(self, variable: str) -> bool:
        """Whether a variable of the environment that aimind was started in is kept from the backend."""
        return _is_one_of(variable, self.unset_env)


def public(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for programs that are none of aimind's own."""
    return {name: value for name, value in environment.items() if not _is_one_of(name, PRIVATE_VARIABLES)}


def _is_one_of(variable: str, names: tuple[str, ...]) -> bool:
    """Whether the names say it; `LISTEN_*` says all that begin so."""
    beginnings = tuple(name.removesuffix("*") for name in names if name.endswith("*"))
    return variable in names or variable.startswith(beginnings)

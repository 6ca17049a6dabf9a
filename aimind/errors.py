"""All that a user can be told went wrong: one tree, an exit code and a hint for each.

Only `cli` turns these into an exit, only `show` prints them. Whatever is raised besides is a bug.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aimind.types import Change, Request


class AimindError(Exception):
    """The root: `message` says what happened, `hint` what to do about it."""

    exit_code = 1
    output: tuple[str, ...] = ()  # the last lines of a program that failed

    def __init__(self, message: str, *, hint: str) -> None:
        """Keep both sentences."""
        super().__init__(message)
        self.message = message
        self.hint = hint


class BugError(AimindError):
    """Something in aimind that should not be."""

    exit_code = 70


class OutputError(AimindError):
    """What was asked for cannot be printed: the disk is full, or the terminal has gone."""


class UsageError(AimindError):
    """The command line cannot be understood, or contradicts itself."""

    exit_code = 2


class BadReferenceError(UsageError):
    """The text names no model in any of the accepted forms."""


class ModelNotFoundError(AimindError):
    """No such repository, revision, folder or file."""

    exit_code = 3


class HubError(AimindError):
    """The hub could not be reached, refused, or answered nonsense."""

    exit_code = 4


class MetadataError(AimindError):
    """A header is damaged, cut short, hostile, or not what the name says."""

    exit_code = 5


class WrongFileError(MetadataError):
    """A file is not a model (an adapter, a drafter), or not this model's projector; `path` names it."""

    def __init__(self, message: str, *, hint: str, path: str) -> None:
        """Keep the path, so that the choice can be made again without the file."""
        super().__init__(message, hint=hint)
        self.path = path


class UnknownArchitectureError(AimindError):
    """The model's memory cannot be estimated."""

    exit_code = 6


class UnsupportedError(AimindError):
    """No backend can serve this model on this machine."""

    exit_code = 7


class ExactSizesError(UnsupportedError):
    """No llama.cpp here can tell what it would reserve, or the one that was asked could not."""


class DoesNotFitError(AimindError):
    """The memory that is free does not hold the model.

    A placement names what does not fit in `message`, from the numbers that decided, and proposes `changes`.
    It never writes a remedy into `hint`: `alternatives` plans each change, words those that fit as options
    or backend arguments, and adds what hardware and which quantizations would do.

    Attributes:
        changes: values for fields of the request that may make the model fit, the most useful first, for
            example `({"ubatch_size": 256}, {"enforce_eager": True})`. Several fields in one mapping change
            together; `None` resets a field to its default.
        request: what was planned, with all arguments read into its fields; `plan.make` fills it in.
    """

    exit_code = 8

    def __init__(
        self, message: str, *, hint: str, changes: Sequence[Change] = (), request: Request | None = None
    ) -> None:
        """Keep all of it."""
        super().__init__(message, hint=hint)
        self.changes = tuple(changes)
        self.request = request


class DeviceError(AimindError):
    """A device was named that does not exist, or a driver does not answer."""

    exit_code = 9


class InstallError(AimindError):
    """A backend's environment is missing or could not be made."""

    exit_code = 10


class PortInUseError(AimindError):
    """Somebody else listens on the port."""

    exit_code = 11


class BackendError(AimindError):
    """The backend cannot be started."""

    exit_code = 12


class InstanceError(AimindError):
    """There is no such instance, it runs already or not yet, or the state folder cannot be used."""

    exit_code = 13


class InstanceEndedError(InstanceError):
    """An instance has ended instead of becoming ready; the exit code is its own, where it has one."""

    def __init__(self, message: str, *, hint: str, exit_code: int | None, output: tuple[str, ...]) -> None:
        """Keep the code and the backend's last lines, too."""
        super().__init__(message, hint=hint)
        self.exit_code = exit_code or 1
        self.output = output


class ApiError(AimindError):
    """A server of models refused a request, or did not answer it."""

    exit_code = 14


class ContextFullError(ApiError):
    """The conversation is longer than the model's context."""


class ConnectionLostError(ApiError):
    """A server cannot be reached, or ended its answer in the middle."""

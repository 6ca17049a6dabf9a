"""Starts a plan's command: this process becomes its supervisor, or the backend itself."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from aimind.errors import BackendError
from aimind.ownership import risk
from aimind.types import SECRET_VARIABLES, Command, Overlay, Shard, TextFile

PROGRAM = Path(__file__).parent / "supervisor" / "__main__.py"
# Isolated, and without the site-packages: nothing but the standard library, and less memory.
PYTHON_FLAGS = ("-I", "-S")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the supervisor goes by: fields of `aimind.supervisor.spec.Spec`."""

    restart: str = "always"
    max_restarts: int | None = None
    stall_seconds: float = 300.0
    probe_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Kept:
    """The folder of an instance, and the descriptor of its lock."""

    folder: Path
    lock: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Fields of `aimind.supervisor.spec.Calibration`."""

    path: str
    backend: str
    version: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """How the supervisor draws on the terminal: fields of `aimind.supervisor.spec.Screen`.

    Attributes:
        color: in colors.
        unicode: with characters beyond ASCII.
        next: a line that is shown once the backend is ready: what can be typed next.
    """

    color: bool
    unicode: bool
    next: str


@dataclass(frozen=True, slots=True)
class How:
    """How the supervisor goes about it.

    Attributes:
        rules: see there.
        instance: where it keeps its state and its logs; it inherits that lock.
        shards: the memory of these devices must be free again before the backend is started once more.
        calibration: where and as what it is remembered what the backend holds beside its buffers.
        compiled_mark: the file that is made when the backend is ready: its compiled code is there.
        lifeline: the reading end of a pipe; the supervisor stops when nobody holds the writing end any more.
        weights_bytes: of the files that the backend loads, to see how far it is; 0 where that is not known.
        screen: how to draw on the terminal; `None` passes the backend's log through.
        quiet: show nothing but errors.
    """

    rules: Rules = Rules()
    instance: Kept | None = None
    shards: tuple[Shard, ...] = ()
    calibration: Calibration | None = None
    compiled_mark: str | None = None
    lifeline: int | None = None
    weights_bytes: int = 0
    screen: Screen | None = None
    quiet: bool = False


def supervise(command: Command, *, announce: str, how: How = How()) -> NoReturn:
    """Become the supervisor of `command`; it prints `announce` when the backend is ready.

    Raises:
        BackendError: the backend's program or working folder is missing, or a file cannot be written.
    """
    fd = _write_spec(command, announce=announce, how=how)
    if how.instance is not None:
        os.set_inheritable(how.instance.lock, True)  # noqa: FBT003 (it takes no keyword)
    _flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})  # until the supervisor handles it
    os.execve(sys.executable, _program(fd), _environment())


def detach(command: Command, *, announce: str, how: How) -> subprocess.Popen[bytes]:
    """Start the supervisor of `command` in a session of its own, with nothing to read and nowhere to print.

    Raises:
        BackendError: as `supervise`.
    """
    fd = _write_spec(command, announce=announce, how=how)
    kept = [fd]
    if how.instance is not None:
        kept.append(how.instance.lock)
    if how.lifeline is not None:
        kept.append(how.lifeline)
    try:
        return subprocess.Popen(
            _program(fd),
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=kept,
        )
    finally:
        os.close(fd)


def replace(command: Command) -> NoReturn:
    """Become the backend, without a supervisor.

    Raises:
        BackendError: the backend cannot be started, or a file cannot be written.
    """
    _check(command)
    _write_files(command.files)
    _make_overlays(command.overlays)
    _flush()
    # Python ignores these, and what is ignored stays so in the backend.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        if command.cwd is not None:
            os.chdir(command.cwd)
        os.execvpe(command.argv[0], command.argv, command.environment(os.environ))
    except OSError as error:
        raise _cannot_start(command, str(error)) from error


def document(command: Command, *, announce: str) -> dict[str, object]:
    """What the supervisor is told, as JSON values (`aimind/supervisor/spec.py`). It holds secrets."""
    return {
        "argv": list(command.argv),
        "env": dict(command.env),
        "secret_env": dict(command.secret_env),
        "unset_env": list(filter(command.removes, os.environ)),
        "cwd": command.cwd,
        "ready": {
            "url": command.ready.url,
            "bearer_env": command.ready.bearer_env,
            "lie": command.ready.lie,
            "request": command.ready.request and dataclasses.asdict(command.ready.request),
        },
        "signatures": [dataclasses.asdict(signature) for signature in command.signatures],
        "buffers": [dataclasses.asdict(line) for line in command.buffers],
        "url": command.url,
        "stop_seconds": command.stop_seconds,
        "announce": announce,
    }


def _write_spec(command: Command, *, announce: str, how: How) -> int:
    """The descriptor of the supervisor's document, once it is known that the backend can be started."""
    _check(command)
    _write_files(command.files)
    _make_overlays(command.overlays)
    told = document(command, announce=announce) | dataclasses.asdict(how.rules)
    if how.instance is not None:
        told["instance"] = {"folder": str(how.instance.folder), "lock": how.instance.lock}
    told["devices"] = [
        {
            "uuid": shard.device.uuid,
            "name": shard.device.name,
            "planned_bytes": shard.estimate.total_bytes,
        }
        for shard in how.shards
        if shard.device.vendor == "nvidia"
    ]
    if how.calibration is not None:
        told["calibration"] = dataclasses.asdict(how.calibration)
    told["compiled_mark"] = how.compiled_mark
    told["lifeline"] = how.lifeline
    told["weights_bytes"] = how.weights_bytes
    told["screen"] = how.screen and dataclasses.asdict(how.screen)
    told["quiet"] = how.quiet
    return _anonymous_file(json.dumps(told))


def _environment() -> dict[str, str]:
    """The supervisor's, and so of all processes that stay: they run for weeks, and need no secret of ours."""
    return {name: value for name, value in os.environ.items() if name not in SECRET_VARIABLES}


def _program(fd: int) -> list[str]:
    return [sys.executable, *PYTHON_FLAGS, str(PROGRAM), str(fd)]


def _check(command: Command) -> None:
    """Find out now, while there is somebody to tell, whether the backend can be started at all."""
    folder = Path(command.cwd or ".")
    if not folder.is_dir():
        raise _cannot_start(command, f"its working folder {folder} does not exist")
    program = command.argv[0]
    path = command.environment(os.environ).get("PATH")
    found = shutil.which(folder / program if "/" in program else program, path=path)
    if found is None:
        raise _cannot_start(command, "the program does not exist")


def _cannot_start(command: Command, why: str) -> BackendError:
    return BackendError(
        f"{command.argv[0]} cannot be started: {why}",
        hint="reinstall the backend with `aimind backends install`, or choose another one with --backend",
    )


def _write_files(files: tuple[TextFile, ...]) -> None:
    for file in files:
        try:
            _write_file(file)
        except OSError as error:
            raise BackendError(
                f"{file.path} cannot be written: {error.strerror}",
                hint="the backend reads this file when it starts: check the free space and the permissions",
            ) from error


def _make_overlays(overlays: tuple[Overlay, ...]) -> None:
    for overlay in overlays:
        try:
            make_overlay(overlay)
        except (OSError, ValueError) as error:
            raise BackendError(
                f"{overlay.path}, a changed copy of {overlay.source}, cannot be made: {error}",
                hint="check that the model's JSON files are complete, and that the disk has room",
            ) from error


def make_overlay(overlay: Overlay) -> None:
    """Make the overlay anew, without files of an earlier model."""
    if Path(overlay.path).exists():
        shutil.rmtree(overlay.path)
    source = Path(overlay.source)
    for name, changes in overlay.edits.items():
        original = source / name
        known = json.loads(original.read_bytes()) if original.exists() else {}
        text = json.dumps(_merged(known, changes), indent=2, ensure_ascii=False)
        _write_file(TextFile(path=os.path.join(overlay.path, name), text=text))  # noqa: PTH118
    for name in overlay.links:
        link = Path(overlay.path, name)
        link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        link.symlink_to((source / name).absolute())


def _merged(known: object, changes: Mapping[str, object]) -> dict[str, object]:
    """The object with the changes in it; what is an object in both is merged likewise."""
    merged: dict[str, object] = dict(known) if isinstance(known, dict) else {}
    for key, value in changes.items():
        merged[key] = _merged(merged.get(key), value) if isinstance(value, Mapping) else value
    return merged


def _write_file(file: TextFile) -> None:
    """Write it whole or not at all; nobody else can read it before it has its mode."""
    path = Path(file.path)
    found = risk(path.parent)
    if found is not None:
        raise PermissionError(errno.EPERM, f"{found.sentence} (`{found.command}` fixes that)")
    for folder in reversed([path.parent, *path.parent.parents]):
        folder.mkdir(mode=0o700, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)  # 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(file.text)
            os.fchmod(descriptor, file.mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise


def _anonymous_file(text: str) -> int:
    """A descriptor, kept over exec, of a file without a name that holds `text`."""
    if sys.platform == "linux":
        fd = os.memfd_create("aimind", 0)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.set_inheritable(fd, True)  # noqa: FBT003 (it takes no keyword)
    with os.fdopen(os.dup(fd), "w", encoding="utf-8") as stream:
        stream.write(text)
    return fd


def _flush() -> None:
    """What was printed before must come before what the backend prints."""
    sys.stdout.flush()
    sys.stderr.flush()

"""Running uv: its output as lines of progress, its failures as errors with a remedy."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

from aimind.errors import InstallError
from aimind.types import public

_PROGRESS = re.compile(r"\s*(Resolved|Building|Built|Prepared|Installed|Bytecode compiled) ")
# On a terminal uv draws again and again how many packages are here, and a bar for each file under way:
# `Preparing packages... (1/3)   numpy   ------    2.37 MiB/16.13 MiB   scipy …`.
_FRAME = "Preparing packages..."
_MOVING = re.compile(r"[\u2800-\u28ff] |[█░]+ \[\d+/\d+\]")  # its other spinners and bars
_BAR = re.compile(r"(\S+) +-+ +([\d.]+) ([KMG]?i?B)/([\d.]+) ([KMG]?i?B)")
# Elsewhere it prints when a download begins and ends: `Downloading numpy (16.1MiB)`, ` Downloaded numpy`.
_BEGUN = re.compile(r"Downloading (\S+) \(([\d.]+) ?([KMG]?i?B)\)")
_ENDED = re.compile(r"\s*Downloaded (\S+)")
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_ANSI = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
_COLUMNS = 300  # of the terminal that uv gets: no statement of its errors shall be wrapped
# How uv 0.8 to 0.13 begin a statement about a failure; what has none of these goes on with the one before.
_STATEMENT = re.compile(r"\s*(?:error: |[×x] |[├╰]─▶ |(?:caused by|cause): )(.*)", re.IGNORECASE)
_ASIDE = re.compile(r"\s*(hint|warning|help): ", re.IGNORECASE)
_NO_DATES = re.compile(r"missing an upload date|--exclude-newer")
_REMEDIES = (
    (
        r"No space left on device|Disk quota exceeded",
        "make room, or set AIMIND_DATA_DIR (and UV_CACHE_DIR) to a folder on another disk",
    ),
    (
        r"No interpreter found|Failed to inspect Python|Querying Python|Invalid version request",
        "`uv python install` installs one; --python also accepts a path",
    ),
    (
        r"network was disabled|not found in the cache",
        "uv is offline (UV_OFFLINE), and its cache lacks some packages. {bring}",
    ),
    (
        r"no (usable )?wheels|source distribution or wheel for the current platform",
        "no build of it runs on this platform and Python: try another version, or another Python (--python)",
    ),
    # An index that could not be asked comes before what then was not found.
    (
        r"error sending request|dns error|connect error|timed out|invalid peer certificate|HTTP status",
        "check the network: uv reads a mirror from UV_DEFAULT_INDEX, a proxy from HTTPS_PROXY, and "
        "certificates from SSL_CERT_FILE. {bring}",
    ),
    (r"there (is|are) no versions? of|only .* (is|are) available", "name another version: NAME==VERSION"),
    (r"not found in the package registry", "check that uv's package index has it"),
    (
        r"Failed to build|build backend",
        "it is compiled on this machine, which needs a C++ compiler, CMake and make",
    ),
)


class Progress(Protocol):
    """Is told how an installation goes on."""

    def __call__(self, line: str, /) -> None:
        """What happens now, as a line."""


@runtime_checkable
class Draws(Progress, Protocol):
    """A progress that shows bytes, too."""

    @property
    def is_live(self) -> bool:
        """Whether frequent reports are useful."""

    def advance(self, done_bytes: int, total_bytes: int) -> None:
        """So many bytes of the packages are here, of those that are known to come."""


class NoDatesError(InstallError):
    """The package index does not tell when its files were uploaded, or this uv does not ask."""


def run(
    arguments: tuple[str, ...],
    *,
    folder: Path,
    what: str,
    install: str,
    progress: Progress,
    lock: int,
) -> None:
    """Run uv in a folder. It inherits the file descriptor `lock`: should it outlive us, the lock stays held.

    Args:
        arguments: of uv.
        folder: where it runs.
        what: is installed, for messages.
        install: the command of aimind that does that.
        progress: is told what uv does.
        lock: a file descriptor.

    Raises:
        NoDatesError: it failed, and saw files without a date.
        InstallError: uv is missing, or failed.
    """
    lines: list[str] = []
    transfers = _Transfers(progress)
    reader, writer = _terminal() if isinstance(progress, Draws) and progress.is_live else os.pipe()
    with (
        open(reader, "rb", buffering=0) as output,  # noqa: PTH123 - a descriptor
        subprocess.Popen(
            [_program(), "--color", "never", "--no-python-downloads", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=_environment(),
            umask=0o022,  # what is installed is run: nobody else may change it, whatever the user's umask is
            pass_fds=(lock,),
            process_group=0,
        ) as process,
    ):
        os.close(writer)
        try:
            for line in _lines(output):
                if transfers.see(line):
                    continue
                lines.append(line)
                if _PROGRESS.match(line):
                    message = line.strip()
                    progress(f"{what}: {message[0].lower()}{message[1:]}")
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode != 0:
        text = "\n".join(lines)
        (folder / ".last-failure.log").write_text(text + "\n", encoding="utf-8")
        if _NO_DATES.search(text):
            raise NoDatesError("the package index does not report upload dates", hint=_bring(install))
        raise InstallError(
            f"{what} could not be installed: {_reason(lines) or f'uv ended with {process.returncode}'}",
            hint=f"{_remedy(text, install)}; uv's output is in {folder / '.last-failure.log'}",
        )


class _Transfers:
    """The bytes of all downloads, by what uv shows of them."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._done: dict[str, int] = {}
        self._total: dict[str, int] = {}

    def see(self, line: str) -> bool:
        """Whether the line shows no more than how it goes on."""
        if _FRAME in line:
            self._see_frame(line)
        elif begun := _BEGUN.match(line):
            self._total[begun[1]] = _bytes(begun[2], begun[3])
        elif ended := _ENDED.match(line):
            self._done[ended[1]] = self._total.get(ended[1], 0)
        else:
            return _MOVING.match(line) is not None
        if isinstance(self._progress, Draws):
            self._progress.advance(sum(self._done.values()), sum(self._total.values()))
        return True

    def _see_frame(self, line: str) -> None:
        """Take the bars; a file whose bar is gone is complete."""
        bars = {bar[1]: bar for bar in _BAR.finditer(line)}
        for name, bar in bars.items():
            self._total[name] = _bytes(bar[4], bar[5])
            self._done[name] = _bytes(bar[2], bar[3])
        for name in self._done.keys() - bars.keys():
            self._done[name] = self._total[name]


def _bytes(number: str, unit: str) -> int:
    return round(float(number) * _UNITS[unit])


def _terminal() -> tuple[int, int]:
    """A pseudo-terminal: our end, and the one for uv, which draws bars on it."""
    import fcntl
    import struct
    import termios

    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, _COLUMNS, 0, 0))
    return ours, theirs


def _lines(output: BinaryIO) -> Iterator[str]:
    """What is printed, line by line, and each state of a bar as a line."""
    rest = b""
    while True:
        try:
            data = output.read(1 << 16)
        except OSError:  # EIO: nobody has the terminal open any more
            data = b""
        *lines, rest = re.split(rb"[\r\n]+", _ANSI.sub(b"", rest + data)) if data else (rest, b"")
        for line in lines:
            if line.strip():
                yield line.decode(errors="replace").rstrip()
        if not data:
            return


def located(paths: str) -> str:
    """Paths as they are from anywhere, whatever separates them: uv does not run where they were written."""
    return re.sub(
        r"[^,\s]+", lambda word: str(path.absolute()) if (path := Path(word[0])).exists() else word[0], paths
    )


def _environment() -> dict[str, str]:
    """Ours, with the folders that it names where they are."""
    kept = {name: value for name, value in public(os.environ).items() if name != "UV_SYSTEM_PYTHON"}
    if folder := kept.get("UV_CACHE_DIR"):
        kept["UV_CACHE_DIR"] = str(Path(folder).absolute())
    if links := kept.get("UV_FIND_LINKS"):
        kept["UV_FIND_LINKS"] = located(links)
    return kept


def _program() -> str:
    from uv import find_uv_bin

    try:
        return os.fspath(find_uv_bin())
    except FileNotFoundError as error:
        raise InstallError("uv, which installs backends, is missing", hint="pip install uv") from error


def _reason(lines: list[str]) -> str:
    """The first two statements of uv about a failure, and the last one."""
    statements: list[str] = []
    for line in lines:
        if match := _STATEMENT.match(line):
            statements.append(match.group(1).strip())
        elif _ASIDE.match(line):
            break
        elif statements and line.strip() and not _PROGRESS.match(line):
            statements[-1] += f" {line.strip()}"
    return ": ".join(dict.fromkeys(_end(statement) for statement in (*statements[:2], *statements[-1:])))


def _end(statement: str) -> str:
    """The end of a long statement, such as a compiler's output."""
    return statement if len(statement) <= 300 else f"… {statement[-300:]}"


def _remedy(text: str, install: str) -> str:
    remedy = next((remedy for pattern, remedy in _REMEDIES if re.search(pattern, text)), "see uv's output")
    return remedy.format(bring=_bring(install))


def _bring(install: str) -> str:
    """How to install on a machine without a network."""
    return (
        f"Where there is a network run `UV_CACHE_DIR=FOLDER {install}`, bring FOLDER here, and run "
        f"`UV_OFFLINE=1 UV_CACHE_DIR=FOLDER {install}`; or bring wheels in a folder that UV_FIND_LINKS names "
        "(docs/backends.md)"
    )

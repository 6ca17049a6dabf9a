"""Running uv: its output as lines of progress, its failures as errors with a remedy."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from aimind.errors import InstallError
from aimind.types import public

_PROGRESS = re.compile(
    r"\s*(Resolved|Downloading|Downloaded|Building|Built|Prepared|Installed|Bytecode compiled) "
)
# How uv 0.8 to 0.13 begin a statement about a failure; what has none of these goes on with the one before.
_STATEMENT = re.compile(r"\s*(?:error: |[×x] |[├╰]─▶ |(?:caused by|cause): )(.*)", re.IGNORECASE)
_ASIDE = re.compile(r"\s*(hint|warning|help): ", re.IGNORECASE)
_NO_DATES = re.compile(r"missing an upload date|--exclude-newer")
_REMEDIES = (
    (
        r"No space left on device|Disk quota exceeded",
        "make room, or name a folder on another disk with AIMIND_DATA_DIR (and UV_CACHE_DIR)",
    ),
    (
        r"No interpreter found|Failed to inspect Python|Querying Python|Invalid version request",
        "`uv python install` brings one, and --python takes the path of one, too",
    ),
    (
        r"network was disabled|not found in the cache",
        "uv was told to stay offline (UV_OFFLINE), and its cache does not have all that is needed. {bring}",
    ),
    (
        r"no (usable )?wheels|source distribution or wheel for the current platform",
        "no build of it runs on this platform and Python: try another version, or another Python (--python)",
    ),
    # An index that could not be asked comes before what then was not found.
    (
        r"error sending request|dns error|connect error|timed out|invalid peer certificate|HTTP status",
        "check the network: uv takes a mirror in UV_DEFAULT_INDEX, a proxy in HTTPS_PROXY, certificates in "
        "SSL_CERT_FILE. {bring}",
    ),
    (r"there (is|are) no versions? of|only .* (is|are) available", "name another version: NAME==VERSION"),
    (r"not found in the package registry", "see that the index which uv is configured for has it"),
    (
        r"Failed to build|build backend",
        "it has to be compiled here: that needs a C++ compiler, CMake and make",
    ),
)


class NoDatesError(InstallError):
    """The package index does not tell when its files were uploaded, or this uv does not ask."""


def run(
    arguments: tuple[str, ...],
    *,
    folder: Path,
    what: str,
    install: str,
    progress: Callable[[str], None],
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
    with subprocess.Popen(
        [_program(), "--color", "never", "--no-python-downloads", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=folder,
        env=_environment(),
        umask=0o022,  # what is installed is run: nobody else may change it, whatever the user's umask is
        pass_fds=(lock,),
        process_group=0,
    ) as process:
        try:
            for line in process.stdout or ():
                lines.append(line.rstrip())
                if _PROGRESS.match(line):
                    said = line.strip()
                    progress(f"{what}: {said[0].lower()}{said[1:]}")
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode != 0:
        text = "\n".join(lines)
        (folder / ".last-failure.log").write_text(text + "\n", encoding="utf-8")
        if _NO_DATES.search(text):
            raise NoDatesError(
                "the package index does not tell when its files were uploaded", hint=_bring(install)
            )
        raise InstallError(
            f"{what} could not be installed: {_reason(lines) or f'uv ended with {process.returncode}'}",
            hint=f"{_remedy(text, install)}; all that uv said is in {folder / '.last-failure.log'}",
        )


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
    """Of uv's statements about what failed the first, what it was about, and the last."""
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
    """Of a compiler's pages the last words."""
    return statement if len(statement) <= 300 else f"… {statement[-300:]}"


def _remedy(text: str, install: str) -> str:
    remedy = next((remedy for pattern, remedy in _REMEDIES if re.search(pattern, text)), "see what uv says")
    return remedy.format(bring=_bring(install))


def _bring(install: str) -> str:
    """How what is missing comes to a machine that has no network."""
    return (
        f"Where there is a network run `UV_CACHE_DIR=FOLDER {install}`, bring FOLDER here, and run "
        f"`UV_OFFLINE=1 UV_CACHE_DIR=FOLDER {install}`; or bring wheels in a folder that UV_FIND_LINKS names "
        "(docs/backends.md)"
    )

"""Where environments lie, which of them are complete, and who may change one."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from aimind.errors import InstallError, UsageError
from aimind.ownership import is_closed, risk
from aimind.regular import read_regular
from aimind.types import Backend, Package

_MARKER = "aimind.json"
# No dash: the folder's name is the version, then a dash and the variant where there is one.
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+!_]*")


@dataclass(frozen=True, slots=True)
class Environment:
    """One environment, there or not. It is complete when its marker is there and its Python still works."""

    backend: str
    folder: Path

    @property
    def version(self) -> str:
        """Version of the backend."""
        return self.folder.name.partition("-")[0]

    @property
    def variant(self) -> str:
        """Variant of the build."""
        return self.folder.name.partition("-")[2]

    @property
    def name(self) -> str:
        """Name that users see."""
        return f"{self.backend} {self.version}{f' ({self.variant})' if self.variant else ''}"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        scripts = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
        return self.folder.joinpath(*scripts)

    def facts(self) -> dict[str, object] | None:
        """What its marker says of it; `None` unless it is complete."""
        facts = self._marker()
        if not isinstance(facts.get("size_bytes"), int):
            return None
        return facts if self.python_problem() is None else None

    @property
    def finished(self) -> bool:
        """Its installation ended well, whatever has become of it since."""
        return bool(self._marker())

    def _marker(self) -> dict[str, object]:
        """The marker's fields; empty where it is missing, or was cut by a power failure."""
        try:
            facts = json.loads(read_regular(self.folder / _MARKER))
        except (OSError, ValueError, RecursionError):
            return {}
        return facts if isinstance(facts, dict) else {}

    def python_problem(self) -> str | None:
        """Why its interpreter cannot be started, as a half sentence; `None` where it can."""
        if not self.python.exists():
            target = self.python.readlink() if self.python.is_symlink() else self.python
            return f"its Python, {target}, is missing"
        if not os.access(self.python, os.X_OK):
            return f"its Python, {self.python}, is not executable"
        return None

    def source(self, build: Package) -> Package:
        """What it was installed from: the build's usual distribution, or one of those in its place."""
        distribution = (self.facts() or {}).get("distribution")
        for each in (build, *build.instead):
            if each.distribution == distribution:
                return each
        return build

    def distributions(self) -> tuple[str, ...]:
        """The names of the distributions that were installed; empty where the marker does not list them."""
        names = (self.facts() or {}).get("distributions")
        return tuple(map(str, names)) if isinstance(names, list) else ()

    def asked_python(self) -> str | None:
        """The Python that the user wanted it to have, also where that is gone."""
        asked = self._marker().get("asked_python")
        return asked if isinstance(asked, str) else None

    def read(self) -> Backend | None:
        """What is installed in it; `None` unless it is complete."""
        facts = self.facts()
        if facts is None:
            return None
        size_bytes = facts["size_bytes"]
        return Backend(
            name=self.backend,
            version=self.version,
            executable=str(self.python),
            size_bytes=size_bytes if isinstance(size_bytes, int) else None,
            python=str(facts.get("python", "")),
        )

    def mark(self, facts: Mapping[str, object]) -> None:
        """Declare it complete."""
        text = json.dumps({**facts, "size_bytes": disk_used(self.folder)}, indent=2)
        unfinished = self.folder / f"{_MARKER}.new"
        unfinished.write_text(text + "\n", encoding="utf-8")
        unfinished.replace(self.folder / _MARKER)

    def clear(self) -> None:
        """Remove it, the marker first."""
        (self.folder / _MARKER).unlink(missing_ok=True)
        if self.folder.exists():
            shutil.rmtree(self.folder)

    @contextlib.contextmanager
    def put_aside(self) -> Iterator[None]:
        """Move it away for the block, and back where the block fails; else remove it."""
        aside = self._aside
        self.clear_aside()
        self.folder.rename(aside)
        try:
            yield
        except BaseException:
            self.clear()
            aside.rename(self.folder)
            raise
        shutil.rmtree(aside)

    def clear_aside(self) -> None:
        """Remove what a killed renewal has put aside."""
        if self._aside.exists():
            shutil.rmtree(self._aside)

    @property
    def _aside(self) -> Path:
        return self.folder.parent / f".{self.folder.name}.old"

    @property
    def changing(self) -> bool:
        """Whether another process is installing or removing it."""
        import fcntl

        try:
            descriptor = os.open(self._lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    @property
    def _lock(self) -> Path:
        return self.folder.parent / f".{self.folder.name}.lock"

    @contextlib.contextmanager
    def locked(self, wait: Callable[[], None]) -> Iterator[int]:
        """Keep other processes from changing it, for the block and for every process that inherits the lock.

        `wait` is called before waiting for another; it may raise. Yields the lock's file descriptor.
        """
        import fcntl  # not on Windows, where environments are only looked for

        make_folder(self.folder.parent)
        # A pipe in its place must not be waited for.
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                wait()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)


def calibration_file() -> Path:
    """The file in which supervisors remember what backends hold beside their buffers, there or not."""
    return data_folder() / "calibration.json"


def data_folder() -> Path:
    """The user's data folder of aimind: `AIMIND_DATA_DIR`, or where the platform keeps such things.

    Raises:
        InstallError: others could change the programs in it.
    """
    if chosen := os.environ.get("AIMIND_DATA_DIR"):
        folder = Path(chosen).absolute()
    else:
        from platformdirs import user_data_path

        folder = user_data_path("aimind")
    check_own(folder)
    return folder


def check_own(folder: Path) -> None:
    """Find out that nobody else can change the programs in the folder.

    Raises:
        InstallError: somebody can.
    """
    found = risk(folder)
    if found is not None:
        raise InstallError(
            f"{found.sentence}: other users could change the programs in it",
            hint=f"`{found.command}`, or set AIMIND_DATA_DIR to another folder",
        )


def make_folder(folder: Path) -> None:
    """Make the folder and those above it; nobody else can write to them, whatever the umask is."""
    for each in reversed([folder, *folder.parents]):
        if not each.is_dir():
            each.mkdir(mode=0o700, exist_ok=True)


def environment(backend: str, package: Package, version: str | None = None) -> Environment:
    """The environment of a version of a package, the package's own by default.

    Raises:
        UsageError: what is asked for is not written like a version.
    """
    version = version or package.version
    if version != package.version and not _is_version(version):
        raise UsageError(f"{version!r} is not a version", hint=f"a version looks like {package.version}")
    name = f"{version}-{package.variant}" if package.variant else version
    return Environment(backend, data_folder() / "environments" / backend / name)


def _is_version(text: str) -> bool:
    from packaging.version import InvalidVersion, Version

    try:
        Version(text)
    except InvalidVersion:
        return False
    return _VERSION.fullmatch(text) is not None


def environments(backend: str) -> tuple[Environment, ...]:
    """All of a backend, the incomplete ones too.

    Raises:
        InstallError: others could change the programs in them.
    """
    top = data_folder()
    above = top / "environments" / backend
    try:
        folders = list(above.iterdir())
    except OSError:
        return ()
    found = [folder for folder in folders if folder.is_dir() and not folder.name.startswith(".")]
    if not is_closed(top):  # else nobody reaches what is below
        for folder in (above.parent, above, *found):
            check_own(folder)
    return tuple(Environment(backend, folder) for folder in found)


def disk_used(folder: Path) -> int:
    """Bytes on disk below a folder, each file counted once however often it is linked."""
    seen: dict[tuple[int, int], int] = {}
    for path, _, names in os.walk(folder):
        for name in names:
            status = os.lstat(os.path.join(path, name))  # noqa: PTH118 - of thousands of files
            seen[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(seen.values())

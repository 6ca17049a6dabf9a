"""This machine as its systemd sees it: where things are, who may read them; and installing a unit."""

from __future__ import annotations

import os
import re
import stat
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from aimind.errors import InstallError, UnsupportedError, UsageError
from aimind.types import Device

if TYPE_CHECKING:
    from aimind.supervisor.notify import Manager

SYSTEM_FOLDER = Path("/etc/systemd/system")
# What ProtectHome= and PrivateTmp= hide.
HIDDEN = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))
# What a unit finds programs in, unless told (systemd.exec(5)).
PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")


# ── What a unit needs ──────────────────────────────────────────────────────────────────────────────────────


def program() -> Path:
    """The program `aimind` of the environment that runs this.

    Raises:
        InstallError: it has none.
    """
    here = (Path(sys.executable).parent, Path(sysconfig.get_path("scripts")), Path(sys.argv[0]).parent)
    for folder in here:
        if (found := (folder / "aimind").absolute()).is_file():
            return found
    raise InstallError(
        f"there is no program aimind next to {sys.executable}",
        hint="install aimind in an environment of its own",
    )


def own_folders() -> tuple[Path, ...]:
    """The folders that aimind runs from: its environment, its Python, and itself."""
    python = Path(sys.executable).resolve().parent.parent
    return Path(sys.prefix), Path(sys.base_prefix), python, Path(__file__).parent


def device_nodes(devices: Sequence[Device], gpus: Path = NVIDIA_GPUS) -> tuple[str, ...]:
    """The nodes of these devices. Their numbers are the driver's minor ones, which it tells below /proc."""
    if any(device.vendor == "amd" for device in devices):
        return ("/dev/kfd", "char-drm")  # the devices of one are not told apart by a node of their own
    minors: dict[str, str] = {}
    for file in gpus.glob("*/information"):
        said = dict(re.findall(r"^([^:]+):\s*(.*?)\s*$", file.read_text(errors="replace"), re.MULTILINE))
        minors[said.get("GPU UUID", "")] = said.get("Device Minor", "")
    nodes = [f"/dev/nvidia{minors.get(device.uuid) or device.index}" for device in devices]
    # The parts of a divided GPU are told apart by nodes of another kind.
    caps = ["char-nvidia-caps"] if any(device.uuid.startswith("MIG-") for device in devices) else []
    return (*dict.fromkeys(nodes), *caps)


def outermost_hidden(paths: Iterable[Path]) -> tuple[Path, ...]:
    """The folders that a hardened unit would not see, without those inside another one."""
    whole = {each for path in paths for each in (path.absolute(), path.resolve())}
    hidden = sorted(path for path in whole if any(path.is_relative_to(folder) for folder in HIDDEN))
    return tuple(path for path in hidden if not any(other in path.parents for other in hidden))


def closed(path: Path, bound: Sequence[Path]) -> Path | None:
    """The first thing on the way to the path that others than its owner may not read.

    From a path that is `bound` on: what is above that is not looked at.
    """
    path = path.absolute()
    start = next((each for each in bound if path.is_relative_to(each)), Path("/"))
    for each in (*reversed(path.parents), path):
        if not each.is_relative_to(start) or not each.exists():
            continue
        mode = each.stat().st_mode
        wanted = stat.S_IXOTH if stat.S_ISDIR(mode) else stat.S_IROTH
        if not mode & wanted:
            return each
    return None


# ── While a unit starts ────────────────────────────────────────────────────────────────────────────────────


def extend_start() -> None:
    """Ask the service manager, if one has started us, for more and more time, until there is a supervisor.

    A download or an installation may take hours, and knows itself when it has failed.
    """
    import threading

    from aimind.supervisor.notify import Manager

    manager = Manager(dict(os.environ))  # a copy: the supervisor, which comes later, wants its address too
    if manager.listens:
        manager.preparing()
        threading.Thread(target=_go_on, args=(manager,), daemon=True).start()


def _go_on(manager: Manager) -> NoReturn:
    import time

    from aimind.supervisor.notify import EXTENSION_SECONDS

    while True:
        time.sleep(EXTENSION_SECONDS / 3)
        manager.preparing()


# ── Installing ─────────────────────────────────────────────────────────────────────────────────────────────


def user_folder() -> Path:
    """The folder of this user's units (systemd.unit(5))."""
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "systemd" / "user"


def install(path: Path, text: str, *, marker: str, user: bool) -> None:
    """Write the unit, whole, and enable it; or leave all as it was.

    Raises:
        UnsupportedError: there is no systemd.
        UsageError: there is another unit of this name, which does not begin with the `marker`.
        InstallError: it cannot be written, or systemd does not take it.
    """
    import shutil

    if shutil.which("systemctl") is None:
        raise UnsupportedError(
            "systemctl is not on PATH, so the unit cannot be installed",
            hint="leave --install out to print the unit",
        )
    before = _before(path, marker)
    _write(path, text)
    manager = ("--user",) if user else ()
    try:
        _systemctl(*manager, "daemon-reload")
        _systemctl(*manager, "enable", path.name)
    except BaseException:
        _restore(path, before, manager)
        raise


def _before(path: Path, marker: str) -> str | None:
    """What is there now."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        text = None
    except OSError as problem:
        raise _cannot_write(path, problem) from problem
    if path.is_symlink() or (text is not None and not text.startswith(marker)):
        raise UsageError(
            f"{path} exists, and was not made by aimind", hint="--name gives the unit another name"
        )
    return text


def _write(path: Path, text: str) -> None:
    import tempfile

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=".aimind-")
    except OSError as problem:
        raise _cannot_write(path, problem) from problem
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(descriptor, 0o644)
        Path(unfinished).replace(path)
    except BaseException as problem:
        Path(unfinished).unlink()
        if isinstance(problem, OSError):
            raise _cannot_write(path, problem) from problem
        raise


def _restore(path: Path, before: str | None, manager: tuple[str, ...]) -> None:
    import contextlib

    def quietly(*arguments: str) -> None:
        with contextlib.suppress(InstallError):  # it has failed before, and that is what is told
            _systemctl(*manager, *arguments)

    if before is None:
        quietly("disable", path.name)
        path.unlink()
    else:
        _write(path, before)
    quietly("daemon-reload")


def _systemctl(*arguments: str) -> None:
    import subprocess

    try:
        done = subprocess.run(
            ["systemctl", "--no-ask-password", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as problem:
        raise _refused(arguments, problem.strerror or "") from problem
    if done.returncode != 0:
        raise _refused(arguments, (done.stderr or done.stdout).strip() or f"exit code {done.returncode}")


def _refused(arguments: tuple[str, ...], why: str) -> InstallError:
    return InstallError(
        f"`systemctl {' '.join(arguments)}` failed: {why}",
        hint="the unit is not installed; is systemd running?",
    )


def _cannot_write(path: Path, problem: OSError) -> InstallError:
    return InstallError(
        f"{path} cannot be written: {problem.strerror}",
        hint="units of the system need root: use sudo, or --user for a unit of your own",
    )

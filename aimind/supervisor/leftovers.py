"""What a backend leaves behind that no end of a process removes: temporary files, and shared memory."""

from __future__ import annotations

import ctypes
import os
import stat
from contextlib import suppress

from aimind.supervisor.processes import LINUX, answer, descendants, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Segment = tuple[str, int]  # name and inode: a name may be used again

# A Unix socket's path has at most 107 bytes (unix(7)), and vLLM names its sockets with 36 characters.
LONGEST_FOLDER = 107 - 1 - 36
SHARED_MEMORY = "/dev/shm"
IN_CREATE = 0x100  # linux/inotify.h
# A process that hangs in the kernel can make those hang that look at its memory. What is about to be killed
# must not wait for long; in the end all processes of the machine are looked at.
TREE_SECONDS, MACHINE_SECONDS = 1.0, 5.0


# ── Temporary files ────────────────────────────────────────────────────────────────────────────────────────


def choose_folder() -> str | None:
    """The path of a folder for temporary files that is not there yet; `None` where none can be made.

    It is made later, by a process that others watch: who knows its path can remove it, whoever is killed.
    """
    for parent in (os.path.abspath(os.environ.get("TMPDIR", "/tmp")), "/tmp"):  # noqa: PTH100 (pathlib costs memory)
        path = f"{parent}/aimind-{os.urandom(6).hex()}"
        if len(os.fsencode(path)) <= LONGEST_FOLDER and os.access(parent, os.W_OK | os.X_OK):
            return path
    return None


def make_folder(path: str) -> bool:
    """Make a folder that only we can read; whether that was possible."""
    try:
        os.mkdir(path, 0o700)  # noqa: PTH102 (pathlib costs memory)
    except OSError:
        return False
    return True


def remove_folder(path: str) -> None:
    """Remove a folder and all that is in it, and follow no link. What cannot be removed stays."""
    with suppress(OSError):
        _empty(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW))
        os.rmdir(path)  # noqa: PTH106 (pathlib costs memory)


def _empty(folder: int) -> None:
    """Remove what is in an open folder, and close it."""
    try:
        os.fchmod(folder, 0o700)
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for name, is_folder in found:
            with suppress(OSError):
                if is_folder:
                    _empty(os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder))
                    os.rmdir(name, dir_fd=folder)
                else:
                    os.unlink(name, dir_fd=folder)
    finally:
        os.close(folder)


# ── Shared memory ──────────────────────────────────────────────────────────────────────────────────────────


class SharedMemory:
    """The segments of POSIX shared memory that a tree of processes made, and may leave.

    They are those that were not there before, belong to our user, and were once seen to be mapped or open by
    a process of the tree. A look costs next to nothing where there is no new segment.
    """

    def __init__(self) -> None:
        self._before = _segments()
        self._missed: set[Segment] = set()
        self._seen: set[Segment] = set()

    @property
    def before(self) -> set[int]:
        """The inodes of those that the tree has not made."""
        return {inode for _, inode in self._before}

    def look(self, pids: Iterable[int]) -> set[Segment] | None:
        """See which segments these processes have.

        Returns:
            Those that were not seen before; `None` when the processes did not tell in time.
        """
        new = self._unseen()
        held = _held(pids, patience_seconds=TREE_SECONDS) if new else set()
        return None if held is None else self.add({segment for segment in new if segment[1] in held})

    def look_below(self, root: int) -> set[Segment] | None:
        """Look at all descendants of a process: what they twice do not have is others', and left alone then.

        Once is not enough: a segment is there before the process that makes it has it open.
        """
        new = self._unseen()
        found = self.look(descendants(root, processes())) if new else set()
        if found is not None:
            self._before |= (new - found) & self._missed
            self._missed = new - found - self._before
        return found

    @property
    def unsure(self) -> bool:
        """Whether there is something that was looked for only once."""
        return bool(self._missed)

    def add(self, segments: set[Segment]) -> set[Segment]:
        """Add segments that were seen elsewhere."""
        self._seen |= segments
        return segments

    def _unseen(self) -> set[Segment]:
        here = _segments()
        self._before &= here
        return here - self._before - self._seen

    def remove(self) -> None:
        """Remove what was seen and is still there, unless a process that we can see has it."""
        left = self._seen & _segments()
        held = _held(processes(), patience_seconds=MACHINE_SECONDS) if left else None
        if held is None:
            return
        for name, inode in left:
            if inode not in held:
                with suppress(FileNotFoundError, PermissionError):
                    os.unlink(f"{SHARED_MEMORY}/{name}")  # noqa: PTH108 (pathlib costs memory)


def watch_segments() -> int | None:
    """A descriptor that is readable when a segment was made; `None` where the kernel gives none (inotify)."""
    if not LINUX:
        return None
    libc = ctypes.CDLL(None)
    fd: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        return None
    if libc.inotify_add_watch(fd, os.fsencode(SHARED_MEMORY), IN_CREATE) < 0:
        os.close(fd)
        return None
    return fd


def _segments() -> set[Segment]:
    """The segments of this user."""
    found = set()
    with suppress(FileNotFoundError), os.scandir(SHARED_MEMORY) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                    found.add((entry.name, status.st_ino))
    return found


def _held(pids: Iterable[int], *, patience_seconds: float) -> set[int] | None:
    """The inodes of shared memory that processes have mapped or open; `None` when they do not tell in time.

    A large process has thousands of mappings, hence the child that reads them.
    """
    mark = f" {device()} ".encode()
    told = answer(
        lambda: " ".join(str(inode) for pid in pids for inode in _held_by(pid, mark)),
        patience_seconds=patience_seconds,
    )
    return None if told is None else set(map(int, told.split()))


def device() -> str:
    """Where shared memory is, as proc_pid_maps(5) has it; nothing where there is none."""
    try:
        number = os.stat(SHARED_MEMORY).st_dev  # noqa: PTH116 (pathlib costs memory)
    except FileNotFoundError:
        return ""
    return f"{os.major(number):02x}:{os.minor(number):02x}"


def _held_by(pid: int, mark: bytes) -> set[int]:
    """The segments of one process; `mark` is in the lines of its maps that are about shared memory."""
    inodes = set()
    # The process has ended, or belongs to another user.
    with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        with open(f"/proc/{pid}/maps", "rb") as file:  # noqa: PTH123 (pathlib costs memory)
            inodes = {int(line.split(None, 5)[4]) for line in file if mark in line}
        for fd in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 (pathlib costs memory)
            with suppress(FileNotFoundError):
                if os.readlink(f"/proc/{pid}/fd/{fd}").startswith(SHARED_MEMORY):  # noqa: PTH115
                    inodes.add(os.stat(f"/proc/{pid}/fd/{fd}").st_ino)  # noqa: PTH116
    return inodes

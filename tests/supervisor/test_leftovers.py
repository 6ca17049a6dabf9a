"""What a backend leaves in shared memory and in the temporary folder is removed, and nothing else is."""

from __future__ import annotations

import dataclasses
import mmap
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from aimind.supervisor.leftovers import SharedMemory
from tests.supervisor.harness import LINUX, Supervised, fake, wait_for

pytestmark = LINUX

SHM = Path("/dev/shm")


class Run:
    """A backend that has littered, its folder and its segments."""

    def __init__(self, supervised: Supervised, folder: Path) -> None:
        self.supervised = supervised
        self.pids = [*supervised.sentinels, supervised.guardian, *supervised.pids]
        self.segments = [SHM / name for name in (folder / "litter").read_text().split()]
        self.temporary = Path(psutil.Process(supervised.pids[0]).environ()["TMPDIR"])

    def seen(self) -> bool:
        """The sentinels were told of the segments, after all others: a shell reads a pipe byte by byte."""
        told = sum(len(f"{path}\n") for path in self.segments)
        sentinels = map(psutil.Process, self.supervised.sentinels)
        return all(sentinel.io_counters().read_count >= told for sentinel in sentinels)

    def ended(self) -> bool:
        return not any(psutil.pid_exists(pid) for pid in self.pids)

    def clean(self) -> bool:
        return not self.temporary.exists() and not any(path.exists() for path in self.segments)


@contextmanager
def littering(folder: Path, *flags: str, env: dict[str, str] | None = None) -> Iterator[Run]:
    command = dataclasses.replace(fake(folder, "--litter", str(folder / "litter"), *flags), env=env or {})
    with Supervised(command, folder) as supervised:
        supervised.wait_until_ready()
        run = Run(supervised, folder)
        assert len(run.segments) == 2
        assert all(path.exists() for path in run.segments)
        wait_for(run.seen, what="a look at its segments")
        try:
            yield run
        finally:
            supervised.process.kill()
            for path in run.segments:
                wait_for(run.ended, what="the end of the tree")
                path.unlink(missing_ok=True)


def terminate(run: Run) -> None:
    run.supervised.send(signal.SIGTERM)
    assert run.supervised.wait() == 143


def kill_backend(run: Run) -> None:
    os.kill(run.supervised.pids[0], signal.SIGKILL)
    run.supervised.wait_until_ready(times=2)


def kill_guardian(run: Run) -> None:
    os.kill(run.supervised.guardian, signal.SIGKILL)
    run.supervised.wait_until_ready(times=2)


def kill_supervisor(run: Run) -> None:
    run.supervised.process.kill()
    run.supervised.wait()
    wait_for(run.ended, what="the end of the tree")


def kill_supervisor_and_guardian(run: Run) -> None:
    for number in (signal.SIGSTOP, signal.SIGKILL):
        os.kill(run.supervised.process.pid, number)
        os.kill(run.pids[2], number)
    run.supervised.wait()
    wait_for(run.ended, what="the end of the tree")


ENDS = (terminate, kill_backend, kill_guardian, kill_supervisor, kill_supervisor_and_guardian)


@pytest.mark.parametrize("end", ENDS)
def test_what_the_tree_left_is_removed(tmp_path: Path, end: Callable[[Run], None]) -> None:
    with littering(tmp_path) as run:
        assert len(list(run.temporary.iterdir())) == 3
        end(run)
        assert run.clean()


def test_what_a_backend_left_that_was_never_ready_is_removed(tmp_path: Path) -> None:
    """It ends by itself: only a look while it loads can have seen it."""
    flags = (
        "--litter",
        str(tmp_path / "litter"),
        "--unready",
        "3600",
        "--exit-after",
        "4",
        "--exit-code",
        "3",
    )
    with Supervised(fake(tmp_path, *flags), tmp_path, restart="never") as supervised:
        assert supervised.wait() == 3
        segments = [SHM / name for name in (tmp_path / "litter").read_text().split()]
        assert len(segments) == 2
        assert not any(path.exists() for path in segments)


def looked(looking: SharedMemory) -> set[str]:
    """What is newly seen at our own processes, once they tell in time."""
    while (found := looking.look_below(os.getpid())) is None:
        pass
    return {name for name, _ in found}


def test_what_is_made_is_not_taken_for_others_before_it_is_open() -> None:
    """The kernel may tell of a segment before its maker has it open."""
    looking = SharedMemory()
    hold_it = "import sys; file = open(sys.argv[1], 'r+b'); print(flush=True); input()"
    with segment(f"psm_slow_{os.getpid()}") as path:
        assert looked(looking) == set()
        assert looking.unsure
        argv = [sys.executable, "-c", hold_it, str(path)]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            assert looked(looking) == {path.name}
            process.kill()
        looking.remove()
        assert not path.exists()


def test_what_others_made_is_not_looked_at_for_ever() -> None:
    looking = SharedMemory()
    with segment(f"psm_others_{os.getpid()}") as path:
        assert looked(looking) == set()
        assert looking.unsure
        # Other tests may make some meanwhile, which are new again.
        wait_for(lambda: looked(looking) == set() and not looking.unsure, what="being sure")
        looking.remove()
        assert path.exists()


def test_the_kernel_tells_of_new_segments(tmp_path: Path) -> None:
    """A process may be killed long before it would be looked at by the clock."""
    with Supervised(fake(tmp_path), tmp_path) as supervised:
        supervised.wait_until_ready()
        held = [path.readlink() for path in Path(f"/proc/{supervised.guardian}/fd").iterdir()]
        assert Path("anon_inode:inotify") in held


def test_what_the_guardian_had_no_time_to_see_is_removed(tmp_path: Path) -> None:
    """The sentinel looks too: at what lives, hence not at the backend, which ends with the guardian."""
    litter, load = tmp_path / "litter", tmp_path / "load"
    with Supervised(
        fake(tmp_path, "--litter", str(litter), "--bind-when", str(load)), tmp_path
    ) as supervised:
        wait_for(lambda: supervised.pids, what="the backend")
        os.kill(supervised.guardian, signal.SIGSTOP)
        load.touch()
        supervised.wait_until_ready()
        run = Run(supervised, tmp_path)
        own, other = run.segments
        try:
            with segment(f"{other.name}_after") as after:
                assert other.exists()
                kill_supervisor_and_guardian(run)
                assert not other.exists()
                assert after.exists()
        finally:
            own.unlink(missing_ok=True)  # it may be seen while it ends


@contextmanager
def segment(name: str) -> Iterator[Path]:
    path = SHM / name
    path.write_bytes(bytes(4096))
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def test_what_others_made_stays(tmp_path: Path) -> None:
    name = f"psm_other_{os.getpid()}"
    with (
        segment(f"{name}_before") as before,
        littering(tmp_path, "--map", str(before)) as run,
        segment(f"{name}_after") as after,
    ):
        terminate(run)
        assert run.clean()
        assert before.exists()  # though the tree had it mapped
        assert after.exists()


def test_what_another_process_still_uses_stays(tmp_path: Path) -> None:
    with littering(tmp_path) as run:
        one, other = run.segments
        with one.open("r+b") as file, mmap.mmap(file.fileno(), 0):
            terminate(run)
            assert one.exists()
            assert not other.exists()
            assert not run.temporary.exists()


# ── The temporary folder ───────────────────────────────────────────────────────────────────────────────────


def test_the_folder_is_private_and_below_the_outer_one(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outer = Path("/tmp") / f"outer-{os.getpid()}"
    outer.mkdir()
    monkeypatch.setenv("TMPDIR", str(outer))
    try:
        with littering(tmp_path) as run:
            assert run.temporary.parent == outer
            assert run.temporary.name.startswith("aimind-")
            assert stat.S_IMODE(run.temporary.stat().st_mode) == 0o700
            terminate(run)
    finally:
        outer.rmdir()


@pytest.mark.parametrize("outer", ["/nowhere", "/tmp/" + "x" * 60])
def test_an_outer_folder_that_is_of_no_use_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outer: str
) -> None:
    """It is missing, or the names of sockets would be too long there."""
    monkeypatch.setenv("TMPDIR", outer)
    with littering(tmp_path) as run:
        assert run.temporary.parent == Path("/tmp")
        terminate(run)


def test_a_command_with_a_folder_of_its_own_keeps_it(tmp_path: Path) -> None:
    mine = Path("/tmp") / f"mine-{os.getpid()}"
    mine.mkdir()
    try:
        with littering(tmp_path, env={"TMPDIR": str(mine)}) as run:
            assert run.temporary == mine
            terminate(run)
            assert (mine / "a").exists()
    finally:
        for path in ("a/b/file", "link", "01234567-89ab-cdef-0123-456789abcdef"):
            (mine / path).unlink()
        for path in ("a/b", "a", ""):
            (mine / path).rmdir()

"""Nothing of the tree is left, however it ends: not what ignores TERM, nor what leaves the group."""

from __future__ import annotations

import fcntl
import os
import re
import signal
from contextlib import suppress
from itertools import combinations_with_replacement
from pathlib import Path

import psutil
import pytest

from tests.supervisor.harness import LINUX, Supervised, alive, fake, get, wait_for

pytestmark = LINUX

STUBBORN = ("--ignore-term", "--grandchildren", "4")


def test_kill_of_the_supervisor(tmp_path: Path) -> None:
    with Supervised(fake(tmp_path, *STUBBORN), tmp_path) as supervised:
        supervised.wait_until_ready()
        pids = [*supervised.sentinels, supervised.guardian, *supervised.pids]
        assert len(pids) == 8
        assert all(alive(pid) for pid in pids)
        supervised.process.kill()
        supervised.wait()
        supervised.assert_nothing_left(pids)


def test_kill_of_the_supervisor_while_the_backend_starts(tmp_path: Path) -> None:
    with Supervised(fake(tmp_path, *STUBBORN, "--bind-after", "3600"), tmp_path) as supervised:
        wait_for(lambda: supervised.pids, what="the backend's start")
        pids = [*supervised.sentinels, supervised.guardian, *supervised.pids]
        supervised.process.kill()
        supervised.wait()
        supervised.assert_nothing_left(pids)


def test_kill_of_the_guardian(tmp_path: Path) -> None:
    """The supervisor inherits the tree, ends it, says so, and starts the backend again."""
    with Supervised(fake(tmp_path, *STUBBORN), tmp_path) as supervised:
        supervised.wait_until_ready()
        pids = [*supervised.sentinels, supervised.guardian, *supervised.pids]
        os.kill(supervised.guardian, signal.SIGKILL)
        supervised.wait_until_ready(times=2)
        assert not any(alive(pid) for pid in pids)
        assert "its guardian process was killed" in supervised.stderr
        assert get(supervised.command.ready.url) == 200


MEMBERS = ("supervisor", "outer", "inner", "guardian", "backend", "grandchild")
HARMLESS = {"outer", "inner", "grandchild"}


def members(supervised: Supervised) -> dict[str, int]:
    """A process of each kind; the grandchild has left the process group, and its parent has ended."""
    backend, _, grandchild, *_ = supervised.pids
    found = (supervised.process.pid, *supervised.sentinels, supervised.guardian, backend, grandchild)
    return dict(zip(MEMBERS, found, strict=True))


def kill_at_once(pids: list[int]) -> None:
    """None of them can act between the end of the first and of the last."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        with suppress(ProcessLookupError):  # the end of the one before may be that of this one
            os.kill(pid, signal.SIGKILL)


PAIRS = [tuple(sorted({*pair})) for pair in combinations_with_replacement(MEMBERS, 2)]


@pytest.mark.parametrize("victims", PAIRS, ids="+".join)
def test_kill_of_any_one_and_of_any_two_at_once(tmp_path: Path, victims: tuple[str, ...]) -> None:
    """The tree is dead, or none the worse, and what is left of us starts it again."""
    with Supervised(fake(tmp_path, *STUBBORN), tmp_path) as supervised:
        supervised.wait_until_ready()
        tree = [*supervised.sentinels, supervised.guardian, *supervised.pids]
        pid_of = members(supervised)
        kill_at_once([pid_of[name] for name in victims])
        if HARMLESS.issuperset(victims):
            assert get(supervised.command.ready.url) == 200
            supervised.process.kill()
        wait_for(lambda: not any(alive(pid) for pid in tree), what="the end of the tree")
        if "supervisor" in victims or HARMLESS.issuperset(victims):
            supervised.wait()
            supervised.assert_nothing_left(tree)
        else:
            supervised.wait_until_ready(times=2)
            assert not any(psutil.pid_exists(pid) for pid in tree)  # not even as zombies


def test_kill_of_the_four_that_watch(tmp_path: Path) -> None:
    """The last resort: the kernel kills the backend itself."""
    with Supervised(fake(tmp_path, "--ignore-term"), tmp_path) as supervised:
        supervised.wait_until_ready()
        pids = [supervised.process.pid, *supervised.sentinels, supervised.guardian]
        backend = supervised.pids
        folder = Path(psutil.Process(backend[0]).environ()["TMPDIR"])
        kill_at_once(pids)
        supervised.wait()
        supervised.assert_nothing_left([*pids, *backend])
        folder.rmdir()  # which nobody is left to do


@pytest.mark.parametrize("victims", [("supervisor",), ("supervisor", "guardian")], ids="+".join)
def test_the_lock_is_held_until_nothing_is_left(tmp_path: Path, victims: tuple[str, ...]) -> None:
    """Who finds it free may start the same again, and counts on the memory and the port."""
    with Supervised(fake(tmp_path, *STUBBORN), tmp_path) as supervised, (tmp_path / "lock").open("w") as lock:
        supervised.wait_until_ready()
        pids = supervised.pids
        folder = Path(psutil.Process(pids[0]).environ()["TMPDIR"])
        pid_of = members(supervised)
        kill_at_once([pid_of[name] for name in victims])
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not any(alive(pid) for pid in pids)
        assert not folder.exists()


def test_a_normal_end_leaves_neither_sentinels_nor_guardian(tmp_path: Path) -> None:
    with Supervised(fake(tmp_path), tmp_path) as supervised:
        supervised.wait_until_ready()
        pids = [*supervised.sentinels, supervised.guardian, *supervised.pids]
        os.kill(supervised.pids[0], signal.SIGKILL)
        supervised.wait_until_ready(times=2)
        assert not any(psutil.pid_exists(pid) for pid in pids)
        below = psutil.Process(supervised.process.pid)
        # The guardian's looks at shared memory are soon over.
        wait_for(lambda: len(below.children(recursive=True)) == 4, what="the end of a look")


def test_the_sentinel_is_not_killed_by_our_name(tmp_path: Path) -> None:
    with Supervised(fake(tmp_path), tmp_path) as supervised:
        supervised.wait_until_ready()
        for sentinel in map(psutil.Process, supervised.sentinels):
            assert not {"aimind", "python"} & set(re.findall(r"\w+", " ".join(sentinel.cmdline())))
            assert "python" not in sentinel.name()


def test_the_backend_inherits_nothing_that_keeps_the_sentinel(tmp_path: Path) -> None:
    """A descendant with the pipe's end would look like a supervisor that lives."""
    with Supervised(fake(tmp_path, "--grandchildren", "2"), tmp_path) as supervised:
        supervised.wait_until_ready()
        pipes = {Path(f"/proc/{sentinel}/fd/0").readlink() for sentinel in supervised.sentinels}
        assert len(pipes) == 2
        for pid in supervised.pids:
            descriptors = [path.readlink() for path in Path(f"/proc/{pid}/fd").iterdir()]
            assert descriptors
            assert pipes.isdisjoint(descriptors)


def test_what_the_backend_leaves_behind_is_ended(tmp_path: Path) -> None:
    """Before it is started again: its orphans hold memory and ports."""
    flags = ("--grandchildren", "4")
    with Supervised(fake(tmp_path, *flags), tmp_path) as supervised:
        supervised.wait_until_ready()
        first = supervised.pids
        os.kill(first[0], signal.SIGKILL)
        wait_for(lambda: supervised.pids != first, what="the second start")
        assert not any(alive(pid) for pid in first)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_the_guardian_is_deaf_to_signals_for_the_group(tmp_path: Path, number: signal.Signals) -> None:
    """A service manager sends TERM to every process: the guardian must outlive them all."""
    with Supervised(fake(tmp_path, *STUBBORN), tmp_path) as supervised:
        supervised.wait_until_ready()
        pids = [*supervised.sentinels, supervised.guardian, *supervised.pids]
        supervised.send(signal.SIGSTOP)  # it would end the tree if the guardian died
        os.kill(supervised.guardian, number)
        supervised.process.kill()
        supervised.wait()
        supervised.assert_nothing_left(pids)


def test_kill_of_the_supervisors_process_group(tmp_path: Path) -> None:
    with Supervised(fake(tmp_path, *STUBBORN), tmp_path) as supervised:
        supervised.wait_until_ready()
        pids = [*supervised.sentinels, supervised.guardian, *supervised.pids]
        os.killpg(supervised.process.pid, signal.SIGKILL)
        supervised.wait()
        supervised.assert_nothing_left(pids)


def test_no_zombie_is_kept(tmp_path: Path) -> None:
    """The orphans that the guardian inherits while the backend runs are waited for."""
    with Supervised(fake(tmp_path, "--grandchildren", "4"), tmp_path) as supervised:
        supervised.wait_until_ready()
        orphans = [pid for pid in supervised.pids if psutil.Process(pid).ppid() == supervised.guardian]
        assert len(orphans) == 3  # the backend is the first
        os.kill(orphans[1], signal.SIGKILL)
        wait_for(lambda: not psutil.pid_exists(orphans[1]), what="the orphan's end")
        assert supervised.starts == 1

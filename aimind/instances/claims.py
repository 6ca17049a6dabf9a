"""Claims: what an instance will need is written down before anything starts, while nobody else plans."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from aimind.errors import InstanceError
from aimind.instances import locks, look, names, ports, records
from aimind.instances.memory import without_promises
from aimind.instances.pruning import remove_old
from aimind.types import Host, Instance, State, StateName

# A reader holds an instance's lock for much less.
LOCK_PATIENCE_SECONDS = 1.0


@dataclass(slots=True)
class Held:
    """An instance whose lock this process holds.

    Attributes:
        folder: of its files.
        lock: the descriptor of its lock; it is held until this and all its copies are closed.
    """

    folder: Path
    lock: int

    @property
    def name(self) -> str:
        """Name of the instance."""
        return self.folder.name

    def set_state(
        self,
        state: StateName,
        *,
        phase: str | None = None,
        reason: str | None = None,
        hint: str | None = None,
        exit_code: int | None = None,
    ) -> None:
        """Write how it is.

        Raises:
            InstanceError: it cannot be written.
        """
        told = State(
            state=state,
            since=time.time(),
            pid=os.getpid(),
            phase=phase,
            reason=reason,
            hint=hint,
            exit_code=exit_code,
        )
        records.write(self.folder / records.STATE, told)

    def release(self) -> None:
        """Leave it to those that have inherited the lock."""
        os.close(self.lock)


class Claims:
    """All claims, while nobody else makes any.

    Attributes:
        living: the instances that run.
    """

    def __init__(self) -> None:
        listing = look.listing()
        sights = listing.look(look.MOST_RECENT)
        remove_leftovers(sights)
        remove_old(listing)
        self.living = tuple(sight for sight in sights if sight.running)

    def free(self, host: Host) -> Host:
        """The machine with what is promised to others not free."""
        return without_promises(host, self.living)

    def port(self, address: str, port: int) -> int:
        """A port that nobody has, and nobody has claimed; 0 takes any. See `ports.choose`."""
        return ports.choose(address, port, claimed_by(self.living))

    def name(self, wanted: str | None, model: str) -> str:
        """The name that is wanted, or one made of the model's that is not in use.

        Raises:
            InstanceError: the one that is wanted is in use.
        """
        running = {sight.name for sight in self.living}
        if wanted is None:
            return next(name for name in names.proposals(model) if name not in running)
        if wanted in running:
            raise runs_already(wanted)
        return wanted

    def write(self, instance: Instance) -> Held:
        """Make the instance ours, and its claim known; one of the same name that has ended is taken over.

        Raises:
            InstanceError: it runs, or cannot be written.
        """
        folder = records.instances_folder() / instance.name
        records.make_folder(folder)
        records.check_own(folder)
        lock = locks.take(folder / records.LOCK, patience_seconds=LOCK_PATIENCE_SECONDS)
        if lock is None:
            raise runs_already(instance.name)
        try:
            _remove_leftovers(folder)
            held = Held(folder, lock)
            held.set_state("preparing")
            records.write(folder / records.INSTANCE, instance)  # the last: only now it is there for others
        except BaseException:
            os.close(lock)
            raise
        return held


@contextlib.contextmanager
def claims(*, wait: Callable[[], None]) -> Iterator[Claims]:
    """Keep others from claiming anything for the block; `wait` is called before waiting for another.

    Raises:
        InstanceError: the state folder cannot be written.
    """
    records.make_folder(records.instances_folder())
    records.check_own(records.state_folder())
    records.check_own(records.instances_folder())
    with locks.alone(records.state_folder() / "claims.lock", wait=wait):
        yield Claims()


def claimed_by(sights: tuple[look.Sight, ...]) -> tuple[Instance, ...]:
    """The instances among them whose claims can be read."""
    return tuple(sight.instance for sight in sights if sight.instance is not None)


def check_free(name: str) -> None:
    """Find out early whether a name is good, and not in use.

    Raises:
        UsageError: it cannot be one.
        InstanceError: it is in use.
    """
    lock = records.instances_folder() / names.check(name) / records.LOCK
    until = time.monotonic() + LOCK_PATIENCE_SECONDS
    while locks.held(lock):  # one that is just ending may need a moment
        if time.monotonic() >= until:
            raise runs_already(name)
        time.sleep(locks.POLL_SECONDS)


def runs_already(name: str) -> InstanceError:
    """The error for a name that is in use."""
    return InstanceError(
        f"instance {name} is already running", hint=f"run `aimind stop {name}`, or choose another --name"
    )


def remove_leftovers(sights: tuple[look.Sight, ...]) -> None:
    """Remove the temporary folders of runs that were killed together with all that would have done so."""
    for sight in sights:
        if sight.running or sight.state is None or sight.state.temporary is None:
            continue
        with contextlib.suppress(InstanceError):  # it cannot be written here, and is in nobody's way
            lock = locks.take(sight.folder / records.LOCK, patience_seconds=0)
            if lock is not None:
                _remove_leftovers(sight.folder)
                os.close(lock)


def _remove_leftovers(folder: Path) -> None:
    """The same of one instance whose lock is ours."""
    try:
        left = records.read_state(folder).temporary
    except (FileNotFoundError, InstanceError):
        return
    if left is None or not Path(left).name.startswith("aimind-"):
        return
    import shutil

    with contextlib.suppress(FileNotFoundError):
        found = os.lstat(left)
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid():
            shutil.rmtree(left, ignore_errors=True)  # what cannot be removed is in nobody's way

"""What runs here: the files of an instance, written by `serve` and the supervisor, read by other commands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

StateName = Literal[
    "preparing",  # serve downloads and installs
    "starting",  # the backend's process is there, and has said nothing yet
    "loading",  # it is in a phase
    "ready",
    "unhealthy",
    "stopping",
    "backing off",  # it has ended, and will be started again
    "stopped",
    "failed",
]
ENDED: frozenset[StateName] = frozenset({"stopped", "failed"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What an instance has promised itself, from before its start until its end.

    Attributes:
        address, port: where it listens.
        devices: UUID (or the index, as text) -> bytes that are planned.
        ram_bytes: likewise.
    """

    address: str
    port: int
    devices: Mapping[str, int]
    ram_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """What is served under a name, and by which command (`instance.json`). It holds no secret.

    Attributes:
        name: of the instance.
        argv: the arguments of `aimind serve` as they were typed, with what was configured then, but without
            `--detach`, `--json` and `--name`.
        cwd: the folder that they were typed in.
        created: when, in seconds since 1970.
        model: as it was typed; served_name: its name in the API.
        backend, backend_version: with what.
        url: the base URL of its API.
        has_key: its clients must send a key, which came from the environment or from a file.
        stop_seconds: patience of its supervisor after each TERM.
        claim: what it needs.
        example: the arguments of curl for a small request of the model's kind, its URL first, without a key.
            An instance that an older aimind started has none.
        named: the user gave it its name; records of older versions do not tell.
    """

    name: str
    argv: tuple[str, ...]
    cwd: str
    created: float
    model: str
    served_name: str
    backend: str
    backend_version: str
    url: str
    has_key: bool
    stop_seconds: float
    claim: Claim
    example: tuple[str, ...] = ()
    named: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How an instance is (`state.json`), written by the process that holds its lock.

    Attributes:
        state: see `StateName`.
        since: when it began, in seconds since 1970.
        pid: of the process that holds the lock: aimind, then the supervisor.
        phase: of loading, or what it waits for.
        backend_pid: while there is one.
        run: the number of the newest log; 0 before the first of this start.
        restarts: how often the backend was started again.
        ready_since: when the backend was last ready, in seconds since 1970; `None` while it is not.
        reason: why the backend ended last, or what it waits for, as a sentence; hint: what to do about it.
        exit_code: of the supervisor, once it has ended.
        temporary: a folder of the run, to be removed with it.
        taken: the most that the newest run held on each device by the driver's count, in bytes by UUID.
    """

    state: StateName
    since: float
    pid: int
    phase: str | None = None
    backend_pid: int | None = None
    run: int = 0
    restarts: int = 0
    ready_since: float | None = None
    reason: str | None = None
    hint: str | None = None
    exit_code: int | None = None
    temporary: str | None = None
    taken: Mapping[str, int] = field(default_factory=dict)

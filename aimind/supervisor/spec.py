"""What the supervisor is told: the JSON document that it finds in a file descriptor."""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False  # `typing` itself costs 1.5 MiB of memory
if TYPE_CHECKING:
    from typing import TypedDict

    class Request(TypedDict):
        """A request of the model's kind: `aimind.types.TinyRequest`."""

        url: str
        body: str
        content_type: str
        bearer_env: str | None

    class Ready(TypedDict):
        """How to ask whether the backend is ready: `aimind.types.Probe`."""

        url: str
        bearer_env: str | None
        lie: str | None
        request: Request | None

    class Signature(TypedDict):
        """What a line of the log means: `aimind.types.Signature`."""

        pattern: str
        phase: str | None
        cause: str | None
        remedy: str | None
        fatal: bool
        fallback: bool

    class Instance(TypedDict):
        """Where it is kept: the folder of `aimind.types.State` and of the logs, and its lock."""

        folder: str
        lock: int

    class Device(TypedDict):
        """An NVIDIA device that is used, by NVML's UUID, and the bytes of it that are planned."""

        uuid: str
        name: str
        planned_bytes: int

    class Buffer(TypedDict):
        """A line of the log that names a buffer: `aimind.types.BufferLine`."""

        pattern: str
        unit_bytes: int
        replaces: bool

    class Calibration(TypedDict):
        """Where it is remembered what the backend holds beside its buffers, and of which kind that is."""

        path: str
        backend: str
        version: str
        kind: str

    class Screen(TypedDict):
        """How to draw on the terminal: `aimind.supervise.Screen`."""

        color: bool
        unicode: bool
        next: str

    class Spec(TypedDict):
        """The fields of `aimind.types.Command`, the text that announces it, and the pace of the supervisor.

        Attributes:
            announce: printed when the backend is ready for the first time.
            restart: `always`, `on-failure` or `never`; max_restarts: in a row.
            stall_seconds: without any progress before it is ready; 0 for no limit.
            first_delay_seconds: before the first restart.
            probe_seconds: between two health probes, and the longest that one may take.
            instance: `None` where nothing is kept.
            devices: whose memory must be back before the backend is started again.
            buffers: which lines of the log name buffers on devices.
            calibration: `None` where nothing is remembered.
            compiled_mark: a file that is made when the backend is ready; `None` for none.
            lifeline: the reading end of a pipe. When nobody holds its writing end any more, the supervisor
                stops as if by TERM. `None` for none.
            screen: `None` where stderr is no terminal, or the backend's log is to be shown.
            quiet: show nothing but errors.
            weights_bytes: of the files that the backend loads; 0 where that is not known.
        """

        argv: list[str]
        env: dict[str, str]
        secret_env: dict[str, str]
        unset_env: list[str]
        cwd: str | None
        ready: Ready
        signatures: list[Signature]
        url: str
        stop_seconds: float
        announce: str
        restart: str
        max_restarts: int | None
        stall_seconds: float
        first_delay_seconds: float
        probe_seconds: float
        instance: Instance | None
        devices: list[Device]
        buffers: list[Buffer]
        calibration: Calibration | None
        compiled_mark: str | None
        lifeline: int | None
        screen: Screen | None
        quiet: bool
        weights_bytes: int


def read(fd: int) -> Spec:
    """The document in the descriptor, from its start; closes it, for it may hold secrets."""
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        spec: Spec = json.loads(file.read())
    spec.setdefault("restart", "always")
    spec.setdefault("max_restarts", None)
    spec.setdefault("stall_seconds", 300.0)
    spec.setdefault("first_delay_seconds", 5.0)
    spec.setdefault("probe_seconds", 10.0)
    spec.setdefault("instance", None)
    spec.setdefault("devices", [])
    spec.setdefault("buffers", [])
    spec.setdefault("calibration", None)
    spec.setdefault("compiled_mark", None)
    spec.setdefault("lifeline", None)
    spec.setdefault("screen", None)
    spec.setdefault("quiet", False)
    spec.setdefault("weights_bytes", 0)
    return spec


def environment(spec: Spec) -> dict[str, str]:
    """The backend's environment: ours, less `unset_env`, and then what the command adds."""
    kept = {name: value for name, value in os.environ.items() if name not in spec["unset_env"]}
    return {**kept, **spec["env"], **spec["secret_env"]}

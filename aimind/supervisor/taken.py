"""What the backend's processes really hold on their devices, and what of it no buffer of its log explains.

The driver is asked when the backend is ready, and again later, in a child with a time limit. The child also
remembers what is left over in the calibration file, from which later plans read it. The file holds one JSON
object; `remember` says which entries it keeps. Where the driver cannot tell what a process holds, nothing is
remembered.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import time

from aimind.supervisor.processes import descendants, end, in_child, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aimind.supervisor.spec import Calibration, Device

PATIENCE_SECONDS = 10.0
# After the backend was ready: what is loaded only with the first real requests is seen by a later look.
LOOKS_SECONDS = (0.0, 60.0, 600.0, 3600.0)
FOREVER = float("inf")
SCHEMA = 1
RUNS = 8  # that are kept of each kind
ENTRIES = 64  # kinds that are kept, the newest
LONGEST_BYTES = 1 << 20  # no calibration file is longer
NOT_TOLD = (1 << 64) - 1  # NVML_VALUE_NOT_AVAILABLE
MOST_PROCESSES = 256


class Taken:
    """Looks at one run of the backend, from when it is ready until its end.

    Attributes:
        fd: the descriptor to poll; `None` while nobody is asked.
        deadline: when `step` is to be called at the latest.
        most: the most that the run's processes held on each device, by UUID.
    """

    def __init__(self, devices: Sequence[Device], calibration: Calibration | None) -> None:
        self._devices = devices
        self._calibration = calibration
        self._buffers: Mapping[str, float] = {}
        self._run = ""
        self._ready_at = 0.0
        self._looks = 0
        self._answer = b""
        self._child = 0
        self.fd: int | None = None
        self.deadline = FOREVER
        self.most: dict[str, int] = {}

    def begin(self, now: float, buffers: Mapping[str, float]) -> None:
        """The backend is ready. `buffers`: bytes in its log, by the device's place among its devices."""
        self.close()
        self._buffers = buffers
        self._run = f"{os.getpid()}-{time.time():.3f}"
        self._ready_at, self._looks, self.most = now, 0, {}
        if self._devices:
            self.deadline = now

    def step(self, now: float, *, io: bool) -> bool:
        """Go on where `fd` has something (`io`) or the deadline has come; whether `most` has changed."""
        if self.fd is None:
            if now >= self.deadline:
                self._ask(now)
            return False
        if io:
            answer = os.read(self.fd, 4096)
            self._answer += answer
            if answer and not answer.endswith(b"\n"):
                return False
        elif now < self.deadline:
            return False
        self._end_look(now)
        return self._learn()

    def close(self) -> None:
        """Look no more."""
        self._end_child()
        self.deadline = FOREVER

    def _ask(self, now: float) -> None:
        self._answer = b""
        supervisor = os.getpid()
        try:
            self._child, self.fd = in_child(lambda fd: self._look(supervisor, fd))
        except OSError:  # there is no process to be had: the next look may get one
            self._end_look(now)
            return
        self.deadline = now + PATIENCE_SECONDS

    def _end_look(self, now: float) -> None:
        self._end_child()
        self._looks += 1
        if self._looks < len(LOOKS_SECONDS):
            self.deadline = max(now, self._ready_at + LOOKS_SECONDS[self._looks])
        else:
            self.deadline = now + LOOKS_SECONDS[-1]

    def _end_child(self) -> None:
        if self.fd is not None:
            end(self._child)
            os.close(self.fd)
            self.fd = None

    def _learn(self) -> bool:
        """Take the answer of a look; it is empty where the driver did not tell."""
        if not self._answer.endswith(b"\n"):
            return False
        before = dict(self.most)
        for uuid, size in json.loads(self._answer).items():
            self.most[uuid] = max(size, self.most.get(uuid, 0))
        return self.most != before

    # ── In the child ───────────────────────────────────────────────────────────────────────────────────────

    def _look(self, supervisor: int, fd: int) -> None:
        uuids = [device["uuid"] for device in self._devices]
        driver, found = held(uuids, descendants(supervisor, processes()))
        if not found:
            return
        if self._calibration is not None:
            self._remember(self._calibration, driver, found)
        os.write(fd, json.dumps(found).encode() + b"\n")

    def _remember(self, calibration: Calibration, driver: str, found: Mapping[str, int]) -> None:
        sizes: dict[str, int] = {}
        for place, device in enumerate(self._devices):
            buffers = self._buffers.get(str(place), 0)
            size = found.get(device["uuid"], 0) - round(buffers)
            if buffers and size > 0:
                sizes[device["name"]] = max(size, sizes.get(device["name"], 0))
        for name, size in sizes.items():
            key = {
                "device": name,
                "driver": driver,
                "backend": calibration["backend"],
                "version": calibration["version"],
                "kind": calibration["kind"],
            }
            remember(calibration["path"], key, self._run, size)


def held(uuids: Sequence[str], pids: set[int]) -> tuple[str, dict[str, int]]:
    """The driver's version, and what these processes hold on each device; without those it does not tell."""
    found: dict[str, int] = {}
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        version = ctypes.create_string_buffer(80)
        if nvml.nvmlInitWithFlags(0) or nvml.nvmlSystemGetDriverVersion(version, len(version)):
            return "", {}
        for uuid in uuids:  # of a GPU or of a MIG instance
            handle = ctypes.c_void_p()
            if nvml.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)):
                continue
            size = _held_on(nvml, handle, pids)
            if size:
                found[uuid] = size
    except (OSError, AttributeError):  # no library, or one that is too old
        return "", {}
    return version.value.decode(errors="replace"), found


class _Process(ctypes.Structure):
    """nvmlProcessInfo_t of nvml.h, versions 2 and 3."""

    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used_bytes", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


def _held_on(nvml: ctypes.CDLL, handle: ctypes.c_void_p, pids: set[int]) -> int:
    """0 where one of the processes does not tell, or none of them is known to the driver."""
    count = ctypes.c_uint(MOST_PROCESSES)
    there = (_Process * MOST_PROCESSES)()
    if nvml.nvmlDeviceGetComputeRunningProcesses_v3(handle, ctypes.byref(count), there):
        return 0
    sizes = [process.used_bytes for process in there[: count.value] if process.pid in pids]
    return 0 if NOT_TOLD in sizes else sum(sizes)


def remember(path: str, key: Mapping[str, str], run: str, size_bytes: int) -> None:
    """Put what a run held beside its buffers into the calibration file, whole or not at all.

    A run has one entry of its kind: its first figure (when it was ready), and the largest. Of each kind the
    last 8 runs are kept, of the kinds the 64 that were seen last. Other writers are waited for; a damaged
    file is begun anew.
    """
    folder = os.path.dirname(path)  # noqa: PTH120 (pathlib costs memory)
    os.makedirs(folder, mode=0o700, exist_ok=True)  # noqa: PTH103
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        entries = [entry for entry in _entries(path) if not _is_of(entry, key)]
        runs = [run for entry in _entries(path) if _is_of(entry, key) for run in entry["runs"]]
        mine = next((each for each in runs if each["run"] == run), None)
        if mine is None:
            runs.append({"run": run, "ready_bytes": size_bytes, "most_bytes": size_bytes})
        else:
            mine["most_bytes"] = max(size_bytes, mine["most_bytes"])
        entries.append({**key, "seen": time.time(), "runs": runs[-RUNS:]})
        _write(path, {"schema": SCHEMA, "entries": entries[-ENTRIES:]})
    finally:
        os.close(lock)


def _is_of(entry: Mapping[str, object], key: Mapping[str, str]) -> bool:
    return all(entry[name] == value for name, value in key.items())


def _entries(path: str) -> list[dict]:  # type: ignore[type-arg]
    """The entries of the file; none where it is missing, damaged or of another schema."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            document = json.loads(file.read(LONGEST_BYTES))
        if document["schema"] != SCHEMA:
            return []
        entries = document["entries"]
        for entry in entries:
            for name in ("device", "driver", "backend", "version", "kind"):
                if not isinstance(entry[name], str):
                    return []
            for run in entry["runs"]:
                run["run"], run["ready_bytes"] + 0, run["most_bytes"] + 0
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []
    return list(entries)


def _write(path: str, document: Mapping[str, object]) -> None:
    new = f"{path}.new"
    data = json.dumps(document, indent=1).encode()
    # A pipe in its place must not be waited for.
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NONBLOCK
    fd = os.open(new, flags, 0o600)
    try:
        written = os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    if written == len(data):  # else the disk is full
        os.replace(new, path)  # noqa: PTH105

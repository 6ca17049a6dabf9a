"""The text of a systemd unit that serves a model.

Quoting follows systemd.syntax(7) and systemd.service(5): words in double quotes, with a backslash before a
backslash and a quote; `%` doubled, because specifiers are expanded in all values that are written here; `$`
doubled in arguments, where variables are.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from aimind.errors import DeviceError, HubError, UsageError

# The first line of a unit; one that begins otherwise is never overwritten.
MARKER = "# Made by aimind unit"
DYNAMIC_USER = "aimind"  # one for all hardened units, so that they share their folders
Manager = Literal["system", "user"]
_PLAIN = re.compile(r"[A-Za-z0-9_@%+=,./~-]+")
_NVIDIA = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools")
# The supervisor's slowest reaction: three failing probes, each of two intervals, and some time to act.
_WATCHDOG_INTERVALS = 12
_STOP_EXTRA_SECONDS = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A secret that systemd hands over as a file: `option` of serve gets the path of that."""

    option: str
    name: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A unit, decided.

    Attributes:
        name: of the instance; the unit is `aimind-NAME.service`.
        made_by: the command line that makes it.
        program: of aimind, a whole path.
        arguments: of `aimind serve`, the model first; backend_argv: those after `--`.
        environment: as it is now, and must be then.
        credentials: the secrets.
        manager: whose unit it is: the system's, or that of a user.
        user: that the system's manager runs it as; `None` for a dynamic one.
        hardened: it may do no more than it needs.
        device_nodes: of the planned devices.
        visible: paths that it must see although all of their kind are hidden from it (/home, /tmp).
        loopback_only: it needs no other network.
        several_processes: of the backend talk to each other over the network's interfaces.
        locks_memory: the backend was told to.
        stall_seconds: the longest that a start may take without progress; 0 for ever.
        stop_seconds: the backend's patience after each TERM.
        probe_seconds: between two probes.
    """

    name: str
    made_by: tuple[str, ...]
    program: str
    arguments: tuple[str, ...]
    backend_argv: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    credentials: tuple[Credential, ...] = ()
    manager: Manager = "system"
    user: str | None = None
    hardened: bool = False
    device_nodes: tuple[str, ...] = ()
    visible: tuple[str, ...] = ()
    loopback_only: bool = False
    several_processes: bool = False
    locks_memory: bool = False
    stall_seconds: float = 300.0
    stop_seconds: float = 10.0
    probe_seconds: float = 10.0

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"aimind-{self.name}.service"

    @property
    def folder(self) -> str:
        """Name of the state and cache folders: one for each user, since systemd gives them to that user."""
        return f"aimind-{self.user}" if self.user not in (None, DYNAMIC_USER) else "aimind"


def text(unit: Unit) -> str:
    """The unit's file.

    Raises:
        UsageError: a word cannot be written in a unit.
    """
    parts = [_unit(unit), _service(unit)]
    if unit.hardened:
        parts.append([*_filters(unit), *(_sandbox(unit) if unit.manager == "system" else ())])
    target = "multi-user.target" if unit.manager == "system" else "default.target"
    parts.append(["", "[Install]", f"WantedBy={target}"])
    return "".join(f"{line}\n" for part in parts for line in part)


def _unit(unit: Unit) -> list[str]:
    made_by = shlex.join(map(_checked, unit.made_by))
    network = [] if unit.loopback_only else ["Wants=network-online.target", "After=network-online.target"]
    # What makes the device nodes, where it is used.
    devices = ["After=nvidia-persistenced.service"] if unit.device_nodes else []
    waits = [*network, *devices] if unit.manager == "system" else []  # a user's manager knows neither
    return [
        f"{MARKER}, which will overwrite it: change it with systemctl edit, or make it again:",
        f"# {made_by}",
        "",
        "[Unit]",
        f"Description=AI model {unit.name}, served by aimind",
        *waits,
        "StartLimitIntervalSec=600",
        "StartLimitBurst=5",
    ]


def _service(unit: Unit) -> list[str]:
    start = math.ceil(unit.stall_seconds) if unit.stall_seconds else "infinity"
    forced = f"{HubError.exit_code} {DeviceError.exit_code}"
    return [
        "",
        "[Service]",
        "Type=notify",
        "NotifyAccess=main",
        f"ExecStart={_command(unit)}",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "# Loading may take hours: the supervisor asks for more time while there is progress.",
        f"TimeoutStartSec={start}",
        f"TimeoutStopSec={math.ceil(2 * unit.stop_seconds + _STOP_EXTRA_SECONDS)}",
        f"WatchdogSec={math.ceil(_WATCHDOG_INTERVALS * unit.probe_seconds)}",
        "# The kill leaves no core dump, which would contain the key.",
        "WatchdogSignal=SIGKILL",
        "# The supervisor stops its processes itself; systemd kills what is left.",
        "KillMode=mixed",
        "SendSIGHUP=no",
        "# It also restarts the backend, and gives up when that is useless. systemd restarts the supervisor",
        "# when it was killed or hangs, and when a hub or a driver was not available yet.",
        "Restart=on-abnormal",
        f"RestartForceExitStatus={forced}",
        "SuccessExitStatus=130 143",
        "RestartSec=10",
        "OOMPolicy=continue",
        *(["LimitMEMLOCK=infinity"] if unit.locks_memory else []),
        *_identity(unit),
        *(f"Environment={_word(f'{name}={value}')}" for name, value in unit.environment.items()),
        *(f"LoadCredential={each.name}:{_path(each.path)}" for each in unit.credentials),
    ]


def _command(unit: Unit) -> str:
    """The line of ExecStart."""
    if re.search(r"[\\\"'\s]", unit.program):
        raise UsageError(
            f"systemd starts no program with a quote, a backslash or a space in its path: {unit.program}",
            hint="install aimind elsewhere, or make a symbolic link to it",
        )
    words = [_checked(unit.program).replace("%", "%%"), "serve", *map(_argument, unit.arguments)]
    for each in unit.credentials:
        words += [each.option, f"${{CREDENTIALS_DIRECTORY}}/{each.name}"]
    if unit.backend_argv:
        words += ["--", *map(_argument, unit.backend_argv)]
    return " ".join(words)


def _identity(unit: Unit) -> list[str]:
    """The user and the folders of the service. A unit of the user manager already runs as the user."""
    if unit.manager == "user":
        return []
    lines = ["DynamicUser=yes", f"User={DYNAMIC_USER}"] if unit.user is None else [f"User={unit.user}"]
    lines += [
        f"StateDirectory={unit.folder}",
        "StateDirectoryMode=0700",
        f"CacheDirectory={unit.folder}",
        "CacheDirectoryMode=0700",
        f"Environment=AIMIND_STATE_DIR=%S/{unit.folder} AIMIND_DATA_DIR=%S/{unit.folder}/data",
        f"Environment=HF_HOME=%C/{unit.folder}/huggingface MODELSCOPE_CACHE=%C/{unit.folder}/modelscope",
    ]
    # Backends compile into caches of their own below the home folder, which is hidden or there is none.
    return lines + ([f"Environment=HOME=%C/{unit.folder}"] if unit.hardened else [])


def _filters(unit: Unit) -> list[str]:
    """What any manager can take from a process."""
    netlink = " AF_NETLINK" if unit.several_processes else ""
    return [
        "# Not MemoryDenyWriteExecute: CUDA, PyTorch and Triton make code while they run.",
        "NoNewPrivileges=yes",
        "LockPersonality=yes",
        "RestrictNamespaces=yes",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        f"RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6{netlink}",
        "SystemCallArchitectures=native",
        "SystemCallFilter=@system-service",
        "SystemCallFilter=~@privileged",
        "SystemCallErrorNumber=EPERM",
        "LimitCORE=0",
        "UMask=0077",
    ]


def _sandbox(unit: Unit) -> list[str]:
    """What only the system's manager can take."""
    bound = " ".join(map(_word, unit.visible))
    return [
        "CapabilityBoundingSet=",
        "AmbientCapabilities=",
        "KeyringMode=private",
        "PrivateMounts=yes",
        "PrivateTmp=yes",
        "PrivateUsers=yes",
        "ProtectSystem=strict",
        "ProtectHome=tmpfs",
        *([f"BindReadOnlyPaths={bound}"] if bound else []),
        "ProtectClock=yes",
        "ProtectControlGroups=yes",
        "ProtectHostname=yes",
        "ProtectKernelLogs=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelTunables=yes",
        "# Not ProcSubset=pid: plans need /proc/meminfo.",
        "ProtectProc=invisible",
        "RemoveIPC=yes",
        *_devices(unit),
        *(["IPAddressDeny=any", "IPAddressAllow=localhost"] if unit.loopback_only else []),
    ]


def _devices(unit: Unit) -> list[str]:
    if not unit.device_nodes:
        return ["PrivateDevices=yes"]
    return ["DevicePolicy=closed", *(f"DeviceAllow={node} rw" for node in (*unit.device_nodes, *_NVIDIA))]


# ── Quoting ────────────────────────────────────────────────────────────────────────────────────────────────


def _argument(word: str) -> str:
    """A word of ExecStart."""
    return _word(word).replace("$", "$$")


def _word(word: str) -> str:
    """A word of a list: quoted where it must be; a colon separates two paths."""
    if _PLAIN.fullmatch(_checked(word)) is None:
        escaped = word.replace("\\", "\\\\").replace('"', '\\"')
        word = f'"{escaped}"'
    return word.replace("%", "%%")


def _path(path: str) -> str:
    """A path that ends its line, where nothing is quoted."""
    if path.endswith((" ", "\\")):
        raise _unwritable(path)
    return _checked(path).replace("%", "%%")


def _checked(word: str) -> str:
    if not word.isprintable():
        raise _unwritable(word)
    return word


def _unwritable(word: str) -> UsageError:
    return UsageError(f"{word!r} cannot be written in a unit", hint="use words without control characters")

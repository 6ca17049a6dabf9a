"""Notifications to systemd: sd_notify(3), over the socket that it names in the environment."""

from __future__ import annotations

import os
import socket
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import MutableMapping

# While it loads or stops, systemd is asked for so much more time at each sign of life.
EXTENSION_SECONDS = 60.0


class Manager:
    """The service manager that started us; silent where there is none.

    Attributes:
        listens: there is one.
        watchdog_seconds: it ends us after so long without a sign of life; 0 where it does not.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        """Take its address out of the environment, in which the backend must not find it."""
        address = environment.pop("NOTIFY_SOCKET", "")
        watched = environment.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environment.pop("WATCHDOG_USEC", "")
        self.watchdog_seconds = int(microseconds) / 1e6 if watched and microseconds.isdigit() else 0.0
        # "@" stands for the zero byte that abstract sockets begin with.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self.listens = bool(address)
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.settimeout(0)

    def preparing(self) -> None:
        """Report that aimind is still preparing the start."""
        self._send(f"STATUS=preparing\n{_extension(EXTENSION_SECONDS)}")

    def ready(self) -> None:
        """Report that the server is ready; this also ends a reload."""
        self._send(f"READY=1\nMAINPID={os.getpid()}")

    def reloading(self) -> None:
        """Report a restart of the backend; `ready` follows."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Report that the service is stopping."""
        self._send("STOPPING=1")

    def status(self, line: str) -> None:
        """Set the text that `systemctl status` shows."""
        self._send(f"STATUS={line}")

    def extend(self, seconds: float = EXTENSION_SECONDS) -> None:
        """Ask for more time to start or stop, in seconds from now."""
        self._send(_extension(seconds))

    def alive(self) -> None:
        """Send the watchdog's sign of life."""
        if self.watchdog_seconds:
            self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self.listens:
            return
        try:
            self._socket.sendto(message.encode(), self._address)
        except OSError:  # nobody reads, or not fast enough: the backend is worth more than the message
            return


def _extension(seconds: float) -> str:
    return f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}"

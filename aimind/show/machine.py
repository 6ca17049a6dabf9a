"""What this machine has: devices."""

from __future__ import annotations

from aimind.phrases import gib
from aimind.show.terminal import console, table
from aimind.types import Host


def devices(host: Host) -> None:
    """What this machine has, and who uses it."""
    screen = console()
    rows = table("device", "name", "total", "free", "compute", "used by")
    for device in host.devices:
        users = ", ".join(
            f"{tenant.name} ({tenant.pid}" + (f", {gib(tenant.used_bytes)})" if tenant.used_bytes else ")")
            for tenant in device.tenants
        )
        rows.add_row(
            str(device.index),
            device.name,
            gib(device.total_bytes),
            gib(device.free_bytes),
            device.capability or "",
            users,
        )
    rows.add_row(
        "RAM",
        f"{host.os} {host.arch}, {host.cores} cores",
        gib(host.ram_total_bytes),
        gib(host.ram_free_bytes),
        "",
        "",
    )
    screen.print(rows)

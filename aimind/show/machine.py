"""What this machine has: devices, and backends."""

from __future__ import annotations

from collections.abc import Sequence

from aimind.launchers.base import Launcher
from aimind.phrases import gib
from aimind.show.terminal import console, escape, table
from aimind.types import Host, Program


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


def backends(launchers: Sequence[Launcher], host: Host) -> None:
    """Each backend and version: what is here, what can be, and how."""
    shown = table("backend", "version", "state", "for")
    for launcher in launchers:
        # Of a smaller build only that it is here: whoever installs by name gets the whole one.
        rows = [b for b in host.backends if b.name == launcher.NAME and (b.installed or not b.only)]
        for backend in rows:
            state = backend.executable if backend.installed else f"aimind backends install {backend.name}"
            summary = f"{backend.only} alone" if backend.only else launcher.SUMMARY
            shown.add_row(backend.name, backend.version, escape(state), summary)
        source = launcher.source(host)
        if not rows and isinstance(source, Program):
            where = "on PATH" if source.home is None else f"in {source.home.folder}"
            state = f"[dim]not {where}: {escape(source.remedy)}[/]"
            shown.add_row(launcher.NAME, "", state, launcher.SUMMARY)
    console().print(shown)

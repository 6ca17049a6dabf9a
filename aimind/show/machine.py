"""What this machine has: devices."""

from __future__ import annotations

from aimind.phrases import gib
from aimind.show.terminal import console, escape, table
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
            escape(device.name),
            gib(device.total_bytes),
            gib(device.free_bytes),
            device.capability or "",
            escape(users),
        )
    rows.add_row(
        "RAM",
        ", ".join([f"{host.os} {host.arch}", f"{host.cores} cores", *_instruction_sets(host)]),
        gib(host.ram_total_bytes),
        gib(host.ram_free_bytes),
        "",
        "",
    )
    screen.print(rows)


def _instruction_sets(host: Host) -> list[str]:
    """Those of the processor that a person knows by name."""
    names = {"avx2": "AVX2", "avx512f": "AVX-512", "amx_tile": "AMX", "i8mm": "I8MM", "sve": "SVE"}
    found = [name for feature, name in names.items() if feature in host.cpu_features]
    if "AVX-512" in found:
        found.remove("AVX2")
    return found
